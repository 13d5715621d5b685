"""The ledger of exact denoisers: integers whose entropy is known, and normal vectors."""

import json
import math
from itertools import pairwise

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize
from scoreflow.figures.image_grid import image_grid
from scoreflow.likelihood import bound_table
from scoreflow.likelihood.bound_table import Entry, as_result, bounds, num_calls, table
from scoreflow.likelihood.rate_distortion import Unit, rate_distortion, reconstructions
from scoreflow.report.page import write_report
from scoreflow.sde import VPSDE, Noise, Stream
from scoreflow.sde.analytic import GaussianMixture, LevelGrid, gaussian
from scoreflow.storage.run_folder import RunDir

F64 = torch.float64
SDE = VPSDE.log_linear(200, sigma_min=1e-3, alpha_min=1e-3)
LEVELS, EVENT = 5, (1, 2, 3)
P = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=F64)
NAMES = [f"discrete bound, {name} variance" for name in ("beta", "posterior", "optimal")]


def grid_data(event, test=400, train=300):
    grid = LevelGrid(P, math.prod(event))
    images = [grid.levels(Noise.of(seed, 0, n)) for seed, n in ((11, train), (12, test))]
    parts = [each.to(torch.uint8).view(-1, *event) for each in images]
    return Data("grid", *parts, LEVELS, None, None)


def grid_ledger(**changes):
    data = grid_data(EVENT)
    arguments = {"seed": 0, "strata": 40, "batch_size": 150, "train_images": 300} | changes
    denoiser = LevelGrid(P, math.prod(EVENT)).denoiser(SDE)
    return bounds(denoiser, SDE, 1.0, data, data.test, **arguments)


@pytest.fixture(scope="module")
def found():
    return grid_ledger()


def of_the_images(data):
    """-log2 P of each test image, bits/dim."""
    return -P.log2()[data.test.long()].flatten(1).mean(1)


def within(values, low, high, size=3.5):
    reach = size * float(values.std()) / len(values) ** 0.5
    return low - reach < float(values.mean()) < high + reach


def gap_of_the_decoder():
    """What the normal density as L_0 costs at t = 1, exactly, by quadrature over x_1: bits/dim.

    Cross entropy minus h(x_0 | x_1), the latter being h(x_0) + h(x_1 | x_0) - h(x_1).
    """
    grid, one = LevelGrid(P, 1), torch.ones((), dtype=F64)
    alpha, sigma = SDE.alpha(one), SDE.sigma(one)
    # all of interest happens within a few sigma of the edges of the bins
    edges, reach = torch.linspace(-1, 1, LEVELS + 1, dtype=F64), torch.linspace(-9, 9, 3001)
    near = (alpha * edges[:, None] + sigma * reach.double()).flatten()
    x = torch.cat([near, torch.linspace(-1.01, 1.01, 2001, dtype=F64)]).sort().values
    log_p = grid.log_prob(x[:, None], alpha, sigma)
    score = grid.score(x[:, None], alpha, sigma)[:, 0]
    of_x_1 = torch.trapezoid(-log_p.exp() * log_p, x)
    information = torch.trapezoid(log_p.exp() * score**2, x)
    # snr E|x_0 error|^2 = 1 - sigma^2 E score^2
    cross = 0.5 * ((2 * math.pi * (sigma / alpha) ** 2).log() + 1 - sigma**2 * information)
    of_x_0 = -(P * (P * LEVELS / 2).log()).sum()
    given = of_x_0 + 0.5 * (2 * math.pi * math.e * sigma**2).log() - of_x_1
    return float(cross - given) / math.log(2)


def test_every_bound_lies_above_the_entropy_and_the_best_close_to_it(found):
    """Of the images' own probabilities, in pairs; the continuous one to a gap that is known."""
    entries = {entry.name: entry for entry in found[0]}
    excess = {name: e.values - of_the_images(grid_data(EVENT)) for name, e in entries.items()}
    assert len(entries) == 9
    for name, each in excess.items():
        assert entries[name].kind == ("estimate" if name == "I-MMSE" else "bound")
        assert name == "I-MMSE" or within(each, 0, 100), name
        assert float(each.std()) / len(each) ** 0.5 < 0.05
    known = gap_of_the_decoder()
    assert 0 < known < 0.02
    assert within(excess["continuous bound"], known, known + 1e-4)  # alpha_N = 1e-3: no prior gap
    assert within(excess["I-MMSE"], -0.02, 0.02)
    assert within(excess[NAMES[2]], 0, 0.1)


def test_optimal_variances_are_the_best(found):
    entries = {entry.name: entry for entry in found[0]}
    for end in ("", ", decoder"):
        for worse in NAMES[:2]:
            apart = entries[worse + end].values - entries[NAMES[2] + end].values
            assert float(apart.mean()) > 3.5 * float(apart.std()) / len(apart) ** 0.5


def test_the_decoder_does_not_give_back_the_place_within_a_bin(found):
    """What `losses.decoder` says of networks trained on dequantized points."""
    entries = {entry.name: entry for entry in found[0]}
    apart = entries["continuous bound, decoder"].value - entries["continuous bound"].value
    sigma = float(SDE.sigma(torch.ones((), dtype=F64)))
    predicted = math.log2(2 / LEVELS / (sigma * math.sqrt(2 * math.pi * math.e)))
    assert apart == pytest.approx(predicted, rel=0.01)


def test_parts_add_up(found):
    for entry in found[0]:
        assert entry.standard_error == pytest.approx(float(entry.values.std()) / 20)
        if entry.parts:
            assert list(entry.parts)[::2] == ["L_0", "L_T"]
            assert sum(entry.parts.values()) == pytest.approx(entry.value)
    assert {e.name for e in found[0] if not e.parts} == {"I-MMSE"}


def test_levels_as_centres_have_a_decoder_and_meet_their_entropy():
    """A network trained on centres: its decoder is DDPM's, and hardly costs anything."""
    event, data = (1, 1, 2), grid_data((1, 1, 2))
    centres = dequantize(torch.arange(LEVELS), torch.full((LEVELS,), 0.5, dtype=F64), LEVELS)
    points = torch.cartesian_prod(centres, centres)
    weights = torch.outer(P, P).flatten()
    truth = GaussianMixture(weights, points, torch.zeros(len(points), 2, 2, dtype=F64))
    entries, _ = bounds(
        truth.denoiser(SDE), SDE, 1.0, data, data.test, 0, 60, 200, 300, embedding="centre"
    )
    assert [e.name for e in entries][:3] == [f"{name}, decoder" for name in NAMES]
    excess = {e.name: e.values - of_the_images(data) for e in entries}
    assert data.test.shape[1:] == event
    assert within(excess["I-MMSE"], -1e-3, 1e-3)
    assert within(excess["continuous bound, decoder"], -1e-3, 1e-3)
    assert within(excess[f"{NAMES[2]}, decoder"], 0, 0.15)
    # .029; .053 with no reference, .082 with one that does not end
    assert float(excess["I-MMSE"].std()) / 400**0.5 < 0.04


def test_images_do_not_know_of_their_batch_and_calls_are_counted(found):
    calls = []
    again, _ = grid_ledger(batch_size=400, on_call=lambda: calls.append(1))
    assert len(calls) == num_calls(400, 300, 400, 40) == 3 * 41
    assert num_calls(400, 300, 150, 40) == (2 * 3 + 2) * 41
    for one, other in zip(found[0], again, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=1e-9, atol=1e-9)


def test_the_points_are_those_of_the_exact_likelihood(monkeypatch):
    """u = Noise(seed, image).uniform(DEQUANTIZE), in the walk and over real times."""
    seen, data = [], grid_data(EVENT, test=7)
    for name in ("denoising_errors", "sweep"):
        original = getattr(bound_table, name)
        monkeypatch.setattr(
            bound_table, name, lambda *a, run=original: seen.append((a[2], a[3])) or run(*a)
        )
    denoiser = LevelGrid(P, math.prod(EVENT)).denoiser(SDE)
    bounds(denoiser, SDE, 1.0, data, data.test, 5, 3, 7, 4)
    x_0 = dequantize(data.test, Noise.of(5, 0, 7).uniform(Stream.DEQUANTIZE, EVENT), LEVELS)
    (_, of_train), *tested = seen
    for points, _ in tested:
        assert torch.equal(points, x_0)
    steps = [of_train.step, *(noise.step for _, noise in tested)]
    assert len(set(steps)) == 3  # no two of them share their noise


# ---- rate and distortion


def test_the_curve_by_hand():
    """Stretches 1 | 2, 3 | 4, 5, 6 of nats 10 | 4 | 6 and a prior of 1, bits/dim of two pixels."""
    stretches = [range(1, 2), range(2, 4), range(4, 7)]
    squares = torch.tensor([[2.0, 8.0, 32.0], [2.0, 8.0, 32.0]], dtype=F64)
    sums = torch.tensor([[10.0, 4.0, 6.0], [10.0, 4.0, 6.0]], dtype=F64)
    prior, nats = torch.ones(2, dtype=F64), 2 * math.log(2)
    rate = rate_distortion(Unit(2, 256), stretches, squares, prior, {"beta": sums}, "beta")
    assert rate.times == [1, 3, 6]
    assert rate.rate == pytest.approx([11 / nats, 7 / nats, 1 / nats])
    assert rate.middles == [2.5, 5.0]
    assert rate.terms["beta"] == pytest.approx([2 / nats, 2 / nats])
    # a level is 2/256 wide and 1 of 255; at t = 3 a fifth of the way from 2.5 to 5
    assert rate.distortion == pytest.approx([128, 128 * 2 * 2**0.2, 128 * 4])


def test_normal_vectors_reach_shannons_rate_distortion_function():
    """R = d/2 log(1 + v snr), D = v / (1 + v snr): d/2 log(v / D), as good as a code can be."""
    sde, variance = VPSDE.log_linear(200, 0.01, 0.01), 0.36
    truth = gaussian(torch.zeros(2), variance * torch.eye(2))
    train, test = (truth.sample(Noise.of(seed, 0, 1000)) for seed in (1, 2))
    data = Data("normal", train, test, None, None, None)
    entries, rate = bounds(
        truth.denoiser(sde), sde, 1.0, data, test, 0, 199, 1000, 1000, embedding="centre"
    )  # of vectors there is none
    assert rate.unit.name == "nats"
    assert [e.name for e in entries] == [*NAMES, "continuous bound", "I-MMSE"]
    for t in (1, 50, 100, 150):
        here = rate.times.index(t)
        known = 1 + variance * float(sde.log_snr(torch.tensor(float(t), dtype=F64)).exp())
        assert rate.rate[here] == pytest.approx(math.log(known), rel=0.05, abs=0.01)
        # of 2000 squares, each of relative variance 2
        assert rate.distortion[here] ** 2 == pytest.approx(variance / known, rel=3.5 / 1000**0.5)
    best = entries[2]
    assert rate.rate[0] + best.parts["L_0"] == pytest.approx(best.value)
    assert best.value == pytest.approx(math.log(2 * math.pi * math.e * variance), abs=0.1)


def test_the_curve_belongs_to_the_decoder_of_optimal_variances(found):
    entries, rate = {entry.name: entry for entry in found[0]}, found[1]
    best = entries[f"{NAMES[2]}, decoder"]
    assert rate.times[0] == 1
    assert rate.times[-1] == 200
    assert rate.rate[0] + best.parts["L_0"] == pytest.approx(best.value)
    assert rate.rate[-1] == pytest.approx(best.parts["L_T"])
    assert all(a > b for a, b in pairwise(rate.rate))
    assert all(0.97 * a < b for a, b in pairwise(rate.distortion))
    levels = torch.arange(LEVELS, dtype=F64)  # from x_N nothing is known: the spread of the data
    variance = P @ levels**2 - (P @ levels) ** 2 + 1 / 12
    expected = 255 / (LEVELS - 1) * float(variance.sqrt())
    assert rate.distortion[-1] == pytest.approx(expected, rel=0.05)


def test_reconstructions_go_from_the_mean_to_the_image():
    truth = gaussian(torch.full((6,), 0.3), 0.04 * torch.eye(6))
    x_0 = truth.sample(Noise.of(0, 0, 3)).view(3, *EVENT)
    times = [200, 100, 1]
    found = reconstructions(truth.denoiser(SDE), SDE, x_0, Noise.of(1, 0, 3), times)
    assert found.shape == (3, 3, *EVENT)
    torch.testing.assert_close(found[:, 2], x_0, rtol=0, atol=0.01)
    torch.testing.assert_close(found[:, 0], torch.full_like(x_0, 0.3), rtol=0, atol=0.01)
    eps = Noise.of(1, 0, 3).normal(Stream.TRAIN_EPS, EVENT)
    t = torch.full((3,), 100.0, dtype=F64)
    expected = truth.denoiser(SDE)(SDE.perturb(x_0, t, eps), t).x_0
    torch.testing.assert_close(found[:, 1], expected)


# ---- its table and its section of the report


def test_differences_are_paired_by_image(found):
    first = Entry("exact flow", "exact", of_the_images(grid_data(EVENT)), {})
    result = json.loads(json.dumps(as_result([first, *found[0]], found[1])))
    assert result["value"] == first.value
    assert result["unit"] == "bits/dim"
    assert result["num_images"] == 400
    assert result["rows"][0]["minus_first"] == 0
    for row, entry in zip(result["rows"][1:], found[0], strict=True):
        apart = entry.values - first.values
        assert row["minus_first"] == pytest.approx(float(apart.mean()))
        assert row["minus_first_error"] == pytest.approx(float(apart.std()) / 20)
        assert row["minus_first_error"] != pytest.approx(row["standard_error"], rel=1e-3)
    lines = table(result).splitlines()
    assert len(lines) == 1 + len(result["rows"])
    assert f"{found[0][0].value:.4f}" in lines[2]
    assert result["rate_distortion"]["times"] == found[1].times


def test_the_report_shows_every_entry_and_the_curves(found, tmp_path):
    result = {**as_result(found[0], found[1]), "step": 7}
    png = image_grid(torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8), 1, 1)
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        run.write_result("likelihood-ledger", result)
        page = write_report(run).read_text()
        assert "base64" not in page
        run.write_image(run.sample_path(7, "likelihood-ledger"), png)
        page = write_report(run).read_text()
    assert "Likelihood bounds" in page
    for entry in found[0]:
        assert f"<td>{entry.name}</td>" in page
        assert f"{entry.value:.4f} ± {entry.standard_error:.4f}" in page
    least = min(entry.value for entry in found[0] if entry.kind != "estimate")
    assert f'<td class="best" data-sort="{least}">' in page
    assert page.count("<svg") == 4
    assert page.count("data:image/png;base64,") == 1


def test_a_single_image_has_no_standard_error(found):
    entries = [Entry(e.name, e.kind, e.values[:1], e.parts) for e in found[0]]
    result = as_result(entries, found[1])
    assert result["standard_error"] is None
    assert "+-" not in table(result)
