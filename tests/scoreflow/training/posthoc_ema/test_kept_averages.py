"""Averages that a training keeps, and weights reconstructed from them: `training.ema = power`."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.errors import RequestError
from scoreflow.report.results import given
from scoreflow.storage.checkpoints import averages
from scoreflow.storage.checkpoints.states import sidecar, write_state
from scoreflow.storage.measurements import average_of
from scoreflow.storage.run_folder import FOLDERS, RunDir
from scoreflow.training import trainer as trainer_module
from scoreflow.training.posthoc_ema.profiles import Profile, reconstruct, shares
from scoreflow.training.posthoc_ema.snapshots import Snapshots

FIXTURES = Path(__file__).parents[3] / "fixtures"
STEPS = 24
SHORT = {
    "model.width": 8,
    "model.depth": 1,
    "training.num_steps": STEPS,
    "training.log_every": 2,
    "training.checkpoint_every": 4,
    "training.batch_size": 8,
    "training.warmup_steps": 1,
    "training.decay": "constant",
    "training.learning_rate": 0.01,
}
POWER = {**SHORT, "training.ema": "power"}
CHECKPOINTS = list(range(4, STEPS + 1, 4))


def train(folder, flat=POWER, until=STEPS):
    for interval in sf.train("toy", folder, flat, device="cpu"):
        if interval.step >= until:
            break


def digests(folder):
    """What a training leaves but for times and dates."""
    files = [*folder.glob("checkpoints/*"), *folder.glob("averages/*")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def state(folder, step=STEPS):
    return torch.load(folder / "checkpoints" / f"{step:08d}.pt", weights_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 24 steps, and the weights after each of them."""
    folder, seen = tmp_path_factory.mktemp("power") / "run", []
    advance = trainer_module.Trainer._advance

    def watched(self):
        row = advance(self)
        seen.append({k: v.double() for k, v in self.network.state_dict().items()})
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_advance", watched)
        train(folder)
    return folder, seen


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


# ---- in training


def test_other_weights_are_those_of_any_average(trained, tmp_path):
    train(tmp_path / "plain", SHORT)
    one, other = state(trained[0]), state(tmp_path / "plain")
    assert all(torch.equal(one["model"][k], other["model"][k]) for k in other["model"])
    for number, moments in other["optimizer"]["state"].items():
        assert all(
            torch.equal(v, one["optimizer"]["state"][number][k]) for k, v in moments.items()
        )
    assert one.keys() - other.keys() == {"averages"}
    assert not (tmp_path / "plain" / "averages").exists()


def test_what_is_kept_are_the_sums_with_the_power_profiles(trained):
    """float32: an update rounds twice, by the size of the weights, and later ones shrink that."""
    folder, seen = trained
    assert averages.steps_of(folder) == CHECKPOINTS
    for step in CHECKPOINTS:
        held = torch.load(averages.path_of(folder, step), weights_only=True)
        assert held["step"] == step
        for length, average in zip(held["lengths"], held["averages"], strict=True):
            parts = shares(Profile(step, length))
            for name, value in average.items():
                past = torch.stack([weights[name] for weights in seen[:step]])
                expected = torch.tensordot(parts, past, 1)
                tolerance = step * 2.0**-23 * float(past.abs().max())
                assert (value - expected).abs().max() <= tolerance


def test_the_first_is_what_modes_read_and_no_snapshot_is_dropped(trained):
    folder, _ = trained
    steps = [int(p.stem) for p in folder.glob("checkpoints/*.pt")]
    assert sorted(steps) == CHECKPOINTS[-2:]  # training.keep
    for step in CHECKPOINTS[-2:]:
        held = torch.load(averages.path_of(folder, step), weights_only=True)
        of_run = state(folder, step)
        assert held["trained_with"] == of_run["trained_with"]
        for mine, its in zip(held["averages"], [of_run["ema"], *of_run["averages"]], strict=True):
            assert all(torch.equal(mine[name], its[name]) for name in its)
    network = sf.load(folder, "cpu").model.network.state_dict()
    assert all(torch.equal(network[k], state(folder)["ema"][k]) for k in network)


@pytest.mark.parametrize("stopped", [8, 10])
def test_a_training_that_was_stopped_leaves_the_same_files(stopped, trained, tmp_path):
    """At a checkpoint, or after one: its steps are done again."""
    train(tmp_path / "run", until=stopped)
    train(tmp_path / "run")
    assert digests(tmp_path / "run") == digests(trained[0])


def test_a_snapshot_without_its_checkpoint_is_made_again(trained, tmp_path):
    """A kill between the two; and one of a later step than is trained to, as of a torn one."""
    run = tmp_path / "run"
    train(run, until=8)
    for step in (12, 9):
        shutil.copy(averages.path_of(run, 8), averages.path_of(run, step))
        shutil.copy(sidecar(averages.path_of(run, 8)), sidecar(averages.path_of(run, step)))
    sidecar(averages.path_of(run, 10)).write_text("a hash whose snapshot never came")
    train(run)
    assert digests(run) == digests(trained[0])


def test_a_kill_between_a_snapshot_and_its_checkpoint_loses_neither(
    trained, tmp_path, monkeypatch
):
    """The snapshot comes first: whatever step has a checkpoint has its averages."""
    run = tmp_path / "run"
    save = RunDir.save_checkpoint

    def killed(self, step, *more):
        if step == 12:
            raise SystemExit
        return save(self, step, *more)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "save_checkpoint", killed)
        with pytest.raises(SystemExit):
            train(run)
    assert averages.steps_of(run) == [4, 8, 12]
    assert RunDir.open(run).checkpoint_steps() == [4, 8]
    train(run)
    assert digests(run) == digests(trained[0])


def test_a_training_that_begins_anew_forgets_snapshots(trained, tmp_path):
    """Its first checkpoint never came: the configs may differ from here on."""
    run = tmp_path / "run"
    train(run, {**POWER, "training.learning_rate": 0.02, "training.checkpoint_every": 2}, until=2)
    assert averages.steps_of(run) == [2]
    for path in (*run.glob("checkpoints/*"), run / "results" / "training.json"):
        path.unlink()
    train(run)
    assert digests(run) == digests(trained[0])


def test_a_checkpoint_without_its_other_average_is_passed_over(run, capsys):
    path = run / "checkpoints" / f"{STEPS:08d}.pt"
    lacking = state(run)
    del lacking["averages"]
    write_state(path, lacking)
    before = {k: v for k, v in digests(run).items() if k.startswith("averages")}
    train(run)
    said = capsys.readouterr()
    assert "averages must hold 1 besides ema, got 0" in said.out + said.err
    assert {k: v for k, v in digests(run).items() if k.startswith("averages")} == before


def test_the_folder_of_the_snapshots_is_one_that_links_are_refused_in():
    assert averages.AVERAGES in FOLDERS


def test_the_size_of_the_snapshots_is_said(tmp_path, capsys):
    train(tmp_path / "run", until=4)
    said = capsys.readouterr()
    line = next(x for x in (said.out + said.err).splitlines() if "training.ema = power" in x)
    size = averages.path_of(tmp_path / "run", 4).stat().st_size / 2**20
    told = float(line.partition("leaves ")[2].partition(" MiB")[0])
    assert told <= size < told + 0.02  # names and zip entries come on top
    assert f"by step {STEPS}" in line


@pytest.mark.parametrize("lengths", [(0.05,), (0.05, 0.05), (0.05, 0.1, 0.2)])
def test_lengths_that_are_no_pair_are_refused(lengths, tmp_path):
    with pytest.raises(RequestError, match="must be two different lengths"):
        train(tmp_path / "run", {**POWER, "training.ema_lengths": lengths})


def test_keys_of_the_other_average_are_refused(tmp_path):
    with pytest.raises(RequestError, match=r"ema_decay has no effect on training\.ema = power"):
        train(tmp_path / "run", {**POWER, "training.ema_decay": 0.9})
    with pytest.raises(RequestError, match=r"ema_lengths has no effect on training\.ema = exp"):
        train(tmp_path / "run", {**SHORT, "training.ema_lengths": (0.05, 0.2)})
    with pytest.raises(RequestError, match=r"sampling\.ema_length names an average of a run"):
        train(tmp_path / "run", {**POWER, "sampling.ema_length": 0.07})


# ---- afterwards


def test_a_length_between_is_its_own_average_up_to_the_profile_s_error(trained):
    """The difference is what the left-over shares make of the weights, to float32's rounding."""
    folder, seen = trained
    run = sf.load(folder, "cpu", ema_length=0.07)
    kept = [Profile(step, length) for step in CHECKPOINTS for length in (0.05, 0.1)]
    plan = reconstruct(kept, Profile(STEPS, 0.07))
    left = shares(Profile(STEPS, 0.07)) - sum(
        c * shares(each, STEPS) for c, each in zip(plan.coefficients, kept, strict=True)
    )
    for name, value in run.model.network.state_dict().items():
        past = torch.stack([weights[name] for weights in seen])
        own = torch.tensordot(shares(Profile(STEPS, 0.07)), past, 1)
        predicted = torch.tensordot(left, past, 1)
        tolerance = (1 + plan.gain) * STEPS * 2.0**-23 * float(past.abs().max())
        assert (own - value - predicted).abs().max() <= tolerance
    about = run.averaged_as["ema"]
    assert about["length"] == 0.07
    assert about["snapshots"] == len(CHECKPOINTS)
    assert about["relative_error"] == pytest.approx(plan.relative_error)
    assert about["relative_rounding"] == pytest.approx(plan.gain * 2.0**-24)


def test_lengths_that_were_kept_are_the_kept_weights(trained):
    plain = sf.load(trained[0], "cpu")
    assert sf.load(trained[0], "cpu", ema_length=0.05).fingerprint == plain.fingerprint
    second = sf.load(trained[0], "cpu", ema_length=0.1).model.network.state_dict()
    assert all(torch.equal(second[k], v) for k, v in state(trained[0])["averages"][0].items())


def test_a_step_whose_checkpoint_is_gone_has_its_averages(trained, tmp_path):
    """The same weights as of a training that ended there."""
    early = sf.load(trained[0], "cpu", ema_length=0.07, sampling={"step": 12})
    train(tmp_path / "run", until=12)
    then = sf.load(tmp_path / "run", "cpu", ema_length=0.07)
    assert early.step == then.step == 12
    assert early.fingerprint == then.fingerprint
    assert early.trained_with == then.trained_with != {}


def test_the_network_s_buffers_are_those_of_the_step(tmp_path):
    """Integers among them, which no average is of."""
    network = torch.nn.BatchNorm1d(2)
    folder = tmp_path / "run"
    train(folder, until=4)
    run = RunDir.open(folder)
    for step in (4, 8):
        network.num_batches_tracked.fill_(step)
        network.running_mean.fill_(step)
        network.weight.data.fill_(step)
        weights = {k: v.clone() for k, v in network.state_dict().items()}
        averages.write(folder, step, (0.05, 0.1), [weights, weights], {})
    found = Snapshots(run, 8).averaged(0.07, network).weights
    assert int(found["num_batches_tracked"]) == 8
    assert found["num_batches_tracked"].dtype == torch.int64
    assert torch.equal(found["running_mean"], torch.full((2,), 8.0))
    assert float(found["weight"][0]) != 8


def ask(run, mode, *flags):
    command = ["run.py", f"--mode={mode}", f"--workdir={run}", "--device=cpu"]
    cheap = ["--config.sampling.num_images=8", "--config.sampling.steps=2"]
    if mode == "likelihood":
        cheap = ["--config.likelihood.num_images=2", "--config.likelihood.nodes=8"]
        cheap += ["--config.likelihood.checked=0"]
    return main([*command, *cheap, *flags])


def result(run, name):
    return json.loads((run / "results" / f"{name}.json").read_text())


@pytest.mark.slow
def test_a_likelihood_of_other_weights_has_rows_and_a_result_of_its_own(run):
    assert ask(run, "likelihood") == 0
    plain = result(run, "likelihood")
    rows = (run / "results" / "likelihood.jsonl").read_bytes()
    assert ask(run, "likelihood", "--config.likelihood.ema_length=0.07") == 0
    assert result(run, "likelihood") == plain  # the weights as trained stay the headline
    assert (run / "results" / "likelihood.jsonl").read_bytes() == rows
    beside = next(run.glob("results/likelihood-????????.json"))
    other = json.loads(beside.read_text())
    loaded = sf.load(run, "cpu", ema_length=0.07)
    assert other["weights"] == loaded.fingerprint != plain["weights"]
    assert other["settings"]["ema"] == loaded.averaged_as["ema"]
    assert other["value"] != plain["value"]
    direct = loaded.log_likelihood(loaded.data.test[:2], nodes=8)
    own = [json.loads(line) for line in (run / "results" / other["rows"]).open()][1:]
    nats = torch.tensor([row["nats"] for row in own], dtype=torch.float64)
    torch.testing.assert_close(-nats.mean(1), direct.values)
    # the length of the first kept average is the weights as trained: nothing is measured again
    kept_rows = {p: p.read_bytes() for p in run.glob("results/*.jsonl")}
    assert ask(run, "likelihood", "--config.likelihood.ema_length=0.05") == 0
    assert {p: p.read_bytes() for p in run.glob("results/*.jsonl")} == kept_rows


def test_samples_of_other_weights_stand_beside(run):
    assert ask(run, "sample", "--sampler=ddim") == 0
    plain = result(run, "samples-ddim")
    assert ask(run, "sample", "--sampler=ddim", "--config.sampling.ema_length=0.1") == 0
    assert result(run, "samples-ddim") == plain
    other = json.loads(next(run.glob("results/samples-ddim-*.json")).read_text())
    assert other["settings"]["ema"]["length"] == 0.1
    assert other["weights"] != plain["weights"]


def test_a_report_says_of_which_average_its_numbers_are(run):
    """Where weights as trained were never measured, a reconstructed average is the headline."""
    assert ask(run, "sample", "--sampler=ddim", "--config.sampling.ema_length=0.1") == 0
    page = (run / "report.html").read_text()
    assert f"8 images from the checkpoint of step {STEPS}, average of length 0.1" in page
    found = {"settings": {"label": 3, "ema": {"length": 0.07}}}
    assert given(found) == ", given class 3, average of length 0.07"
    assert average_of({"settings": {"ema": {"length": "much"}}}) == 0 == average_of({})


def test_an_export_is_of_the_average_that_is_asked_for(run, tmp_path):
    out = tmp_path / "out.safetensors"
    flags = ["--to=safetensors", f"--out={out}", "--config.sampling.ema_length=0.07"]
    command = ["run.py", "--mode=export", f"--workdir={run}", "--device=cpu"]
    assert main([*command, *flags]) == 0
    network = sf.load(run, "cpu", ema_length=0.07).model.network.state_dict()
    held = load_file(out)
    assert all(torch.equal(held[name], network[name]) for name in network)


# ---- refused


def refusal(run, capsys, *flags):
    capsys.readouterr()
    assert ask(run, "likelihood", *flags) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_what_cannot_be_reconstructed_is_refused_in_a_line(run, capsys, tmp_path):
    said = refusal(run, capsys, "--config.likelihood.ema_length=0.004")
    assert "off by" in said
    assert "they give 0.03" in said
    said = refusal(
        run, capsys, "--config.likelihood.ema_length=0.07", "--config.likelihood.step=5"
    )
    assert "no snapshot of its averages of step 5, it has 4, 8, 12" in said
    said = refusal(run, capsys, "--config.likelihood.ema_length=0.3")
    assert "must lie in [0, 0.28]" in said
    old = Path(shutil.copytree(FIXTURES / "run-0.1", tmp_path / "old"))
    said = refusal(
        old, capsys, "--config.likelihood.ema_length=0.07", "--config.likelihood.method=nodes"
    )
    assert "trained with training.ema = exponential" in said


def test_an_imported_run_is_refused_and_not_trained_so(run, capsys):
    """Weights that came from elsewhere, never trained on here: what --mode import leaves."""
    (run / "results" / "import.json").write_text(
        json.dumps({"step": STEPS, "format": "diffusers"})
    )
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RequestError, match="was imported, with the averages that it had"):
        sf.load(run, "cpu", ema_length=0.07)
    command = ["run.py", "--mode=train", f"--workdir={run}", "--device=cpu"]
    capsys.readouterr()
    assert main([*command, "--config.training.num_steps=30"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was imported: begin a new run with its weights, --config.training.init=" in said


BROKEN = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a bit": lambda path: path.write_bytes(
        path.read_bytes()[:900] + b"\0" + path.read_bytes()[901:]
    ),
    "no hash": lambda path: sidecar(path).unlink(),
    "other lengths": lambda path: rewrite(path, lengths=[0.05, 0.2]),
    "another step": lambda path: rewrite(path, step=13),
    "an average lost": lambda path: rewrite(path, averages=[]),
    "another network": lambda path: rewrite(path, averages=[{"w": torch.zeros(2)}] * 2),
    "not finite": lambda path: spoil(path),
}


def rewrite(path, **changes):
    write_state(path, {**torch.load(path, weights_only=True), **changes})


def spoil(path):
    held = torch.load(path, weights_only=True)
    next(iter(held["averages"][1].values())).view(-1)[0] = float("nan")
    write_state(path, held)


@pytest.mark.parametrize("how", BROKEN)
def test_a_torn_snapshot_is_named_and_refused(how, run):
    path = averages.path_of(run, 12)
    BROKEN[how](path)
    with pytest.raises(RequestError) as refused:
        _ = sf.load(run, "cpu", ema_length=0.07).fingerprint
    assert str(path) in str(refused.value)
    assert "put it back from a copy, or move it away" in str(refused.value)
    assert "\n" not in str(refused.value)
    path.unlink()
    sidecar(path).unlink(missing_ok=True)
    assert sf.load(run, "cpu", ema_length=0.07).averaged_as["ema"]["snapshots"] == 5


def test_a_snapshot_of_another_training_is_refused(run, tmp_path, capsys):
    train(tmp_path / "other", {**POWER, "seed": 1})
    for mine in (averages.path_of(run, STEPS), sidecar(averages.path_of(run, STEPS))):
        shutil.copy(tmp_path / "other" / "averages" / mine.name, mine)
    said = refusal(run, capsys, "--config.likelihood.ema_length=0.07")
    assert "seed = 0, and the checkpoint of step 24 1" in said


def test_a_snapshot_of_other_weights_than_the_checkpoint_is_refused(run, capsys):
    path = averages.path_of(run, STEPS)
    held = torch.load(path, weights_only=True)["averages"]
    rewrite(path, averages=[{k: v + 1e-3 for k, v in weights.items()} for weights in held])
    said = refusal(run, capsys, "--config.likelihood.ema_length=0.07")
    assert f"{path} is not of the checkpoint of that step" in said
