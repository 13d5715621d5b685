"""No damage makes a reader fail otherwise than by one line that says what is wrong.

Files of every codebase, each with one thing changed, go the way of an import as far as its
network's weights. What comes out is that network, or a RequestError; any other error fails here.
"""

import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.model import build_network
from scoreflow.imported_run import config_of, load
from scoreflow.interop import formats
from scoreflow.interop.edm import reader as edm
from scoreflow.interop.edm.records import Record, load_network
from scoreflow.interop.imported import Imported

FIXTURES = Path(__file__).parents[2] / "fixtures"
OPENAI = {"size": 8, "norm_groups": 4, "schedule": "cosine", "steps": 1000}
SCORE_SDE = {"size": 8}
FILES = {
    "improved_diffusion/cifar10_like": OPENAI | {"heads": 4},
    "guided_diffusion/adm_legacy_order": OPENAI | {"head_channels": 4},
    "score_sde/vp_ddpm": SCORE_SDE | {"sde": "vp", "continuous": False, "norm_groups": 4},
    "score_sde/ve_ncsnpp_continuous": SCORE_SDE,
}
"""Fixtures of one file, and the options of each."""
FOLDERS = ("class_v", "ddpm_old_names")
"""Fixtures of diffusers: of today, and of its first versions."""
EDM = ("edm_adm_cond", "ve_ncsnpp")
OTHER_KINDS = (None, True, -1, 0, 3, 0.5, "two\nlines", "", [], [None], [[1]], {}, 10**30)
"""Values of JSON that a key may have by mistake."""
AT_RANDOM = 3
"""Tensors that are damaged, beside the first and the last of a file."""

NETWORKS: dict[str, nn.Module] = {}
"""Networks by the settings that they were made of."""

Tensors = dict[str, Tensor]


def network_of(found: Imported) -> nn.Module:
    """Its names and shapes, without making numbers."""
    config = config_of(found, {"model.data_scale": 1.0})
    with torch.device("meta"):
        images = torch.zeros(1, *found.settings["model.shape"])
        return build_network(config, Data("none", images, images, 256, None, None))


def outcome(read: Callable[[], Imported], where: Path) -> bool:
    """Whether it was imported; else it was refused in one printable line."""
    try:
        found = read()
        told = repr(sorted(found.settings.items()))
        if told not in NETWORKS:
            NETWORKS[told] = network_of(found)
        load(
            NETWORKS[told], {name: each.to("meta") for name, each in found.weights.items()}, where
        )
    except RequestError as refusal:
        told = str(refusal)
    else:
        return True
    assert told.isprintable()
    return False


def damages(name: str, tensors: Tensors) -> dict[str, Tensors]:
    """A state dict with one tensor in another state, by what was done."""
    own, rest = tensors[name], {key: each for key, each in tensors.items() if key != name}
    top, _, last = name.rpartition(".")
    return {
        "dropped": rest,
        "renamed": rest | {f"{top}.x.{last}": own},
        "renamed to a word": rest | {"word": own},
        "number without end": rest | {name.replace("0", "9" * 5000, 1): own},
        "other digits": rest | {name.replace("1", "\u00b2", 1): own},
        "at the top": rest | {last: own},
        "twice": tensors | {name.replace(".1.", ".7.", 1): own.clone()},
        "flat": tensors | {name: own.flatten()},
        "of no dimension": tensors | {name: own.flatten()[0]},
        "of one dimension more": tensors | {name: own[..., None]},
        "longer": tensors | {name: torch.cat((own, own)) if own.ndim else own.expand(2).clone()},
        "of two more": tensors | {name: own[..., None, None].expand(*own.shape, 3, 3).clone()},
        "empty": tensors | {name: own.flatten()[:0]},
        "without a row": tensors | {name: own.new_zeros(0, *own.shape[1:])},
        "whole numbers": tensors | {name: own.to(torch.int64)},
        "complex numbers": tensors | {name: own.to(torch.complex64)},
        "truths": tensors | {name: own > 0},
        "sparse": tensors | {name: own.to_sparse()},
    }


def tried(tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """What was done and what came of it: each damage once or twice, at the ends and some more."""
    names = list(tensors)
    few = names[:3] + random.Random(0).sample(names, AT_RANDOM) + names[-2:]
    for k, name in enumerate(few):
        yield from list(damages(name, tensors).items())[k % 6 :: 6]


# ---- files of torch.save ------------------------------------------------------------------------


@functools.cache
def held_in(name: str) -> tuple[Path, dict]:
    path = max((FIXTURES / name).glob("*.pt*"), key=lambda each: each.name.startswith("ema"))
    return path, torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_tensor_of_a_file(tmp_path, name):
    original, held = held_in(name)
    format, path = name.split("/")[0], tmp_path / original.name
    listed = "model" in held
    tensors = held["model"] if listed else held
    assert outcome(lambda: formats.read(original, format, "", FILES[name]), original)
    for done, damaged in tried(tensors):
        torch.save({**held, "model": damaged} if listed else damaged, path)
        imported = outcome(lambda: formats.read(path, format, "", FILES[name]), path)
        assert not (imported and done in ("dropped", "renamed", "sparse"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("as_", [True, False])
def test_a_file_of_other_things(tmp_path, name, as_):
    original, held = held_in(name)
    format = name.split("/")[0] if as_ else ""
    path, first = tmp_path / original.name, next(iter(held))
    odd = [None, 3, "x", [], {}, {"a": 1}, torch.zeros(2), [torch.zeros(2)], {3: torch.zeros(2)}]
    changed = [{}, {1: 2}, {"model": {}}, {first: held[first]}]
    changed += [{**held, key: value} for key in held if len(held) < 9 for value in odd]
    changed += [
        {"model": {"all_modules.0.weight": torch.zeros(2), "sigmas": value}}
        for value in (torch.zeros(3), torch.ones(3, dtype=torch.int8), torch.ones(2, 2))
    ]
    if "ema" in held:
        ema, lists = held["ema"], held["ema"]["shadow_params"]
        for value in [*odd[::3], lists[1:], [*lists[1:], 3], dict(enumerate(lists))]:
            changed.append({**held, "ema": {**ema, "shadow_params": value}})
        network = held["model"]
        for sigmas in (None, torch.tensor(1.0), torch.zeros(9), -torch.ones(9),
                       torch.full((9,), torch.nan), torch.ones(9, dtype=torch.bool)):  # fmt: skip
            changed.append({**held, "model": {**network, "module.sigmas": sigmas}})
            changed.append({**held, "model": {**network, "sigmas": sigmas}})
    for each in changed[as_::2]:  # every other one
        torch.save(each, path)
        outcome(lambda: formats.read(path, format, "", FILES[name]), path)


# ---- diffusers' folders -------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A copy of a fixture's folder: all of it, its network, and its scheduler's file."""

    def copy(name: str) -> tuple[Path, Path, Path]:
        whole = tmp_path / name
        shutil.copytree(FIXTURES / "diffusers" / name, whole)
        network = whole / "unet" if (whole / "unet").is_dir() else whole
        return whole, network, next(whole.rglob("scheduler_config.json"))

    return copy


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_tensor_of_a_folder(folder, name):
    whole, network, _ = folder(name)
    for file in network.glob("*.safetensors"):
        from safetensors.torch import load_file

        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    file = network / "diffusion_pytorch_model.bin"
    tensors = torch.load(file, weights_only=True)
    assert outcome(lambda: formats.read(whole), whole)
    for _, damaged in tried(tensors):
        torch.save(damaged, file)
        same = damaged.keys() == tensors.keys()
        assert not outcome(lambda: formats.read(whole), whole) or same


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("which", ["network", "scheduler"])
def test_json_of_other_kinds(folder, name, which):
    whole, network, scheduler = folder(name)
    file = scheduler if which == "scheduler" else network / "config.json"
    held = json.loads(file.read_text())
    keys = [*held, "", "trained_betas", "num_class_embeds", "clip_sample", "optimization_step"]
    for key in dict.fromkeys(keys):
        for value in OTHER_KINDS:
            file.write_text(json.dumps({**held, key: value}))
            outcome(lambda: formats.read(whole), whole)
        file.write_text(json.dumps({own: value for own, value in held.items() if own != key}))
        outcome(lambda: formats.read(whole), whole)
    texts = (
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '"x"',
        "[" * 10**5,
        "\u00ff",
        '{"a": 1' + "0" * 5000,
    )
    for text in texts:
        file.write_text(text, encoding="latin-1")
        outcome(lambda: formats.read(whole), whole)
        outcome(lambda: formats.read(whole, "diffusers"), whole)


def test_our_own_settings_of_other_kinds(folder):
    from scoreflow.interop.diffusers.folder import OUR_KEYS, OURS

    whole, _, _ = folder("class_v")
    draw = random.Random(0)
    for key in OUR_KEYS:
        for value in draw.sample(OTHER_KINDS, 4):
            (whole / OURS).write_text(json.dumps({key: value}))
            outcome(lambda: formats.read(whole), whole)


# ---- EDM's pickles ------------------------------------------------------------------------------


def records(record: Record) -> list[Record]:
    """A record and all inside it."""
    inside = [records(each) for each in record.state["_modules"].values()]
    return [record, *(each for group in inside for each in group)]


@pytest.mark.parametrize("name", EDM)
def test_a_changed_record(monkeypatch, name):
    path = next((FIXTURES / "edm" / name).glob("*.pkl"))
    held = load_network(path)
    monkeypatch.setattr(edm, "load_network", lambda _: held)
    assert outcome(lambda: edm.read(path, {}), path)
    every = records(held["ema"])
    draw = random.Random(0)
    few = every[:3] + draw.sample(every, 2)
    label = [each for each in every if each.state["_parameters"].get("weight") is not None][:3]
    constructed = every[1].state["_init_kwargs"]
    states = [constructed, *(each.state for each in few)]
    states += [each.state[kind] for each in few + label for kind in ("_parameters", "_buffers")]
    for state in states:
        for key, own in list(state.items()):
            others = draw.sample(OTHER_KINDS, 1)
            if isinstance(own, Tensor):
                others += [own.flatten(), own.flatten()[0], own[..., None], own.to(torch.int8)]
                others += [own.to_sparse(), own.to(torch.complex64), own[:0]]
            for value in others:
                state[key] = value
                outcome(lambda: edm.read(path, {}), path)
            del state[key]
            outcome(lambda: edm.read(path, {}), path)
            state[key] = own
