"""The command line: what it accepts, and that what it refuses costs one line and nothing else."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoreflow.cli import command_line
from scoreflow.cli.main import main
from scoreflow.configs import default
from scoreflow.errors import RequestError, RunError
from scoreflow.factory.sampling import SAMPLERS
from scoreflow.runtime.device import build_device
from scoreflow.schema import request, resolve
from scoreflow.schema.config import KEYS
from scoreflow.storage.checkpoints import states

ROOT = Path(__file__).parents[3]
TOY = str(ROOT / "configs" / "toy.py")
TINY = [
    "--device=cpu",
    "--config.training.num_steps=4",
    "--config.training.batch_size=8",
    "--config.training.log_every=2",
    "--config.training.checkpoint_every=2",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.sampling.num_images=8",
    "--config.sampling.steps=3",
    "--config.sampling.tolerance=0.1",
    "--config.likelihood.num_images=6",
    "--config.likelihood.batch_size=4",
    "--config.likelihood.nodes=8",
]


def but(flags, more):
    """Flags, but for those that others give as well."""
    given = {flag.partition("=")[0] for flag in more}
    return [flag for flag in flags if flag.partition("=")[0] not in given] + list(more)


def train_toy(workdir, *more):
    own = but(TINY, more)
    return main(["run.py", "--mode=train", "--config", TOY, f"--workdir={workdir}", *own])


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("main") / "toy"
    assert train_toy(workdir) == 0
    return workdir


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tree(folder):
    """Every file and folder below, with the bytes of the files."""
    return {p: p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")}


def refused(capfd, argv, *expected):
    """The command is refused by one line that says all of expected, and leaves no trace."""
    before = tree(".")
    capfd.readouterr()
    assert main(["run.py", *map(str, argv)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("run.py: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for text in expected:
        assert text in err
    assert tree(".") == before


# ---- one line and status 2


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ["--mode is missing", "train, sample, likelihood"]),
        (["--mode="], ["unknown --mode ''"]),
        (["--mode=trian"], ["'trian'", "did you mean 'train'"]),
        (["--mode"], ["mode", "issing value"]),
        (["train"], ["unexpected argument 'train'"]),
        (["--mode=train", "extra"], ["unexpected argument 'extra'"]),
        (["--mode=train", "--smapler=ode"], ["smapler", "Did you mean", "sampler"]),
        (["--mode=train", "--sampler=odd"], ["'odd'", "ancestral, pc, ode", "did you mean 'ode'"]),
        (["--mode=train", "--sampler="], ["ancestral, pc, ode"]),
        (["--mode=train", "--sampler=ODE"], ["'ODE'", "did you mean 'ode'"]),
        (["--mode=train", "--sde=vq"], ["'vq'", "did you mean 'vp'"]),
        (["--mode=sample"], ["--mode sample needs --workdir DIR"]),
        (["--mode=likelihood"], ["--mode likelihood needs --workdir DIR"]),
        (["--mode=sample", "--workdir=nowhere"], ["nowhere holds no run", "config.json"]),
        (["--mode=TRAIN"], ["'TRAIN'", "did you mean 'train'"]),
        (["--mode=train", "--config=nothing.py"], ["nothing.py", "configs/*.py"]),
        (
            ["--mode=train", "--config", "toyy"],
            ["config file: toyy; did you mean configs/toy.py?"],
        ),
        (["--mode=train", "--config=configs/Digit"], ["did you mean configs/digits.py?"]),
        (["--mode=train", "--config="], ["no such config file: ''", "configs/*.py"]),
        (["--mode=train", "--config=."], ["no such config file: .;"]),
    ],
)
def test_bad_flags(argv, expected, capfd):
    refused(capfd, argv, *expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nonsense", "it must be cpu, cuda, cuda:N or mps; cpu always can"),
        ("gpu", "it must be cpu, cuda, cuda:N or mps; did you mean 'cuda'?"),
        ("GPU:1", "did you mean 'cuda'?"),
        ("CUDA", "did you mean 'cuda'?"),
        ("cuda:x", "did you mean 'cuda'?"),
        ("cpu:3", "did you mean 'cpu'?"),
        ("mkldnn", "cpu always can"),
        ("privateuseone", "cpu always can"),
        ("ipu", "it must be cpu, cuda, cuda:N or mps"),
        ("meta", "cpu always can"),
        ("mps", "no MPS device was found"),
        ("cuda:97", "cpu always can"),
    ],
)
def test_devices_that_there_are_not(name, expected, capfd, recwarn):
    recwarn.clear()
    with pytest.raises(RequestError) as refusal:
        build_device(name)
    assert len(str(refusal.value)) < 120
    assert not recwarn
    refused(capfd, ["--mode=train", f"--device={name}"], f"--device {name} cannot be", expected)


def test_the_first_cpu_is_the_cpu():
    assert build_device("cpu:0") == build_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(capfd):
    refused(capfd, ["--mode=train", "--device=cuda"], "--device cuda", "CUDA")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.num_stepz=3", ["'training.num_stepz'", "did you mean 'training.num_steps'"]),
        ("trainin.num_steps=3", ["'trainin.num_steps'", "did you mean 'training.num_steps'"]),
        ("foo=1", ["unknown config key 'foo'"]),
        ("sede=1", ["did you mean 'seed'"]),
        ("training=1", ["training is a section"]),
        ("training.num_steps.x=1", ["unknown config key 'training.num_steps.x'"]),
        ("Training.Num_steps=3", ["did you mean 'training.num_steps'"]),
        ("training.num_steps=abc", ["training.num_steps must be a whole number, got 'abc'"]),
        ("training.num_steps=1.5", ["training.num_steps must be a whole number, got '1.5'"]),
        ("training.num_steps=1e2", ["training.num_steps must be a whole number, got '1e2'"]),
        ("training.num_steps=", ["training.num_steps must be a whole number, got ''"]),
        ("training.learning_rate=fast", ["training.learning_rate must be a number, got 'fast'"]),
        (
            "training.compile=perhaps",
            ["training.compile must be true, false or auto, got 'perhaps'"],
        ),
        ("model.multipliers=abc", ["model.multipliers must be whole numbers, as (1,2,2)", "abc"]),
        ("model.multipliers=(1,'two')", ["model.multipliers must be whole numbers", "two"]),
        ("model.multipliers=(1.5,)", ["model.multipliers must be whole numbers", "1.5"]),
        ("model.multipliers=()", ["model.multipliers must have an entry"]),
        ("model.attention_sizes=(5,)", ["attention_sizes", "5"]),
        ("model.channels=7", ["channels", "7"]),
        ("model.name=unett", ["model.name", "did you mean 'unet'"]),
        ("model.name=mlp", ["unet is for images and mlp for vectors"]),
        ("model.prediction=x", ["model.prediction", "eps, x_0, v, u, score, mean"]),
        ("data.name=digit", ["data.name", "did you mean 'digits'"]),
        ("sde.schedule=lineer", ["sde.schedule", "did you mean 'linear'"]),
        ("training.times=reel", ["training.times", "did you mean 'real'"]),
        ("training.decay=cosin", ["training.decay", "did you mean 'cosine'"]),
        ("training.precision=half", ["training.precision", "bfloat16, float16"]),
        ("training.checkpoint_every=15", ["multiple of training.log_every (10)", "15"]),
        ("sampling.steps=2000", ["sampling.steps", "1..1000", "2000"]),
        ("sampling.variance=betta", ["sampling.variance", "did you mean 'beta'"]),
        ("sampling.corrector=x", ["sampling.corrector", "langevin, annealed"]),
        ("sampling.method=dopri6", ["sampling.method", "dopri5"]),
        ("sampling.method=torchdiffeq:rk4", ["sampling.method", "fixed steps"]),
        ("likelihood.method=dopri6", ["likelihood.method", "dopri5"]),
        ("likelihood.method=scipy:Radau", ["likelihood.method", "one rtol"]),
    ],
)
def test_bad_config_values(override, expected, capfd):
    refused(capfd, ["--mode=train", "--device=cpu", f"--config.{override}"], *expected)


def test_a_wrong_switch_is_the_flags_fault_and_not_the_experiments(capfd):
    line = "run.py: training.compile must be true, false or auto, got 'perhaps'"
    refused(capfd, ["--mode=train", "--config.training.compile=perhaps"], line)


def test_a_wrong_variable_of_the_environment_is_a_line(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "--mode=equivalence", "--device=cpu"]
    variables = {**os.environ, "SCOREFLOW_FUSED": "maybe"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "run.py: SCOREFLOW_FUSED must be 1" in done.stderr
    assert not list(tmp_path.iterdir())


def test_betas_above_one(capfd):
    ask = ["--mode=train", "--config.sde.schedule=linear", "--config.sde.num_steps=5"]
    refused(capfd, ask, "sde.beta_max must be below sde.num_steps (5)")


def numeric_keys():
    flat = request.flatten(default.get_config().to_dict())
    for key, value in flat.items():
        numbers = value if isinstance(value, list) else [value]
        if all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            yield key


LIMITS = {name: key.limits for name, key in KEYS.items() if key.limits is not None}


def test_every_number_of_a_config_has_limits():
    assert LIMITS.keys() == set(numeric_keys())


@pytest.mark.parametrize("key", LIMITS)
def test_every_number_is_refused_just_outside_its_limits(key):
    flat = request.flatten(default.get_config().to_dict())
    resolve.resolve(flat, "it")
    allowed = LIMITS[key]
    outside = [allowed.low - 1]
    if allowed.ends[0] == "(":
        outside.append(allowed.low)
    if allowed.high < 2**40:
        outside.append(allowed.high + (allowed.ends[1] == "]"))
    if isinstance(flat[key], float):
        outside += [float("nan"), float("inf")]
    for value in outside:
        listed = isinstance(flat[key], list)
        kind = type(flat[key][0] if listed else flat[key])
        bad = [kind(value)] if listed else kind(value)
        with pytest.raises(RequestError, match=rf"{key} must lie in .*, got"):
            resolve.resolve({**flat, key: bad}, "it")


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "sde.num_steps=0",
        "model.channels=0",
        "model.dropout=1.5",
        "sampling.tolerance=0",
        "sampling.steps=-3",
        "sampling.snr=0",
        "likelihood.tolerance=-1",
        "likelihood.max_evaluations=7",
        "training.learning_rate=nan",
    ],
)
def test_numbers_out_of_range(override, capfd):
    key, _, value = override.partition("=")
    refused(capfd, ["--mode=train", f"--config.{override}"], f"{key} must lie in", value)


def test_keys_and_types_of_an_experiment_file(tmp_path, capfd):
    for line, expected in [
        ("config.training.num_stepz = 3", "did you mean 'training.num_steps'"),
        ("config.extra = 3", "unknown config key 'extra'"),
        ("del config.training.num_steps", "lacks the config keys training.num_steps"),
        ("config = None", "mine.py has no get_config() that returns a config"),
        ("raise ValueError('no such luck')", "run.py: mine.py: ValueError: no such luck\n"),
        ("open('nowhere')", "mine.py cannot be loaded"),
        ("config.data.name = ", "invalid syntax"),
    ]:
        file = tmp_path / "mine.py"
        file.write_text(
            "from configs import default\ndef get_config():\n"
            f"    config = default.get_config()\n    {line}\n    return config\n"
        )
        refused(capfd, ["--mode=train", "--config=mine.py"], expected)


def png(width, height):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def test_data_that_cannot_be_read(tmp_path, capfd):
    of_any = [flag for flag in TINY if "model" not in flag]  # those of the model are the MLP's
    images = ["--mode=train", *of_any, "--config.data.name=images"]
    refused(capfd, [*images, "--config.data.path=no/such/place"], "no such dataset path")
    refused(capfd, [*images, "--workdir="], "--workdir is empty")
    refused(capfd, [*images, "--config.data.path="], "no such dataset path")
    folder = tmp_path / "mixed"
    folder.mkdir()
    refused(capfd, [*images, f"--config.data.path={folder}"], "no images in")
    (folder / "a.png").write_bytes(png(8, 8))
    (folder / "b.png").write_bytes(png(9, 8))
    refused(capfd, [*images, f"--config.data.path={folder}"], "one size and mode", "8x9", "b.png")
    (folder / "b.png").write_bytes(png(8, 8)[:40])
    refused(capfd, [*images, f"--config.data.path={folder}"], "b.png", "not a whole image")
    for name in "ab":
        (folder / f"{name}.png").write_bytes(png(9, 8))
    refused(capfd, [*images, f"--config.data.path={folder}"], "image_size must be a multiple", "9")


@pytest.mark.parametrize("mode", ["train", "sample", "likelihood"])
def test_damaged_runs(mode, trained, tmp_path, capfd):
    run = tmp_path / "run"
    saved = (trained / "config.json").read_text()
    ask = [f"--mode={mode}", "--device=cpu", "--workdir=run"]
    run.mkdir()
    if mode != "train":
        refused(capfd, ask, "run holds no run")
    (run / "config.json").write_text(saved[:100])
    refused(capfd, ask, "config.json cannot be read")
    (run / "config.json").write_text("[1, 2]")
    refused(capfd, ask, "must hold a JSON object")
    (run / "config.json").write_text(saved.replace("num_steps", "num_stepz"))
    refused(capfd, ask, "unknown config key", "did you mean")
    (run / "config.json").write_text(saved.replace('"depth": 1', '"depth": "one"'))
    refused(capfd, ask, "model.depth must be a whole number, got 'one'")
    (run / "config.json").write_text(saved.replace('"depth": 1', '"depth": 0'))
    refused(capfd, ask, "model.depth must lie in")
    (run / "config.json").write_text(saved)
    (run / "checkpoints").mkdir()
    if mode != "train":
        refused(capfd, ask, "run has no checkpoint")
    (run / "checkpoints" / "00000002.pt").write_bytes(b"torn")
    assert main(["run.py", *ask]) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 1
    assert "no whole checkpoint" in err[0]


def test_a_workdir_that_is_a_file(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    refused(capfd, ["--mode=train", "--device=cpu", "--workdir=file"], "file", "choose another")
    refused(capfd, ["--mode=sample", "--device=cpu", "--workdir=file"], "file holds no run")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--mode=trian"], "unknown --mode"),
        (["--mode=train", "--config.foo=1"], "unknown config key"),
        (["--mode=train", "--config=none.py"], "none.py has no get_config()"),
        (["--mode=train", "--config=empty.py"], "empty.py has no get_config()"),
    ],
)
def test_a_refusal_as_a_process(argv, expected, tmp_path):
    files = {tmp_path / "none.py", tmp_path / "empty.py"}
    for file in files:
        file.write_text("def get_config():\n    return None\n" * (file.name == "none.py"))
    command = [sys.executable, ROOT / "run.py", *argv]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"run.py: {expected}")
    assert done.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == files


# ---- what is accepted


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_is_short(flag, capfd):
    assert main(["run.py", flag]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert len(out.splitlines()) <= 40  # a screen
    for word in (*command_line.MODES, "--workdir", "--config", "--sampler", "--sde", "--device"):
        assert word in out


def test_flags_with_a_space_and_with_an_equals_sign():
    pairs = {
        "mode": "train",
        "config": TOY,
        "workdir": "d",
        "device": "cpu",
        "sampler": "ode",
        "sde": "vp",
        "config.training.num_steps": "7",
    }
    apart = [word for key, value in pairs.items() for word in (f"--{key}", value)]
    spaced = command_line.parse(["run.py", *apart])
    joined = command_line.parse(["run.py", *(f"--{key}={value}" for key, value in pairs.items())])
    assert spaced == joined
    assert spaced.names_experiment
    assert spaced.config["data.name"] == "toy"
    assert spaced.config["training.num_steps"] == 7
    assert spaced.overrides == {
        "training.num_steps": 7,
        "sampling.sampler": "ode",
        "sde.name": "vp",
    }


def test_tuples_and_whole_floats_can_be_set():
    argv = ["run.py", "--mode=train", "--config.model.multipliers=(1,2,2)"]
    asked = command_line.parse([*argv, "--config.training.learning_rate=1"])
    config = resolve.training_config(asked)
    assert config.model.multipliers == (1, 2, 2)
    assert config.training.learning_rate == 1.0
    assert config.data.name == "digits"  # the default experiment
    assert not asked.names_experiment


def test_a_run_makes_the_folder_that_the_design_fixes(trained):
    config = json.loads((trained / "config.json").read_text())
    assert list(config) == sorted(config)
    assert config["training"]["num_steps"] == 4
    env = json.loads((trained / "env.json").read_text())
    assert {"commit", "versions", "device", "command"} <= env.keys()
    assert env["device"] == "cpu"
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert (trained / "checkpoints" / "00000004.pt").exists()
    assert list((trained / "tensorboard").glob("events*"))
    for sampler in ("ancestral", "pc", "ode"):
        assert (trained / "samples" / f"00000004-{sampler}.png").exists()
        result = json.loads((trained / "results" / f"samples-{sampler}.json").read_text())
        assert result["settings"]["sampler"] == sampler
        assert result["num_images"] == 8
    nfe = {s: json.loads((trained / "results" / f"samples-{s}.json").read_text())["nfe"]
           for s in ("ancestral", "pc")}  # fmt: skip
    assert nfe == {"ancestral": 3, "pc": 6}
    assert (trained / "report.html").exists()


def test_the_default_folder_is_named_after_data_and_process(tmp_path, capfd):
    assert main(["run.py", "--mode=train", "--config", TOY, *TINY]) == 0
    assert (tmp_path / "runs" / "toy-vp" / "config.json").exists()
    assert "--workdir runs/toy-vp" in capfd.readouterr().out


@pytest.mark.parametrize("sampler", ["ancestral", "pc", "ode"])
def test_sample_reads_the_config_of_the_run(sampler, trained, capfd):
    argv = ["run.py", "--mode=sample", f"--workdir={trained}", "--device=cpu"]
    argv += [f"--sampler={sampler}", "--config.sampling.num_images=5"]
    before = (trained / "config.json").read_bytes()
    headline = trained / "results" / f"samples-{sampler}.json"
    larger = headline.read_bytes()
    assert main(argv) == 0
    assert headline.read_bytes() == larger  # eight images, and now five
    (path,) = (trained / "results").glob(f"samples-{sampler}-*.json")
    result = json.loads(path.read_text())
    assert result["num_images"] == 5
    assert result["settings"]["num_images"] == 5
    assert result["step"] == 4
    assert (trained / "config.json").read_bytes() == before
    assert sampler in capfd.readouterr().out


def test_likelihood_again_is_the_same(trained):
    result = trained / "results" / "likelihood.json"
    before = json.loads(result.read_text())
    assert main(["run.py", "--mode", "likelihood", "--workdir", str(trained), "--device=cpu"]) == 0
    after = json.loads(result.read_text())
    for each in (before, after):
        del each["seconds"], each["kept"]["date"]
    assert after == before
    assert {"standard_error", "num_images", "nfe", "dequantization", "t_min"} <= after.keys()
    assert after["num_images"] == 6
    assert after["gap"] == pytest.approx(after["value"] - after["true_nats"])


@pytest.mark.parametrize("method", ["torchdiffeq:dopri5", "scipy:RK45"])
def test_solvers_that_give_no_error_estimate_leave_it_open(method, trained):
    argv = ["run.py", "--mode=likelihood", f"--workdir={trained}", "--device=cpu"]
    argv.append(f"--config.likelihood.method={method}")
    assert main([*argv, "--config.likelihood.checked=0"]) == 0
    result = json.loads((trained / "results" / "likelihood.json").read_text())
    assert result["error_budget"]["solver"] is None
    assert main(argv) == 0
    result = json.loads((trained / "results" / "likelihood.json").read_text())
    assert result["error_budget"]["solver"] > 0
    argv.pop()
    assert main(argv) == 0


def test_a_single_test_image(trained):
    argv = ["run.py", "--mode=likelihood", f"--workdir={trained}", "--device=cpu"]
    before = set((trained / "results").glob("likelihood-*.json"))
    assert main([*argv, "--config.likelihood.num_images=1"]) == 0
    (path,) = set((trained / "results").glob("likelihood-*.json")) - before
    result = json.loads(path.read_text())
    assert result["standard_error"] is None
    assert result["num_images"] == 1
    assert json.loads((trained / "results" / "likelihood.json").read_text())["num_images"] == 6


@pytest.mark.parametrize("mode", ["sample", "likelihood"])
def test_after_training_the_weights_keep_their_config(mode, trained, capfd):
    ask = [f"--mode={mode}", f"--workdir={trained}", "--device=cpu"]
    refused(capfd, [*ask, "--config.training.num_steps=9"], "training.num_steps", "4", "9")
    refused(capfd, [*ask, "--config.model.width=9"], "model.width belongs to the trained weights")
    refused(capfd, [*ask, f"--config={ROOT}/configs/digits.py"], "belongs to the trained weights")
    refused(capfd, [*ask, "--config.sampling.stepz=9"], "did you mean 'sampling.step")


@pytest.mark.parametrize(
    ("mode", "flag", "key"),
    [
        ("likelihood", "--config.sampling.num_images=16", "sampling.num_images"),
        ("likelihood", "--sampler=ode", "sampling.sampler"),
        ("sample", "--config.likelihood.probes=1", "likelihood.probes"),
        ("sample", "--config.equivalence.steps=8", "equivalence.steps"),
        ("equivalence", "--config.sampling.steps=8", "sampling.steps"),
        ("equivalence", "--config.likelihood.probes=1", "likelihood.probes"),
    ],
)
def test_an_override_that_would_change_nothing_is_refused(mode, flag, key, trained, capfd):
    ask = [f"--mode={mode}", f"--workdir={trained}", "--device=cpu", flag]
    refused(capfd, ask, f"{key} has no effect on --mode {mode}")


def test_overrides_that_count():
    for mode, key in [
        ("equivalence", "sampling.batch_size"),
        ("equivalence", "equivalence.steps"),
        ("sample", "sampling.steps"),
        ("likelihood", "likelihood.probes"),
        ("train", "likelihood.probes"),
        ("train", "equivalence.steps"),
    ]:
        asked = command_line.parse(["run.py", f"--mode={mode}", f"--config.{key}=8"])
        assert asked.overrides == {key: 8}


def test_a_resume_with_all_different_names_five_keys(trained, capfd):
    ask = ["--mode=train", f"--workdir={trained}", "--device=cpu"]
    capfd.readouterr()
    assert main(["run.py", *ask, "--config", f"{ROOT}/configs/digits.py"]) == 2
    err = capfd.readouterr().err
    assert err.count(" there, ") == 5
    saved = request.flatten(json.loads((trained / "config.json").read_text()))
    other = command_line.parse(["run.py", "--mode=train"]).config
    kept = {
        key for key in resolve.RENEWED if other[key] == KEYS[key].default
    }  # by the run that is there
    number = sum(saved[key] != other[key] for key in saved.keys() - kept)
    assert f" and {number - 5} more; resume without --config" in err
    assert "change a key by its own flag, as --config." in err


def test_training_again_with_another_config_names_the_keys(trained, capfd):
    ask = ["--mode=train", f"--workdir={trained}", "--device=cpu"]
    before = tree(trained)
    refused(capfd, [*ask, "--config.sde.num_steps=9"], "sde.num_steps (", " there, 9 asked")
    refused(capfd, [*ask, "--config.training.num_steps=3"], "may grow", "has done 4 of 4", "got 3")
    refused(capfd, [*ask, "--config", f"{ROOT}/configs/digits.py"], "data.name", "more;")
    new = f"--config.training.init={trained}"
    refused(capfd, [*ask, "--config.training.objective=p2"], "training.objective (", new)
    refused(capfd, [*ask, "--config.sampling.step=4"], "sampling.step names a checkpoint")
    assert tree(trained) == before


def test_training_again_resumes(trained, capfd):
    assert main(["run.py", "--mode=train", f"--workdir={trained}", "--device=cpu"]) == 0
    assert f"resuming {trained} at step 4" in capfd.readouterr().out
    assert train_toy(trained) == 0  # the same config in full is no other config


def test_two_trainings_of_one_run_at_a_time(trained, capfd):
    from scoreflow.storage.run_folder import RunDir

    with RunDir.open(trained, training=True):
        ask = ["--mode=train", f"--workdir={trained}", "--device=cpu"]
        refused(capfd, ask, "is being trained by process")


# ---- status 1


def test_a_run_that_fails_ends_in_one_line_and_a_defect_in_a_traceback(
    trained, monkeypatch, capfd
):
    argv = ["run.py", "--mode=sample", f"--workdir={trained}", "--device=cpu"]

    def fail(error):
        def mode(*_):
            raise error

        monkeypatch.setattr("scoreflow.cli.modes.sample.run", mode)

    fail(RunError("the loss\n is not finite"))
    assert main(argv) == 1
    assert capfd.readouterr().err == "run.py: the loss is not finite\n"
    fail(KeyboardInterrupt())
    assert main(argv) == 130
    assert capfd.readouterr().err.startswith("stopped; with sampling.save, the images that are")
    fail(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        main(argv)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("train", "stopped; the same command goes on from the last checkpoint"),
        ("likelihood", "stopped; the images that are done are kept"),
    ],
)
def test_an_interrupt_says_what_is_left(mode, expected, trained, monkeypatch, capfd):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"scoreflow.cli.modes.{mode}.run", interrupted)
    capfd.readouterr()
    assert main(["run.py", f"--mode={mode}", f"--workdir={trained}", "--device=cpu"]) == 130
    err = capfd.readouterr().err
    assert err.startswith(expected)
    assert err.count("\n") == 1


@pytest.mark.parametrize("mode", ["sample", "likelihood"])
def test_a_solver_out_of_evaluations_is_one_line_and_no_result(mode, trained, tmp_path, capfd):
    section = {"sample": "sampling", "likelihood": "likelihood"}[mode]
    argv = ["run.py", f"--mode={mode}", f"--workdir={trained}", "--device=cpu"]
    argv += ["--sampler=ode"] if mode == "sample" else []
    tolerance = {"sample": "tolerance", "likelihood": "trajectory_tolerance"}[mode]
    argv += [f"--config.{section}.max_evaluations=40", f"--config.{section}.{tolerance}=1e-12"]

    def results():  # and no rows, which have a status each
        return {p: b for p, b in tree(trained / "results").items() if p.suffix == ".json"}

    before = results()
    assert main(argv) == 1
    _out, err = capfd.readouterr()
    assert f"raise {section}.max_evaluations" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert results() == before


# ---- every process, objective and prediction by its name


@pytest.mark.parametrize("sde", ["subvp", "ve"])
def test_every_mode_with_every_process(sde, tmp_path):
    workdir = tmp_path / "run"
    assert train_toy(workdir, f"--sde={sde}") == 0
    for sampler in SAMPLERS:
        command = ["run.py", "--mode=sample", f"--workdir={workdir}", f"--sampler={sampler}"]
        assert main([*command, "--device=cpu"]) == 0
        result = json.loads((workdir / "results" / f"samples-{sampler}.json").read_text())
        assert result["settings"]["sampler"] == sampler
    assert main(["run.py", "--mode=likelihood", f"--workdir={workdir}", "--device=cpu"]) == 0


CHOICES = [
    ("eps", "simple", "integer"),
    ("x_0", "min_snr", "real"),
    ("score", "score_matching", "importance"),
    ("v", "likelihood", "importance"),
    ("eps", "p2", "integer"),
    ("mean", "mean", "integer"),
    ("eps", "variational", "integer"),
    ("u", "flow_matching", "log_normal"),
]


@pytest.mark.parametrize(("prediction", "objective", "times"), CHOICES)
def test_objectives_by_name(prediction, objective, times, tmp_path):
    more = [
        f"--config.model.prediction={prediction}",
        f"--config.training.objective={objective}",
        f"--config.training.times={times}",
        "--config.training.low_discrepancy=true",
        "--config.sde.num_steps=100",
        "--config.sde.sigma_min=0.05",
        "--config.likelihood.checked=2",
    ]
    assert train_toy(tmp_path / "run", *more) == 0
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(row)["loss"]) for row in rows)


IMPOSSIBLE = {
    "whole steps": ["--config.training.objective=variational", "--config.training.times=real"],
    "needs model.learned_variance": [
        "--config.training.objective=hybrid",
        "--config.training.times=integer",
    ],
    "no effect on model.name = mlp": [
        "--config.model.learned_variance=true",
        "--config.training.objective=hybrid",
        "--config.training.times=integer",
    ],
    "times = integer": ["--config.model.prediction=mean", "--config.training.times=real"],
    "sigma_min": ["--sde=ve", "--config.sde.sigma_max=0.001"],
    "has no end: alpha is 0 at t = N": ["--sde=rectified", "--config.training.times=importance"],
    "no effect on training.times = integer": [
        "--config.training.shift=2",
        "--config.training.times=integer",
    ],
    "of the law of ln(sigma / alpha) with mean 40": [
        "--config.training.times=log_normal",
        "--config.training.log_normal_mean=40",
    ],
    "sampling.variance = learned": ["--config.sampling.variance=learned"],
    "training.objective must be one of": ["--config.training.objective=simpel"],
}


@pytest.mark.parametrize("said", IMPOSSIBLE)
def test_impossible_choices_are_refused_before_any_work(said, tmp_path, capsys):
    assert train_toy(tmp_path / "run", *IMPOSSIBLE[said]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_learned_variance_is_trained_and_used(tmp_path):
    workdir = tmp_path / "run"
    unet = [
        "--config.model.channels=8",
        "--config.model.num_groups=4",
        "--config.model.blocks=1",
        "--config.model.learned_variance=true",
        "--config.sampling.variance=learned",
        "--config.training.objective=hybrid",
    ]
    tiny = [flag for flag in TINY if "width" not in flag and "depth" not in flag]
    tiny = but(tiny, ["--config.likelihood.num_images=1"])
    assert main(["run.py", "--mode=train", f"--workdir={workdir}", *tiny, *unet]) == 0
    drawn = {}
    for variance in ("learned", "beta"):
        command = ["run.py", "--mode=sample", f"--workdir={workdir}", "--device=cpu"]
        assert main([*command, f"--config.sampling.variance={variance}"]) == 0
        result = json.loads((workdir / "results" / "samples-ancestral.json").read_text())
        drawn[variance] = (workdir / "samples" / f"{result['picture']}.png").read_bytes()
    assert drawn["learned"] != drawn["beta"]


# ---- what reviewers found


def test_a_config_file_in_an_evaluation_sets_its_sections(trained, tmp_path):
    file = tmp_path / "mine.py"
    saved = json.loads((trained / "config.json").read_text())
    file.write_text(
        "import json\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    config = ConfigDict(json.loads({json.dumps(json.dumps(saved))}))\n"
        "    config.sampling.steps = 2\n"
        "    return config\n"
    )
    command = ["run.py", "--mode=sample", f"--workdir={trained}", "--device=cpu"]
    assert main([*command, "--config", str(file)]) == 0
    result = json.loads((trained / "results" / "samples-ancestral.json").read_text())
    assert result["nfe"] == 2


def test_weights_of_another_config_are_one_line(trained, tmp_path, capsys):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["width"] = 16
    (workdir / "config.json").write_text(json.dumps(config))
    assert main(["run.py", "--mode=sample", f"--workdir={workdir}", "--device=cpu"]) == 2
    err = capsys.readouterr().err
    assert "was edited after training: it has model.width = 16, and the checkpoint of step" in err
    without_a_record(workdir)
    assert main(["run.py", "--mode=sample", f"--workdir={workdir}", "--device=cpu"]) == 2
    err = capsys.readouterr().err
    assert "not of the network in its config.json" in err
    assert "its data have other channels or classes than when it was trained" in err
    assert len(err.splitlines()) == 1


def without_a_record(workdir):
    """Checkpoints as they were before they said what they were trained with."""
    for path in (workdir / "checkpoints").glob("*.pt"):
        state = states.read_state(path, "cpu")
        del state["trained_with"]
        states.write_state(path, state)


def test_a_compiled_run_is_evaluated_without_a_compiler(trained, tmp_path, monkeypatch):
    import shutil

    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["training"]["compile"] = True
    (workdir / "config.json").write_text(json.dumps(config))
    without_a_record(workdir)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert main(["run.py", "--mode=sample", f"--workdir={workdir}", "--device=cpu"]) == 0


def test_a_folder_called_config(tmp_path):
    assert train_toy("config") == 0
    assert main(["run.py", "--mode=sample", "--workdir", "config", "--device=cpu"]) == 0


def test_the_default_folder_is_named_after_the_experiment():
    assert main(["run.py", "--mode=train", "--config", TOY, *TINY]) == 0
    assert Path("runs/toy-vp/report.html").exists()


@pytest.mark.parametrize("fraction", ["1e-5", "0.99999"])
def test_a_toy_split_is_whole_or_refused(fraction, tmp_path):
    status = train_toy(tmp_path / "run", f"--config.data.test_fraction={fraction}")
    assert status == (0 if fraction == "1e-5" else 2)


def test_a_least_time_that_would_be_ignored_is_refused(tmp_path, capsys):
    more = ["--config.training.times=integer", "--config.training.t_min=0.2"]
    assert train_toy(tmp_path / "run", *more) == 2
    told = "training.t_min has no effect on training.times = integer: add --config.training.times"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workdir=a", "-workdir", "b"], "--workdir is given twice, a and b"),
        (["--config=toy", "--config", "digits"], "--config is given 2 times (toy, digits)"),
        (["--data=/tmp/a", "--config.data.path=/tmp/b"], "data.path is given twice"),
        (["--data=/tmp/a", "--data=/tmp/b"], "--data is given twice, /tmp/a and /tmp/b"),
    ],
)
def test_two_values_of_one_flag_are_refused(flags, says):
    with pytest.raises(RequestError) as refusal:
        command_line.parse(["run.py", "--mode=train", *flags])
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "flags",
    [
        ["--mode=train", "--mode", "train", "-mode=train"],
        ["--mode=train", "--config=toy", "--config", "toy"],
        ["--mode=train", "--config.training.learning_rate=1e-3"] * 2
        + ["--config.training.learning_rate=0.001"],
        ["--mode=train", "--config.model.conditional", "--config.model.conditional=true"],
        ["--mode=train", "--config.model.shape=(1, 8, 8)", "--config.model.shape=(1,8,8)"],
        ["--mode=train", "--data=/tmp/", "--config.data.path=/tmp", "--data", "/tmp"],
        ["--mode=import", "--from=x", "--set=a=1", "--set=b=1", "--anyway", "--anyway"],
    ],
)
def test_one_value_may_be_given_twice(flags):
    assert command_line.parse(["run.py", *flags]).mode in flags[0]


def test_of_a_key_the_last_value_counts():
    given = ["--config.seed=1", "--config.seed", "2", "--config.model.conditional"]
    again = ["--noconfig.model.conditional", "--config.seed=1"]
    found = command_line.parse(["run.py", "--mode=train", *given, *again])
    assert found.overrides == {"seed": 1, "model.conditional": False}


def test_runs_of_a_table_may_be_named_twice_and_follow_any_flag():
    found = command_line.parse(["run.py", "--mode=table", "a", "--sort", "x", "a", "--sort=x"])
    assert [str(each) for each in found.listing.runs] == ["a", "a"]


@pytest.mark.parametrize("names", ["ddim", "ddim,dpm"])
def test_the_remedy_for_samplers_of_a_training_is_a_flag_that_works(names):
    with pytest.raises(RequestError) as refusal:
        command_line.parse(["run.py", "--mode=train", f"--samplers={names}"])
    (flag,) = shlex.split(str(refusal.value).rpartition(" write ")[2])
    made = command_line.parse(["run.py", "--mode=train", flag])
    assert made.overrides == {"compare.samplers": names.split(",")}
