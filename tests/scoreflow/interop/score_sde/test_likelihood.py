"""The likelihood of an imported network is what the original's likelihood.py computes.

The original integrates from t = 1e-5 to 1 with one probe held fixed, starts at the bins' centres
and adds 7 bits for 128 levels a unit of x; no term stands for the way from t = 0 to 1e-5.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.model import build_model, build_network
from scoreflow.interop.score_sde.reader import read
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve
from scoreflow.sde.flow import unit_probes, velocity_and_divergence
from scoreflow.sde.ode import odeint

FOLDER = Path(__file__).parents[3] / "fixtures" / "score_sde" / "vp_ddpm_continuous"
START, END = 1e-5 * 1000, 1000.0
THEIR_SOLVER = 0.0025
"""Bits/dim by which their RK45 at 1e-5 in float32 is off from their float64 solution."""


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "golden.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def model():
    """The averaged network in float64, in the units of the original: images from -1 to 1."""
    options = {"sde": "vp", "continuous": True, "norm_groups": 4, "size": 8}
    found = read(next(FOLDER.glob("*.pth")), options)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in found.settings.items()}
    config = resolve({**flatten(Config().to_dict()), **plain}, "the import")
    images = torch.zeros(1, *found.settings["model.shape"])
    network = build_network(config, Data("images", images, images, 256, None, None))
    network.load_state_dict(found.weights)
    network = network.double().eval().requires_grad_(False)
    return build_model(config, network, build_sde(Config.of(config))).in_precision("float64")


def solve(model, x, probe, tolerance):
    """Latents and the divergence along the way, of one probe or exact."""

    def field(angle, state, rows):
        probes = unit_probes(state[0]) if probe is None else [probe[rows]]
        v, products = velocity_and_divergence(model.sde, model, angle, state[0], probes)
        return v, products.sum(1, keepdim=True)

    start, end = (
        float(model.sde.angle(torch.tensor(t, dtype=torch.float64))) for t in (START, END)
    )
    state = (x.double(), torch.zeros(len(x), 1, dtype=torch.float64))
    found = odeint(field, state, start, end, rtol=tolerance, atol=tolerance)
    return found.state[0], found.state[1][:, 0]


def bits_per_dim(latent, divergence):
    energy = (latent**2 + math.log(2 * math.pi)).flatten(1).sum(1) / 2
    return 7 - (divergence - energy) / (latent[0].numel() * math.log(2))


def test_with_their_probe_it_is_their_figure(golden, model):
    one = {name: each[:1].double() for name, each in golden.items() if name != "nfe"}
    latent, divergence = solve(model, one["likelihood_data"], one["likelihood_probe"], 1e-7)
    found = bits_per_dim(latent, divergence)
    torch.testing.assert_close(found, one["bpd64"], rtol=0, atol=2e-5)
    torch.testing.assert_close(divergence, one["delta_logp64"], rtol=2e-5, atol=2e-3)
    torch.testing.assert_close(latent, one["z64"], rtol=0, atol=2e-4)
    assert (found - one["bpd"]).abs().max() < THEIR_SOLVER


@pytest.mark.slow
def test_with_the_exact_divergence_it_is_theirs(golden, model):
    latent, divergence = solve(model, golden["likelihood_data"][:1], None, 1e-6)
    found = bits_per_dim(latent, divergence)
    torch.testing.assert_close(found, golden["bpd_exact"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("labels", [lambda t: t, lambda t: t - 1], ids=["1000 t", "1000 t - 1"])
def test_another_label_gives_another_figure(golden, model, labels):
    other = ScoreModel(model.network, model.sde, "eps", START, "float64", label=labels)
    images, probe = golden["likelihood_data"], golden["likelihood_probe"].double()
    found = bits_per_dim(*solve(other, images, probe, 1e-4))
    assert (found - golden["bpd64"]).abs().max() > 3e-4
