"""Every sampler, prediction, grid and task on the rectified path and EDM's process."""

import importlib
import itertools
import math
from dataclasses import replace

import pytest
import torch

from scoreflow.errors import RequestError, RunError
from scoreflow.factory.assembly import experiment
from scoreflow.factory.sampling import LEAST_COST, SAMPLERS, build_drawing, check_sampler
from scoreflow.generation.generate import draw_batch, out_of_evaluations
from scoreflow.models.asking import Label
from scoreflow.models.classifier import Classifier, NoisyClassifier
from scoreflow.models.score_model import OUTPUTS, ScoreModel
from scoreflow.samplers import GRIDS
from scoreflow.samplers.sampler import UnknownStartError
from scoreflow.schema import request, resolve
from scoreflow.schema.config import Config
from scoreflow.schema.samplers import PREDICTORS
from scoreflow.sde import EDMSDE, RectifiedSDE
from scoreflow.sde.base import ends_without_signal
from scoreflow.sde.noise import Noise
from scoreflow.training.classifier_trainer import measure

CPU = torch.device("cpu")
STEPS, N = 4, 24
TINY = {"model.width": 8, "model.embedding": 8, "sde.num_steps": N, "sampling.steps": STEPS}
DIGITS = {"model.channels": 8, "model.num_groups": 4, "model.blocks": 1, "sde.num_steps": N}
EACH = [name for name in SAMPLERS if name != "ode"]
CLOCKS = [*GRIDS, LEAST_COST]
VARIANCES = ("beta", "posterior", "optimal", "learned")


def config_of(name, **changes):
    own = importlib.import_module(f"scoreflow.configs.{name}").get_config()
    flat = request.flatten(own.to_dict()) | TINY_OF[name]
    return resolve.resolve(flat | changes, name)


TINY_OF = {"toy": TINY, "digits": DIGITS | {"sampling.steps": STEPS}}


def made_of(name, **changes):
    """An experiment whose network answers something else everywhere."""
    made = experiment(config_of(name, **changes), CPU)
    made.network.eval()
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=drawn))
    return made


def eps_error(t):
    return 0.3 * torch.ones_like(t)


def drawn(made, name, count=2, **keys):
    """Two samples under other keys of the `sampling` section."""
    for key, value in keys.items():
        made.config.sampling[key] = value
    moments = keys.get("grid") == LEAST_COST or keys.get("variance") == "optimal"
    table = eps_error if moments and name != "ode" else None
    plan = build_drawing(made.config, name, made.model, made.data, eps_error=table)
    event = tuple(made.data.train.shape[1:])
    return plan, draw_batch(plan, made.model.sde, Noise.of(0, 0, count), event)


def made_for(process, prediction):
    """On vectors; what needs levels on digits."""
    name = "digits" if prediction == "residual" else "toy"
    return made_of(name, **{"sde.name": process, "model.prediction": prediction})


def check_all(process, prediction, pairs):
    made = made_for(process, prediction)
    for name, clock, shift in pairs:
        if name == "ode":
            plan, x = drawn(made, name, tolerance=0.5)
        elif shift != 1 and clock in ("leading", LEAST_COST):
            with pytest.raises(RequestError, match=r"sampling\.shift"):
                drawn(made, name, grid=clock, shift=shift)
            continue
        else:
            plan, x = drawn(made, name, grid=clock, shift=shift)
        assert x.isfinite().all(), (name, clock, shift)
        # of what tells nothing of x_0 where no signal is left, the flow begins before
        ends = process == "rectified" and prediction not in ("x_0", "v", "u", "residual")
        assert (plan.times[0] < N) == ends, (name, clock, shift)


@pytest.mark.parametrize("prediction", OUTPUTS)
@pytest.mark.parametrize("process", ["rectified", "edm"])
def test_every_sampler_draws_from_every_network_on_every_grid(process, prediction):
    """Here each sampler on two grids of each network, others for each; the long test on all."""
    turn = OUTPUTS.index(prediction) + 3 * (process == "edm")
    pairs = [("ode", "", 1.0)]
    for k, name in enumerate(EACH):
        clock, other = CLOCKS[(k + turn) % len(CLOCKS)], CLOCKS[(k + turn + 4) % len(CLOCKS)]
        pairs += [(name, clock, 1.0), (name, other, 3.0)]
    check_all(process, prediction, pairs)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", OUTPUTS)
@pytest.mark.parametrize("process", ["rectified", "edm"])
def test_all_of_them_on_all_grids(process, prediction):
    check_all(process, prediction, itertools.product(EACH, CLOCKS, (1.0, 0.3, 3.0)))
    made = made_for(process, prediction)
    for predictor, corrector in itertools.product(PREDICTORS, ("langevin", "annealed")):
        for final in ("mean", "x_0", "none"):
            _, x = drawn(made, "pc", predictor=predictor, corrector=corrector, final=final)
            assert x.isfinite().all(), (predictor, corrector, final)


@pytest.mark.parametrize("prediction", ["eps", "v", "u"])
def test_every_variance_of_a_network_that_learns_one(prediction):
    """All steps, a few, and one, from noise alone or from where eps tells of x_0."""
    changes = {"sde.name": "rectified", "model.prediction": prediction}
    made = made_of("digits", **changes)
    network = made_of("digits", **{"model.learned_variance": True, "model.prediction": prediction,
                                   "training.objective": "variational"}).network  # fmt: skip
    model = ScoreModel(network, made.model.sde, prediction, learned_variance=True)
    made = replace(made, model=model)
    for variance, steps in itertools.product(VARIANCES, (0, 3, 1)):
        _, x = drawn(made, "ancestral", variance=variance, steps=steps)
        assert x.isfinite().all(), (variance, steps)


def test_a_network_of_integer_times_is_asked_between_them():
    made = made_of("toy", **{"sde.name": "rectified", "model.prediction": "u"})
    model = ScoreModel(made.network, made.model.sde, "u", integer_times=True)
    made = replace(made, model=model)
    for name in ("heun", "unipc", "ode"):
        _, x = drawn(made, name, **({"tolerance": 0.5} if name == "ode" else {"grid": "karras"}))
        assert x.isfinite().all(), name


def test_a_classifier_guides_from_where_it_can():
    """Its gradient tells nothing of x_0 without signal: the process ends before."""
    made = made_of("digits", **{"sde.name": "rectified", "model.prediction": "v"})
    network = Classifier((1, 8, 8), 10, 8).eval()
    classifier = NoisyClassifier(network, made.model.sde, 1.0)
    made.config.sampling.label, made.config.sampling.guide = 3, "classifier"
    for name, weight in itertools.product(("ddim", "heun", "ode"), (0.0, 2.0)):
        made.config.sampling.guidance = weight
        plan = build_drawing(made.config, name, made.model, made.data, classifier)
        x = draw_batch(plan, made.model.sde, Noise.of(0, 0, 2), (1, 8, 8))
        assert x.isfinite().all(), name
        assert (plan.times[0] < N) == (weight > 0), name
        assert plan.process is None or ends_without_signal(plan.process) == (weight == 0)


def test_labels_and_inputs_that_are_infinite_without_signal_are_refused():
    network = torch.nn.Identity()
    for sde, refused in ((RectifiedSDE(N), True), (EDMSDE(N), False)):
        for how in (
            {"label": Label("sigma")},
            {"label": Label("log_sigma")},
            {"input_scale": "alpha"},
        ):
            if refused:
                with pytest.raises(RequestError, match="infinite at t = N of this process"):
                    ScoreModel(network, sde, "v", **how)
            else:
                ScoreModel(network, sde, "v", **how)


def test_a_shift_that_finds_no_other_times_is_refused_before_any_work():
    """All whole steps are one grid; least_cost has its own times: in one line, with the key."""
    made = made_of("toy", **{"sde.name": "rectified", "model.prediction": "u"})
    for keys, why in (
        ({"grid": "uniform", "steps": 0}, r"finds no others: set sampling\.steps to fewer"),
        ({"grid": "leading", "steps": 3}, "has no shift"),
        ({"grid": LEAST_COST, "steps": 3}, "found by their costs"),
    ):
        made.config.sampling.update({"shift": 3.0, **keys})
        with pytest.raises(RequestError, match=why) as refused:
            check_sampler(Config.of(made.config), "ddim", made.model.sde, 1.0, made.data)
        assert str(refused.value).startswith("sampling.shift")
        assert "\n" not in str(refused.value)


def test_a_network_that_has_no_numbers_is_told_of_in_a_line():
    made = made_of("toy", **{"sde.name": "rectified", "model.prediction": "u"})
    with torch.no_grad():
        next(made.network.parameters()).fill_(float("nan"))
    for name in ("ddim", "heun"):
        with pytest.raises(RunError, match="first step from there gave numbers that are not"):
            drawn(made, name)


def test_a_start_without_numbers_is_known_by_its_class():
    for error, told in (
        (UnknownStartError("in any words"), RunError),
        (ValueError("of a defect, numbers that are not finite"), ValueError),
    ):
        with pytest.raises(told) as caught, out_of_evaluations():
            raise error
        assert type(caught.value) is told


def test_a_classifier_is_measured_in_noise_alone_too():
    made = made_of("digits", **{"sde.name": "rectified"})
    few = replace(made.data, test=made.data.test[:8], test_labels=made.data.test_labels[:8])
    network = Classifier((1, 8, 8), 10, 8).eval()
    rows = measure(NoisyClassifier(network, made.model.sde, 1.0), few, 0)["times"]
    assert all(math.isfinite(row["log_snr"]) for row in rows[:-1])
    assert rows[-1]["log_snr"] is None
