"""The declarations of config keys: one place for defaults, ranges, choices, modes and the docs."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from scoreflow import samplers
from scoreflow.cli import command_line
from scoreflow.configs import default
from scoreflow.data import levels
from scoreflow.errors import RequestError
from scoreflow.factory import assembly, sampling
from scoreflow.factory.assembly import build_sde
from scoreflow.factory.sampling import COMPARED, HIGH_ORDER
from scoreflow.likelihood import dequantization
from scoreflow.losses import objective
from scoreflow.models import score_model
from scoreflow.samplers.sampler import FINALS
from scoreflow.schema import config, docs, request, resolve, task_keys
from scoreflow.schema.config import EVALUATION, KEYS, LATER, Config, without_effect
from scoreflow.schema.ranges import Range
from scoreflow.schema.samplers import SAMPLERS, stepping, users_of
from scoreflow.schema.section import Section

ROOT = Path(__file__).parents[3]
FLAT = request.flatten(default.get_config().to_dict())


def test_a_config_goes_to_a_config_dict_and_back():
    config = default.get_config()
    assert Config.of(config) == Config()
    assert Config.of(Config()) == Config()
    config.sde.name, config.model.multipliers = "ve", (1, 3)
    typed = Config.of(config)
    assert (typed.sde.name, typed.model.multipliers) == ("ve", (1, 3))
    assert typed.to_config_dict() == config
    assert typed.to_dict() == config.to_dict()


def test_every_key_is_declared_once_with_all_that_the_docs_need():
    assert KEYS.keys() == FLAT.keys()
    for name, key in KEYS.items():
        assert key.name == name == f"{key.section}.{key.option}".lstrip(".")
        assert key.meaning
        assert len(key.meaning.splitlines()) == 1
        assert set(key.modes) | set(key.instead) <= set(command_line.MODES)
        key.check(key.default)
        assert key.convert(FLAT[name]) == key.default
        if key.choices and key.default != "":
            values = key.default if isinstance(key.default, tuple) else (key.default,)
            assert set(values) <= set(key.choices)
    assert set(LATER) <= {name for name in KEYS if name.split(".")[0] not in EVALUATION}


def test_sections_are_frozen_and_refuse_what_is_out_of_range():
    sampling = Config().sampling
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampling.steps = 3
    with pytest.raises(RequestError, match=r"sampling\.steps must lie in \[0, .*\), got -1"):
        dataclasses.replace(sampling, steps=-1)
    config = default.get_config()
    config.sampling.eta = 2.0
    with pytest.raises(RequestError, match=r"sampling\.eta must lie in \[0, 1\], got 2"):
        build_sde(config)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("training.num_steps", None, "a whole number"),
        ("training.num_steps", True, "a whole number"),
        ("training.num_steps", 1.0, "a whole number"),
        ("model.conditional", 1, "true or false"),
        ("model.conditional", None, "true or false"),
        ("training.compile", 2, "true, false or auto"),
        ("training.compile", None, "true, false or auto"),
        ("training.compile", 1.0, "true, false or auto"),
        ("training.compile", "perhaps", "true, false or auto"),
        ("training.learning_rate", True, "a number"),
        ("training.learning_rate", "1", "a number"),
        ("data.path", None, "a text"),
        ("data.path", 3.0, "a text"),
        ("data.path", True, "a text"),
        ("model.multipliers", 2, r"whole numbers, as \(1,2,2\)"),
        ("model.multipliers", [1, True], r"whole numbers, as \(1,2,2\)"),
        ("compare.guidance", ["1"], r"numbers, as \(0,1.5,3\)"),
        ("compare.samplers", "ddim", r"names, as \('ddim','ode'\)"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, kind):
    with pytest.raises(RequestError, match=rf"^it: {key} must be {kind}, got "):
        resolve.resolve({**FLAT, key: value}, "it")


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ((True, 1, "1", "true", "TRUE", "True", "t"), True),
        ((False, 0, "0", "false", "FALSE", "False", "F"), False),
        (("auto", "Auto"), "auto"),
    ],
)
def test_a_switch_that_may_be_left_to_the_device_is_read_as_other_switches_are(values, meant):
    for value in values:
        found = resolve.resolve({**FLAT, "training.compile": value}, "it").training.compile
        assert found == meant
        assert type(found) is type(meant)


def test_whole_numbers_stand_for_real_ones_and_lists_for_tuples():
    flat = {**FLAT, "compare.guidance": [0, 2], "training.learning_rate": 1}
    config = resolve.resolve(flat, "it")
    assert repr(config.compare.guidance) == "(0.0, 2.0)"
    assert repr(config.training.learning_rate) == "1.0"


def test_keys_without_effect_on_a_mode():
    assert without_effect("training.num_steps", "sample") is None  # refused as one of the weights
    assert without_effect("sampling.steps", "sample") is None
    assert without_effect("sampling.steps", "compare") == "leave it out"
    assert without_effect("sampling.sampler", "compare") == "name samplers by --samplers ddim,dpm"
    assert without_effect("sampling.grid", "compare") is None
    assert without_effect("sampling.batch_size", "equivalence") is None
    assert without_effect("control.mask", "compare") == "leave it out"
    for mode in set(command_line.MODES) - {"train", "import", "export", "table", "decompress"}:
        assert any(mode in key.modes for key in KEYS.values()), mode
    assert all(without_effect(name, "train") is None for name in KEYS)


# ---- names that other rooms have as well


def test_choices_are_the_names_that_the_rooms_know():
    known = {
        "sde.name": assembly.SDES,
        "sde.schedule": assembly.SCHEDULES,
        "model.prediction": score_model.OUTPUTS,
        "training.objective": objective.NAMES,
        "training.times": objective.TIMES,
        "training.dequantization": levels.EMBEDDINGS,
        "sampling.final": FINALS,
        "sampling.grid": ("auto", *samplers.GRIDS, sampling.LEAST_COST),
        "sampling.corrector": sampling.CORRECTORS,
        "sampling.task": ("none", *task_keys.TASKS),
        "control.method": task_keys.METHODS,
        "likelihood.dequantization": dequantization.DEQUANTIZATIONS,
    }
    for name, options in known.items():
        assert KEYS[name].choices == tuple(options), name
    for name in ("training.precision", "equivalence.precision"):
        assert set(KEYS[name].choices) <= {"auto", *score_model.PRECISIONS}


def test_the_table_of_samplers():
    assert tuple(SAMPLERS) == sampling.SAMPLERS
    assert HIGH_ORDER == ("heun", "dpm", "dpm_sde", "deis", "unipc")
    assert set(COMPARED) <= set(SAMPLERS)
    for name, entry in SAMPLERS.items():
        method = getattr(samplers, entry.method)
        fields = {field.name for field in dataclasses.fields(method)}
        if name != "pc":  # its corrector has two of them
            assert set(entry.keys) | set(entry.fixed) <= fields, name
        assert {f"sampling.{key}" for key in entry.keys} <= KEYS.keys()
    assert users_of("order") == ("dpm", "deis", "unipc")
    assert stepping("pc", "dpm") == "dpm"
    assert stepping("ddim", "dpm") == "ddim"


def test_every_class_of_samplers_has_a_row():
    public = {name: getattr(samplers, name) for name in samplers.__all__}
    methods = {
        name
        for name, each in public.items()
        if dataclasses.is_dataclass(each) and hasattr(each, "step")
    }
    of_editing = {"DPS", "Replaced"}  # around a sampler
    assert methods - of_editing == {entry.method for entry in SAMPLERS.values()}


# ---- docs/config.md


def test_the_committed_page_is_the_generated_one():
    assert (ROOT / "docs" / "config.md").read_text() == docs.page()


def test_the_page_names_every_key_and_every_sampler():
    page = docs.page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name in (*(key.option for key in KEYS.values()), *SAMPLERS, *task_keys.TASKS):
        assert any(row.startswith(f"| `{name}` |") for row in rows), name
    for section in Config.SECTIONS:
        assert issubclass(section, Section)
        assert f"## `{section.NAME}`" in page
    assert len({line.count(" | ") for line in rows if line.endswith("0.1 |")}) == 1


def test_numbers_of_the_page():
    assert docs._range(Range(1, 2**31)) == "[1, 2^31)"
    assert docs._range(Range(0, ends="()")) == "(0, inf)"
    assert docs._range(Range(0, 0.41421)) == "[0, 0.41421)"
    assert docs._range(Range(2, 1_000_000, "[]")) == "[2, 1000000]"


def test_the_page_is_printed_without_torch():
    code = "import sys, runpy; runpy.run_module('scoreflow.schema.docs', run_name='__main__');"
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == docs.page()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (2, 2),
        ("2", 2),
        ("cat", "cat"),
        ("007", "007"),  # a name
        ([0, 1, 2], "0,1,2"),
        (("cat", 3), "cat,3"),
        (" all ", "all"),
    ],
)
def test_classes_are_a_number_or_a_text(given, kept):
    """From a saved config, Python and a config file alike."""
    found = Config.of_flat({**FLAT, "sampling.label": given}, "here")
    assert found.sampling.label == kept
    assert Config.of(found.to_config_dict()).sampling.label == kept
    config = default.get_config()
    config.sampling.label = given
    assert Config.of(config).sampling.label == kept
    assert Config.of_flat(request.flatten(found.to_dict()), "saved") == found


@pytest.mark.parametrize("given", [True, 1.5, [], [0, None], "", None, {"a": 1}])
def test_what_says_no_class(given):
    with pytest.raises(RequestError, match=r"sampling.label must be a class, by its number"):
        KEYS["sampling.label"].convert(given)


@pytest.mark.parametrize(
    ("text", "kept"),
    [("3", 3), ("-1", -1), ("cat", "cat"), ("0,1,2", "0,1,2"), ("(0,1)", "0,1"), ("data", "data")],
)
def test_classes_on_the_command_line(text, kept):
    argv = ["run.py", "--mode=sample", f"--config.sampling.label={text}"]
    config = resolve.training_config(command_line.parse(argv))
    assert Config.of(config).sampling.label == kept


@pytest.mark.parametrize(
    ("got", "meant"), [("training.seed", "seed"), ("samplin.seed", "sampling.seed")]
)
def test_a_key_of_another_section_is_meant(got, meant):
    assert config.unknown("config key", got, sorted(config.KEYS)).endswith(
        f"did you mean {meant!r}?"
    )
