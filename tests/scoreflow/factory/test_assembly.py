"""A plan is checked before a network is built; names are refused with the nearest one."""

import shlex
from dataclasses import replace

import pytest
import torch

from scoreflow.cli import command_line
from scoreflow.configs import default, toy
from scoreflow.data.dataset import Data
from scoreflow.data.given import given_data
from scoreflow.data.reading.settings import Reading
from scoreflow.errors import RequestError, did_you_mean, nearest
from scoreflow.factory import assembly
from scoreflow.factory.assembly import build_sde, experiment
from scoreflow.factory.choose import as_request_error, choose_key
from scoreflow.factory.data import build_data, build_reading
from scoreflow.factory.editing import build_control, build_user_reading
from scoreflow.factory.guidance import guidance_of
from scoreflow.factory.likelihood import build_question, build_solver
from scoreflow.factory.model import build_model, build_network, classes_of
from scoreflow.factory.sampling import build_drawing, high_order, needs_moments
from scoreflow.factory.training import build_training
from scoreflow.models.unet_levels import fitting
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


@pytest.mark.parametrize("name", ["toy", "given"])
def test_vectors_are_not_mirrored(name):
    flat = {**request.flatten(toy.get_config().to_dict()), "data.name": name}
    config = resolve.resolve({**flat, "model.shape": [2], "training.flip": True}, "test")
    rows = given_data(torch.randn(8, 2).numpy(), None)
    with pytest.raises(
        RequestError, match=r"training\.flip = true mirrors images, and .* vectors"
    ):
        experiment(config, CPU, given=rows)
    experiment(config, CPU, training=False, given=rows)  # a run that was trained so is measured


def test_how_files_are_read():
    said = {"data__fit": "pad", "data__mode": "auto", "data__background": "#102030"}
    said["data__levels"] = 17
    reading = Reading((48, 64), "pad", "auto", "#102030", 17)
    assert build_reading(config_of(data__size="48x64", **said).data) == reading
    assert build_reading(config_of().data) == Reading()
    assert build_reading(config_of(data__size=64).data) == Reading((64, 64))
    for wrong, why in (
        ({"data__fit": "crop"}, r"data\.fit = crop needs the size .* --config\.data\.size=64"),
        ({"data__size": "big"}, r"data\.size must be a side in pixels"),
        ({"data__mode": "gray"}, r"data\.mode must be one of .* did you mean 'grey'"),
        ({"data__levels": 1}, r"data\.levels must be 2 or more"),
        ({"data__levels": 65537}, r"data\.levels must lie in"),
    ):
        with pytest.raises(RequestError, match=why):
            build_reading(config_of(**wrong).data)


def test_files_of_a_user_are_read_as_the_data_unless_it_is_said():
    changes = {"data__mode": "rgb", "data__background": "white", "control__fit": "pad"}
    config = Config.of(config_of(**changes))
    reading = build_user_reading(config.control, config.data)
    assert reading == Reading(None, "pad", "rgb", "white", section="control")
    reading = build_user_reading(config.likelihood, config.data)
    assert reading == Reading(None, "refuse", "rgb", "white", section="likelihood")


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
    assert choose_key("sde.name", "vp") == "vp"
    with pytest.raises(
        RequestError, match=r"^sde\.name must be one of vp, subvp, ve, rectified, edm, got 'zzz'$"
    ):
        choose_key("sde.name", "zzz")
    with pytest.raises(RequestError, match=r"got 'subv'; did you mean 'subvp'\?$"):
        choose_key("sde.name", "subv")


def test_an_error_of_a_constructor_names_the_section():
    def build(value):
        raise ValueError(value)

    for text, expected in [("too many", "model: too many"), ("model.width is", "model.width is")]:
        with pytest.raises(RequestError, match=f"^{expected}$"):
            as_request_error(build, text, "model")
    assert as_request_error(len, "abc") == 3


def built(**changes):
    config = config_of(**changes)
    return build_network(config, build_data(config, CPU))


def test_every_switch_of_the_network_reaches_it():
    """Each argument of the U-Net that a key of its name fixes, away from its default."""
    changed = {
        "norm_eps": 1e-2,
        "channels_per_group": 8,
        "heads": 2,
        "head_channels": 4,
        "attention_up": "last",
        "attention_middle": False,
        "scale_shift": True,
        "rescaled_skips": True,
        "resample": "residual",
        "padding": "symmetric",
        "input_pyramid": True,
        "stem_multiplier": 2,
        "embedding_channels": 32,
        "time_embedding": "fourier",
        "embedding_order": "cos_sin",
        "frequency_shift": 0,
    }
    told = {"class_embedding": "before", "null_class": False, "num_classes": 12}
    x, index, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.5]), torch.tensor([1, 9])
    net = {"model__multipliers": [1, 2], "model__attention_sizes": [8, 4], "model__channels": 16}

    def answer(given, **more):
        network = built(**net, **more, **given)
        generator = torch.Generator().manual_seed(0)
        for parameter in (*network.parameters(), *network.buffers()):
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return network.eval()(x, index, *((label,) if more else ()))

    with torch.no_grad():
        plain = answer({})
        for name, value in changed.items():
            assert (answer({f"model__{name}": value}) - plain).abs().max() > 1e-4, name
        filtered = {"model__resample": "residual", "model__fir": True}
        assert (answer(filtered) - answer({"model__resample": "residual"})).abs().max() > 1e-3
        plain = answer({}, model__conditional=True)
        for name, value in told.items():
            found = answer({f"model__{name}": value}, model__conditional=True)
            assert (found - plain).abs().max() > 1e-3, name


def test_a_network_for_images_of_a_shape_of_its_own():
    assert built(model__shape=[1, 8, 8]).x_shape == (1, 8, 8)
    digits = build_data(config_of(), CPU)
    said = (
        r"for images of shape 3 x 32 x 32 \(model\.shape\), the data have 1 x 8 x 8: name others"
    )
    with pytest.raises(RequestError, match=said):
        build_network(config_of(model__shape=[3, 32, 32]), digits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__name": "unett"}, r"one of unet, mlp, got 'unett'; did you mean 'unet'\?"),
        ({"model__num_classes": 3}, "num_classes = 3 needs model.conditional = true"),
        (
            {"model__conditional": True, "model__num_classes": 3},
            r"knows 3 classes \(model\.num_classes\), digits has 10",
        ),
        ({"model__padding": "top"}, "model.padding must be one of bottom_right, symmetric"),
        ({"model__fir": True}, "model: fir needs resample = residual or residual_conv, got conv"),
        ({"model__heads": 3}, r"attention needs a multiple of its heads .* got 8 for 3"),
    ],
)
def test_networks_that_cannot_be_had(changes, said):
    with pytest.raises(RequestError, match=said):
        built(**changes)


SIZES = [28, 33, 48, 96, 100, 178, 256, (80, 512), (16, 64), (36, 20)]
"""Among them those that are commonest, and images that are not square."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("experiment", ["cifar10", "mnist"])
def test_flags_of_a_refusal_make_a_network_for_images_of_any_size(experiment, size):
    """Each remedy, typed as it is printed, of the README's own commands."""
    sides = (size, size) if isinstance(size, int) else size
    argv = ["run.py", "--mode=train", f"--config=configs/{experiment}.py"]
    small = ["--config.model.channels=8", "--config.model.num_groups=4", "--config.model.blocks=1"]

    def build(flags, sides=sides):
        config = command_line.parse([*argv, *small, *flags]).config
        images = torch.empty(0, 2, *sides, dtype=torch.uint8)
        data = Data("wide", images, images, 256, None, None)
        return build_network(resolve.resolve(config, "test"), data)

    try:
        network = build([])
    except RequestError as error:
        first, _, crop = str(error).partition("; or crop them by ")
        network = build(shlex.split(first[first.index("--config") :]))
        if crop:
            flags = shlex.split(crop)
            height, width = map(int, flags[0].partition("=")[2].split("x"))
            assert 0 <= sides[0] - height < 8
            assert 0 <= sides[1] - width < 8
            assert build(flags, (height, width)).x_shape == (2, height, width)
    assert network.x_shape == (2, *sides)
    if max(sides) <= 64:
        with torch.no_grad():
            assert network(torch.zeros(1, 2, *sides), torch.zeros(1)).shape == (1, 2, *sides)


def test_the_nearest_levels_that_images_can_have():
    assert fitting((48, 48), (1, 2, 2, 2), (16,)) == ((1, 2, 2, 2), (12,), True)
    assert fitting((28, 28), (1, 2, 2, 2), (16,)) == ((1, 2, 2), (14,), True)
    assert fitting((80, 512), (1, 2, 2, 2), (16,)) == ((1, 2, 2, 2), (64,), True)
    assert fitting((178, 178), (1, 2, 2, 2), (16,)) == ((1, 2), (), False)
    assert fitting((32, 32), (1, 2), (32, 30, 16)) == ((1, 2), (32, 16), True)


def test_labels_are_not_dropped_where_none_has_no_row():
    told = {"model__conditional": True, "model__null_class": False}
    with pytest.raises(RequestError, match=r"label_dropout = 0\.1 shows .* set it to 0"):
        experiment(config_of(**told), CPU)
    experiment(config_of(**told, training__label_dropout=0.0), CPU)


ITS_CLASSES = {"model__conditional": True, "model__null_class": False}


@pytest.mark.parametrize(
    ("classes", "labelled", "told"),
    [
        (12, False, "digits: its 10 classes are not the network's 12, and are left out"),
        (3, False, "digits: its 10 classes are not the network's 3, and are left out"),
        (10, True, "digits: its class k is taken for class k of the network's 10"),
    ],
)
def test_classes_of_data_from_elsewhere_are_not_taken_for_the_network_s(classes, labelled, told):
    """Class k of an ImageNet network is no digit."""
    config = config_of(**ITS_CLASSES, model__num_classes=classes, sampling__label=classes - 1)
    made = experiment(config, CPU, training=False, bound=False)
    assert made.model.num_classes == classes
    assert (made.data.train_labels is not None) == (made.data.test_labels is not None) == labelled
    assert made.remarks == (told,)


def test_a_conditional_network_says_why_its_data_have_no_classes_and_how_they_can_have_some():
    data = replace(build_data(config_of(), CPU), name="mine", train_labels=None, test_labels=None)
    config = Config.of(config_of(model__conditional=True))
    with pytest.raises(
        RequestError, match=r"mine has 0 classes: .*folder of its name.*dataset\.json"
    ):
        classes_of(config, data)
    data = replace(data, remarks=("something else", "no classes: a.png has none"))
    with pytest.raises(RequestError, match=r"mine has 0 classes \(a.png has none\): put"):
        classes_of(config, data)
    assert classes_of(Config.of(config_of()), data) == 0


def test_what_is_said_of_data_that_measure_a_network_comes_first(monkeypatch):
    data = replace(build_data(config_of(), CPU), remarks=("10 classes by hand",))
    monkeypatch.setattr(assembly, "build_data", lambda *_: data)
    config = config_of(**ITS_CLASSES, model__num_classes=12)
    made = experiment(config, CPU, training=False, bound=False)
    assert made.remarks[0] == "10 classes by hand"
    assert made.data.class_names == ()


def test_a_class_of_the_network_needs_no_image_of_it():
    data = build_data(config_of(), CPU)
    few = replace(data, train_labels=data.train_labels.clamp(min=1))
    c = config_of(sampling__label=0).sampling
    assert guidance_of(c, 10, few, own=True).label == 0
    with pytest.raises(RequestError, match="digits has none in training"):
        guidance_of(c, 10, few)  # which learned its classes from these
    by_classifier = config_of(sampling__label=0, sampling__guide="classifier").sampling
    with pytest.raises(RequestError, match="digits has none in training"):
        guidance_of(by_classifier, 10, few, own=True)
