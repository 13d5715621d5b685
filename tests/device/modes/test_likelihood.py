"""Likelihoods on a GPU: no mixture of devices, the CPU's numbers, and waits that do not add up."""

import re

import pytest
import torch

from scoreflow.likelihood import bound_table
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import DEQUANTIZATIONS, Dequantizer
from scoreflow.likelihood.detection import ood_detection
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.likelihood.rate_distortion import reconstructions
from scoreflow.sde import EDMSDE, RectifiedSDE
from scoreflow.sde.noise import Noise
from tests.device.modes import small

CPU = torch.device("cpu")


@pytest.mark.parametrize("embedding", ["uniform", "centre"])
@pytest.mark.parametrize("name", DEQUANTIZATIONS)
def test_points_of_levels_are_the_cpus_and_are_not_waited_for(name, embedding, device, seen):
    dequantizer = Dequantizer(name, small.NUM_LEVELS, 1.0, embedding)

    def place(where):
        model, levels = small.model(where), small.levels(where, 3)
        noise = Noise.of(0, 0, 3, where)
        dequantizer.place(model, model.sde, levels, noise)  # tables are there from now on
        seen.waits.clear()
        return dequantizer.place(model, model.sde, levels, noise, draw=1)

    expected = place(CPU)
    found = place(device)
    assert seen.waits == []
    for mine, its in zip(found, expected, strict=True):
        assert mine.device == device
        assert torch.equal(mine.cpu(), its)


SOLVERS = {
    "exact": Solver(0, 1e-2, 1e-2),
    "a probe": Solver(1, 1e-2, 1e-2),
    "probes": Solver(3, 1e-2, 1e-2),
    "torchdiffeq": Solver(2, 1e-1, 1e-1, "torchdiffeq:bosh3"),
    "scipy": Solver(2, 1e-1, 1e-1, "scipy:RK23"),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_likelihood_is_the_cpus(name, device, seen):
    def found(where):
        model = small.model(where)
        x = small.levels(where, 3).double() / 8 - 1
        return log_likelihood(model, model.sde, x, 1.0, Noise.of(0, 0, 3, where), SOLVERS[name])

    expected, mine = found(CPU), found(device)
    assert mine.log_prob.device == device
    torch.testing.assert_close(mine.log_prob.cpu(), expected.log_prob, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mine.latent.cpu(), expected.latent, rtol=1e-9, atol=1e-9)
    assert mine.evaluations.tolist() == expected.evaluations.tolist()
    assert mine.status.tolist() == expected.status.tolist()


STRAIGHT = {"rectified": RectifiedSDE(small.N), "edm": EDMSDE(small.N)}


@pytest.mark.parametrize("sde", STRAIGHT)
def test_a_likelihood_to_the_end_of_the_straight_paths_is_the_cpus(sde, device, seen):
    """With the bounds, whose times are another clock's where no signal is left."""

    def found(where):
        model, data = small.model(where, sde=STRAIGHT[sde]), small.data(where, 2)
        dequantizer = Dequantizer("last_step", small.NUM_LEVELS, 1.0, "uniform")
        settings = LikelihoodSettings(Solver(1, 1e-1, 1e-1), 0, dequantizer, checked=0)
        nats = measure(model, data, 0, settings).values
        with torch.no_grad():
            seen.waits.clear()
            entries, _ = bound_table.bounds(
                model, model.sde, 1.0, data, data.test, 0, 2, 2, 2, "uniform"
            )
        return nats, torch.stack([entry.values for entry in entries])

    expected, mine = found(CPU), found(device)
    torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)
    assert len(seen.waits) <= FOR_THE_BOUNDS, seen.waits


def test_the_divergence_waits_for_nothing_but_the_solvers_rounds(device, seen):
    model, x = small.model(device), small.levels(device, 3).double() / 8 - 1
    noise = Noise.of(0, 0, 3, device)
    seen.waits.clear()
    log_likelihood(model, model.sde, x, 1.0, noise, SOLVERS["exact"])
    where = {re.sub(r".*/", "", wait.partition(":")[0]) for wait in seen.waits}
    assert where <= {"dopri5.py", "log_alpha.py"}, seen.waits


MEASURED = {  # dequantization, probes, points of each image
    "uniform, a probe": ("uniform", 1, 1),
    "truncated, a probe": ("truncated_normal", 1, 1),
    "last step, exact": ("last_step", 0, 1),
    "uniform, K points": ("uniform", 0, 2),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_data_sets_likelihood_is_the_cpus(name, device, seen):
    dequantization, probes, samples = MEASURED[name]
    embedding = "centre" if dequantization == "truncated_normal" else "uniform"
    dequantizer = Dequantizer(dequantization, small.NUM_LEVELS, 1.0, embedding)
    solver = Solver(probes, 1e-1, 1e-1)
    settings = LikelihoodSettings(solver, 0, dequantizer, samples, batch_size=8, checked=0)

    def found(where, count):
        model, data = small.model(where), small.data(where, count)
        seen.waits.clear()
        return measure(model, data, 0, settings)

    expected, few = found(CPU, 2), found(device, 2)
    torch.testing.assert_close(few.values, expected.values, rtol=1e-8, atol=1e-8)
    assert torch.equal(few.evaluations, expected.evaluations)
    waits = _but_for_rounds(seen.waits)
    if probes:
        found(device, 4)
        assert _but_for_rounds(seen.waits) == waits, "they do not grow with the images"


def _but_for_rounds(waits):
    """How often it was waited, but for the rounds of the solver and the rows that end in them."""
    return sum(not re.search(r"nonzero|transfer", wait) for wait in waits)


@pytest.mark.parametrize("embedding", ["uniform", "centre"])
def test_the_bounds_wait_as_often_however_many_times_they_are_of(embedding, device, seen):
    def found(where, terms, batch):
        model, data = small.model(where), small.data(where, 2)
        with torch.no_grad():
            seen.waits.clear()
            return bound_table.bounds(
                model, model.sde, 1.0, data, data.test, 0, terms, batch, 2, embedding
            )

    (expected, its_rate), (entries, rate) = found(CPU, 1, 2), found(device, 1, 2)
    waits = list(seen.waits)
    for mine, its in zip(entries, expected, strict=True):
        assert mine.name == its.name
        torch.testing.assert_close(mine.values, its.values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rate.rate, its_rate.rate, rtol=1e-6, atol=1e-6)
    if embedding == "uniform":
        found(device, 2, 1)
        assert len(seen.waits) == len(waits), seen.waits
    assert len(waits) <= FOR_THE_BOUNDS, waits


FOR_THE_BOUNDS = 10
"""Waits of a whole table of bounds: constants, a covariance, and what comes back at the end."""


def test_reconstructions_do_not_wait(device, seen):
    def made(where):
        model, x_0 = small.model(where), small.levels(where, 2).double() / 8 - 1
        noise = Noise.of(0, 0, 2, where)
        reconstructions(model, model.sde, x_0, noise, [5])
        seen.waits.clear()
        return reconstructions(model, model.sde, x_0, noise, [20, 10, 1])

    expected, found = made(CPU), made(device)
    assert seen.waits == []
    assert torch.equal(found.cpu(), expected)


def test_scores_of_other_data_are_compared_on_the_device(device, seen):
    values = torch.tensor([0.3, 0.1, 0.7, 0.2], dtype=torch.float64)
    mine, others = values.to(device), (values + 0.25).to(device)
    assert ood_detection.auroc(mine, others) == ood_detection.auroc(values, values + 0.25)
    levels = small.levels(CPU, 3)
    found = ood_detection.png_bits_per_dim(levels.to(device), small.NUM_LEVELS)
    assert torch.equal(found, ood_detection.png_bits_per_dim(levels, small.NUM_LEVELS))
