"""odeint against exact solutions, and the promise that no row depends on another.

Fields of the bitwise tests use +, *, / only: torch's own pow and sigmoid differ in the last bit
with an element's place in a tensor, which would be the field's doing and not the solver's.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scoreflow.sde.ode import Status, check_method, dopri5, odeint, odeint_queue, sums
from scoreflow.sde.ode.libraries import METHODS, check_step_size

ADAPTIVE_REFERENCES = ["torchdiffeq:dopri5", "torchdiffeq:dopri8", "scipy:RK45", "scipy:DOP853"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def column(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *(1,) * (like.ndim - 1))


# Problems with exact solutions: (field, exact(start, end, state)), all of shape (B, n).

MATRIX = torch.tensor([[-0.5, 2.0, 0.0], [-2.0, -0.5, 0.3], [0.1, 0.0, -1.5]], dtype=torch.float64)


def linear(clock, state, rows):
    return (state[0] @ MATRIX.T,)


def linear_exact(start, end, y):
    return y @ torch.linalg.matrix_exp((end - start) * MATRIX).T


def oscillator(clock, state, rows):
    x, v = state[0].split(state[0].shape[1] // 2, 1)
    return (torch.cat((v, -x), 1),)


def oscillator_exact(start, end, y):
    x, v = y.split(y.shape[1] // 2, 1)
    c, s = math.cos(end - start), math.sin(end - start)
    return torch.cat((c * x + s * v, c * v - s * x), 1)


def logistic(clock, state, rows):
    return (state[0] * (1 - state[0]),)


def logistic_exact(start, end, y):
    return y / (y + (1 - y) * math.exp(start - end))


def stiff(clock, state, rows):
    """Pulled at rate 200 onto the curve cos(t)."""
    t = column(clock, state[0])
    return (-200 * (state[0] - t.cos()) - t.sin(),)


def stiff_exact(start, end, y):
    return math.cos(end) + (y - math.cos(start)) * math.exp(-200 * (end - start))


def timed(clock, state, rows):
    """y' = -2 t y."""
    return (-2 * column(clock, state[0]) * state[0],)


def timed_exact(start, end, y):
    return y * math.exp(start * start - end * end)


PROBLEMS = {
    "linear": (linear, linear_exact, normal(5, 3)),
    "oscillator": (oscillator, oscillator_exact, normal(5, 4)),
    "logistic": (logistic, logistic_exact, normal(5, 2).sigmoid()),
    "stiff": (stiff, stiff_exact, normal(5, 1)),
    "timed": (timed, timed_exact, normal(5, 2)),
}


def rational(clock, state, rows):
    """Nonlinear, its speed differing a lot from row to row; rounds alike wherever a row lies."""
    y = state[0]
    return (y * (1 - y * y) / (1 + 0.25 * y * y) + column(clock, y) / (1 + y * y),)


def rational_pair(clock, state, rows):
    y, logp = state
    return rational(clock, (y,), rows)[0], (y * y / (1 + y * y)).flatten(1)[:, :1] - 0.1 * logp


# --- correct -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("span", [(0.25, 1.75), (0.1, 0.3)])
def test_exact_solution_within_the_tolerance(name, span):
    field, exact, y = PROBLEMS[name]
    solution = odeint(field, (y,), *span, rtol=1e-9, atol=1e-9)
    assert (solution.status == Status.DONE).all()
    assert (solution.clock == span[1]).all()
    torch.testing.assert_close(solution.state[0], exact(*span, y), rtol=2e-8, atol=2e-8)


@pytest.mark.parametrize("name", ["linear", "oscillator", "logistic", "timed"])
def test_exact_solution_backwards(name):
    field, exact, y = PROBLEMS[name]
    solution = odeint(field, (y,), 1.2, -0.3, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solution.state[0], exact(1.2, -0.3, y), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["oscillator", "logistic", "timed"])
def test_a_step_is_off_by_h_to_the_sixth_and_estimates_h_to_the_fifth(name):
    field, exact, y = PROBLEMS[name]
    stepper = dopri5.Dopri5(field, (y,), (0.8, 1.8), ((1e-6,), (1e-6,)))
    now = stepper.begin(torch.arange(len(y)), (y,))
    errors, estimates, steps = [], [], [0.2 / 2**k for k in range(4)]
    for h in steps:
        length = torch.full((5,), h, dtype=torch.float64)
        state, slope, estimate = stepper.attempt(now, length, 0.8 + length)
        errors.append((state - exact(0.8, 0.8 + h, y)).norm().item())
        estimates.append(estimate.norm().item())
        torch.testing.assert_close(slope, field(0.8 + length, (state,), now.rows)[0])
    # A local error is O(h^(p+1)): 6 after a step of order 5, 5 for the estimate (that of order 4).
    assert slope_of(steps, errors) == pytest.approx(6, abs=0.35)
    assert slope_of(steps, estimates) == pytest.approx(5, abs=0.35)


def test_equal_steps_converge_with_order_five():
    y = normal(3, 4)
    stepper = dopri5.Dopri5(oscillator, (y,), (0.0, 2.0), ((1e-6,), (1e-6,)))
    counts, errors = [4, 8, 16, 32], []
    for count in counts:
        now, h = (
            stepper.begin(torch.arange(len(y)), (y,)),
            torch.full((3,), 2.0 / count, dtype=torch.float64),
        )
        for k in range(count):
            state, slope, _ = stepper.attempt(now, h, torch.full_like(h, 2.0 * (k + 1) / count))
            now = dopri5.Standing(
                now.rows,
                now.clock + h,
                state,
                slope,
                h,
                now.evaluations,
                now.error,
                *(now.finite,) * 2,
            )
        errors.append((now.state - oscillator_exact(0, 2, y)).norm().item())
    assert slope_of(counts, errors) == pytest.approx(-5, abs=0.2)


def slope_of(x, y):
    x, y = torch.tensor(x).double().log(), torch.tensor(y).double().log()
    return ((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()).item()


def test_the_table_is_consistent():
    push = torch.tensor(dopri5._PUSH, dtype=torch.float64)
    nodes = torch.tensor((*dopri5._NODES, 1, 1, 0), dtype=torch.float64)
    torch.testing.assert_close(push.sum(0), nodes, rtol=0, atol=1e-14)
    # Quadrature of order 5 by the final weights, of order 4 by those less the error's.
    at = torch.tensor((0, *dopri5._NODES, 1, 1), dtype=torch.float64)
    for k in range(5):
        assert (push[:, 5] * at**k).sum().item() == pytest.approx(1 / (k + 1), abs=1e-14)
    for k in range(4):
        assert (push[:, 6] * at**k).sum().item() == pytest.approx(0, abs=1e-14)
    assert abs((push[:, 6] * at**4).sum().item()) > 1e-4


@pytest.mark.parametrize("name", ["linear", "oscillator", "logistic", "timed"])
def test_error_is_proportional_to_the_tolerance_and_the_indicator_follows(name):
    field, exact, y = PROBLEMS[name]
    tolerances, errors, indicators = [10.0**-k for k in range(4, 12)], [], []
    for tolerance in tolerances:
        solution = odeint(field, (y,), 0.0, 2.0, rtol=tolerance, atol=tolerance)
        error = (solution.state[0] - exact(0.0, 2.0, y)).square().mean(1).sqrt()
        errors.append(error.mean().item())
        indicators.append(solution.error[0].mean().item())
        assert (error < 20 * tolerance).all()
    assert slope_of(tolerances, errors) == pytest.approx(1, abs=0.25)
    assert slope_of(tolerances, indicators) == pytest.approx(1, abs=0.25)


def test_evaluations_grow_with_the_fifth_root_of_the_tolerance():
    y = normal(4, 4)
    counts = [
        odeint(oscillator, (y,), 0.0, 20.0, rtol=0.0, atol=tolerance).evaluations.double().mean()
        for tolerance in (1e-5, 1e-10)
    ]
    assert counts[1] / counts[0] == pytest.approx(10, rel=0.25)


def test_forward_then_backward_returns():
    y = normal(6, 3, 2)
    there = odeint(rational, (y,), 0.0, 1.5, rtol=1e-10, atol=1e-10)
    back = odeint(rational, there.state, 1.5, 0.0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back.state[0], y, rtol=1e-7, atol=1e-7)
    assert back.state[0].shape == y.shape


@pytest.mark.parametrize("method", ADAPTIVE_REFERENCES)
@pytest.mark.parametrize("span", [(0.0, 1.5), (1.5, 0.5)])
def test_agrees_with_the_libraries(method, span):
    state = normal(4, 2, 3), normal(4, 1, seed=1)
    settings = {"rtol": 1e-10, "atol": 1e-11}
    ours = odeint(rational_pair, state, *span, **settings)
    theirs = odeint(rational_pair, state, *span, **settings, method=method)
    assert (theirs.status == Status.DONE).all()
    assert (theirs.clock == span[1]).all()
    for mine, other in zip(ours.state, theirs.state, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, rtol=2e-8, atol=2e-8)


# --- no row depends on another -------------------------------------------------------------------


def outcome(solution):
    return (
        *solution.state,
        *solution.error,
        solution.clock,
        solution.evaluations,
        solution.status,
    )


def assert_same_rows(whole, rows, part):
    for expected, got in zip(outcome(whole), outcome(part), strict=True):
        assert torch.equal(expected[rows], got)


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 5), (64,), (65,)])
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.5)])
def test_a_row_is_bitwise_the_same_in_any_company(shape, span):
    scale = torch.logspace(-2, 1.5, 64, dtype=torch.float64)
    y = normal(64, *shape) * scale.view(-1, *(1,) * len(shape))
    state = y, normal(64, 1, seed=1)

    def solve(rows):
        return odeint(
            rational_pair, tuple(part[rows] for part in state), *span, rtol=1e-6, atol=1e-6
        )

    whole = solve(torch.arange(64))
    assert whole.evaluations.unique().numel() > 3, "the rows should differ in difficulty"
    for k in (0, 1, 17, 40, 63):
        assert_same_rows(whole, [k], solve(torch.tensor([k])))
    for rows in (torch.arange(8), torch.arange(13, 21), torch.arange(61)):
        assert_same_rows(whole, rows, solve(rows))
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    assert_same_rows(whole, shuffled, solve(shuffled))


def test_the_norm_of_a_lone_wide_row_is_bitwise_the_same():
    """Wide enough that torch splits the sum of a lone row over its threads."""
    y = normal(4, 50_001)
    stepper = dopri5.Dopri5(rational, (y,), (0.0, 1.0), ((1e-4,), (1e-4,)))
    whole = stepper.mean_squares(y, 1 / y)
    for k in range(4):
        row = y[k : k + 1]
        assert torch.equal(whole[:, k : k + 1], stepper.mean_squares(row, 1 / row))


def test_a_stiff_batch_mate_costs_the_others_nothing():
    rates = torch.tensor([1.0, 1.0, 3000.0, 0.5], dtype=torch.float64)

    def decay(clock, state, rows):
        return (-rates[rows, None] * state[0],)

    y = normal(4, 3)
    mixed = odeint(decay, (y,), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    rates = rates[[0, 1, 3]]
    assert_same_rows(
        mixed, [0, 1, 3], odeint(decay, (y[[0, 1, 3]],), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    )
    assert mixed.evaluations[2] > 20 * mixed.evaluations[0]


def test_the_sum_of_a_gpu_folds_in_an_order_of_its_width_alone():
    for width in (1, 2, 3, 7, 64, 193):
        x = normal(2, 5, width)
        folded = sums._folded_sums(x)
        torch.testing.assert_close(folded, x.sum(-1), rtol=1e-13, atol=1e-13)
        assert torch.equal(folded[:, 2:3], sums._folded_sums(x[:, 2:3]))


def test_rows_name_the_positions_within_the_batch():
    seen = []

    def decay(clock, state, rows):
        seen.append(rows)
        assert len(clock) == len(rows) == len(state[0])
        return (-(10.0 ** rows.double()[:, None]) * state[0],)

    y = torch.ones(3, 1, dtype=torch.float64)
    solution = odeint(decay, (y,), 0.0, 1.0, rtol=1e-8, atol=1e-8)
    rates = torch.tensor([[1.0], [10.0], [100.0]], dtype=torch.float64)
    torch.testing.assert_close(solution.state[0], torch.exp(-rates), rtol=1e-6, atol=1e-7)
    assert seen[0].tolist() == [0, 1, 2]
    assert seen[-1].tolist() == [2]


# --- evaluations, cap and status -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", *ADAPTIVE_REFERENCES])
def test_evaluations_are_those_of_each_row(method):
    counts = torch.zeros(16, dtype=torch.int64)

    def counting(clock, state, rows):
        counts[rows] += 1
        return rational(clock, state, rows)

    y = normal(16, 3) * torch.logspace(-2, 1, 16, dtype=torch.float64)[:, None]
    solution = odeint(counting, (y,), 0.0, 2.0, rtol=1e-6, atol=1e-6, method=method)
    assert torch.equal(solution.evaluations, counts)


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize("method", ["dopri5", "torchdiffeq:dopri5", "torchdiffeq:dopri8"])
def test_the_field_is_never_asked_outside_the_interval(span, method):
    low, high = sorted(span)

    def guarded(clock, state, rows):
        assert ((low <= clock) & (clock <= high)).all()
        return rational(clock, state, rows)

    odeint(guarded, (normal(8, 3),), *span, rtol=1e-4, atol=1e-4, method=method)


def test_only_the_hard_row_stops_at_the_cap_and_its_state_is_where_its_clock_says():
    rates = torch.tensor([1.0, 5000.0, 2.0], dtype=torch.float64)

    def decay(clock, state, rows):
        return (-rates[rows, None] * state[0],)

    y = torch.ones(3, 2, dtype=torch.float64)
    solution = odeint(decay, (y,), 0.0, 1.0, rtol=1e-6, atol=1e-6, max_evaluations=200)
    assert solution.status.tolist() == [Status.DONE, Status.MAX_EVALUATIONS, Status.DONE]
    assert solution.evaluations.max() <= 200
    assert 0 < solution.clock[1] < 1
    exact = torch.exp(-rates * solution.clock)[:, None].expand(3, 2)
    torch.testing.assert_close(solution.state[0], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["dopri5", *ADAPTIVE_REFERENCES, "scipy:LSODA"])
def test_the_cap_is_never_exceeded(method):
    for cap in (8, 13, 14, 57):
        solution = odeint(
            oscillator,
            (normal(2, 2),),
            0.0,
            500.0,
            rtol=1e-8,
            atol=1e-8,
            method=method,
            max_evaluations=cap,
        )
        assert (solution.evaluations <= cap).all()
        assert (solution.status == Status.MAX_EVALUATIONS).all()


def test_a_blow_up_stops_its_row_before_the_pole():
    def square(clock, state, rows):
        return (state[0] * state[0],)

    y = torch.tensor([[2.0], [0.5], [-1.0]], dtype=torch.float64)  # the pole lies at 1 / y
    solution = odeint(square, (y,), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    assert solution.status.tolist()[1:] == [Status.DONE, Status.DONE]
    assert solution.status[0] in (Status.STEP_UNDERFLOW, Status.NOT_FINITE)
    assert solution.clock[0].item() == pytest.approx(0.5, abs=1e-5)
    assert solution.state[0].isfinite().all()
    torch.testing.assert_close(solution.state[0][1:], y[1:] / (1 - y[1:]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_field_that_is_not_finite_stops_its_row_alone(bad):
    def broken(clock, state, rows):
        late = (rows == 1) & (clock > 0.3)
        return (torch.where((late | (rows == 2))[:, None], bad, -state[0]),)

    y = normal(4, 2)
    solution = odeint(broken, (y,), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    assert solution.status.tolist() == [0, Status.NOT_FINITE, Status.NOT_FINITE, 0]
    assert solution.clock[1].item() == pytest.approx(0.3, abs=1e-12)
    torch.testing.assert_close(solution.state[0][1], y[1] * math.exp(-0.3), rtol=1e-5, atol=0)
    assert torch.equal(solution.state[0][2], y[2])
    assert solution.clock[2] == 0
    assert solution.evaluations.max() < 1000
    torch.testing.assert_close(solution.state[0][[0, 3]], y[[0, 3]] / math.e, rtol=1e-5, atol=0)


def test_a_state_that_overflows_under_a_finite_slope_is_not_a_solution():
    def huge(clock, state, rows):
        return (torch.full_like(state[0], 1e308),)

    y = torch.zeros(1, 1, dtype=torch.float64)
    solution = odeint(huge, (y,), 0.0, 100.0, rtol=1e-3, atol=1e-3)
    assert solution.status.tolist() != [Status.DONE]
    assert solution.state[0].isfinite().all()


def test_a_tolerance_below_round_off_ends_with_a_status():
    solution = odeint(
        oscillator, (normal(2, 4),), 0.0, 1.0, rtol=0.0, atol=1e-25, max_evaluations=2000
    )
    assert (solution.status != Status.DONE).all()
    assert solution.state[0].isfinite().all()


def test_a_jump_in_the_field_is_passed():
    def jump(clock, state, rows):
        return (torch.where(column(clock, state[0]) < 0.3, 1.0, -1.0) + 0 * state[0],)

    solution = odeint(jump, (torch.zeros(1, 1).double(),), 0.0, 1.0, rtol=1e-9, atol=1e-9)
    assert solution.status.item() == Status.DONE
    assert solution.state[0].item() == pytest.approx(0.3 - 0.7, abs=1e-7)


def test_a_square_root_singularity_at_the_start_is_left():
    def root(clock, state, rows):
        return (0.5 / (column(clock, state[0]) + 1e-14).sqrt() + 0 * state[0],)

    solution = odeint(root, (torch.zeros(1, 1).double(),), 0.0, 1.0, rtol=1e-6, atol=1e-6)
    assert solution.status.item() == Status.DONE
    assert solution.state[0].item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "torchdiffeq:dopri5", "scipy:RK45"])
def test_an_interval_of_no_length_returns_the_state_unevaluated(method):
    def unasked(clock, state, rows):
        raise AssertionError("nothing to evaluate")

    y = normal(3, 2)
    solution = odeint(unasked, (y,), 0.7, 0.7, rtol=1e-6, atol=1e-6, method=method)
    assert torch.equal(solution.state[0], y)
    assert solution.evaluations.tolist() == solution.status.tolist() == [0, 0, 0]
    assert solution.clock.tolist() == [0.7] * 3


@pytest.mark.parametrize("method", ["dopri5", "torchdiffeq:dopri5"])
def test_an_empty_batch_is_solved(method):
    empty = torch.zeros(0, 3, dtype=torch.float64)
    solution = odeint(logistic, (empty,), 0.0, 1.0, rtol=1e-6, atol=1e-6, method=method)
    assert solution.state[0].shape == (0, 3)


def test_the_interval_may_be_tiny_or_huge():
    y = normal(2, 2)
    for length in (1e-9, 1e-3, 1e3, 1e6):

        def decay(clock, state, rows, rate=3 / length):
            return (-rate * state[0],)

        solution = odeint(decay, (y,), 5.0, 5.0 + length, rtol=1e-5, atol=1e-7)
        assert (solution.status == Status.DONE).all()
        torch.testing.assert_close(solution.state[0], y * math.exp(-3), rtol=1e-3, atol=1e-5)


# --- parts and their tolerances ------------------------------------------------------------------


def test_each_part_has_its_own_tolerance():
    """The second part alone turns fast; only its tolerance decides."""

    def field(clock, state, rows):
        return -state[0], (20 * clock)[:, None].cos() + 0 * state[1]

    state = normal(3, 8), torch.zeros(3, 1, dtype=torch.float64)
    exact = math.sin(20 * 2.0) / 20
    runs = {}
    for loose, tight in itertools.product((1e-3, 1e-9), repeat=2):
        tolerances = {"rtol": (loose, 0.0), "atol": (loose, tight)}
        solution = odeint(field, state, 0.0, 2.0, **tolerances)
        runs[loose, tight] = solution.evaluations[0].item(), solution.state[1][0, 0].item() - exact
        assert len(solution.error) == 2
    assert abs(runs[1e-3, 1e-9][1]) < 1e-7 < abs(runs[1e-3, 1e-3][1])
    assert runs[1e-3, 1e-9][0] > 3 * runs[1e-3, 1e-3][0]
    # The first part is easy: but for the first step, its tolerance has no say.
    assert runs[1e-9, 1e-9][0] == pytest.approx(runs[1e-3, 1e-9][0], rel=0.1)


def test_each_part_has_one_vote_whatever_its_size():
    def field(clock, state, rows):
        return 0 * state[0], state[1]

    small, large = (
        odeint(field, (normal(2, size), torch.ones(2, 1).double()), 0.0, 3.0, rtol=1e-6, atol=1e-6)
        for size in (1, 1000)
    )
    assert torch.equal(small.state[1], large.state[1])
    assert torch.equal(small.evaluations, large.evaluations)


@pytest.mark.parametrize("method", ["torchdiffeq:dopri5", "scipy:RK45"])
def test_the_libraries_take_a_tolerance_for_each_part(method):
    def field(clock, state, rows):
        return -state[0], (20 * clock)[:, None].cos() + 0 * state[1]

    state = normal(3, 8), torch.zeros(3, 1, dtype=torch.float64)
    run = [
        odeint(field, state, 0.0, 2.0, rtol=(1e-3, 1e-12), atol=(1e-3, tight), method=method)
        for tight in (1e-3, 1e-9)
    ]
    assert (run[1].evaluations > 2 * run[0].evaluations).all()
    assert (run[1].state[1] - math.sin(40.0) / 20).abs().max() < 1e-7


def test_no_gradient_flows_through_but_the_field_may_take_one():
    def field(clock, state, rows):
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            return torch.autograd.grad(-(y**2).sum() / 2, y)

    y = normal(2, 3).requires_grad_()
    solution = odeint(field, (y,), 0.0, 1.0, rtol=1e-8, atol=1e-8)
    assert not solution.state[0].requires_grad
    torch.testing.assert_close(solution.state[0], y.detach() / math.e, rtol=1e-6, atol=1e-6)


# --- the libraries' failures, and requests that are refused --------------------------------------


@pytest.mark.parametrize("method", ["torchdiffeq:dopri5", "scipy:RK45", "scipy:LSODA"])
def test_a_library_that_fails_gives_a_status_and_no_state(method):
    def square(clock, state, rows):
        return (state[0] * state[0],)

    y = torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    solution = odeint(square, (y,), 0.0, 1.0, rtol=1e-8, atol=1e-8, method=method)
    assert (solution.status != Status.DONE).all()
    assert solution.state[0].isnan().all()
    assert solution.clock.isnan().all()


@pytest.mark.parametrize("method", ["torchdiffeq:dopri5", "scipy:RK45", "scipy:DOP853"])
def test_a_library_that_meets_nan_says_so(method):
    def broken(clock, state, rows):
        return (torch.where(column(clock, state[0]) > 0.3, math.nan, -state[0]),)

    solution = odeint(broken, (normal(2, 2),), 0.0, 1.0, rtol=1e-6, atol=1e-6, method=method)
    assert (solution.status == Status.NOT_FINITE).all()


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("torch")])
def test_every_method_of_torchdiffeq_runs(method):
    try:
        check_step_size(method, None)
        step_size = None
    except ValueError:
        step_size = 0.01
    solution = odeint(
        logistic, (torch.full((2, 1), 0.2).double(),), 0.0, 1.0, rtol=1e-6, atol=1e-6,
        method=method, step_size=step_size,
    )  # fmt: skip
    exact = logistic_exact(0.0, 1.0, torch.full((2, 1), 0.2).double())
    torch.testing.assert_close(solution.state[0], exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith("scipy")])
def test_every_method_of_scipy_runs(method):
    y = torch.full((2, 1), 0.2).double()
    solution = odeint(logistic, (y,), 0.0, 1.0, rtol=1e-6, atol=1e-6, method=method)
    torch.testing.assert_close(solution.state[0], logistic_exact(0.0, 1.0, y), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dopri", "'dopri5'"),
        ("torchdifeq:dopri5", "'torchdiffeq:dopri5'"),
        ("scipy:rk45", "scipy:RK45"),
        ("RK45", "scipy:RK45"),
        ("", "dopri5"),
    ],
)
def test_an_unknown_method_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match="unknown ODE method") as refusal:
        check_method(name)
    assert hint in str(refusal.value)
    with pytest.raises(ValueError, match="unknown ODE method"):
        odeint(logistic, (normal(1, 1),), 0.0, 1.0, rtol=1e-6, atol=1e-6, method=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtol": -1e-3}, "rtol must be >= 0"),
        ({"atol": 0.0}, "atol must be"),
        ({"atol": (1e-3, 1e-3)}, "one for each of the 1 parts"),
        ({"rtol": math.nan}, "rtol must be"),
        ({"max_evaluations": 7}, "max_evaluations must be >= 8"),
        ({"step_size": 0.1}, "dopri5 chooses its steps"),
        ({"method": "torchdiffeq:rk4"}, "step_size must be > 0, got None"),
        ({"method": "torchdiffeq:rk4", "step_size": -1.0}, "step_size must be > 0"),
        ({"method": "scipy:RK45", "step_size": 0.1}, "chooses its steps"),
        ({"end": math.inf}, "must be finite"),
        ({"state": ()}, "state must be float64"),
        ({"state": (torch.zeros(2, 2),)}, "state must be float64"),
        ({"state": (normal(2, 2), normal(3, 2))}, "share their first axis"),
    ],
)
def test_an_impossible_request_is_refused(change, message):
    request = {"state": (normal(2, 2),), "start": 0.0, "end": 1.0, "rtol": 1e-3, "atol": 1e-3}
    with pytest.raises(ValueError, match=message):
        odeint(logistic, **{**request, **change})


@pytest.mark.parametrize("method", ["scipy:BDF", "scipy:Radau"])
def test_an_implicit_method_of_scipy_takes_one_rtol(method):
    state = normal(2, 2), normal(2, 1)
    with pytest.raises(ValueError, match="one rtol for all parts"):
        odeint(rational_pair, state, 0.0, 1.0, rtol=(1e-3, 1e-4), atol=1e-3, method=method)


def test_fixed_steps_run_backwards_with_the_order_of_their_method():
    y, steps, errors = normal(3, 4), [0.2, 0.1, 0.05], []
    for step in steps:
        solution = odeint(
            *(oscillator, (y,), 1.0, 0.0),
            **{"method": "torchdiffeq:rk4", "step_size": step, "rtol": 1.0, "atol": 1.0},
        )
        errors.append((solution.state[0] - oscillator_exact(1.0, 0.0, y)).norm().item())
        assert solution.evaluations.tolist() == [round(4 / step)] * 3
    assert slope_of(steps, errors) == pytest.approx(4, abs=0.2)


def test_a_field_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="field must return 3 rows, got 1"):
        odeint(lambda t, y, r: (y[0][:1],), (normal(3, 2),), 0.0, 1.0, rtol=1e-3, atol=1e-3)


# --- a queue -------------------------------------------------------------------------------------


def decays(count):
    """Rows whose difficulty differs, and the one solution of each alone."""
    rates = torch.logspace(-1, 2.5, count, dtype=torch.float64)[torch.randperm(count)]
    return rates, normal(count, 3)


def queued(rates, y, capacity, cap=10_000):
    """Every row through a queue: (states, evaluations, status) in the order of arrival."""
    held, arrived, calls = torch.zeros(capacity, dtype=torch.int64), [0], []

    def source(free):
        first = arrived[0]
        count = min(len(free), len(y) - first)
        held[free[:count]] = torch.arange(first, first + count)
        arrived[0] += count
        return (y[first : first + count],)

    def field(clock, state, slots):
        calls.append(len(slots))
        assert len(slots.unique()) == len(slots)
        return (-rates[held[slots], None] * state[0] * state[0],)

    found = {}
    settings = {"rtol": 1e-6, "atol": 1e-6, "max_evaluations": cap}
    for slots, solution in odeint_queue(
        field, source, (y[:0],), 0.0, 1.0, capacity=capacity, **settings
    ):
        for k, row in enumerate(held[slots].tolist()):
            assert row not in found
            outcome = solution.state[0][k], solution.evaluations[k], solution.status[k]
            found[row] = outcome
    assert sorted(found) == list(range(len(y)))
    return [
        torch.stack(part) for part in zip(*(found[k] for k in sorted(found)), strict=True)
    ], calls


@pytest.mark.parametrize("capacity", [1, 3, 8, 64])
def test_a_queue_gives_each_row_what_it_has_alone(capacity):
    torch.manual_seed(0)
    rates, y = decays(21)
    y = y.abs()
    (state, evaluations, status), _ = queued(rates, y, capacity)
    whole = odeint(
        lambda _t, s, rows: (-rates[rows, None] * s[0] * s[0],), (y,), 0.0, 1.0, rtol=1e-6,
        atol=1e-6,
    )  # fmt: skip
    assert torch.equal(state, whole.state[0])
    assert torch.equal(evaluations, whole.evaluations)
    assert (status == Status.DONE).all()
    torch.testing.assert_close(state, y / (1 + rates[:, None] * y), rtol=1e-4, atol=1e-4)


def test_a_hard_row_of_a_queue_delays_only_itself():
    """Batches of 8 wait for their hardest row; a queue keeps its slots filled."""
    torch.manual_seed(0)
    y = normal(64, 2).abs() + 0.1
    rates = torch.ones(64, dtype=torch.float64)
    rates[::16] = 3e4
    _, calls = queued(rates, y, 8)
    batches = 0
    for first in range(0, 64, 8):
        part = rates[first : first + 8]
        solution = odeint(
            lambda _t, s, rows, part=part: (-part[rows, None] * s[0] * s[0],),
            (y[first : first + 8],), 0.0, 1.0, rtol=1e-6, atol=1e-6,
        )  # fmt: skip
        batches += int(solution.evaluations.max())
    assert len(calls) < 0.75 * batches
    assert max(calls) <= 8


def test_the_cap_of_a_queue_is_each_rows_own():
    torch.manual_seed(0)
    y = normal(12, 2).abs() + 0.1
    rates = torch.ones(12, dtype=torch.float64)
    rates[3] = 1e6
    (_, evaluations, status), _ = queued(rates, y, 4, cap=80)
    assert (status == Status.MAX_EVALUATIONS).tolist() == [k == 3 for k in range(12)]
    assert int(evaluations.max()) <= 80


def test_an_empty_queue_gives_nothing():
    nothing = (torch.empty(0, 2, dtype=torch.float64),)
    assert not list(
        odeint_queue(
            oscillator, lambda _free: nothing, nothing, 0.0, 1.0, capacity=4, rtol=0.0, atol=1.0
        )
    )


@pytest.mark.parametrize(("capacity", "cap"), [(0, 100), (4, 7)])
def test_a_queue_refuses_what_cannot_work(capacity, cap):
    nothing = (torch.empty(0, 2, dtype=torch.float64),)
    with pytest.raises(ValueError, match="capacity"):
        list(
            odeint_queue(
                oscillator,
                lambda _free: nothing,
                nothing,
                0.0,
                1.0,
                capacity=capacity,
                rtol=0.0,
                atol=1.0,
                max_evaluations=cap,
            )
        )
