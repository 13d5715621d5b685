"""Keys of how a network is asked, and of its schedule, reach it; wrong ones are refused."""

import pytest
import torch
from torch import nn

from scoreflow.configs import default
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.data import build_data
from scoreflow.factory.model import build_model
from scoreflow.models.asking import Asking, Label
from scoreflow.schema import request, resolve
from scoreflow.sde import VPSDE, SubVPSDE

FLAT = request.flatten(default.get_config().to_dict())
T = torch.tensor([0.5, 1.0, 7.0, 8.0], dtype=torch.float64)


def config_of(**changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve.resolve({**FLAT, **changes}, "test")


def model_of(**changes):
    config = config_of(**changes)
    return build_model(config, nn.Identity(), build_sde(config))


def test_the_defaults_are_ddpms():
    assert model_of().asking == Asking(Label("time", 1.0, -1.0), "unit", 1.0, "symmetric", False)


def test_every_key_of_asking_reaches_the_model():
    found = model_of(
        model__label="log_sigma",
        model__label_scale=0.25,
        model__label_offset=-3.0,
        model__input_scale="alpha",
        model__data_std=0.5,
        model__data_range="unit",
        model__integer_times=True,
        model__prediction="gradient",
    )
    assert found.asking == Asking(Label("log_sigma", 0.25, -3.0), "alpha", 0.5, "unit", True)
    assert found.output == "gradient"


SCHEDULES = {
    "linear_continuous": lambda kind: kind.linear_continuous(8, 0.2, 5.0),
    "scaled_linear": lambda kind: kind.scaled_linear(8, 0.2, 5.0),
    "betas": lambda kind: kind(torch.linspace(0.1, 0.8, 8, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", [VPSDE, SubVPSDE])
def test_schedules_by_their_names(kind, name):
    sde = build_sde(
        config_of(
            sde__name={VPSDE: "vp", SubVPSDE: "subvp"}[kind],
            sde__schedule=name,
            sde__num_steps=8,
            sde__beta_min=0.2,
            sde__beta_max=5.0,
            sde__betas=torch.linspace(0.1, 0.8, 8, dtype=torch.float64).tolist(),
        )
    )
    expected = SCHEDULES[name](kind)
    assert type(sde) is kind
    assert torch.equal(sde.alpha(T), expected.alpha(T))
    assert torch.equal(sde.sigma(T), expected.sigma(T))


REFUSED = {
    r"sde\.betas must have a beta for each of the sde\.num_steps = 3 steps, got 2": {
        "sde__schedule": "betas",
        "sde__num_steps": 3,
        "sde__betas": [0.1, 0.2],
    },
    r"sde: betas must lie in \(0, 1\), got 1 outside: \[1\.0\]; 1 leaves no signal: cap it": {
        "sde__schedule": "betas",
        "sde__num_steps": 2,
        "sde__betas": [0.1, 1.0],
    },
    r"must be below sde\.num_steps \(10\)": {
        "sde__schedule": "scaled_linear",
        "sde__num_steps": 10,
    },
    r"model\.label must be one of time, sigma, log_sigma, log_snr": {"model__label": "snr"},
    r"model\.input_scale must be one of": {"model__input_scale": "sigma"},
    r"model\.data_range must be one of": {"model__data_range": "bytes"},
    r"model\.integer_times = true is of a network that knows integer times": {
        "model__integer_times": True,
        "training__times": "real",
    },
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_is_refused(said):
    with pytest.raises(RequestError, match=said):
        model_of(**REFUSED[said])


def test_no_data_have_the_shape_of_the_network():
    data = build_data(config_of(data__name="none", model__shape=[3, 8, 16]), torch.device("cpu"))
    assert data.train.shape == data.test.shape == (0, 3, 8, 16)
    assert data.num_classes == 0
    with pytest.raises(RequestError, match=r"data\.name = none needs model\.shape"):
        build_data(config_of(data__name="none"), torch.device("cpu"))
