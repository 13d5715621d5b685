"""The log-likelihood by nodes on exact denoisers, where the answer is known."""

import math
from dataclasses import replace

import pytest
import torch

from scoreflow.likelihood.flow_likelihood import FINER, Flow, Solver, log_likelihood
from scoreflow.sde import EDMSDE, VPSDE, Noise, RectifiedSDE, Status, Stream
from scoreflow.sde.analytic import GaussianMixture, LevelGrid, gaussian
from scoreflow.sde.prediction import predict

F64 = torch.float64
VP = VPSDE.log_linear(1000, sigma_min=1e-3, alpha_min=1e-4)
PROCESSES = {"vp": VP, "rectified": RectifiedSDE(1000), "edm": EDMSDE(1000)}
EXACT = Solver(probes=0, method="nodes", nodes=96, trajectory_tolerance=1.0)
ONE = Solver(probes=1, method="nodes", nodes=12, trajectory_tolerance=10.0)


def normal():
    a = torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(0)) / 3
    return gaussian(torch.linspace(-0.3, 0.3, 6, dtype=F64), a @ a.T + 0.01 * torch.eye(6))


def two_modes():
    means = torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64)
    covariances = torch.tensor([[[0.04, 0.02], [0.02, 0.05]], [[0.09, 0.0], [0.0, 0.02]]])
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


def levels():
    return LevelGrid(torch.tensor([0.05, 0.3, 0.1, 0.15, 0.4], dtype=F64), 2)


TRUTHS = {"normal": normal, "mixture": two_modes, "levels": levels}


def at(t):
    return torch.tensor(float(t), dtype=F64)


def errors(name, process, solver, t=20.0, count=16):
    """Nats, with p_N at the latent instead of the prior, whose cost is not the solver's."""
    truth, sde, noise = TRUTHS[name](), PROCESSES[process], Noise.of(0, 0, count)
    x_0 = truth.sample(noise)
    x = sde.perturb(x_0, at(t), noise.normal(Stream.DATA, tuple(x_0.shape[1:]), draw=5))
    found = log_likelihood(truth.denoiser(sde), sde, x, t, noise, solver)
    assert (found.status == Status.DONE).all()
    end = at(sde.num_steps)
    prior = torch.distributions.Normal(0, float(sde.prior_std())).log_prob(found.latent).sum(1)
    latent = truth.log_prob(found.latent, sde.alpha(end), sde.sigma(end))
    exact = truth.log_prob(x, sde.alpha(at(t)), sde.sigma(at(t)))
    return found.log_prob[:, 0] - prior + latent - exact


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", TRUTHS)
def test_exact_divergence_converges_to_the_exact_density(name, process):
    """At least with the square: a shifted rule leaves its ends, an interval's part each."""
    coarse, fine = (
        errors(name, process, replace(EXACT, nodes=k)).square().mean().sqrt() for k in (48, 192)
    )
    assert fine < 0.02
    assert fine < coarse / 4 or fine < 1e-4


def elementwise(x_t, t):
    """A denoiser whose rows have the same bits in any batch."""
    scale = VP.variance(t).reshape(-1, *[1] * (x_t.ndim - 1))
    bent = x_t / (1 + 4 * x_t * x_t)
    return predict(VP, x_t, t, "eps", (x_t + bent) * scale)


def points(count, size=3):
    spread = torch.ones(count, 1, dtype=F64)
    spread[::5] = 2.0  # of every five one that is hard
    return 0.5 * spread * Noise.of(0, 0, count).normal(Stream.DATA, (size,))


def by_queue(x, solver, capacity, first=0, denoiser=elementwise):
    """Rows that come `capacity` at a time, in order."""
    given = [0]

    def arrivals(most):
        low, high = given[0], min(len(x), given[0] + most)
        given[0] = high
        return x[low:high], Noise.of(9, first + low, first + high)

    found = list(Flow(denoiser, VP, x, 1.0, solver).solve(arrivals, capacity))
    order = torch.cat([each.row for each in found]).argsort()
    return {
        name: torch.cat([getattr(each, name) for each in found])[order]
        for name in ("log_prob", "latent", "evaluations", "status", "solver_error")
    }


def test_rows_are_bitwise_the_same_in_any_batch_and_queue():
    """Also those that are solved again, alone or together with others."""
    x = points(24)
    once = by_queue(x, replace(ONE, trajectory_tolerance=math.inf), 24)["solver_error"]
    limit = float(once.quantile(0.7)) / math.sqrt(3)
    solver = replace(ONE, probes=2, trajectory_tolerance=limit)
    together = by_queue(x, solver, 24)
    again = together["evaluations"] > 14
    assert again.any()
    assert not again.all()
    for capacity in (1, 5, 7):
        for name, value in by_queue(x, solver, capacity).items():
            assert torch.equal(value, together[name]), (name, capacity)
    alone = by_queue(x[5:6], solver, 1, first=5)
    for name, value in alone.items():
        assert torch.equal(value, together[name][5:6]), name


def test_a_hard_row_pays_alone():
    x = points(10)
    easy = by_queue(x, replace(ONE, trajectory_tolerance=math.inf), 10)
    limit = float(easy["solver_error"].sort().values[-2:].mean()) / math.sqrt(3)
    found = by_queue(x, replace(ONE, trajectory_tolerance=limit), 10)
    counts = found["evaluations"].sort().values
    assert counts[:9].tolist() == [14] * 9
    assert counts[9] >= 14 + 27
    same = found["evaluations"] == 14
    assert torch.equal(found["log_prob"][same], easy["log_prob"][same])


def test_the_cap_on_evaluations_is_a_status():
    solver = replace(ONE, trajectory_tolerance=0.0, max_evaluations=50)
    found = by_queue(points(4), solver, 4)
    assert (found["status"] == Status.MAX_EVALUATIONS).all()
    assert (found["evaluations"] == 14 + 27).all()
    first = by_queue(points(4), replace(ONE, max_evaluations=13), 4)
    assert (first["status"] == Status.MAX_EVALUATIONS).all()


def test_a_field_that_is_not_finite_is_a_status_of_its_row_alone():
    def broken(x_t, t):
        return elementwise(torch.where(x_t.abs().amax(1, keepdim=True) > 1, math.nan, x_t), t)

    x = points(10).clamp(-0.9, 0.9)
    x[3] = 5.0
    found = by_queue(x, replace(ONE, max_evaluations=100), 10, denoiser=broken)
    assert found["status"][3] == Status.NOT_FINITE
    assert found["evaluations"][3] == 14  # at its start already: it is not tried again


def test_further_evaluations_are_counted():
    class Twice:
        def __call__(self, x_t, t):
            return elementwise(x_t, t)

        def further_evaluations(self, t):
            return torch.ones_like(t, dtype=torch.int64)

    assert (by_queue(points(4), ONE, 4, denoiser=Twice())["evaluations"] == 28).all()


def repeats(solver, count, size=1):
    truth = normal()
    x = truth.sample(Noise.of(5, 0, 1)).expand(count, 6)
    noise = Noise.of(5, 0, count)
    return log_likelihood(truth.denoiser(VP), VP, x, 20.0, noise, solver).log_prob


def test_one_probe_a_node_is_unbiased_and_its_variance_falls_with_nodes_and_probes():
    count = 800
    exactly = repeats(replace(ONE, probes=0), count)
    once, twice, longer = (
        repeats(replace(ONE, probes=p, nodes=k), count) for p, k in ((1, 12), (2, 12), (1, 48))
    )
    noise = (once - exactly)[:, 0]  # the same shifts: of the probes alone
    assert abs(float(noise.mean())) < 4 * float(noise.std()) / math.sqrt(count)
    assert float(noise.std()) > 0.05
    half = (twice - exactly).mean(1)
    # 2 of 8 signs without replacement: 1/2 (1 - 1/7)
    assert float(half.var() / noise.var()) == pytest.approx(3 / 7, rel=0.2)
    far = (longer - repeats(replace(ONE, probes=0, nodes=48), count))[:, 0]
    assert float(far.var() / noise.var()) == pytest.approx(1 / 4, rel=0.2)


def test_another_repeat_has_other_nodes_and_probes():
    one, other = repeats(ONE, 400)[:, 0], repeats(replace(ONE, repeat=1), 400)[:, 0]
    assert (one != other).all()
    assert abs(float(torch.corrcoef(torch.stack((one, other)))[0, 1])) < 4 / math.sqrt(400)


def test_finer_keeps_nodes_and_probes():
    """So that the difference is the trajectory's error and vanishes with it."""
    gaps = []
    for substeps in (1, 4):
        solver = replace(ONE, substeps=substeps)
        gaps.append(float((repeats(solver.finer(10), 20) - repeats(solver, 20)).abs().max()))
    assert 0 < gaps[1] < gaps[0] / 8


def test_finer_is_finer_for_a_row_that_had_to_be_solved_again():
    x = points(10)
    solver = replace(ONE, trajectory_tolerance=0.03)
    coarse, fine = by_queue(x, solver, 10), by_queue(x, solver.finer(10), 10)
    assert coarse["evaluations"].max() > 14 + 27  # by `FINER` times its substeps at least
    assert (fine["status"] == Status.DONE).all()
    assert (fine["solver_error"] < coarse["solver_error"]).all()
    assert FINER == 4


def test_agrees_with_other_solvers():
    truth, noise = two_modes(), Noise.of(1, 0, 5)
    x = truth.sample(noise)
    arguments = (truth.denoiser(VP), VP, x, 20.0, noise)
    own = log_likelihood(*arguments, replace(EXACT, nodes=384))
    for method in ("dopri5", "torchdiffeq:dopri5"):
        other = log_likelihood(*arguments, Solver(0, 1e-7, 1e-7, method))
        torch.testing.assert_close(own.log_prob, other.log_prob, rtol=0, atol=2e-3)
        torch.testing.assert_close(own.latent, other.latent, rtol=0, atol=2e-3)
