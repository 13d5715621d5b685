"""DIR/report.html: what a run has to show, in one file that opens from disk without a network."""

import base64
import html
import math
from pathlib import Path
from typing import Any

from scoreflow.errors import RequestError
from scoreflow.figures.line_plot import Plot, Series, svg
from scoreflow.schema.samplers import SAMPLERS
from scoreflow.storage.atomic_files import load_json, write_atomic
from scoreflow.storage.run_folder import RunDir

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; }
body { padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem }
figure { margin: 0; max-width: 19rem }
figure img { width: 100%; image-rendering: pixelated } .narrow figure { max-width: 12rem }
.strip figure { max-width: 100% }
.strip img { width: auto; max-width: 100% }
.number { font-size: 2rem; font-weight: 600 } .small, figcaption { font-size: .85rem; color: #555 }
svg { width: 100%; height: auto } table { border-collapse: collapse }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
.wide { font-size: .85rem } .lined tr + tr { border-top: 1px solid #e4e4e4 }
.lined td { white-space: nowrap } .plot { width: 24rem; max-width: 100% }
h3 { font-size: 1rem; margin-top: 1.6rem } .scroll { overflow-x: auto; margin: .8rem 0 }
"""

DAMAGE = (KeyError, TypeError, ValueError, AttributeError)
"""What a result that lacks something, or has it of another kind, raises where it is shown."""


def write_report(run: RunDir, certificate: str = "") -> Path:
    """Write the report of all results that the run has; returns its path.

    Args:
        run: its folder.
        certificate: the section of the equivalence certificate, if it was just made; kept in
            results/ for the reports to come.
    """
    results_folder = run.path / "results"
    kept = results_folder / "equivalence.html"
    if certificate:
        write_atomic(kept, certificate.encode())
    elif kept.exists():
        certificate = kept.read_text()
    body = [f"<h1>{html.escape(run.path.name)}</h1>", _origin(run)]
    results, damaged = _results(run)
    samples = {name: r for name, r in results.items() if name.startswith("samples-")}
    if "likelihood" in results:
        known = next((r["data"] for r in samples.values() if "data" in r), {})
        try:
            body.append(_likelihood(results["likelihood"], known))
        except DAMAGE as error:
            damaged.append(_damaged("likelihood", error))
    body.append(_samples(run, samples, damaged))
    pages = sorted(set(results_folder.glob("*.html")) - {kept})
    body += [page.read_text() for page in pages]
    body.append(certificate)
    rows = [row for row in run.read_metrics() if "loss" in row]
    if rows:
        loss = Series("", [row["step"] for row in rows], [row["loss"] for row in rows])
        plot = Plot("Mean over the steps since the point before", "step", (loss,))
        body.append(f"<h2>Training loss</h2>{svg(plot)}")
    body[2:2] = [f"<p><b>{html.escape(line)}</b></p>" for line in damaged]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(run.path.name)}</title><style>{STYLE}</style>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    path = run.path / "report.html"
    write_atomic(path, page.encode())
    return path


def _results(run: RunDir) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """All results by name, and a line for each that cannot be read."""
    results, damaged = {}, []
    for path in sorted((run.path / "results").glob("*.json")):
        try:
            results[path.stem] = run.read_result(path.stem)
        except RequestError as error:
            damaged.append(str(error))
    return results, damaged


def _damaged(name: str, error: Exception) -> str:
    what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return f"results/{name}.json is damaged ({what}): make it again, or remove the file"


def _origin(run: RunDir) -> str:
    """What made the weights."""
    try:
        env = load_json(run.path / "env.json", "env.json is missing", "it is not shown")
    except RequestError as error:
        return f"<p class=small>{html.escape(str(error))}</p>"
    told = {"command": "", "commit": "at commit ", "device_name": "on "}
    said = [
        f"{word}<code>{html.escape(str(env[key]))}</code>"
        for key, word in told.items()
        if env.get(key)
    ]
    return f"<p class=small>{' '.join(said)}</p>"


def _likelihood(result: dict[str, Any], known: dict[str, Any]) -> str:
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
        f"{result['dequantization']} dequantization, checkpoint of step {result['step']}</p>"
        f"{_without_a_model(result, known)}{_truth(result)}"
    )


def _truth(result: dict[str, Any]) -> str:
    """What the true density has on the same points, where it is known."""
    if result.get("true_nats") is None:
        return ""
    return (
        f"<p class=small>The true density has {result['true_nats']:.4f} {result['unit']} on the "
        f"same points: the model's gap is {result['gap']:.4f}.</p>"
    )


def _without_a_model(result: dict[str, Any], known: dict[str, Any]) -> str:
    """The bits/dim that cost nothing to reach."""
    levels = result.get("num_levels")
    if not levels:
        return ""
    told = [f"a uniform law over {levels} levels {math.log2(levels):.4f}"]
    if "histogram_bits_per_dim" in known:
        told.append(
            f"independent pixels {known['histogram_bits_per_dim']:.4f} &plusmn; "
            f"{known['standard_error']:.4f} on all {known['num_test']} test images (each pixel "
            "with its histogram over the training set, one added to every count)"
        )
    return f"<p class=small>For comparison, bits/dim: {'; '.join(told)}.</p>"


def _samples(run: RunDir, samples: dict[str, dict[str, Any]], damaged: list[str]) -> str:
    """Every sampler's picture, test data beside them; a damaged result is told of and left out."""
    figures, rows, moving, beside = [], [], [], (0, "", "")
    for key, result in samples.items():
        try:
            shown, row = _sample(run, result)
            beside = max(beside, _beside(result.get("data")))
            moving.append(_progress(run, result))
        except DAMAGE as error:
            damaged.append(_damaged(key, error))
            continue
        if shown:
            figures.append(shown)
            rows.append(row)
    if not figures:
        return ""
    _, real, row = beside
    return (
        "<h2>Samples: one network, the same prior noise</h2>"
        f"<div class=figures>{''.join(figures)}{real}</div>"
        f"<div class=scroll><table class=wide>{''.join(rows)}{row}</table></div>"
        "<p class=small>Two-sample accuracy is the mean of two rates: how often the nearest "
        "neighbour of a sample is a sample (samples recognised), and that of a training datum a "
        "training datum (data recognised). 0.5 is best for each: above it a kind lies closer to "
        "its own than to the other, below it closer to the other, and a miss above cancels one "
        f"below in the mean.</p>{''.join(moving)}"
    )


def _sample(run: RunDir, result: dict[str, Any]) -> tuple[str, str]:
    """A sampler's figure, "" if its picture is gone, and its row of the classes."""
    name = result["settings"]["sampler"]
    path, caption = run.sample_path(result["step"], name), _caption(run, result)
    row = _class_row(f"{name}: class of the nearest training image", result.get("classes"))
    if not path.exists():
        return "", row
    picture = base64.b64encode(path.read_bytes()).decode()
    return figure(picture, f"samples by {name}", f"<b>{name}</b>: {caption}"), row


def _progress(run: RunDir, result: dict[str, Any]) -> str:
    """How samples came about, as a GIF and as a strip, where the last draw made them."""
    name = result["settings"]["sampler"]
    strip = run.sample_path(result["step"], f"{name}-progress")
    moving = strip.with_suffix(".gif")
    if "progress" not in result or not (strip.exists() and moving.exists()):
        return ""
    gif, png = (base64.b64encode(path.read_bytes()).decode() for path in (moving, strip))
    return (
        f"<h3>{name}, step by step</h3><div class=figures>"
        f"{figure(gif, 'generation', html.escape(result['progress']), 'gif')}"
        f"<div class=strip>{figure(png, 'generation by time', 'by t, in steps')}</div></div>"
    )


def _beside(real: dict[str, Any] | None) -> tuple[int, str, str]:
    """Test data beside samples: how many are shown, their figure, and their row of the classes."""
    if real is None:  # a result made before they were kept
        return 0, "", ""
    caption = f"<b>real</b>: {real['num_shown']} of {real['num_test']} held-out test data"
    shown = figure(real["picture_of_test_data"], "test data", caption)
    return real["num_shown"], shown, _class_row("test set: class", real.get("classes"))


def figure(picture: str, alt: str, caption: str, kind: str = "png") -> str:
    """A picture, in base64, and what is said below it."""
    return (
        f'<figure><img src="data:image/{kind};base64,{picture}" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _caption(run: RunDir, result: dict[str, Any]) -> str:
    """How samples were drawn, what they cost, and how well they are told from data."""
    drawn = (
        f"{result['num_images']} images from the checkpoint of step {result['step']}"
        f"<br>{_settings(run, result)}<br>{result['nfe']:.0f} evaluations an image, "
        f"{result['images_per_second']:.1f} images/s"
    )
    if result["value"] is None:
        return f"{drawn}<br>too few images for a two-sample test"
    sides, real = result["two_sample"], result["two_sample_of_test_data"]
    return (
        f"{drawn}<br>two-sample accuracy {result['value']:.3f} &plusmn; "
        f"{result['standard_error']:.3f} (samples recognised {sides['samples_recognised']:.2f}, "
        f"data recognised {sides['real_recognised']:.2f}); {real['num_each']} held-out real data "
        f"get {real['accuracy']:.3f} &plusmn; {real['standard_error']:.3f}"
    )


def _settings(run: RunDir, result: dict[str, Any]) -> str:
    """The settings that the sampler listens to."""
    c = result["settings"]
    name = c["sampler"]
    asked = _asked(c)
    if name == "ode":
        return f"{c['method']} at tolerance {c['tolerance']:g}{asked}"
    told = [f"{result.get('steps') or c['steps'] or run.config['sde']['num_steps']} steps"]
    if "grid" in c:
        told[0] += f" ({c['grid']} grid)"
    if name in ("ancestral", "pc"):
        told.append(f"variance {c['variance']}")
    if name == "pc":
        told.append(f"corrector {c['corrector']}, {c['corrections']} a step, snr {c['snr']:g}")
    own = () if name in ("ancestral", "pc") else SAMPLERS[name].keys
    told += [f"{key} {c[key]:g}" for key in own]
    if c.get("final", "mean") != "mean":
        told.append(f"last step {c['final']}")
    told.append("x_0 clipped" if result.get("clipped", c["clip"]) else "x_0 not clipped")
    return ", ".join(told) + asked


def _asked(c: dict[str, Any]) -> str:
    """The class that was asked for; results older than classes asked for none."""
    if c.get("label", -1) < 0:
        return ""
    return f", class {c['label']} with weight {c['guidance']:g} by the {c['guide']}"


def _class_row(title: str, counts: list[int] | None) -> str:
    """How many data have each class."""
    if counts is None:
        return ""
    cells = "".join(f"<td>{label}: {count}</td>" for label, count in enumerate(counts))
    return f"<tr><td>{title}</td>{cells}</tr>"
