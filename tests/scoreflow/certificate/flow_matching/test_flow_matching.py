"""Flow matching and EDM are diffusion on other clocks: the rows hold, and what is broken fails."""

import pytest
import torch

from scoreflow.certificate.closed_forms.processes import every_process
from scoreflow.certificate.flow_matching import euler, likelihoods, losses, times
from scoreflow.certificate.flow_matching.preconditioning import preconditioned
from scoreflow.data import toy
from scoreflow.losses import denoising
from scoreflow.models.asking import Label
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import DDIM
from scoreflow.sde import EDMSDE, VESDE, VPSDE, Noise, RectifiedSDE, SubVPSDE

PROCESSES = [
    VPSDE.linear(100),
    VPSDE.cosine(100),
    SubVPSDE.log_linear(100),
    VESDE(50),
    RectifiedSDE(100),
    EDMSDE(100),
]
KNOWN = every_process(VPSDE.linear(100))


def failed(rows):
    return [row.name for row in rows if not row.passed]


def model_on(sde, output, **asking):
    torch.manual_seed(0)
    return ScoreModel(MLP(2, 16, 1), sde, output, **asking)


def data():
    return toy.distribution().sample(Noise.of(0, 0, 8))


@pytest.mark.parametrize("output", ["eps", "x_0", "v", "u", "score", "mean"])
@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_losses_and_steps_are_one_for_any_network(sde, output):
    model = model_on(sde, output)
    assert failed(losses.losses(model, data(), 4)) == []
    assert failed(euler.euler_steps(model, (2,))) == []


def test_they_are_for_a_network_as_edm_has_it():
    label = Label("log_sigma", 0.25, 0.0)
    model = model_on(EDMSDE(100), "v", label=label, data_std=0.3)
    rows = losses.losses(model, data(), 4)
    assert failed(rows) == []
    assert any("v loss of x_0 / 0.3" in row.name for row in rows)


LATE = {
    "a billionth": lambda right: lambda *given: (1 + 1e-9) * right(*given),
    "another time": lambda right: lambda d, sde, x, t, *rest: right(d, sde, x, t - 1e-3, *rest),
}


@pytest.mark.parametrize("name", ["flow_matching", "velocity", "edm"])
@pytest.mark.parametrize("how", LATE)
def test_a_loss_that_is_off_is_caught(name, how, monkeypatch):
    monkeypatch.setattr(denoising, name, LATE[how](getattr(denoising, name)))
    rows = failed(losses.losses(model_on(PROCESSES[0], "v"), data(), 4))
    own = "EDM" if name == "edm" else "FM"
    assert len(rows) == 4
    assert all(row.startswith(own) for row in rows)


class Far(RectifiedSDE):
    """A path whose angle is off by a millionth, its scales as they are."""

    def angle(self, t):
        return (1 + 1e-6) * super().angle(t)


def test_a_clock_of_another_rate_is_caught_in_total(monkeypatch):
    monkeypatch.setattr(losses, "RectifiedSDE", Far)
    rows = failed(losses.losses(model_on(VPSDE.log_linear(100, 1e-2), "v"), data(), 4))
    assert rows
    assert all("over all t" in row and "dphi" in row for row in rows)


def test_a_step_of_other_length_is_caught(monkeypatch):
    class Longer(DDIM):
        def step(self, x_t, step):
            return (1 + 1e-12) * super().step(x_t, step)

    monkeypatch.setattr(euler, "DDIM", Longer)
    assert len(failed(euler.euler_steps(model_on(PROCESSES[0], "v"), (2,)))) == 2


def test_one_log_density_in_every_time():
    rows = likelihoods.log_likelihoods(model_on(PROCESSES[4], "u"), Noise.of(0, 0, 2), (2,))
    assert len(rows) == 2
    assert failed(rows) == []
    assert all(row.residual > 0 and row.tolerance < 1 for row in rows)


def test_times_and_datum_are_their_formulas():
    assert failed(times.time_laws(KNOWN)) == []
    assert failed(preconditioned(KNOWN)) == []


@pytest.mark.parametrize("name", ["shifted_times", "log_normal_times"])
def test_times_that_are_off_are_caught(name, monkeypatch):
    right = getattr(times, name)
    monkeypatch.setattr(times, name, lambda *given: right(*given) * (1 - 1e-6))
    assert len(failed(times.time_laws(KNOWN))) == 1


def test_of_a_network_that_knows_one_time_there_is_no_path():
    model = model_on(VPSDE(torch.tensor([0.5])), "eps")
    assert losses.losses(model, data(), 4) == []
    assert len(euler.euler_steps(model, (2,))) == 1
