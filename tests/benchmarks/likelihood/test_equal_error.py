"""Seconds at equal error: that each procedure is right, and what is made of its errors."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.likelihood import bench, settings
from benchmarks.likelihood.equal_error import cases, comparison, front, picture, reference, report
from benchmarks.likelihood.equal_error.k_diffusion import k_diffusion
from benchmarks.likelihood.equal_error.rows import left_of, probe_variance, renewed
from benchmarks.likelihood.methods import attempts, nodes_solver, ours, solver_of, usual
from scoreflow.errors import RunError
from scoreflow.sde.noise import Noise
from tests.benchmarks.test_likelihood import (
    CLOCKS,
    LEVELS,
    MEAN,
    VARIANCE,
    GaussianPixels,
    Mixing,
    model_of,
    points_of,
)

F64 = torch.float64
DIMS = 4


def closed_form(model, points):
    """Bits/dim of independent Gaussian pixels, (B,)."""
    t = torch.tensor(points.t, dtype=F64)
    alpha, variance = (
        model.sde.alpha(t),
        model.sde.alpha(t) ** 2 * VARIANCE + model.sde.variance(t),
    )
    energy = (points.x - alpha * MEAN) ** 2 / variance + torch.log(2 * math.pi * variance)
    return points.bits(-0.5 * energy.flatten(1).sum(1, keepdim=True))[:, 0]


def gaussian(clock="smooth"):
    model = model_of(GaussianPixels(CLOCKS[clock]), clock)
    return model, points_of(model), closed_form(model, points_of(model))


# ---- the procedures


def test_those_with_fixed_probes_meet_a_closed_form():
    """Independent pixels: any signs give the divergence exactly."""
    model, points, exact = gaussian()
    own = ours(model, points, solver_of(1e-5, "torchdiffeq:dopri5"))
    for found in (own, k_diffusion(model, points, 1e-5), usual(model, points, 1e-5)):
        assert found.unsolved == 0
        torch.testing.assert_close(found.bits[:, 0], exact, rtol=0, atol=5e-4)


def test_k_diffusion_starts_in_its_own_units():
    """Half way, where alpha is far from 1, so that a density of x / alpha is not that of x."""
    model, early, _ = gaussian()
    late = bench.Points(early.x, early.offset, early.noise, 20.0)
    found = k_diffusion(model, late, 1e-5).bits[:, 0]
    torch.testing.assert_close(found, closed_form(model, late), rtol=0, atol=5e-4)
    assert float(CLOCKS["smooth"].alpha(torch.tensor(20.0, dtype=F64))) < 0.9


def test_the_mean_over_shifts_of_nodes_meets_a_closed_form():
    """Any signs are exact, so that the shift of the nodes is all that scatters."""
    model, points, exact = gaussian()
    count = 256
    x = points.x[:1].expand(count, -1, -1, -1)
    many = bench.Points(x, points.offset[:1].expand(count), Noise.of(5, 0, count), points.t)
    error = ours(model, many, nodes_solver(16, substeps=4)).bits[:, 0] - exact[0]
    spread = float(error.std())
    assert 1e-5 < spread < 1e-3
    assert abs(float(error.mean())) < 4 * spread / math.sqrt(count)


def test_k_diffusion_agrees_on_one_probe():
    model = model_of(Mixing(), "smooth")
    points = points_of(model)
    truth = ours(model, points, solver_of(1e-7)).bits
    torch.testing.assert_close(k_diffusion(model, points, 1e-5).bits, truth, rtol=0, atol=5e-4)
    other = k_diffusion(model, renewed(points, 1), 1e-5).bits
    assert float((other - truth).abs().max()) > 0.1  # the probe is what they agree on


def test_passes_and_products_are_counted():
    model = model_of(Mixing(), "smooth")
    points = points_of(model)
    found = k_diffusion(model, points, 1e-3)
    assert found.forwards == found.products == float(found.evaluations[0])
    own = ours(model, points, nodes_solver(48, probes=2))
    assert own.forwards == float(own.evaluations.double().mean()) == 50
    assert own.products == 96
    again = torch.tensor([50, 50 + 99, 50 + 99 + 197])
    assert attempts(again, nodes_solver(48)) == pytest.approx(2)


# ---- their errors


def with_bits(method, bits):
    found = bench.Outcome(bits, torch.tensor([8]), 8.0, 8.0, 0)
    job = SimpleNamespace(outcomes=[found])
    return SimpleNamespace(case=SimpleNamespace(method=method), job=job)


def test_the_variance_of_a_probe_and_of_several_is_that_of_the_whole_set():
    """Over all subsets of 2 and 3 of K = 4 values: both formulas are unbiased."""
    network = SimpleNamespace(test=torch.zeros(1, 1, 2, 2))
    values = torch.tensor([0.3, -1.0, 0.2, 2.0], dtype=F64)
    truth = float(values.var(correction=0))
    for count in (2, 3, 4):
        subsets = torch.stack([values[list(s)] for s in itertools.combinations(range(4), count)])
        assert left_of(truth, count, 4) == pytest.approx(float(subsets.mean(1).var(correction=0)))
        fewer = with_bits("dopri5", torch.zeros(1, 1))
        rows = [fewer, with_bits("dopri5", subsets), with_bits("nodes", torch.randn(2, 9))]
        assert probe_variance(network, rows) == pytest.approx(truth)
    with pytest.raises(RunError, match="was not solved"):
        probe_variance(network, [with_bits("dopri5", torch.full((2, 2), math.nan))])


def row(method, seconds, error, **more):
    blank = {
        "method": method, "seconds": seconds * 2 / settings.MEAN_OF, "images": 2, "error": error,
        "scatter": error, "bias": 0.0, "bias_error": 1e-4, "solver_rms": 0.0, "unsolved": 0,
        "tolerance": None, "nodes": None, "substeps": None, "probes": 1, "averaged": False,
    }  # fmt: skip
    return {**blank, **more}


def test_seconds_are_interpolated_along_the_front():
    """Seconds = c / error^2 of both, so that the ratio is that of the c everywhere."""
    rows = [row("nodes", 0.1 / e**2, e, nodes=8, substeps=1) for e in (0.2, 0.01)]
    rows.append(row("nodes", 9.0, 0.3, nodes=9, substeps=1))  # beaten: nobody's choice
    rows += [row("dopri5", 0.7 / e**2, e, tolerance=1e-3) for e in (0.3, 0.03, 0.003)]
    rows.append(row("usual", 2.0, 1.0, tolerance=1e-3, averaged=True))
    found = front.compared(rows)
    for target in settings.TARGETS:
        entry = found["image"][f"{target:g}"]
        assert entry["nodes"]["seconds"] == pytest.approx(0.1 / target**2)
        for name in ("dopri5", front.FIXED):
            assert entry[name]["over_nodes"] == pytest.approx(7)
        assert entry["torchdiffeq"] == {"seconds": None, "over_nodes": None}
    most = settings.MEAN_ERROR**2 * settings.MEAN_OF
    assert found["mean"]["nodes"]["seconds"] == pytest.approx(0.1 / most)
    # R repetitions: R times the seconds, 1 / sqrt(R) of the error; none at 0.05 needs over 128
    assert found["image"]["0.1"]["usual"]["seconds"] == pytest.approx(2 / 0.1**2)
    assert found["image"]["0.05"]["usual"]["seconds"] is None
    assert front.seconds_at(front.points_of(rows, "nodes"), 0.5) == pytest.approx(2.5)


def test_repetitions_do_not_average_the_solver_and_a_biased_mean_is_not_reached():
    rows = [row("nodes", 1.0, 0.01, nodes=8, substeps=1, bias=0.003)]
    rows.append(row("usual", 2.0, 0.1, tolerance=1e-3, averaged=True, solver_rms=0.02))
    assert min(p.error for p in front.points_of(rows, "usual")) > 0.02
    assert front.compared(rows)["image"]["0.02"]["usual"]["seconds"] is None
    found = front.compared(rows)["mean"]
    assert found["nodes"]["seconds"] is None
    assert found["usual"]["seconds"] is not None
    lines = report.lines_of_means({"mean": found})
    assert len(lines) == 1
    assert "8 times (scatter 0.0354, bias +0.0000 ± 0.0001)" in lines[0]


# ---- all of it


def small(monkeypatch):
    for name, value in {
        "TRUTH": 1e-5, "EXACT": 1e-5, "CURVE": (1e-3, 1e-4), "PROBES": (1, 2),
        "NODES": ((24, 1, 2), (24, 2, 2), (8, 8, 1)), "K_DIFFUSION": (1e-4,), "REPETITIONS": 4,
        "FIXED_TOLERANCES": (1e-3,),
    }.items():  # fmt: skip
        monkeypatch.setattr(settings, name, value)
    generator = torch.Generator().manual_seed(5)
    levels = torch.randint(0, LEVELS, (24, 1, 2, 2), generator=generator).to(torch.uint8)
    models = {clock: model_of(Mixing(), clock) for clock in CLOCKS}
    return bench.Bench(models, levels, LEVELS, 1.0, 0)


def test_a_comparison_measures_what_it_scales(monkeypatch, tmp_path):
    found = small(monkeypatch)
    points = found.points(found.test)
    against = reference.reference_of(found, points, tmp_path)
    result = comparison.equal_error(found, points, against, 2)
    rows = result["rows"]
    assert [r["method"] for r in rows] == [
        *["nodes"] * 2, *["dopri5"] * 3, "usual", "usual", "torchdiffeq", "torchdiffeq",
        "k-diffusion",
    ]  # fmt: skip
    whole = rows[4]
    assert whole["probes"] == 4
    assert whole["scatter"] == 0  # all signs: the exact trace
    assert whole["rms_error"] < 0.02
    for r in rows:
        assert r["repetitions"] == (4 if r["method"] == "nodes" else 2)
        assert r["solver_rms"] < 0.1
        if r is not whole:  # 48 or 96 errors: 10 % of their root mean square, or 7 %
            assert r["rms_error"] == pytest.approx(r["error"], rel=0.4)
    nodes = rows[0]
    assert nodes["error"] == nodes["rms_error"] < rows[2]["error"] / 2  # 24 fresh probes
    assert abs(nodes["mean_error"]) < 5 * math.hypot(nodes["mean_error_error"], 1e-3)
    text = report.section(result, 24, "p.png")
    assert text.count("\n| usual | ") == 3
    assert picture.png(rows).startswith(b"\x89PNG")
    assert picture.plot_of(rows).series[0].label == "nodes (ours)"


def test_a_reference_is_solved_once(monkeypatch, tmp_path):
    found = small(monkeypatch)
    points = found.points(found.test[:2])
    first = reference.reference_of(found, points, tmp_path)

    def never(*_):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(reference, "ours", never)
        again = reference.reference_of(found, points, tmp_path)
        for name, bits in first.exact.items():
            assert torch.equal(again.exact[name], bits)
        for other in (renewed(points, 1), found.points(found.test[1:3])):
            with pytest.raises(AssertionError):
                reference.reference_of(found, other, tmp_path)
    moved = first.exact["smooth"] - first.exact["as trained"]
    expected = first.same_probe["smooth"] - first.same_probe["as trained"]
    torch.testing.assert_close(moved, expected)


def test_cases_leave_out_more_probes_than_there_are(monkeypatch):
    found = small(monkeypatch)
    made = cases.cases_of(found)
    assert max(case.heading["probes"] for case in made) == 4
    assert {case.schedule for case in made if case.method == "usual"} == {"smooth"}
    monkeypatch.setattr(settings, "WHOLE_SET", 3)
    assert max(case.heading["probes"] for case in cases.cases_of(found)) == 2
