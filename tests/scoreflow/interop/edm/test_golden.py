"""EDM's snapshots answer as the original code did, and each known misreading has its own error.

The golden numbers are of NVlabs' own code. `about.json` beside them says what each is, and how
large the error of each misreading is: the same one, made here, must have that size.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.model import build_model, build_network
from scoreflow.interop.edm import weights as edm_weights
from scoreflow.interop.edm.reader import read
from scoreflow.models import time_embedding
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import Config
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import resolve

FIXTURES = Path(__file__).parents[3] / "fixtures" / "edm"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
ADM, DDPMPP, VE, VP = "edm_adm_cond", "edm_ddpmpp_cond", "ve_ncsnpp", "vp_ddpmpp"
CONDITIONAL = (ADM, DDPMPP)


@functools.cache
def golden(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / name / "golden.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def built(name: str, precision: str = "float32", **changed: object) -> ScoreModel:
    """The network of a fixture as the config of its import makes it, with some keys changed."""
    found = read(next((FIXTURES / name).glob("*.pkl")), {})
    changes = {key.replace("__", "."): value for key, value in changed.items()}
    settings = {**found.settings, **changes}
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    config = resolve({**flatten(Config().to_dict()), **plain}, "the import")
    images = torch.zeros(1, *found.settings["model.shape"])
    network = build_network(config, Data("images", images, images, 256, None, None))
    network.load_state_dict(found.weights)
    if precision == "float64":
        network.double()
    model = build_model(config, network.eval(), build_sde(Config.of(config)))
    return model.in_precision(precision)


def classes(name: str) -> Tensor | None:
    """The one-hot rows as numbers, -1 for a row of zeros."""
    rows = golden(name).get("class_labels")
    return None if rows is None else torch.where(rows.sum(1) > 0, rows.argmax(1), -1)


def sign(name: str) -> float:
    """Of what the original estimates, in our prediction."""
    return 1.0 if name == VP else -1.0


@torch.no_grad()
def raw(name: str, model: ScoreModel, label: Tensor, numbers: Tensor | None) -> Tensor:
    """The original's raw output, out of our network."""
    given = {} if numbers is None else {"label": numbers}
    x = golden(name)["network_input"].to(label.dtype)
    return sign(name) * model.network(x, label, **given)


def error(found: Tensor, name: str, truth: str = "raw") -> float:
    """The largest difference over the largest value."""
    there = golden(name)[truth].double()
    return float((found.double() - there).abs().max() / there.abs().max())


def of_rows(found: Tensor, truth: Tensor) -> float:
    """The same for each row by itself, the largest."""
    difference = (found.double() - truth.double()).flatten(1).abs().amax(1)
    return float((difference / truth.double().flatten(1).abs().amax(1)).max())


def times(model: ScoreModel, name: str) -> Tensor:
    """Our times of the golden noise scales."""
    return model.sde.time(golden(name)["sigma"].atan())


@torch.no_grad()
def asked(name: str, model: ScoreModel, numbers: Tensor | None) -> tuple[Tensor, Tensor]:
    """Our x_0 and eps at the golden x_t, which is the original's x_0 + sigma eps."""
    t = times(model, name)
    alpha = model.sde.alpha(t)[:, None, None, None]
    found = model.labelled(numbers)(alpha * golden(name)["x_t"].double(), t)
    return found.x_0, found.eps


# ---- the same answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_output_is_the_original_s(name):
    found = raw(name, built(name), golden(name)["label"], classes(name))
    assert error(found, name) < 2e-5


def powers(index: Tensor, dim: int, order: str, shift: int) -> Tensor:
    """The original's sinusoids in float64: of the label as it is, at frequencies of float32.

    Ours are float32 throughout, where the last place of a label of 999 is 6e-5.
    """
    half = dim // 2
    frequencies = (1 / 10000) ** (torch.arange(half, dtype=torch.float32) / (half - shift))
    angles = index[:, None] * frequencies.to(index.dtype)
    waves = (angles.sin(), angles.cos())
    return torch.cat(waves if order == "sin_cos" else waves[::-1], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_output_in_float64_is_the_original_s(name):
    model = built(name, "float64")
    found = raw(name, model, golden(name)["label64"], classes(name))
    assert found.dtype == torch.float64
    assert error(found, name, "raw64") < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_estimates_are_the_original_s(name):
    x_0, eps = asked(name, built(name), classes(name))
    # The original's own eps in float32 is 2.9e-5 from its float64 in VE's second row.
    bar = 3e-5 if name == VE else 1e-5
    assert of_rows(x_0, golden(name)["x0"]) < 1e-5
    assert of_rows(eps, golden(name)["eps"]) < bar


@pytest.mark.parametrize("name", NAMES)
def test_the_estimates_in_float64_are_the_original_s(name, monkeypatch):
    model = built(name, "float64")
    x_0, eps = asked(name, model, classes(name))
    assert max(of_rows(x_0, golden(name)["x0"]), of_rows(eps, golden(name)["eps"])) < 1e-5
    # With sinusoids as the original makes them, nothing else differs; but SongUNet's class vector
    # and the bias that is added to it are one row of ours, rounded to float32.
    monkeypatch.setattr(time_embedding, "sinusoidal_embedding", powers)
    x_0, eps = asked(name, model, classes(name))
    bar = 1e-7 if name == DDPMPP else 1e-10
    assert max(of_rows(x_0, golden(name)["x0"]), of_rows(eps, golden(name)["eps"])) < bar


@pytest.mark.parametrize("name", NAMES)
def test_the_denoised_images_are_the_wrapper_s(name):
    x_0, _ = asked(name, built(name), classes(name))
    # VP's wrapper computes its label in float32, which at sigma = 140 is 1e-4 of the output.
    rows = slice(0, 3) if name == VP else slice(None)
    assert of_rows(x_0[rows], golden(name)["D"][rows]) < 2e-5


@pytest.mark.parametrize("name", CONDITIONAL)
def test_without_labels_no_class_is_asked(name):
    model = built(name)
    for numbers in (None, torch.full((4,), -1)):
        x_0, _ = asked(name, model, numbers)
        assert of_rows(x_0, golden(name)["D_without_labels"]) < 2e-5
    with_classes, _ = asked(name, model, classes(name))
    assert of_rows(with_classes, golden(name)["D_without_labels"]) > 1e-3  # they matter


# ---- the wrong answers --------------------------------------------------------------------------


def told(name: str, misreading: str) -> float:
    """The error of a misreading, as measured with the original code."""
    about = json.loads((FIXTURES / name / "about.json").read_text())
    return about["errors_of_wrong_readings"][misreading]


def labelled(model: ScoreModel, name: str) -> Tensor:
    """The labels that our config gives, at the golden times."""
    x = golden(name)["network_input"]
    return model.asking.labels(model.sde, x, times(model, name))


def wrong_settings(name: str, **changed: object) -> Tensor:
    model = built(name, **changed)
    return raw(name, model, labelled(model, name), classes(name))


def wrong_classes(name: str) -> Tensor:
    numbers = classes(name)
    known = golden(name)["class_labels"].shape[1]
    numbers = torch.where(numbers < 0, numbers, (numbers + 1) % known)
    return raw(name, built(name), golden(name)["label"], numbers)


SETTINGS = [
    (ADM, "GroupNorm eps 1e-6", {"model__norm_eps": 1e-6}),
    (ADM, "sines and cosines exchanged", {"model__embedding_order": "sin_cos"}),
    (ADM, "one head", {"model__heads": 1}),
    (ADM, "label ln(sigma)", {"model__label_scale": 1.0}),
    (DDPMPP, "GroupNorm eps 1e-5", {"model__norm_eps": 1e-5}),
    (DDPMPP, "skip_scale 1", {"model__rescaled_skips": False}),
    (DDPMPP, "label ln(sigma)", {"model__label_scale": 1.0}),
    (VE, "GroupNorm eps 1e-5", {"model__norm_eps": 1e-5}),
    (VE, "skip_scale 1", {"model__rescaled_skips": False}),
    (VE, "sines and cosines exchanged", {"model__embedding_order": "cos_sin"}),
    (VE, "label ln(sigma)", {"model__label_offset": 0.0}),
    (VP, "GroupNorm eps 1e-5", {"model__norm_eps": 1e-5}),
    (VP, "skip_scale 1", {"model__rescaled_skips": False}),
    (VP, "sines and cosines exchanged", {"model__embedding_order": "cos_sin"}),
    (VP, "label 1000 t instead of 999 t", {"model__label_scale": 1.0}),
]


@pytest.mark.parametrize(("name", "misreading", "changed"), SETTINGS)
def test_a_wrong_setting_has_the_error_that_it_had_in_the_original(name, misreading, changed):
    found = error(wrong_settings(name, **changed), name)
    assert found == pytest.approx(told(name, misreading), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_unchanged_settings_give_the_golden_labels(name):
    found = labelled(built(name), name)
    torch.testing.assert_close(found, golden(name)["label64"].float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_qkv_in_another_order_are_told_by_their_error(name, monkeypatch):
    monkeypatch.setattr(edm_weights, "qkv_major", lambda rows, heads: rows)
    found = error(raw(name, built(name), golden(name)["label"], classes(name)), name)
    assert found == pytest.approx(told(name, "qkv rows read as (3, head, channel)"), rel=0.02)


@torch.no_grad()
def test_exchanged_halves_of_sinusoids_and_classes_are_told_by_their_error():
    # There the original's exchange of the two halves was left out behind the sum of both.
    model = built(DDPMPP)
    columns = model.network.embedding.inner.weight
    columns.copy_(columns.roll(columns.shape[1] // 2, 1))
    found = error(raw(DDPMPP, model, golden(DDPMPP)["label"], classes(DDPMPP)), DDPMPP)
    assert found == pytest.approx(told(DDPMPP, "sines and cosines exchanged"), rel=0.02)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_classes_counted_from_1_are_told_by_their_error(name):
    found = error(wrong_classes(name), name)
    assert found == pytest.approx(told(name, "classes counted from 1"), rel=0.02)


def test_class_vectors_without_their_scale_are_told_by_their_error(monkeypatch):
    monkeypatch.setattr(edm_weights, "class_scale", lambda plan, count: 1.0)
    found = error(raw(DDPMPP, built(DDPMPP), golden(DDPMPP)["label"], classes(DDPMPP)), DDPMPP)
    wanted = told(DDPMPP, "class label not multiplied by sqrt(label_dim)")
    assert found == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_matters(name):
    """Moving the entries of any tensor by one place shows; of keys' biases it cannot."""
    model, numbers, label = built(name), classes(name), golden(name)["label"]
    for own, tensor in model.network.state_dict().items():
        if own.endswith("qkv.bias") or tensor.numel() == 1:
            continue  # a third of the former, the keys', is invisible to a softmax
        kept = tensor.clone()
        tensor.copy_(kept.flatten().roll(1).view_as(kept))
        assert error(raw(name, model, label, numbers), name) > 7e-5, own
        tensor.copy_(kept)
    assert error(raw(name, model, label, numbers), name) < 2e-5


# ---- the process --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_process_is_the_wrapper_s(name):
    g, model = golden(name), built(name)
    t = times(model, name)
    torch.testing.assert_close(model.sde.sigma(t) / model.sde.alpha(t), g["sigma"])
    x = model.asking.input(
        model.sde, model.sde.alpha(t)[:, None, None, None] * g["x_t"].double(), t
    )
    torch.testing.assert_close(x.float(), g["network_input"], rtol=1e-6, atol=1e-7)
