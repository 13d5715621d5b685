"""What a config leaves to the device: compiled where it is worth it, TF32 in training and samples.

CUDA is pretended here: by a device that nothing is put on, or by answers as it would give them.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ml_collections import ConfigDict

from scoreflow.cli.main import main
from scoreflow.cli.modes.sample import _asked_in
from scoreflow.configs import cifar10, toy
from scoreflow.errors import RequestError
from scoreflow.factory import assembly, model, training
from scoreflow.factory.training import (
    build_training,
    choose_precision,
    may_compile,
    not_compiled,
    planned,
)
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime import compiling
from scoreflow.schema import resolve
from scoreflow.schema.config import Config
from scoreflow.schema.request import Request, flatten
from scoreflow.sde.noise import kernels

CPU, CUDA, CIFAR10 = torch.device("cpu"), torch.device("cuda"), (3, 32, 32)
TOY = Path(toy.__file__)


@pytest.fixture(autouse=True)
def with_triton(monkeypatch):
    monkeypatch.setattr(kernels, "lacking", lambda: None)


def config_of(**keys):
    config = cifar10.get_config()
    for name, value in keys.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    return Config.of(ConfigDict(config.to_dict()))


@pytest.mark.parametrize(
    ("asked", "on_cpu", "on_cuda"),
    [("auto", False, True), (True, True, True), (False, False, False)],
)
def test_who_compiles(asked, on_cpu, on_cuda):
    config = config_of(training__compile=asked)
    assert build_training(config).compile is on_cpu
    assert build_training(config, CUDA).compile is on_cuda
    assert not may_compile(config, CPU)  # evaluations on a CPU are never
    assert may_compile(config, CUDA) is on_cuda


@pytest.mark.parametrize(
    ("asked", "on_cpu", "on_cuda"),
    [("auto", "float32", "tf32"), ("float32", "float32", "float32"), ("tf32", "float32", "tf32")],
)
def test_who_rounds(asked, on_cpu, on_cuda):
    config = config_of(training__precision=asked)
    assert build_training(config).precision == on_cpu
    assert build_training(config, CUDA).precision == on_cuda
    assert choose_precision(config) == ("tf32" if asked == "tf32" else "float32")


def of_plan(config, device=CUDA):
    return planned(config, build_training(config, device), device, CIFAR10)


def test_the_line_about_a_training_that_is_compiled():
    settings, lines = of_plan(config_of())
    assert settings.compile
    assert len(lines) == 1
    for part in ("on cuda the network is compiled", "minutes", "--config.training.compile=false"):
        assert part in lines[0]
    assert of_plan(config_of(), CPU)[1] == ()


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_who_asks_for_compiling_is_told_how_long_nothing_is_seen(device):
    settings, lines = of_plan(config_of(training__compile=True, training__num_steps=2), device)
    assert settings.compile
    assert len(lines) == 1
    for part in (f"compile = true: on {device} the network is", "minutes", "compile=false"):
        assert part in lines[0]
    settings, lines = of_plan(config_of(training__compile=False), device)
    assert (settings.compile, lines) == (False, ())


def test_a_short_training_is_not_compiled_unless_its_mode_is_asked_for():
    assert not of_plan(config_of(training__num_steps=500))[0].compile
    graphs = config_of(training__num_steps=500, training__compile_mode="reduce-overhead")
    assert of_plan(graphs)[0].compile


def test_without_a_compiler_it_goes_on_and_says_so(monkeypatch):
    monkeypatch.setattr(kernels, "lacking", lambda: "the package triton")
    settings, lines = of_plan(config_of())
    assert not settings.compile
    assert lines == (
        "training.compile = auto: on cuda the network is not compiled, for want of the package "
        "triton: install it for faster steps",
    )
    assert not may_compile(config_of(), CUDA)


def test_a_gpu_that_is_too_old_is_trained_on_eagerly_and_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(kernels, "is_new_enough", lambda index: index == 1)
    settings, lines = of_plan(config_of())
    assert not settings.compile
    assert lines == (
        "training.compile = auto: on cuda the network is not compiled, for want of a GPU of "
        "compute capability 7.0 or later",
    )
    assert not may_compile(config_of(), CUDA)
    assert may_compile(config_of(), torch.device("cuda", 1))
    forced = build_training(config_of(training__compile=True), CUDA)
    network = torch.nn.Linear(1, 1)
    monkeypatch.setattr(network, "parameters", lambda: iter([SimpleNamespace(device=CUDA)]))
    with pytest.raises(RequestError, match=r"needs a GPU of .* 7\.0 or later: add --config"):
        training.compiled(network, forced)


def test_a_network_of_ones_own_is_compiled_where_that_is_asked_for():
    own = {"model__name": "package.module:network"}
    settings, lines = of_plan(config_of(**own))
    assert (settings.compile, lines) == (False, ())
    assert of_plan(config_of(**own, training__compile=True))[0].compile


def test_who_asks_to_compile_evaluations_in_vain_is_told(monkeypatch):
    on, off = config_of(training__compile=True), config_of(training__compile=False)
    vain = "training.compile = true: evaluations on cpu are not compiled"
    assert not_compiled(on, CPU) == vain
    assert not_compiled(off, CPU) == not_compiled(config_of(), CPU) == not_compiled(on, CUDA) == ""
    monkeypatch.setattr(kernels, "lacking", lambda: "the package triton")
    assert not_compiled(on, CUDA).endswith(
        "on cuda are not compiled, for want of the package triton"
    )


# ---- runs that are there ------------------------------------------------------------------------


def request_of(mode, overrides, names_experiment=True):
    config = flatten(cifar10.get_config().to_dict()) | overrides
    return Request(mode, Path("run"), "", "cifar10", config, overrides, names_experiment)


OLD = flatten(cifar10.get_config().to_dict()) | {
    "training.compile": False,
    "training.precision": "float32",
}
WHERE = Path("run/config.json")


def test_an_older_run_stays_as_it_is_where_nothing_else_is_said():
    """Its experiment's file now leaves both to the device, which is no other wish."""
    config, changes = resolve.resumed_config(request_of("train", {}), OLD, WHERE)
    assert (config.training.compile, config.training.precision) == (False, "float32")
    assert changes == {}
    asked = {"training.compile": "auto", "training.precision": "tf32"}
    config, changes = resolve.resumed_config(request_of("train", asked), OLD, WHERE)
    assert (config.training.compile, config.training.precision) == ("auto", "tf32")
    assert set(changes) == set(asked)
    config = resolve.evaluation_config(request_of("sample", {}), OLD, WHERE)
    assert config.training.precision == "float32"
    assert (
        resolve.untrained_config(request_of("profile", {}), OLD, WHERE).training.compile is False
    )


def test_compiling_is_switched_in_all_modes_and_precision_is_not():
    new = OLD | {"training.compile": "auto", "training.precision": "auto"}
    for mode in ("sample", "likelihood", "compare"):
        off = request_of(mode, {"training.compile": "false"}, names_experiment=False)
        config = resolve.evaluation_config(off, new, WHERE)
        assert config.training.compile is False
        assert config.training.precision == "auto"
    other = request_of("sample", {"training.precision": "float32"}, names_experiment=False)
    with pytest.raises(RequestError, match=r"training\.precision belongs to the trained weights"):
        resolve.evaluation_config(other, new, WHERE)


# ---- modes, as on CUDA --------------------------------------------------------------------------

TINY = [
    "--device=cpu",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=4",
    "--config.training.preview_every=2",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.sampling.num_images=8",
    "--config.sampling.steps=3",
    "--config.sampling.tolerance=0.1",
    "--config.likelihood.num_images=6",
    "--config.likelihood.batch_size=4",
    "--config.likelihood.nodes=8",
    "--config.likelihood.checked=0",
]


@pytest.fixture
def as_on_cuda(monkeypatch):
    """A CPU that answers as CUDA would, and compiles whatever it may: the graphs that it makes."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    monkeypatch.setattr(compiling, "WORTH", 0.0)
    monkeypatch.setattr(compiling, "missing_for", lambda _device: "")
    for room in (training, assembly):
        monkeypatch.setattr(room, "may_compile", lambda c, _: c.training.compile is not False)
    for room in (compiling, model):
        monkeypatch.setattr(room, "precision_on", lambda p, _: "tf32" if p == "auto" else p)
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


@pytest.fixture
def roundings(monkeypatch):
    """Of each call of a network, whether products of matrices and convolutions may be in TF32."""
    seen, value = [], ScoreModel._value

    def recorded(self, x, label):
        cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        seen.append((cuda.allow_tf32, cudnn.allow_tf32))
        return value(self, x, label)

    monkeypatch.setattr(ScoreModel, "_value", recorded)
    return seen


def test_each_mode_has_a_graph_a_use_and_likelihoods_have_no_tf32(
    as_on_cuda, roundings, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)

    def done(mode, *more):
        """(graphs, whether its calls were in TF32) of a mode."""
        torch._dynamo.reset()
        as_on_cuda.clear()
        roundings.clear()
        flags = TINY if mode == "train" else TINY[:1]
        assert main(["run.py", f"--mode={mode}", "--workdir=run", *more, *flags]) == 0
        assert all(one == other for one, other in roundings)
        return len(as_on_cuda), {one for one, _ in roundings}

    assert done("train", f"--config={TOY}") == (3, {True, False})
    settled = json.loads(Path("run/env.json").read_text())["training"]
    assert settled == {"precision": "tf32", "compile": True}
    assert done("sample", "--sampler=ddim") == (1, {True})
    settings = json.loads(Path("run/results/samples-ddim.json").read_text())["settings"]
    assert (settings["precision"], settings["compiled"]) == ("tf32", True)
    assert done("sample", "--sampler=ddim", "--config.training.compile=false") == (0, {True})
    ledger = (
        "--config.likelihood.ledger=true",
        "--config.likelihood.terms=2",
        "--config.likelihood.batch_size=64",
        "--config.likelihood.seed=1",  # or there is nothing left to measure
    )
    assert done("likelihood", *ledger) == (2, {False})
    settings = json.loads(Path("run/results/likelihood.json").read_text())["settings"]
    assert (settings["precision"], settings["compiled"]) == ("float32", True)
    capsys.readouterr()
    assert done("compare", "--samplers=ddim", "--config.compare.nfe=(2,4)",
                "--config.compare.num_images=8") == (1, {True})  # fmt: skip
    assert capsys.readouterr().out.count("compiled") == 2  # once that it is, once how long it took
    compared = json.loads(Path("run/results/compare.json").read_text())
    assert said_of([compared["settings"]]) == {("tf32", True)}
    assert said_of(row["network"] for row in compared["rows"]) == {("tf32", True)}
    done("compare", "--samplers=ddim,ode", "--config.compare.nfe=(2,4)",
         "--config.compare.num_images=8")  # fmt: skip
    rows = json.loads(Path("run/results/compare.json").read_text())["rows"]
    solved = [row["network"] for row in rows if row["sampler"] == "ode"]
    assert said_of(solved) == {("float32", False)}  # what is compiled there is in TF32


@pytest.mark.parametrize(
    ("flown", "sampler", "products", "expected"),
    [
        (False, "ddim", 0, ("tf32", True)),
        (False, "ddim", 6, ("tf32", False)),
        (False, "ode", 0, ("float32", True)),
        (True, "ddim", 0, ("float32", False)),
    ],
)
def test_an_edit_says_how_its_network_was_evaluated(flown, sampler, products, expected):
    def asked_in(use, adaptive):
        return {"precision": "float32" if adaptive else "tf32", "compiled": use == "eval"}

    config = SimpleNamespace(sampling=SimpleNamespace(sampler=sampler))
    trained = SimpleNamespace(config=config, asked_in=asked_in)
    found = _asked_in(trained, flown, {"jacobian_products": products})
    assert said_of([found]) == {expected}


def said_of(found):
    """How networks were evaluated."""
    return {(each["precision"], each["compiled"]) for each in found}


# ---- a CPU --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "used"), [("tf32", "float32"), ("bfloat16", "bfloat16")])
def test_results_and_report_have_the_precision_that_was_used(
    asked, used, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flags = ("--config.model.width=8", f"--config.training.precision={asked}", *TINY)
    assert main(["run.py", "--mode=train", "--workdir=run", f"--config={TOY}", *flags]) == 0
    assert ("on this CPU it is float32" in capsys.readouterr().out) == (asked == "tf32")
    assert json.loads(Path("run/env.json").read_text())["training"]["precision"] == used
    page = Path("run/report.html").read_text()
    for name, expected in {"ancestral": used, "ode": "float32"}.items():
        result = json.loads(Path(f"run/results/samples-{name}.json").read_text())
        assert result["settings"]["precision"] == expected
        assert f"network evaluated in {expected}" in page
