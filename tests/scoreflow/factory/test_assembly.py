"""A plan is checked before a network is built; names are refused with the nearest one."""

import pytest
import torch

from scoreflow.configs import default
from scoreflow.errors import RequestError, did_you_mean, nearest
from scoreflow.factory import assembly
from scoreflow.factory.assembly import build_data, build_sde, experiment
from scoreflow.factory.choose import as_request_error, choose_key
from scoreflow.factory.editing import build_control
from scoreflow.factory.likelihood import build_question, build_solver
from scoreflow.factory.model import build_model, build_network
from scoreflow.factory.sampling import build_drawing, high_order, needs_moments
from scoreflow.factory.training import build_training
from scoreflow.schema import request, resolve
from scoreflow.schema.config import Config

CPU = torch.device("cpu")
FLAT = request.flatten(default.get_config().to_dict()) | {
    "model.channels": 8,
    "model.num_groups": 4,
    "model.blocks": 1,
    "model.multipliers": [1],
    "model.attention_sizes": [],
}


def config_of(**changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve.resolve({**FLAT, **changes}, "test")


PLANS = {
    r"sampling\.steps: the number of sampling steps must lie in 1\.\.1000, got 2000": {
        "sampling__steps": 2000
    },
    r"must lie in 1\.\.1000, got 2001": {"sampling__steps": 2001, "sampling__grid": "least_cost"},
    r"sampling\.final = none leaves out": {"sampling__steps": 1, "sampling__final": "none"},
    r"sampling\.variance = learned needs": {"sampling__variance": "learned"},
    r"sampling\.predictor must be one of ancestral, ddim": {"sampling__predictor": "pc"},
    r"sampling\.order: order must lie in 1\.\.3, got 4": {
        "sampling__order": 4,
        "sampling__sampler": "unipc",
    },
    r"sampling\.method": {"sampling__method": "dopri6"},
    r"sampling\.label must lie in 0\.\.9": {"sampling__label": 10},
    r"sampling\.guide = network needs": {"sampling__label": 1, "sampling__guide": "network"},
    r"sampling\.label = 1 needs a classifier, and a training": {"sampling__label": 1},
    r"likelihood\.probes must lie in 0\.\.": {"likelihood__probes": 2**20},
    r"likelihood\.t_start must lie in \[1, 1000\), got 1000": {"likelihood__t_start": 1000.0},
    r"likelihood\.dequantization = truncated_normal needs": {
        "likelihood__dequantization": "truncated_normal"
    },
}


@pytest.mark.parametrize("said", PLANS)
def test_a_plan_is_refused_before_a_network_is_built(said, monkeypatch):
    def no_network(*_):
        raise AssertionError("built")

    monkeypatch.setattr(assembly, "build_network", no_network)
    with pytest.raises(RequestError, match=said):
        experiment(config_of(**PLANS[said]), CPU)
    with pytest.raises(AssertionError, match="built"):
        experiment(config_of(), CPU)


def test_what_is_checked_without_a_table_of_errors_needs_one_to_be_built():
    """The grid and the variance that rest on it pass the check, and are no others' afterwards."""
    config = config_of(
        sampling__variance="optimal", sampling__grid="least_cost", sampling__steps=4
    )
    made = experiment(config, CPU)
    with pytest.raises(AssertionError, match="needs a table of the network's errors"):
        build_drawing(config, "ancestral", made.model, made.data)
    drawn = build_drawing(config, "ancestral", made.model, made.data, eps_error=torch.ones_like)
    assert drawn.sampler.variance == "optimal"
    assert drawn.sampler.eps_error is torch.ones_like


@pytest.mark.parametrize("made_of", [lambda config: config, Config.of])
def test_the_factory_takes_both_forms_of_a_config(made_of):
    config = made_of(config_of(sampling__steps=3))
    data = build_data(config, CPU)
    sde = build_sde(config)
    model = build_model(config, build_network(config, data), sde)
    plan = build_drawing(config, "dpm", model, data)
    assert len(plan.times) == 4
    assert high_order(config, "dpm")
    assert not needs_moments(config, "dpm")
    assert build_training(config).batch_size == 128
    assert build_question(config, model, data).solver == build_solver(config)
    assert build_control(config, data) is None


def test_the_nearest_name():
    assert nearest("ODE", ("ode", "pc")) == "ode"
    assert nearest("zzz", ("ode", "pc")) is None
    assert did_you_mean("unett", ("unet", "mlp")) == "did you mean 'unet'?"
    assert did_you_mean("zzz", ("unet", "mlp"), "there are two") == "there are two"
    assert choose_key("model.name", "mlp") == "mlp"
    with pytest.raises(RequestError, match=r"^model\.name must be one of unet, mlp, got 'zzz'$"):
        choose_key("model.name", "zzz")
    with pytest.raises(RequestError, match=r"got 'unett'; did you mean 'unet'\?$"):
        choose_key("model.name", "unett")


def test_an_error_of_a_constructor_names_the_section():
    def build(value):
        raise ValueError(value)

    for text, expected in [("too many", "model: too many"), ("model.width is", "model.width is")]:
        with pytest.raises(RequestError, match=f"^{expected}$"):
            as_request_error(build, text, "model")
    assert as_request_error(len, "abc") == 3
