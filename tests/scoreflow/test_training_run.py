"""Runs that live: they grow, change, stop at a signal, begin with other weights, and move."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.errors import Stopped
from scoreflow.models.unet import UNet
from scoreflow.report.page import write_report
from scoreflow.storage.run_folder import RunDir
from scoreflow.training.trainer import Trainer

SHORT = {
    "model.width": 8,
    "training.num_steps": 4,
    "training.log_every": 2,
    "training.checkpoint_every": 2,
    "training.batch_size": 8,
    "training.warmup_steps": 1,
    "training.decay": "constant",
}


def train(folder, **changes):
    """Train on the toy data to the end, or go on with changes."""
    given = {key.replace("__", "."): value for key, value in changes.items()}
    fresh = {} if (folder / "config.json").exists() else SHORT
    return list(sf.train("toy", folder, {**SHORT, **given} if fresh else given, device="cpu"))


def go_on(folder, **changes):
    """As `--mode train --workdir DIR --config.KEY=VALUE`, without naming the experiment."""
    flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    cheap = ["--config.sampling.num_images=2", "--config.sampling.steps=2"]
    cheap += ["--config.likelihood.num_images=2", "--config.likelihood.checked=0"]
    cheap += ["--config.sampling.tolerance=0.5", "--config.likelihood.nodes=8"]
    return main(["run.py", "--mode=train", "--device=cpu", f"--workdir={folder}", *cheap, *flags])


def state(folder, step):
    return torch.load(folder / "checkpoints" / f"{step:08d}.pt", weights_only=True)


def metrics(folder):
    rows = RunDir.open(folder).read_metrics()
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def history(folder):
    return RunDir.open(folder).history


def same(left, right):
    assert left.keys() == right.keys()
    for part in ("model", "ema"):
        assert all(torch.equal(left[part][name], right[part][name]) for name in left[part])
    for one, other in zip(
        left["optimizer"]["state"].values(), right["optimizer"]["state"].values(), strict=True
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("four") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The same, of eight."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    train(folder, training__num_steps=8)
    return folder


@pytest.fixture
def run(four, tmp_path):
    """A copy of the run of four steps."""
    return Path(shutil.copytree(four, tmp_path / "run"))


# ---- growth and change --------------------------------------------------------------------------


def test_a_run_that_grew_is_the_longer_run(run, eight, capsys):
    assert go_on(run, training__num_steps=8) == 0
    assert "from step 4 on: likelihood.checked 16 -> 0" in capsys.readouterr().out
    same(state(run, 8), state(eight, 8))
    assert metrics(run) == metrics(eight)
    (entry,) = history(run)
    assert entry["step"] == 4
    assert entry["changes"]["training.num_steps"] == [4, 8]
    assert entry["changes"]["sampling.num_images"][1] == 2
    assert json.loads((run / "config.json").read_text())["training"]["num_steps"] == 8
    told = json.loads((run / "results" / "training.json").read_text())
    assert told["history"] == history(run)
    page = (run / "report.html").read_text()
    assert "Changed on the way" in page
    assert "training.num_steps" in page


def test_a_change_of_a_switch_is_told_as_a_flag_has_it(run, capsys):
    assert go_on(run, training__num_steps=6, training__compile="False") == 0
    assert "training.compile auto -> false" in capsys.readouterr().out
    assert history(run)[0]["changes"]["training.compile"] == ["auto", False]
    assert "<td>false</td>" in (run / "report.html").read_text()


def test_a_length_that_is_no_multiple_of_the_interval_may_grow(tmp_path, eight):
    train(tmp_path / "run", training__num_steps=5)
    list(sf.train("toy", tmp_path / "run", {**SHORT, "training.num_steps": 8}, device="cpu"))
    same(state(tmp_path / "run", 8), state(eight, 8))
    rows = [row for row in metrics(tmp_path / "run") if row["step"] != 5]
    assert rows == metrics(eight)


CHANGED = {**SHORT, "training.num_steps": 8, "training.batch_size": 12,
           "training.learning_rate": 1e-3}  # fmt: skip


def test_a_finished_run_is_not_trained_otherwise_without_a_step(run, capsys):
    before = (run / "config.json").read_bytes()
    assert go_on(run, training__batch_size=2000) == 2
    told = "4 steps, and nothing is left to train with another training.batch_size: ask for more"
    assert told in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before
    count = len(sf.load(run, "cpu").data.train)
    longer = {**SHORT, "training.num_steps": 5, "training.batch_size": count + 1}
    list(sf.train("toy", run, longer, device="cpu"))
    said = f"training.batch_size = {count + 1} is more than the {count} training data"
    assert said in capsys.readouterr().out


def test_a_change_survives_a_kill(run, tmp_path):
    for _ in sf.train("toy", run, CHANGED, device="cpu"):
        break  # at step 6, which is saved
    kept = Path(shutil.copytree(run, tmp_path / "killed"))
    list(sf.train("toy", run, CHANGED, device="cpu"))
    for damaged in (kept / "checkpoints").glob("00000006.*"):
        damaged.unlink()
    list(sf.train("toy", kept, CHANGED, device="cpu"))
    same(state(run, 8), state(kept, 8))
    assert metrics(run) == metrics(kept)
    assert [each["step"] for each in history(kept)] == [4]
    assert metrics(run)[-1]["learning_rate"] == 1e-3


def test_rows_of_a_training_that_is_left_are_dropped(tmp_path):
    folder = tmp_path / "run"
    sparse = {"training.num_steps": 8, "training.checkpoint_every": 4}
    for interval in sf.train("toy", folder, {**SHORT, **sparse}, device="cpu"):
        if interval.step == 6:
            break  # logged, and the checkpoint is that of 4
    assert [row["step"] for row in metrics(folder)] == [2, 4, 6]
    other = {**SHORT, **sparse, "training.learning_rate": 1e-3}
    list(sf.train("toy", folder, other, device="cpu"))
    rates = [(row["step"], row["learning_rate"]) for row in metrics(folder)]
    assert [step for step, _ in rates] == [2, 4, 6, 8]
    assert [rate == 1e-3 for _, rate in rates] == [False, False, True, True]


def test_a_change_whose_checkpoint_is_lost_holds_from_the_one_before(run):
    changed = {**CHANGED, "training.keep": 0}
    list(sf.train("toy", run, changed, device="cpu"))
    assert RunDir.open(run).checkpoint_steps() == [2, 4, 6, 8]
    for path in (run / "checkpoints").glob("0000000[468].pt"):
        path.write_bytes(b"torn")
    list(sf.train("toy", run, changed, device="cpu"))
    assert [each["step"] for each in history(run)] == [2]
    assert [row["learning_rate"] == 1e-3 for row in metrics(run)] == [False, True, True, True]


# ---- signals ------------------------------------------------------------------------------------


@pytest.fixture
def signalled(monkeypatch):
    """A signal arrives in the third step."""

    def at_step_three(number):
        whole = Trainer._advance

        def step(self):
            if self.step == 2:
                signal.raise_signal(number)
            return whole(self)

        monkeypatch.setattr(Trainer, "_advance", step)

    yield at_step_three
    monkeypatch.undo()


def test_a_signal_saves_the_step_and_the_run_goes_on_to_the_same_rows(
    signalled, monkeypatch, tmp_path, four
):
    signalled(signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3, which is saved"):
        train(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert RunDir.open(tmp_path / "run").checkpoint_steps() == [2, 3]
    assert len(state(tmp_path / "run", 3)["pending"]) == 1
    list(sf.train("toy", tmp_path / "run", SHORT, device="cpu"))
    same(state(tmp_path / "run", 4), state(four, 4))
    assert metrics(tmp_path / "run") == metrics(four)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_line_ends_with_the_status_of_its_signal(
    number, status, signalled, tmp_path, capfd
):
    train(tmp_path / "run", training__num_steps=2)
    signalled(number)
    capfd.readouterr()
    assert go_on(tmp_path / "run", training__num_steps=8) == status
    err = capfd.readouterr().err
    assert "stopped at step 3, which is saved; the same command goes on from there\n" in err
    assert RunDir.open(tmp_path / "run").checkpoint_steps() == [2, 3]


def test_a_signal_in_the_last_step_leaves_the_samples_to_the_same_command(signalled, tmp_path):
    signalled(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped at step 3"):
        train(tmp_path / "run", training__num_steps=3)
    assert RunDir.open(tmp_path / "run").checkpoint_steps() == [2, 3]


# ---- earlier checkpoints ------------------------------------------------------------------------


def test_an_earlier_checkpoint_is_drawn_from_and_measured(tmp_path, capsys):
    folder = tmp_path / "run"
    train(folder, training__keep=0, training__num_steps=6)
    assert RunDir.open(folder).checkpoint_steps() == [2, 4, 6]
    asked = sf.load(folder, "cpu", sampling={"step": 2})
    assert asked.step == 2
    expected = state(folder, 2)["ema"]
    assert all(torch.equal(expected[k], v) for k, v in asked.model.network.state_dict().items())
    ask = ["run.py", "--mode=sample", "--device=cpu", f"--workdir={folder}", "--sampler=ddim"]
    ask += ["--config.sampling.steps=2", "--config.sampling.num_images=2"]
    assert main([*ask, "--config.sampling.step=4"]) == 0
    assert (folder / "samples" / "00000004-ddim.png").exists()
    capsys.readouterr()
    assert main([*ask, "--config.sampling.step=3"]) == 2
    err = capsys.readouterr().err
    assert "has no checkpoint of step 3, it has 2, 4, 6; training.keep says" in err
    with pytest.raises(sf.RequestError, match=r"sampling\.step = 2 and likelihood\.step = 4"):
        sf.load(folder, "cpu", sampling={"step": 2}, likelihood={"step": 4})
    with pytest.raises(sf.RequestError, match=r"step has no effect on sample: load the run"):
        asked.sample(1, step=4)
    measure = ["run.py", "--mode=likelihood", "--device=cpu", f"--workdir={folder}"]
    measure += ["--config.likelihood.num_images=2", "--config.likelihood.checked=0"]
    assert main([*measure, "--config.likelihood.step=2"]) == 0
    assert json.loads((folder / "results" / "likelihood.json").read_text())["step"] == 2


# ---- other weights to begin with ----------------------------------------------------------------


def test_a_run_begins_with_the_averaged_weights_of_another(four, tmp_path):
    new = {**SHORT, "training.init": str(four), "training.num_steps": 1, "training.log_every": 1}
    new |= {"training.checkpoint_every": 1, "training.learning_rate": 1e-30}
    list(sf.train("toy", tmp_path / "run", new, device="cpu"))
    begun, given = state(tmp_path / "run", 1)["ema"], state(four, 4)["ema"]
    assert all(torch.equal(begun[name], given[name]) for name in given)
    kept = json.loads((tmp_path / "run" / "results" / "init.json").read_text())
    assert (kept["source"], kept["step"]) == (str(four.resolve()), 4)
    assert kept["sha256"] == sf.load(four, "cpu").fingerprint
    told = json.loads((tmp_path / "run" / "results" / "training.json").read_text())
    assert told["init"] == kept
    page = write_report(RunDir.open(tmp_path / "run")).read_text()
    begun = f"the averaged weights of {four.resolve()}, step 4 (SHA-256 {kept['sha256'][:12]}"
    assert begun in page


@pytest.mark.parametrize(
    ("init", "changed", "reason"),
    [
        ("run", {"model.width": 16}, r"was trained with model\.width = 8, got 16"),
        ("run", {"model.prediction": "eps"}, r"was trained with model\.prediction = v, got eps"),
        (
            "run",
            {"model.width": 16, "model.prediction": "eps"},
            r"got eps, model\.width = 8, got 16: .*; add --.*prediction=v --.*width=8",
        ),
        ("nowhere", {}, r"training\.init: .*nowhere is not there; name a run's folder"),
    ],
)
def test_weights_of_another_network_are_refused_before_anything(
    init, changed, reason, four, tmp_path
):
    asked = {**SHORT, "training.init": str(four.parent / init), **changed}
    with pytest.raises(sf.RequestError, match=reason):
        next(sf.train("toy", tmp_path / "run", asked, device="cpu"))
    assert not (tmp_path / "run").exists()


def test_weights_that_changed_before_the_first_checkpoint_are_noticed(run, tmp_path):
    new = {**SHORT, "training.init": str(run), "training.num_steps": 2}
    for _ in sf.train("toy", tmp_path / "new", {**new, "training.log_every": 1}, device="cpu"):
        break  # before there is a checkpoint
    go_on(run, training__num_steps=6)
    with pytest.raises(sf.RequestError, match=r"are not those that .* began with"):
        next(sf.train("toy", tmp_path / "new", {**new, "training.log_every": 1}, device="cpu"))


# ---- previews -----------------------------------------------------------------------------------


def test_previews_change_no_number_of_the_training(four, tmp_path):
    train(tmp_path / "run", training__preview_every=2)
    same(state(tmp_path / "run", 4), state(four, 4))
    rows = metrics(tmp_path / "run")
    assert [row for row in rows if "loss" in row] == metrics(four)
    assert [row["step"] for row in rows if "held_out_loss" in row] == [2, 4]
    pictures = sorted((tmp_path / "run" / "previews").glob("*"))
    assert [path.name for path in pictures] == ["00000002.png", "00000004.png"]
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    page = write_report(RunDir.open(tmp_path / "run")).read_text()
    assert "Previews" in page
    assert "previews/00000004.png" in page
    with pytest.raises(sf.RequestError, match="preview_every must be a multiple of"):
        train(tmp_path / "other", training__preview_every=3)


# ---- data that move, change or are gone ---------------------------------------------------------

TINY = {
    "data.name": "images",
    "model.name": "unet",
    "model.channels": 4,
    "model.multipliers": (1,),
    "model.blocks": 1,
    "model.attention_sizes": (8,),
    "model.num_groups": 2,
    **{key: SHORT[key] for key in SHORT if key.startswith("training.")},
    "training.num_steps": 2,
}


def write_images(folder, count, mode="L", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, 8, 8) if mode == "L" else (count, 8, 8, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    for k, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{k:03d}.png")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run on images at a relative path, seen from elsewhere."""
    write_images(tmp_path / "here" / "imgs", 20)
    monkeypatch.chdir(tmp_path / "here")
    list(sf.train("default", "run", {**TINY, "data.path": "imgs"}, device="cpu"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "here" / "run"


def test_data_are_found_from_another_folder_and_beside_a_run_that_moved(trained):
    expected = sf.load(trained, "cpu").data.test
    assert len(expected) == 4
    before = (trained / "data.json").read_text()
    longer = {**TINY, "data.path": "imgs", "training.num_steps": 4}
    list(sf.train("default", trained, longer, device="cpu"))
    assert (trained / "data.json").read_text() == before  # a path from elsewhere is not lost
    moved = trained.parent.rename(trained.parent.with_name("moved")) / "run"
    assert torch.equal(sf.load(moved, "cpu").data.test, expected)


def test_vectors_are_found_beside_a_run_that_moved(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    table = np.random.default_rng(0).normal(size=(20, 2))
    np.savetxt("t.csv", table, delimiter=",")
    vectors = {**SHORT, "training.num_steps": 2, "data.path": "t.csv"}
    list(sf.train("vectors", "run", vectors, device="cpu"))
    monkeypatch.chdir(tmp_path)
    expected = np.random.default_rng(0).permutation(20)[:4]
    moved = (tmp_path / "here").rename(tmp_path / "moved") / "run"
    for run in (moved, moved.relative_to(tmp_path)):
        found = sf.load(run, "cpu").data.test
        assert torch.equal(found, torch.from_numpy(table[expected].astype(np.float32)))
    (moved.parent / "t.csv").unlink()
    with pytest.raises(sf.RequestError, match=r"t\.csv is not there; .*data\.path=PATH"):
        _ = sf.load(moved, "cpu").data


def test_samples_need_no_data(trained, monkeypatch, capsys):
    before = sf.load(trained, "cpu").sample(2, "ddim", steps=2)
    (trained.parent / "imgs").rename(trained.parent / "renamed")
    run = sf.load(trained, "cpu")
    assert torch.equal(run.sample(2, "ddim", steps=2), before)
    with pytest.raises(sf.RequestError, match=r"imgs is not there; say where they are now by"):
        _ = run.data
    ask = ["run.py", "--mode=sample", "--device=cpu", f"--workdir={trained}", "--sampler=ddim"]
    ask += ["--config.sampling.steps=2", "--config.sampling.num_images=12"]
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert "samples are not compared with data: the data of" in said
    assert "drawing samples needs none" not in said
    here = f"--config.data.path={trained.parent / 'renamed'}"
    assert main([*ask, here]) == 0
    assert "told from training data by 0" in capsys.readouterr().out
    kept = trained / "results" / "samples-ddim.json"
    with_data = json.loads(kept.read_text())
    assert main(ask) == 0  # the same samples, whose comparison stays
    again = json.loads(kept.read_text())
    assert again["two_sample"] == with_data["two_sample"] != None  # noqa: E711
    assert main([*ask, "--config.sampling.num_images=13"]) == 0
    assert "stays: it is compared with data" in capsys.readouterr().out
    likelihood = ["run.py", "--mode=likelihood", "--device=cpu", f"--workdir={trained}"]
    likelihood += ["--config.likelihood.num_images=2", "--config.likelihood.checked=0"]
    assert main(likelihood) == 2
    assert main([*likelihood, here]) == 0


def test_a_training_goes_on_over_data_that_moved(trained):
    (trained.parent / "imgs").rename(trained.parent / "renamed")
    at = str(trained.parent / "renamed")
    with pytest.raises(sf.RequestError, match="imgs is not there"):
        next(sf.train("default", trained, {**TINY, "data.path": "imgs"}, device="cpu"))
    longer = {**TINY, "data.path": at, "training.num_steps": 4}
    assert [each.step for each in sf.train("default", trained, longer, device="cpu")] == [4]
    assert json.loads((trained / "data.json").read_text())["absolute"] == at
    assert history(trained)[0]["changes"]["data.path"] == ["imgs", at]


def added(images):
    write_images(images, 25, seed=0)


def in_colour(images):
    write_images(images, 20, "RGB")


def in_another_order(images):
    (images / "000.png").rename(images / "zzz.png")


def other(images):
    write_images(images, 20, seed=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (added, r"4 more training data \(20, not 16\); 1 more held-out data \(5, not 4\)"),
        (in_colour, "they are 3 x 8 x 8, not 1 x 8 x 8"),
        (in_another_order, "other (training|held-out) data"),
        (other, "other training data; other held-out data"),
    ],
)
def test_data_that_changed_are_noticed_before_anything_happens(change, reason, trained, capsys):
    change(trained.parent / "imgs")
    before = {path: path.read_bytes() for path in trained.rglob("*.*") if path.is_file()}
    longer = {**TINY, "data.path": "imgs", "training.num_steps": 4}
    with pytest.raises(sf.RequestError, match=reason) as refused:
        next(sf.train("default", trained, longer, device="cpu"))
    assert f"--config.training.init={trained}" in str(refused.value)
    ask = ["run.py", "--mode=likelihood", "--device=cpu", f"--workdir={trained}"]
    assert main(ask) == 2
    assert "are not those that" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert sf.load(trained, "cpu").sample(1, "ddim", steps=2).shape == (1, 1, 8, 8)


def test_a_run_without_a_record_takes_its_data_as_they_are_and_gets_one(trained):
    (trained / "data.json").unlink()
    at = str(trained.parent / "imgs")
    config = json.loads((trained / "config.json").read_text())
    config["data"]["path"] = at
    (trained / "config.json").write_text(json.dumps(config))
    assert len(sf.load(trained, "cpu").data.train) == 16
    longer = {**TINY, "data.path": at, "training.num_steps": 4}
    list(sf.train("default", trained, longer, device="cpu"))
    assert json.loads((trained / "data.json").read_text())["train"]["count"] == 16


def test_a_conditional_network_begins_with_an_unconditional_one(tmp_path):
    """Its classes' vectors, which the other has none of, stay as they were made."""
    from scoreflow.training import initial

    made = {"image_size": 8, "channels": 4, "multipliers": (1,), "blocks": 1, "num_groups": 2}
    made |= {"attention_sizes": (8,), "in_channels": 1, "out_channels": 1}
    plain, with_classes = UNet(**made), UNet(num_classes=3, **made)
    table = with_classes.state_dict()[initial.CLASSES].clone()
    given = initial.InitialWeights(tmp_path, 7, plain.state_dict(), "", {})
    initial.load(with_classes, given)
    found = with_classes.state_dict()
    assert torch.equal(found[initial.CLASSES], table)
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())
    fewer = UNet(num_classes=2, **made).state_dict()
    given = initial.InitialWeights(tmp_path, 7, fewer, "", {})
    with pytest.raises(sf.RequestError, match=r"classes\.weight is 3 x 16 there and 4 x 16 here"):
        initial.load(with_classes, given)


def test_a_run_of_images_begins_with_an_exported_file(trained, tmp_path):
    file = sf.load(trained, "cpu").export("safetensors", tmp_path / "net.safetensors")
    asked = {**TINY, "data.path": str(trained.parent / "imgs"), "training.init": str(file)}
    asked |= {"training.learning_rate": 1e-30}
    list(sf.train("default", tmp_path / "new", asked, device="cpu"))
    begun, given = state(tmp_path / "new", 2)["ema"], state(trained, 2)["ema"]
    assert all(torch.equal(begun[name], given[name]) for name in given)
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(sf.RequestError, match="is no file of --mode export --to safetensors"):
        next(
            sf.train(
                "default", tmp_path / "b", {**asked, "training.init": str(other)}, device="cpu"
            )
        )
