"""Adaptive solves of a network of coarse rounding: in float32, and said."""

import pytest
import torch
from torch import nn

from scoreflow.certificate import one_flow, trained_sampler_laws
from scoreflow.configs import default
from scoreflow.data.dataset import Data
from scoreflow.factory.editing import build_flow_plan
from scoreflow.factory.sampling import build_drawing
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Counted, ProbabilityFlow, sample
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.vp import VPSDE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (1, 4, 4)


class Smooth(nn.Module):
    """Two layers, in whatever precision autocast has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16))

    def forward(self, x, index):
        return self.layers(x).view_as(x) * (1 + index / 100)[:, None, None, None]


def model(precision):
    network = Smooth().requires_grad_(False)
    return ScoreModel(network, VPSDE.log_linear(100, 0.05, 0.05), "v", precision=precision)


def solved(denoiser, tolerance=1e-4):
    """Samples of the flow, and evaluations of a sample."""
    flow, counted = ProbabilityFlow(1.0, tolerance), Counted(denoiser)
    sde = VPSDE.log_linear(100, 0.05, 0.05)
    noise = Noise.of(0, 0, 4)
    x = sample(flow, counted, sde, flow.times(sde.num_steps), noise, SHAPE)
    return x, counted.rows / 4


def test_a_solver_follows_coarse_rounding():
    """What the rule is for: 586 evaluations and not 62, of the same flow at one tolerance."""
    _, of_float32 = solved(model("float32"), 1e-6)
    _, of_bfloat16 = solved(model("bfloat16"), 1e-6)
    assert of_bfloat16 > 4 * of_float32


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_a_coarse_network_is_solved_as_in_float32(precision):
    found, evaluations = solved(model(precision).for_solver())
    expected, its = solved(model("float32"))
    assert evaluations == its
    assert torch.equal(found, expected)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_other_precisions_are_solved_as_they_are(precision):
    mine = model(precision)
    assert mine.for_solver() is mine
    assert mine.solver_remark(CUDA) == ""


def test_it_is_said_where_it_makes_a_difference():
    assert "bfloat16 is solved in float32" in model("bfloat16").solver_remark(CPU)
    assert "tf32 is solved in float32" in model("tf32").solver_remark(CUDA)
    assert model("tf32").solver_remark(CPU) == "", "which is float32 there"


def test_plans_take_float32_for_the_flow_alone():
    config, mine = default.get_config(), model("bfloat16")
    nothing = torch.empty(0, *SHAPE, dtype=torch.uint8)
    data = Data("small", nothing, nothing, 17, None, None)
    assert build_drawing(config, "ode", mine, data).denoiser.precision == "float32"
    assert build_flow_plan(config, mine).denoiser.precision == "float32"
    stepping = build_drawing(config, "ddim", mine, data).denoiser
    assert getattr(stepping, "denoiser", stepping).precision == "bfloat16"


def test_a_certificate_solves_in_float32(monkeypatch):
    asked, mine = [], model("bfloat16")
    for name in ("_exponential", "_first_order"):
        monkeypatch.setattr(one_flow, name, lambda *_: None)
    monkeypatch.setattr(one_flow, "_clocks", lambda *_: [])
    for name in ("_no_corrections", "_same_images"):
        monkeypatch.setattr(one_flow, name, lambda denoiser, *_: asked.append(denoiser.precision))
    one_flow.flows(mine, mine.sde, 1.0, Noise.of(0, 0, 2), SHAPE)
    assert asked == ["bfloat16", "float32"]


def test_laws_of_a_trained_network_solve_in_float32(monkeypatch):
    asked = {}

    def draw(plan, _sde, noise, event, _batch, name):
        asked[name] = plan.denoiser.precision
        return noise.normal(Stream.PRIOR, event)

    monkeypatch.setattr(trained_sampler_laws, "draw_samples", draw)
    trained_sampler_laws.laws(model("bfloat16"), SHAPE, trained_sampler_laws.Amount(4, 4, 4))
    assert asked.pop("ode") == "float32"
    assert set(asked.values()) == {"bfloat16"}
