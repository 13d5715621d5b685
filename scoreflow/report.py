"""DIR/report.html: what a run has to show, in one file that opens from disk without a network."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.run_dir import RunDir, write_atomic

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; }
body { padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem }
figure { margin: 0; max-width: 19rem }
figure img { width: 100%; image-rendering: pixelated }
.number { font-size: 2rem; font-weight: 600 } .small, figcaption { font-size: .85rem; color: #555 }
svg { width: 100%; height: auto } table { border-collapse: collapse }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
.wide { font-size: .85rem } .plot { width: 24rem; max-width: 100% }
h3 { font-size: 1rem; margin-top: 1.6rem }
"""


def write(run: RunDir, certificate: str = "") -> Path:
    """Write the report of all results that the run has; returns its path.

    Args:
        run: its folder.
        certificate: the section of the equivalence certificate, if it was just made; kept in
            results/ for the reports to come.
    """
    kept = run.path / "results" / "equivalence.html"
    if certificate:
        write_atomic(kept, certificate.encode())
    elif kept.exists():
        certificate = kept.read_text()
    body, results = [f"<h1>{html.escape(run.path.name)}</h1>"], {}
    for path in sorted((run.path / "results").glob("*.json")):
        try:
            results[path.stem] = run.read_result(path.stem)
        except RequestError as error:  # one damaged result does not take the others with it
            body.append(f"<p><b>{html.escape(str(error))}</b></p>")
    if "likelihood" in results:
        body.append(_likelihood(results["likelihood"]))
    samples = {name: r for name, r in results.items() if name.startswith("samples-")}
    if samples:
        body.append(_samples(run, samples))
    body.append(certificate)
    rows = [row for row in run.read_metrics() if "loss" in row]
    if rows:
        body.append(
            "<h2>Training loss</h2>" + _curve([r["step"] for r in rows], [r["loss"] for r in rows])
        )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(run.path.name)}</title><style>{STYLE}</style>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    path = run.path / "report.html"
    write_atomic(path, page.encode())
    return path


def _likelihood(result: dict[str, Any]) -> str:
    budget = result["error_budget"]
    labels = {
        "images": "spread over images",
        "probes": "divergence probes",
        "solver": "ODE solver",
        "truncation_at_most": f"starting at t = {result['t_min']} costs at most",
    }
    rows = "".join(
        f"<tr><td>{label}</td><td>{budget[key]:.5f}</td></tr>"
        for key, label in labels.items()
        if budget[key] is not None
    )
    error = "" if (se := result["standard_error"]) is None else f" &plusmn; {se:.4f}"
    return (
        "<h2>Exact log-likelihood of the test set</h2>"
        f"<p><span class=number>{result['value']:.4f}{error}</span> {result['unit']}</p>"
        f"<table>{rows}</table><p class=small>{result['num_images']} images, "
        f"{result['nfe']:.0f} evaluations each, {result['seconds']:.0f} s, "
        f"{result['dequantization']} dequantization</p>"
    )


def _samples(run: RunDir, samples: dict[str, dict[str, Any]]) -> str:
    figures = []
    for result in samples.values():
        name = result["settings"]["sampler"]
        path = run.sample_path(result["step"], name)
        if not path.exists():
            continue
        picture = base64.b64encode(path.read_bytes()).decode()
        figures.append(
            f'<figure><img src="data:image/png;base64,{picture}" alt="samples by {name}">'
            f"<figcaption><b>{name}</b>: {result['nfe']:.0f} evaluations an image, "
            f"{result['images_per_second']:.1f} images/s; two-sample accuracy "
            f"{result['value']:.3f} &plusmn; {result['standard_error']:.3f}"
            f"{_recognised(result)}</figcaption></figure>"
        )
    baseline = next(iter(samples.values()))["two_sample_of_test_data"]
    return (
        "<h2>Samples: one network, the same prior noise</h2>"
        f"<div class=figures>{''.join(figures)}</div>"
        "<p class=small>Two-sample accuracy: how often the nearest neighbour tells a sample from "
        "training data, and training data from samples; 0.5 is best for each (two errors can "
        "cancel in the mean), and held-out real data get "
        f"{baseline['accuracy']:.3f} &plusmn; "
        f"{baseline['standard_error']:.3f}.</p>"
    )


def _recognised(result: dict[str, Any]) -> str:
    rates = result["two_sample"]
    return (
        f" (of samples {rates['samples_recognised']:.2f}, of data {rates['real_recognised']:.2f})"
    )


def _curve(x: list[float], y: list[float]) -> str:
    """A line plot with a logarithmic ordinate, as SVG."""
    width, height, left, bottom = 800, 260, 60, 30
    log_y = np.log10(np.maximum(y, 1e-12))
    low, high = float(log_y.min()), float(log_y.max())
    span, reach = max(high - low, 1e-9), max(x[-1] - x[0], 1e-9)
    points = " ".join(
        f"{left + (width - left) * (a - x[0]) / reach:.1f},"
        f"{(height - bottom) * (high - b) / span + 5:.1f}"
        for a, b in zip(x, log_y, strict=True)
    )
    text = 'font-size="13" fill="#555"'
    return (
        f'<svg viewBox="0 0 {width + 10} {height}">'
        f'<polyline fill="none" stroke="#1f5fa8" stroke-width="1.5" points="{points}"/>'
        f'<text x="0" y="14" {text}>{10**high:.3g}</text>'
        f'<text x="0" y="{height - bottom + 5}" {text}>{10**low:.3g}</text>'
        f'<text x="{left}" y="{height - 6}" {text}>step {x[0]:.0f}</text>'
        f'<text x="{width}" y="{height - 6}" text-anchor="end" {text}>{x[-1]:.0f}</text></svg>'
    )


def scatter(points: Tensor, size: int = 480, reach: float = 1.5) -> bytes:
    """Points in the plane as a PNG: how often each pixel of [-reach, reach]^2 is hit."""
    xy = points.cpu().numpy()
    edges = np.linspace(-reach, reach, 121)
    counts, _, _ = np.histogram2d(-xy[:, 1], xy[:, 0], bins=[edges, edges])
    grey = 255 - 255 * np.sqrt(counts / max(counts.max(), 1))
    picture = Image.fromarray(grey.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()
