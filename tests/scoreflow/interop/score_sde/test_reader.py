"""score_sde's checkpoints answer as the original code did; each known misreading has its error.

The golden numbers are of score_sde_pytorch's own code. `about.json` beside them says what each is,
and how large the error of each misreading is: the same one, made here, must have that size.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.model import build_model, build_network
from scoreflow.interop import formats
from scoreflow.interop.score_sde import weights as score_sde_weights
from scoreflow.interop.score_sde.modules import MisfitError, architecture_of
from scoreflow.interop.score_sde.reader import read, recognises
from scoreflow.interop.score_sde.recipes import RECIPES
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve

FIXTURES = Path(__file__).parents[3] / "fixtures" / "score_sde"
VP, CONTINUOUS, PP, SUBVP, VE = (
    "vp_ddpm",
    "vp_ddpm_continuous",
    "vp_ddpmpp_continuous",
    "subvp_ddpmpp_continuous",
    "ve_ncsnpp_continuous",
)
TOLD = {
    VP: {"sde": "vp", "continuous": False, "norm_groups": 4},
    CONTINUOUS: {"sde": "vp", "continuous": True, "norm_groups": 4},
    PP: {"sde": "vp", "continuous": True, "fir": False},
    SUBVP: {"sde": "subvp", "continuous": True, "fir": False},
    VE: {},  # its Fourier features and its pyramid tell all
}
NAMES = list(TOLD)
SINUSOIDS = 1e-5
"""Of float64 networks whose sinusoids are made in float32 on both sides, and may differ there."""


@functools.cache
def golden(name):
    with np.load(FIXTURES / name / "golden.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def about(name):
    return json.loads((FIXTURES / name / "about.json").read_text())


def path_of(name):
    return next((FIXTURES / name).glob("*.pth"))


def imported(name, **options):
    return read(path_of(name), {"size": 8, **TOLD[name], **options})


def built(name, precision="float32", raw=False, options=None, **changed):
    """The Denoiser as the config of its import makes it, with some options and keys changed."""
    found = imported(name, **(options or {}))
    changes = {key.replace("__", "."): value for key, value in changed.items()}
    settings = {**found.settings, **changes}
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    config = resolve({**flatten(Config().to_dict()), **plain}, "the import")
    images = torch.zeros(1, *found.settings["model.shape"])
    network = build_network(config, Data("images", images, images, 256, None, None))
    network.load_state_dict(found.raw if raw else found.weights)
    if precision == "float64":
        network.double()
    model = build_model(config, network.eval(), build_sde(Config.of(config)))
    return model.in_precision(precision)


def as_seen(name, dtype=torch.float32):
    """x_t as the network sees it, in [-1, 1] units."""
    x = golden(name)["x_t"].to(dtype)
    return 2 * x - 1 if name == VE else x


def times(name):
    """Our times of the golden rows, in steps."""
    g = golden(name)
    if name == VP:
        return g["table_index"].double() + 1
    if name == VE:
        return built(name).sde.time((2 * g["sigma"]).atan())
    return 1000 * g["t"].double()


@torch.no_grad()
def raw(name, model, label=None):
    """The original's raw output, out of our network at its labels or at ours."""
    g = golden(name)
    dtype = next(model.network.parameters()).dtype
    if label is None:
        given = g["sigma"] if dtype == torch.float64 else g["label"]
        label = given.log() if name == VE else g["label"]
    found = model.network(as_seen(name, dtype), label.to(dtype))
    return -found / g["sigma"][:, None, None, None] if name == VE else found


def error(found, truth):
    """The largest difference over the largest value, of estimates of the noise."""
    return float((found.double() - truth.double()).abs().max() / truth.double().abs().max())


def of_noise(name, output):
    """The error of a raw output as that of its estimate of the noise."""
    sigma = golden(name)["sigma"][:, None, None, None] if name == VE else 1.0
    return error(sigma * output, sigma * golden(name)["raw"])


def of_rows(found, truth):
    difference = (found.double() - truth.double()).flatten(1).abs().amax(1)
    return float((difference / truth.double().flatten(1).abs().amax(1)).max())


# ---- the same answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_output_is_the_original_s(name):
    assert error(raw(name, built(name)), golden(name)["raw"]) < 2e-5
    assert error(raw(name, built(name, raw=True)), golden(name)["raw_not_ema"]) < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_output_in_float64_is_the_original_s(name):
    found = raw(name, built(name, "float64"))
    assert found.dtype == torch.float64
    # Fourier features are as exact as their frequencies; other sinusoids are float32's.
    assert error(found, golden(name)["raw64"]) < (1e-9 if name == VE else SINUSOIDS)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_estimates_are_the_original_s(name, precision):
    g, model, t = golden(name), built(name, precision), times(name)
    # The golden labels of the discrete network lie between integers, but for the first and last.
    rows = [0, 3] if name == VP else [0, 1, 2, 3]
    found = model(as_seen(name, torch.float64)[rows], t[rows])
    # The original's own float32 errs, most where Fourier features turn often.
    allowed = max(1e-5, 1.2 * of_rows(g["raw"], g["raw64"])) if precision == "float32" else 1e-5
    x_0 = (found.x_0 + 1) / 2 if name == VE else found.x_0
    assert of_rows(found.eps, g["eps"][rows]) < allowed
    # x_0 = (x_t - sigma eps) / alpha: an error of eps counts sigma / alpha times in it
    alpha, sigma = (g[key][rows][:, None, None, None] for key in ("alpha", "sigma"))
    of_eps = allowed * (sigma * g["eps"][rows].abs().amax((1, 2, 3), keepdim=True) / alpha)
    reach = 1e-5 * g["x0"][rows].abs().amax((1, 2, 3), keepdim=True)
    assert bool(((x_0 - g["x0"][rows]).abs() <= reach + of_eps).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_process_and_the_labels_are_the_original_s(name):
    g, model, t = golden(name), built(name), times(name)
    unit = 2 if name == VE else 1
    torch.testing.assert_close(model.sde.alpha(t), g["alpha"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(model.sde.sigma(t), unit * g["sigma"], rtol=1e-9, atol=1e-12)
    found = model.asking.labels(model.sde, as_seen(name), t)
    label = g["table_index"].float() if name == VP else g["label"]
    label = label.log() if name == VE else label
    torch.testing.assert_close(found, label, rtol=1e-6, atol=1e-6)


# ---- the wrong answers --------------------------------------------------------------------------

DOUBLED = "label in units of [-1, 1] (2 sigma)"
SETTINGS = {
    "GroupNorm eps 1e-5": {"model__norm_eps": 1e-5},
    "symmetric padding": {"model__padding": "symmetric"},
    "skip_rescale False": {"model__rescaled_skips": False},
    "label 1000 t instead of 999 t": {"model__label_scale": 1.0},
    "label 1000 t - 1": {"model__label_scale": 1.0, "model__label_offset": -1.0},
    DOUBLED: {"model__label_offset": 0.0},
}
"""Misreadings that a config key is."""
OTHERS = {
    "raw instead of EMA weights",
    "NIN.W of square layers not transposed",
    "fir True",
    "fir False",
    "label counted from 1",
}
"""Misreadings that the tests below make."""


@pytest.mark.parametrize("name", NAMES)
def test_each_misreading_is_made(name):
    told = about(name)["errors_of_wrong_readings"].keys() - {"what"}
    assert told <= SETTINGS.keys() | OTHERS
    assert len(told) >= 5


@pytest.mark.parametrize(("name", "misreading"), [
    (name, misreading) for name in NAMES for misreading in about(name)["errors_of_wrong_readings"]
    if misreading in SETTINGS
])  # fmt: skip
def test_a_wrong_setting_has_the_error_that_it_had_in_the_original(name, misreading):
    model = built(name, **SETTINGS[misreading])
    label = golden(name)["label"]
    if "label" in misreading:
        label = model.asking.labels(model.sde, as_seen(name), times(name))
        label = label.clamp(max=999.9)  # as far as the figure's labels go
    elif name == VE:
        label = label.log()
    wanted = about(name)["errors_of_wrong_readings"][misreading]
    found = raw(name, model, label)
    if misreading == DOUBLED:
        found = found / 2  # it is divided by its own label
    assert of_noise(name, found) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_have_the_errors_that_they_had_in_the_original(name, monkeypatch):
    wanted = about(name)["errors_of_wrong_readings"]
    found = error(raw(name, built(name, raw=True)), golden(name)["raw"])
    assert found == pytest.approx(wanted["raw instead of EMA weights"], rel=0.02)
    attention = score_sde_weights._attention

    def not_transposed(layer):
        square = {k: v.T if k.endswith(".W") else v for k, v in layer.items()}
        return attention(square)

    monkeypatch.setattr(score_sde_weights, "_attention", not_transposed)
    found = of_noise(name, raw(name, built(name)))
    assert found == pytest.approx(wanted["NIN.W of square layers not transposed"], rel=0.02)


def test_labels_counted_from_1_have_their_error():
    found = error(raw(VP, built(VP), golden(VP)["label"] + 1), golden(VP)["raw"])
    wanted = about(VP)["errors_of_wrong_readings"]["label counted from 1"]
    assert found == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("name", [PP, SUBVP])
def test_a_filter_that_is_not_there_has_its_error(name):
    found = error(raw(name, built(name, options={"fir": True})), golden(name)["raw"])
    wanted = about(name)["errors_of_wrong_readings"]["fir True"]
    assert found == pytest.approx(wanted, rel=0.02)


def test_a_filter_left_out_has_its_error():
    """In the blocks alone: the pyramid has it in any case."""
    wanted = about(VE)["errors_of_wrong_readings"]["fir False"]
    found = of_noise(VE, raw(VE, built(VE, model__fir=False)))
    assert found == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_matters(name):
    """Moving the entries of any tensor by one place shows; of keys' biases it cannot."""
    model = built(name)
    for own, tensor in model.network.state_dict().items():
        if own.endswith("qkv.bias") or tensor.numel() == 1:
            continue  # a third of it, the keys', is invisible to a softmax
        kept = tensor.clone()
        tensor.copy_(kept.flatten().roll(1).view_as(kept))
        assert error(raw(name, model), golden(name)["raw"]) > 7e-5, own
        tensor.copy_(kept)
    assert error(raw(name, model), golden(name)["raw"]) < 2e-5


# ---- what the file says, and what it does not ---------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_architecture_is_read_from_names_and_shapes(name):
    wanted, found = about(name)["constructor"], imported(name)
    model, size = wanted["model"], wanted["data"]["image_size"]
    assert found.settings["model.channels"] == model["nf"]
    assert list(found.settings["model.multipliers"]) == model["ch_mult"]
    assert found.settings["model.blocks"] == model["num_res_blocks"]
    assert list(found.settings["model.attention_sizes"]) == model["attn_resolutions"]
    assert found.settings["model.shape"] == (wanted["data"]["num_channels"], size, size)
    assert found.settings["sde.num_steps"] == model["num_scales"]
    assert found.facts["architecture"].startswith(model["name"])
    assert found.step == 1234 + NAMES.index(name)


def test_the_noise_scales_of_ve_are_those_of_the_file_in_our_units():
    found, wanted = imported(VE).settings, about(VE)["constructor"]["model"]
    assert found["sde.sigma_min"] == pytest.approx(2 * wanted["sigma_min"], rel=1e-12)
    assert found["sde.sigma_max"] == pytest.approx(2 * wanted["sigma_max"], rel=1e-12)
    centred = imported(VE, centered=True).settings
    assert centred["sde.sigma_max"] == pytest.approx(wanted["sigma_max"], rel=1e-12)
    assert centred["model.label_offset"] == 0


def test_a_discrete_network_is_asked_on_its_own_clock_and_theirs_is_said():
    found = imported(VP)
    assert found.settings["model.integer_times"]
    assert "up to 0.999 from the index" in found.facts["clock"]
    t = torch.arange(1, 1001, dtype=torch.float64)
    off = 999 * (t / 1000) - (t - 1)  # their label of the time of index t - 1
    assert off.max() == pytest.approx(0.999)


@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_a_discrete_ve_counts_from_the_most_noise(sde):
    found = imported(VP, sde=sde).settings
    label = found["model.label_scale"] * 1000 + found["model.label_offset"]
    assert label == (0 if sde == "ve" else 999)


def test_formats_and_recipes_know_it():
    for name in NAMES:
        assert recognises(path_of(name))
        assert formats.recognise(path_of(name)) == "score_sde"
        given = {"size": 8, **TOLD[name]}
        assert formats.read(path_of(name), "", "", given).format == "score_sde"
    told = formats.read(path_of(VP), "", "vp/ddpm/cifar10", {"size": 8, "norm_groups": 4})
    assert told.settings == imported(VP, dropout=0.1).settings
    assert not recognises(FIXTURES / VP / "golden.npz")
    for name, each in RECIPES.items():
        assert each["sde"] == name.split("/")[0]
        assert each["continuous"] == name.endswith("_continuous")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (VP, {"sde": None}, r"does not say sde, .*--recipe NAME for a published config"),
        (PP, {"fir": None}, r"does not say fir, ncsnpp: resizes by the filter"),
        (PP, {"sde": "vpsde"}, "sde must be one of vp, subvp, ve, got 'vpsde'"),
        (VP, {"fir": True}, r"the filter \(fir\) in a ddpm cannot be had"),
        (VE, {"fir": False}, r"an input pyramid without the filter \(fir\) cannot be had"),
        (VE, {"skip_rescale": False}, r"without sums over sqrt 2 \(skip_rescale\) cannot"),
        (VE, {"sde": "vp"}, "Fourier features"),
        (
            VE,
            {"scale_by_sigma": False},
            "scale_by_sigma without ve, or ve without it, cannot",
        ),
        (
            SUBVP,
            {"continuous": False},
            "subvp at integer times cannot be had",
        ),
        (PP, {"sde": "ve", "continuous": True}, "ve at real times without Fourier features"),
        (PP, {"centered": False}, r"images in \[0, 1\] .* without ve"),
    ],
)
def test_options_that_lack_or_contradict(name, options, said):
    given = {"size": 8, **TOLD[name], **options}
    given = {key: value for key, value in given.items() if value is not None}
    with pytest.raises(RequestError, match=said):
        read(path_of(name), given)


KINDS = ("weight", "bias")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda held: held.pop("model"), "no state dict under `model`"),
        (lambda held: held["model"].pop("module.sigmas"), "no table `sigmas`"),
        (lambda held: held["ema"]["shadow_params"].pop(), "has 133 tensors, the network 134"),
        (
            lambda held: held["ema"]["shadow_params"].reverse(),
            r"the average of all_modules\.0\.weight has the shape \(3,\), the parameter",
        ),
        (
            lambda held: [held["model"].pop(f"module.all_modules.4.Conv_0.{x}") for x in KINDS],
            "a layer without weights",
        ),
        (
            lambda held: held["model"].update({"module.extra.weight": torch.zeros(1)}),
            "have no tensor 'extra.weight'",
        ),
    ],
)
def test_files_of_other_networks_are_refused(damage, said, tmp_path):
    held = torch.load(path_of(VP), weights_only=True)
    damage(held)
    torch.save(held, tmp_path / "checkpoint_1.pth")
    with pytest.raises(RequestError, match=said) as refused:
        read(tmp_path / "checkpoint_1.pth", {"size": 8, **TOLD[VP]})
    assert "\n" not in str(refused.value)


class Planted:
    def __reduce__(self):
        return print, ("ran",)


def test_a_file_that_carries_code_is_refused_and_nothing_runs(tmp_path, capsys):
    held = torch.load(path_of(VP), weights_only=True)
    torch.save({**held, "optimizer": Planted()}, tmp_path / "checkpoint_1.pth")
    with pytest.raises(RequestError, match=r"asks for .*print, which is neither a tensor"):
        read(tmp_path / "checkpoint_1.pth", {"size": 8, **TOLD[VP]})
    assert not recognises(tmp_path / "checkpoint_1.pth")
    assert capsys.readouterr().out == ""


def made(levels, blocks, attends, ncsnpp=False, fourier=False, pyramid=False, channels=4):
    """A state dict of the original's names and shapes, by its constructors' rules."""
    layers, state = [], {}

    def layer(**tensors):
        layers.append({name.replace("__", "."): torch.zeros(s) for name, s in tensors.items()})

    def residual(inputs, outputs, resizing=False):
        own = {f"Conv_{k}__weight": (outputs, (inputs, outputs)[k], 3, 3) for k in range(2)}
        if inputs != outputs or resizing:
            shortcut = {"Conv_2__weight": (outputs, inputs, 1, 1)}
            own |= shortcut if ncsnpp else {"NIN_0__W": (inputs, outputs)}
        layer(**own)

    def attention(width):
        layer(**{f"NIN_{k}__W": (width, width) for k in range(4)})

    def resize(width):
        if ncsnpp:
            residual(width, width, resizing=True)
        else:
            layer(Conv_0__weight=(width, width, 3, 3))

    if fourier:
        layer(W=(channels,))
    layer(weight=(4 * channels, channels))
    layer(weight=(4 * channels, 4 * channels))
    layer(weight=(channels, 3, 3, 3))
    widths, skips, width = [channels * m for m in levels], [channels], channels
    for level, outputs in enumerate(widths):
        for _ in range(blocks):
            residual(width, outputs)
            width = outputs
            if level in attends:
                attention(width)
            skips.append(width)
        if level < len(widths) - 1:
            resize(width)
            if pyramid:
                layer(Conv2d_0__weight=(width, 3, 3, 3))
            skips.append(width)
    residual(width, width)
    attention(width)
    residual(width, width)
    for level, outputs in reversed(list(enumerate(widths))):
        for _ in range(blocks + 1):
            residual(width + skips.pop(), outputs)
            width = outputs
        if level in attends:
            attention(width)
        if level > 0:
            resize(width)
    layer(weight=(width,))
    layer(weight=(3, width, 3, 3))
    for number, tensors in enumerate(layers):
        state |= {f"all_modules.{number}.{name}": tensor for name, tensor in tensors.items()}
    return state


@pytest.mark.parametrize("ncsnpp", [False, True])
@pytest.mark.parametrize(
    ("levels", "blocks", "attends"),
    [((1,), 2, ()), ((1,), 1, (0,)), ((1, 2, 2, 2), 4, (1,)), ((1, 1, 2, 2, 4, 4), 2, (4,)),
     ((2, 1, 3), 1, (0, 2)), ((1, 3, 1), 3, (0, 1, 2))],
)  # fmt: skip
def test_any_layout_is_told_by_its_names_and_shapes(levels, blocks, attends, ncsnpp):
    pyramid = ncsnpp and len(levels) > 1
    found = architecture_of(made(levels, blocks, attends, ncsnpp, ncsnpp, pyramid))
    assert (found.multipliers, found.blocks, found.attends) == (levels, blocks, attends)
    assert (found.ncsnpp, found.fourier, found.pyramid) == (ncsnpp, ncsnpp, pyramid)
    assert found.channels == 4
    assert len(set(found.places)) == len(found.places)


def test_networks_without_a_switch_are_refused():
    state = made((1, 2), 1, (), ncsnpp=True)
    last = max(int(name.split(".")[1]) for name in state)
    more = {f"all_modules.{last + 1}.weight": torch.zeros(4)}  # as output_skip has
    with pytest.raises(MisfitError, match=r"layers, where .* make such a network"):
        architecture_of(state | more)
    with pytest.raises(MisfitError, match="resamp_with_conv"):
        architecture_of({k: v for k, v in state.items() if ".4." not in k})
