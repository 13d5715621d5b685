"""Power-function averages and their reconstruction against closed forms and direct sums."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scipy import integrate, stats
from torch import nn

from scoreflow.errors import RequestError
from scoreflow.training.ema import EMA
from scoreflow.training.posthoc_ema.power_average import PowerAverage
from scoreflow.training.posthoc_ema.profiles import (
    LONGEST,
    Profile,
    gamma_of,
    inner_products,
    length_of,
    reach,
    reconstruct,
    share_at,
    shares,
)
from scoreflow.training.posthoc_ema.snapshots import Snapshots

EPS = torch.finfo(torch.float64).eps
LENGTHS = (1e-4, 0.01, 0.05, 0.1, 0.2, LONGEST)
STEPS = 400
KEPT = [Profile(step, length) for step in range(50, STEPS + 1, 50) for length in (0.05, 0.1)]


# ---- a length and its exponent


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_and_its_exponent_are_each_other(length):
    """A relative error of the exponent is one of the length: d ln length / d ln gamma is -1..0."""
    assert length_of(gamma_of(length)) == pytest.approx(length, rel=16 * EPS)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_is_the_standard_deviation_of_its_profile(length):
    """By the law of t/T, Beta(gamma + 1, 1): scipy's, and by quadrature of the density."""
    gamma = gamma_of(length)
    assert stats.beta(gamma + 1, 1).std() == pytest.approx(length, rel=1e-9)
    points = (1 - 20 * length,) if length < 0.04 else None

    def moment(k):
        of = integrate.quad(lambda t: (gamma + 1) * t ** (gamma + k), 0, 1, points=points)
        return of[0]

    variance = moment(2) - moment(1) ** 2
    # quad's own bound on each moment is 1.5e-8, absolute; the variance is the rest of ones
    assert variance == pytest.approx(length**2, abs=5e-8)


def test_exponents_of_the_published_pair():
    """Karras et al. 2024, section 3.1: gamma 16.97 and 6.94 for 5 % and 10 %."""
    assert round(gamma_of(0.05), 2) == 16.97
    assert round(gamma_of(0.1), 2) == 6.94


@pytest.mark.parametrize("length", [0.0, -1.0, 0.2887, math.nan])
def test_a_length_of_no_rising_profile_is_refused(length):
    with pytest.raises(ValueError, match="length must lie in"):
        gamma_of(length)


# ---- averages


class Walk(nn.Module):
    """Weights of a known trajectory."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def move(self, to):
        self.weight.data.copy_(to)
        self.seen += 1


def followed(trajectory, lengths):
    """Averages of a trajectory as a training keeps them: {(step, length): weights}."""
    network = Walk()
    averages = {length: PowerAverage(network, length) for length in lengths}
    found = {}
    for step, weights in enumerate(trajectory):
        network.move(weights)
        for length, average in averages.items():
            average.update(network, step)
            found[step + 1, length] = average.state_dict()["weight"].clone()
            assert average.state_dict()["seen"] == step + 1
    return found


def trajectories():
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(1, STEPS + 1, dtype=torch.float64)[:, None]
    rates = torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0], dtype=torch.float64)
    noise = torch.randn(STEPS, 5, dtype=torch.float64, generator=generator)
    return {
        "smooth": 2 - torch.exp(-rates * steps / STEPS) * torch.cos(rates * steps / STEPS),
        "random walk": 5 + noise.cumsum(0),
        "white": noise,
    }


@pytest.fixture(scope="module", params=["smooth", "random walk", "white"])
def trajectory(request):
    return trajectories()[request.param]


def test_an_average_is_the_sum_with_the_power_profile(trajectory):
    """Each update rounds a value below max|theta| a few times, and later ones shrink that."""
    found = followed(trajectory, (0.02, 0.05, 0.1, 0.25))
    for (step, length), average in found.items():
        expected = shares(Profile(step, length)) @ trajectory[:step]
        tolerance = 4 * step * EPS * float(trajectory.abs().max())
        assert (average - expected).abs().max() <= tolerance


@pytest.mark.parametrize("length", [0.02, 0.1, 0.25])
def test_shares_are_the_integral_of_the_profile_on_each_step(length):
    gamma, step = gamma_of(length), 7
    for k in range(1, step + 1):
        exact, _ = integrate.quad(
            lambda t: (gamma + 1) * t**gamma / step ** (gamma + 1), k - 1, k, epsabs=1e-13
        )
        assert float(shares(Profile(step, length))[k - 1]) == pytest.approx(exact, abs=1e-12)
    assert float(shares(Profile(step, length)).sum()) == pytest.approx(1, abs=step * EPS)


def test_the_share_of_late_weights_is_not_rounded_away():
    """(gamma + 1) / t to second order, where 1 - (1 - 1/t)^(gamma + 1) in float64 cancels."""
    gamma, t = gamma_of(0.05), 10**9
    first = (gamma + 1) / t
    assert share_at(gamma, t - 1) == pytest.approx(first * (1 - gamma / 2 / t), rel=1e-12)


def test_the_first_weights_are_the_first_average_and_the_start_is_none():
    network = Walk()
    network.weight.data.fill_(1e30)
    average = PowerAverage(network, 0.1)
    network.move(torch.ones(5))
    average.update(network, 0)
    assert torch.equal(average.module.weight, torch.ones(5, dtype=torch.float64))
    assert isinstance(average, EMA)


# ---- reconstruction


def test_inner_products_are_integrals():
    some = [Profile(3, 0.05), Profile(7, 0.05), Profile(7, 0.2), Profile(9, 0.01)]
    found = inner_products(some, some)

    def density(profile, t):
        gamma = gamma_of(profile.length)
        return (gamma + 1) * t**gamma / profile.step ** (gamma + 1) if t <= profile.step else 0.0

    for i, one in enumerate(some):
        for j, other in enumerate(some):
            end = min(one.step, other.step)
            exact, _ = integrate.quad(
                lambda t, p=one, q=other: density(p, t) * density(q, t),
                0,
                end,
                points=(0.8 * end, 0.95 * end),
                epsabs=1e-13,
            )
            assert float(found[i, j]) == pytest.approx(exact, rel=1e-8, abs=1e-11)


def left_over(length, found):
    """Shares of wanted - reconstructed, (STEPS,)."""
    parts = [shares(each, STEPS) for each in KEPT]
    made = sum(c * part for c, part in zip(found.coefficients, parts, strict=True))
    return shares(Profile(STEPS, length)) - made


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15])
def test_reconstruction_is_off_by_what_its_profile_is(trajectory, length):
    """Against the average of that length kept directly, on a smooth and on rough trajectories.

    The difference is the sum of the left-over shares times the weights, to rounding. It is at most
    the profile's error in L2 times the size of the weights about any constant (Cauchy-Schwarz; the
    coefficients add up to 1, so the constant is in no error): steps are means of the profile, and
    means are no larger in L2.
    """
    found = reconstruct(KEPT, Profile(STEPS, length))
    kept = followed(trajectory, (0.05, 0.1, length))
    made = sum(
        share * kept[each.step, each.length]
        for share, each in zip(found.coefficients, KEPT, strict=True)
    )
    difference = kept[STEPS, length] - made
    size = float(trajectory.abs().max())
    rounding = 4 * STEPS * EPS * size * (1 + found.gain)
    predicted = left_over(length, found) @ trajectory
    assert (difference - predicted).abs().max() <= rounding
    norm = found.relative_error * float(
        inner_products(*[[Profile(STEPS, length)]] * 2)[0, 0] ** 0.5
    )
    spread = (trajectory - trajectory.mean(0)).norm(dim=0)
    assert (difference.abs() <= norm * spread + rounding).all()
    assert float(left_over(length, found).norm()) <= norm + rounding
    assert sum(found.coefficients) == pytest.approx(1, abs=64 * EPS * found.gain)


def test_the_stated_error_is_that_of_the_profile():
    """By quadrature of the square of the difference, a stretch between kept steps at a time."""
    wanted = Profile(STEPS, 0.03)
    found = reconstruct(KEPT, wanted)

    def left(t):
        terms = zip((1.0, *(-c for c in found.coefficients)), (wanted, *KEPT), strict=True)
        total = 0.0
        for c, each in terms:
            gamma = gamma_of(each.length)
            if t <= each.step:
                total += c * (gamma + 1) / each.step * (t / each.step) ** gamma
        return total**2

    ends = range(0, STEPS + 1, 50)
    squares = (integrate.quad(left, a, a + 50, epsabs=1e-12)[0] for a in ends[:-1])
    norm = float(inner_products([wanted], [wanted])[0, 0])
    assert found.relative_error == pytest.approx(math.sqrt(sum(squares) / norm), rel=1e-6)


def test_no_other_combination_is_nearer():
    """The error is stationary along every pair of coefficients that keeps the sum."""
    wanted = Profile(STEPS, 0.15)
    c = torch.tensor(reconstruct(KEPT, wanted).coefficients, dtype=torch.float64)
    gram, along = inner_products(KEPT, KEPT), inner_products(KEPT, [wanted])[:, 0]
    slope = gram @ c - along
    scale = float((gram.abs() @ c.abs() + along.abs()).max())
    assert (slope - slope.mean()).abs().max() <= 1e-11 * scale  # the ridge is 1e-13


def test_what_was_kept_is_itself_and_what_stands_still_stays():
    found = reconstruct(KEPT, Profile(STEPS, 0.1))
    assert found.coefficients == tuple(float(each == Profile(STEPS, 0.1)) for each in KEPT)
    assert (found.relative_error, found.gain) == (0.0, 1.0)


def test_a_plain_fit_without_the_sum_is_not_what_is_used():
    """Its coefficients do not add up to 1, so weights that stand still would be scaled."""
    wanted = Profile(STEPS, 0.03)
    free = torch.linalg.solve(inner_products(KEPT, KEPT), inner_products(KEPT, [wanted]))
    assert abs(float(free.sum()) - 1) > 1e-3
    assert sum(reconstruct(KEPT, wanted).coefficients) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("steps", [range(1, 201), (*range(5, 100, 5), 96, 97, 98, 99)])
def test_profiles_that_are_nearly_one_do_not_cancel(steps):
    """The Gram matrix is singular to float64; coefficients stay small, and the error right."""
    last = max(steps)
    kept = [Profile(step, length) for step in steps for length in (0.05, 0.1)]
    found = reconstruct(kept, Profile(last, 0.07))
    assert found.gain < 10
    parts = [c * shares(p, last) for c, p in zip(found.coefficients, kept, strict=True)]
    left = shares(Profile(last, 0.07)) - sum(parts)
    assert float(left.norm() / shares(Profile(last, 0.07)).norm()) <= 2 * found.relative_error


def test_a_second_snapshot_a_step_later_adds_nothing_but_does_no_harm():
    """As of trainings that were stopped right after a checkpoint, and of a length out of reach."""
    last = 800_000
    even = [last * k // 160 for k in range(1, 161)]
    gains = []
    for steps in (even, sorted({*even, *(step + 1 for step in even[5:80])})):
        kept = [Profile(step, length) for step in steps for length in (0.05, 0.1)]
        gains.append(reconstruct(kept, Profile(last, 0.005)).gain)
    assert gains[1] < 2 * gains[0]


def test_more_snapshots_reach_further():
    (few,), (many,) = reach(KEPT[-2:], STEPS, 0.1), reach(KEPT, STEPS, 0.1)
    assert many[0] < few[0] <= 0.05 < 0.1 <= few[1] < many[1]
    for length, ok in ((many[0], True), (many[0] - 0.001, False), (many[1] + 0.001, False)):
        found = reconstruct(KEPT, Profile(STEPS, length))
        assert (found.relative_error <= 0.1) == ok


@pytest.mark.parametrize(
    "lengths", [(0.05, 0.25), (0.0505, 0.25), (0.0004,)], ids=["hole", "between", "narrow"]
)
def test_every_length_of_a_range_and_none_of_a_hole_is_given(lengths):
    """Asked one by one; two snapshots of lengths far apart leave a hole."""
    kept = [Profile(step, length) for step in (50, 100) for length in lengths]
    found = reach(kept, 100, 0.1)
    assert len(found) == len(lengths)
    assert all(a <= length <= b for (a, b), length in zip(found, lengths, strict=True))
    for length in (*lengths, *(k / 1000 for k in range(1, 281))):
        given = any(a <= length <= b for a, b in found)
        assert (reconstruct(kept, Profile(100, length)).relative_error <= 0.1) == given


def test_a_length_in_a_hole_is_refused_with_the_ranges_beside_it():
    kept = [Profile(step, length) for step in (50, 100) for length in (0.05, 0.25)]
    snapshots = Snapshots.__new__(Snapshots)  # no files are read to plan
    snapshots.folder, snapshots.kept = SimpleNamespace(path="runs/a"), kept
    snapshots.step, snapshots.steps, snapshots.lengths = 100, [50, 100], (0.05, 0.25)
    (a, b), (c, d) = reach(kept, 100, 0.1)
    said = re.escape(f"they give {a:g} to {b:g} and {c:g} to {d:g}, and more of them")
    with pytest.raises(RequestError, match=said):
        snapshots.plan(0.12)


def test_the_table_of_the_documentation_is_what_is_computed():
    text = (Path(__file__).parents[4] / "docs" / "training.md").read_text()
    head, *rows = re.findall(r"^\| (n|\d+) \|(.* 0\.03 .*|.* to .*)\|$", text, re.MULTILINE)
    lengths = [float(cell) for cell in head[1].split("|")[:-1]]
    assert len(rows) == 5
    for n, cells in ((int(number), line.split("|")) for number, line in rows):
        last = 160 * 50  # which all of these divide, but for a step
        kept = [Profile(last * k // n, pair) for k in range(1, n + 1) for pair in (0.05, 0.1)]
        for length, cell in zip(lengths, cells, strict=False):
            found = reconstruct(kept, Profile(last, length)).relative_error
            assert f"{100 * found:.2g} %" == cell.strip()
        if n < 100:  # which takes long
            (ends,) = reach(kept, last, 0.1)
            assert f"{ends[0]:g} to {ends[1]:g}" == cells[-1].strip()


@pytest.mark.parametrize("kept", [[], [Profile(STEPS + 1, 0.1)]])
def test_nothing_and_later_averages_are_refused(kept):
    with pytest.raises(ValueError, match="kept profiles must be of steps up to"):
        reconstruct(kept, Profile(STEPS, 0.07))
