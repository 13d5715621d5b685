"""Five clocks: what is trained, how seeds and pairs are put together, and what is said of it."""

import json
import math
from pathlib import Path

import pytest
import scipy.stats
import torch

from benchmarks.clocks import command as clocks
from benchmarks.clocks.command import _is_done, comparing, training
from benchmarks.clocks.differences import differences, training_noise
from benchmarks.clocks.options import parse
from benchmarks.clocks.processes import CLOCKS, START
from benchmarks.clocks.table import verdicts
from scoreflow.cli import command_line
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import build_sde
from scoreflow.schema.config import KEYS
from scoreflow.schema.resolve import training_config

if "log_normal" not in KEYS["training.times"].choices:
    pytest.skip("EDM's law of times is another branch's", allow_module_level=True)
TITLES = {clock.name: clock.title for clock in CLOCKS}


@pytest.mark.parametrize("clock", CLOCKS, ids=lambda clock: clock.name)
def test_all_flows_start_at_one_noise_over_signal(clock):
    t = torch.tensor(clock.t_min, dtype=torch.float64)
    assert float(clock.sde.sigma(t) / clock.sde.alpha(t)) == pytest.approx(START, rel=1e-4)


@pytest.mark.parametrize("clock", CLOCKS, ids=lambda clock: clock.name)
def test_a_training_is_of_its_process_and_of_nothing_else(clock, tmp_path):
    options = parse(["clocks", "--steps=7", "--out=out"])
    config = training_config(command_line.parse(training(options, clock, 3, tmp_path / "new")))
    sde, t = build_sde(config), torch.tensor([0.5, 1, 77.7, 500, 999.5], dtype=torch.float64)
    for name in ("alpha", "sigma"):
        own, stated = (getattr(each, name)(t) for each in (sde, clock.sde))
        torch.testing.assert_close(own, stated, rtol=1e-12, atol=0)
    assert (config.training.num_steps, config.seed) == (7, 3)
    first = training_config(command_line.parse(training(options, CLOCKS[0], 3, tmp_path / "old")))
    for section in ("model", "data", "likelihood", "sampling"):
        assert config[section] == first[section]
    unlike = {k for k in config.training if config.training[k] != first.training[k]}
    assert unlike <= ({"t_min", "times"} if clock.name == "edm" else {"t_min"})


def test_a_difference_has_the_errors_of_images_and_of_trainings():
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(50, generator=draws, dtype=torch.float64)
    own = 0.1 * torch.randn(2, 50, generator=draws, dtype=torch.float64)
    # two seeds of each, whose means are 0.02 apart, and 0.06
    a = torch.stack([images, images + 0.02])
    b = torch.stack([images + own[0], images + own[0] + 0.06]) + 0.3
    noise = training_noise({"a": a, "b": b})
    assert noise == pytest.approx({"a": 0.02 / math.sqrt(2), "b": 0.06 / math.sqrt(2)})
    (pair,) = differences({"a": a, "b": b}, noise)
    apart = (a - b).mean(0)
    assert pair["value"] == pytest.approx(float(apart.mean()))
    assert pair["by_images"] == pytest.approx(float(own[0].std()) / math.sqrt(50))
    assert pair["by_training"] == pytest.approx(math.hypot(0.01, 0.03))
    error = math.hypot(pair["by_images"], pair["by_training"])
    assert pair["standard_error"] == pytest.approx(error)


@pytest.mark.parametrize("spread", [0.1, 0.001])
def test_few_seeds_are_held_against_students_law(spread):
    # no spread over images: scipy's test of two samples of unlike variances, whatever a third has
    a = torch.tensor([[0.0] * 5, [spread] * 5], dtype=torch.float64)
    b = torch.tensor([[0.7] * 5, [0.9] * 5], dtype=torch.float64)
    wild = torch.tensor([[-5.0] * 5, [5.0] * 5], dtype=torch.float64)
    values = {"a": a, "b": b, "wild": wild}
    pair = differences(values, training_noise(values))[0]
    expected = scipy.stats.ttest_ind([0.0, spread], [0.7, 0.9], equal_var=False)
    assert pair["chance"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert abs(pair["value"]) / pair["standard_error"] == pytest.approx(abs(expected.statistic))


def test_one_seed_says_that_it_knows_nothing_of_others():
    values = {"vp": torch.zeros(1, 9), "ve": torch.linspace(0.9, 1.1, 9)[None]}
    assert training_noise(values) is None
    pairs = differences({k: v.double() for k, v in values.items()}, None)
    said = verdicts({"pairs": pairs, "training_noise": None}, TITLES)
    assert "VP, linear is better than VE by 1.0000" in said[0]
    assert "among all pairs too" in said[0]
    assert "what another seed would change is not known" in said[1]


def test_a_difference_within_its_error_is_called_that():
    values = {
        "vp": torch.zeros(2, 4).double(),
        "ve": torch.tensor([[-1.0, 1, -1, 1.1]] * 2).double(),
    }
    pairs = differences(values, training_noise(values))
    assert "within its error" in verdicts({"pairs": pairs, "training_noise": None}, TITLES)[0]


def test_the_noise_of_each_process_is_said():
    values = {
        "vp": torch.zeros(2, 4).double(),
        "ve": torch.tensor([[0.0] * 4, [0.2] * 4]).double(),
    }
    noise = training_noise(values)
    said = verdicts({"pairs": differences(values, noise), "training_noise": noise}, TITLES)
    assert "VP, linear 0.0000, VE 0.1414" in said[1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--steps=0"], "a whole number from 1 up"),
        (["--nonsense"], "no option '--nonsense'"),
        (["--seeds=two"], "a whole number from 1 up"),
        (["--steps=20"], "--steps=20 is not the default"),
        (["--seeds=1", "--images=8"], "--seeds=1 --images=8 is not the default"),
        (["--objective=flow_matching"], "add --out with a folder of its own"),
        (["--config.model.channels=8"], "--config.model.channels=8 is not the default"),
    ],
)
def test_wrong_options_are_refused(more, says):
    with pytest.raises(RequestError, match=says):
        parse(["clocks", *more])


@pytest.mark.parametrize("more", [[], ["--steps=20", "--out=there"]])
def test_the_default_needs_no_folder(more):
    assert parse(["clocks", *more]).out == (Path("there") if more else None)


def kept_training(tmp_path, *more):
    """Make a folder with the config of a first training, as it would be stored."""
    options = parse(["clocks", f"--work={tmp_path / 'work'}", f"--out={tmp_path}", *more])
    clock, seed, path = options.runs[0]
    config = training_config(command_line.parse(training(options, clock, seed, path)))
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config.to_dict()))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--steps=50"], "training.num_steps = 20, not 50"),
        (["--objective=flow_matching"], "training.objective = velocity, not flow_matching"),
        (["--config.model.channels=16"], "model.channels = 32, not 16"),
        (["--config.likelihood.tolerance=0.01"], "likelihood.tolerance = 0.001, not 0.01"),
    ],
)
def test_trainings_of_another_config_are_refused(tmp_path, more, says):
    kept_training(tmp_path, "--steps=20")
    there = [f"--work={tmp_path / 'work'}", f"--out={tmp_path}"]
    options = parse(["clocks", *there, "--steps=20", *more])
    with pytest.raises(RequestError, match=says):
        _is_done(options, *options.runs[0])


def test_more_images_go_on_with_the_same_trainings(tmp_path):
    kept_training(tmp_path, "--images=16")
    options = parse(["clocks", f"--work={tmp_path / 'work'}", f"--out={tmp_path}"])
    assert not _is_done(options, *options.runs[0])  # it was never trained, and is not refused
    assert "--config.likelihood.num_images=0" in comparing(options)


@pytest.mark.slow
def test_a_stopped_command_goes_on_and_writes_the_table(tmp_path, monkeypatch, capfd):
    command = ["clocks", "--steps=2", "--seeds=1", "--images=8"]
    command += [f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'out'}"]
    command += ["--config.model.channels=8", "--config.training.batch_size=8"]
    command += ["--config.sampling.tolerance=0.1", "--config.likelihood.checked=2"]
    command += ["--config.likelihood.tolerance=0.1", "--config.likelihood.tolerance_bits=0.1"]
    given, run = [], clocks.run_py

    def stop(argv):
        given.append(argv)
        return 130 if len(given) == 3 else run(argv)

    monkeypatch.setattr(clocks, "run_py", stop)
    assert clocks.main(command) == 130
    assert "goes on" in capfd.readouterr().err
    given[:] = [None] * 9
    assert clocks.main(command) == 0
    modes = [argv[1] for argv in given[9:]]
    assert modes == ["--mode=train"] * 3 + ["--mode=compare"]
    text = (tmp_path / "out" / "clocks.md").read_text()
    for clock in CLOCKS:
        assert f"| {clock.title} |" in text
    kept = json.loads((tmp_path / "out" / "clocks.json").read_text())
    assert len(kept["pairs"]) == 10
    assert kept["environment"]["versions"]
    assert str(tmp_path / "work") not in json.dumps({**kept, "command": ""})
    assert clocks.main(["clocks", "--steps=3", "--seeds=1", *command[4:]]) == 2
    assert "training.num_steps = 2, not 3" in capfd.readouterr().err
