"""A config.json or data.json edited after training, and folders that can be used again."""

import json
import math

import numpy as np
import pytest

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.errors import RequestError
from scoreflow.losses.objective import Objective
from scoreflow.schema.config import KEYS, Config, belongs_to_weights
from scoreflow.schema.request import flatten
from scoreflow.schema.resolve import frozen, refuse_edited
from scoreflow.storage.checkpoints.content import hash_in_state, values_in
from scoreflow.storage.checkpoints.states import read_state
from scoreflow.storage.run_folder import RunDir

MODES = {
    "sample": ("--mode=sample", "--sampler=ddim"),
    "likelihood": ("--mode=likelihood",),
    "compare": ("--mode=compare", "--samplers=ddim"),
    "classifier": ("--mode=classifier",),
    "equivalence": ("--mode=equivalence",),
    "profile": ("--mode=profile",),
    "train": ("--mode=train",),
}
EDITS = {
    "model.prediction": "eps",
    "sde.schedule": "cosine",
    "sde.sigma_min": 0.02,
    "sde.name": "subvp",
    "seed": 5,
    "data.split_seed": 7,
    "data.test_fraction": 0.3,
    "training.dequantization": "centre",
    "training.learning_rate": 1e-5,
    "training.objective": "variational",
    "training.clip_norm": 0.25,
    "training.t_min": 0.5,
    "model.channels": 16,
}
VECTORS = {
    "model.width": 8,
    "training.num_steps": 4,
    "training.log_every": 2,
    "training.checkpoint_every": 2,
    "training.batch_size": 8,
}


def run(mode, folder, *flags):
    return main(["run.py", *MODES[mode], *flags, "--device=cpu", f"--workdir={folder}"])


def edit(folder, key, value, name="config.json"):
    path = folder / name
    held = json.loads(path.read_text())
    section, _, option = key.rpartition(".")
    place = held[section] if section else held
    old, place[option] = place[option], value
    path.write_text(json.dumps(held))
    return old


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def other_value(key, value):
    """Another value of a key, that its type and range allow."""
    if KEYS[key].classes or isinstance(value, bool) or KEYS[key].undecided:
        return value is not True
    if isinstance(value, int | float):
        limits = KEYS[key].limits
        tries = (value + 1, value / 2, value - 1, 0.5)
        return next(each for each in map(type(value), tries)
                    if each != value and (limits is None or each in limits))  # fmt: skip
    if isinstance(value, str):
        return next((each for each in KEYS[key].choices if each != value), f"{value}x")
    return (*value, *value) if value else (1,)


def test_every_key_of_the_weights_is_watched(trained, tmp_path):
    flat = flatten(RunDir.open(trained).config)
    recorded, watched = frozen(flat), 0
    refuse_edited(recorded, flat, [], 60, tmp_path / "config.json")
    for key in filter(belongs_to_weights, KEYS):
        edited = {**flat, key: other_value(key, flat[key])}
        if key not in recorded:
            assert key in ("data.path", "data.cache"), key  # where the data lie, not what they are
            refuse_edited(recorded, edited, [], 60, tmp_path / "config.json")
            continue
        with pytest.raises(RequestError, match=rf"config\.json was edited .* it has {key} = "):
            refuse_edited(recorded, edited, [], 60, tmp_path / "config.json")
        watched += 1
    assert watched >= 70


@pytest.mark.parametrize("key", EDITS)
def test_an_edit_is_refused_with_both_values_before_anything_is_written(key, run_copy, capsys):
    folder = run_copy()
    old = edit(folder, key, EDITS[key])
    before = files_of(folder)
    for mode in MODES if key == "model.prediction" else ("sample",):
        assert run(mode, folder) == 2, mode
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"it has {key} = {EDITS[key]}, and the checkpoint of step 60 {old}" in line
        assert f"put back {key} = {old}" in line
    assert files_of(folder) == before


def test_what_a_python_call_gets_is_refused_as_well(run_copy):
    folder = run_copy()
    edit(folder, "sde.schedule", "cosine")
    with pytest.raises(RequestError, match=r"edited after training: it has sde\.schedule"):
        sf.load(folder, "cpu")


def test_settings_of_evaluation_may_be_edited(run_copy):
    folder = run_copy()
    edit(folder, "sampling.steps", 3)
    edit(folder, "likelihood.seed", 1)
    assert sf.load(folder, "cpu").config.sampling.steps == 3
    assert run("sample", folder) == 0


def test_a_change_on_resuming_is_no_edit_and_an_edited_change_is_one(run_copy, capsys):
    folder = run_copy()
    for name in ("00000060.pt", "00000060.pt.sha256"):
        (folder / "checkpoints" / name).unlink()
    config = Config.of_flat(flatten(RunDir.open(folder).config), "the test").to_config_dict()
    changed = {"training.learning_rate": 1e-3, "training.num_steps": 70}
    steps = iter(sf.train(config, folder, changed, device="cpu"))
    next(steps)
    steps.close()  # no checkpoint of the new rate yet
    assert sf.load(folder, "cpu").step == 50
    assert [each.step for each in sf.train(config, folder, changed, device="cpu")] == [
        55, 60, 65, 70
    ]  # fmt: skip
    for step in (60, 70):
        assert sf.load(folder, "cpu", sampling={"step": step}).step == step
    old = edit(folder, "training.learning_rate", 0.5)
    assert old == 1e-3
    for mode in ("sample", "train"):
        assert run(mode, folder) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "it has training.learning_rate = 0.5, and its history 0.001" in line
        assert "then change it by --config.training.learning_rate=0.5" in line


def test_data_json_is_watched_as_well(run_copy, capsys):
    folder = run_copy()
    for key, value in (("num_levels", 255), ("shape", [1, 8, 9]), ("num_classes", 3)):
        old = edit(folder, key, value, "data.json")
        assert run("sample", folder) == 2
        assert f"data.json was edited after training: it has {key}" in capsys.readouterr().err
        edit(folder, key, old, "data.json")
    assert run("sample", folder) == 0


def test_data_given_from_python_are_watched_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    list(sf.train("toy", tmp_path / "run", VECTORS, device="cpu", data=rows))
    assert sf.load(tmp_path / "run", "cpu").step == 4
    edit(tmp_path / "run", "data.test_fraction", 0.4)
    with pytest.raises(RequestError, match=r"it has data\.test_fraction = 0\.4, and"):
        sf.load(tmp_path / "run", "cpu", data=rows)
    with pytest.raises(RequestError, match=r"it has data\.test_fraction = 0\.4, and"):
        list(sf.train("toy", tmp_path / "run", VECTORS, device="cpu", data=rows))


def test_a_run_that_another_begins_with_is_watched(tmp_path):
    list(sf.train("toy", tmp_path / "a", VECTORS, device="cpu"))
    edit(tmp_path / "a", "model.prediction", "x_0")
    wanted = {**VECTORS, "training.init": str(tmp_path / "a"), "model.prediction": "x_0"}
    with pytest.raises(RequestError, match=r"a/config\.json was edited .* model\.prediction"):
        list(sf.train("toy", tmp_path / "b", wanted, device="cpu"))
    assert not (tmp_path / "b").exists()


def test_results_stand_under_the_hash_of_the_config(trained):
    state = read_state(trained / "checkpoints" / "00000060.pt", "cpu")
    heading = json.loads((trained / "results" / "likelihood.jsonl").read_text().splitlines()[0])
    assert heading["config"] == hash_in_state(state)
    assert values_in(state) == frozen(flatten(RunDir.open(trained).config))
    assert sf.load(trained, "cpu").draw_settings("ddim")["config"] == heading["config"]


# ---- a folder whose training never got to a checkpoint ------------------------------------------


def test_what_can_be_refused_is_before_a_folder_is_made(tmp_path, capsys):
    folder, batch = tmp_path / "new", "--config.training.batch_size=8"
    assert run("train", folder, batch, "--config.training.micro_batches=9") == 2
    assert "training.batch_size must be at least" in capsys.readouterr().err
    assert not folder.exists()
    conditional = ("--data", "toy", "--config.model.conditional=true")
    run("train", folder, *conditional)
    assert not folder.exists()


def toy(folder, **changes):
    keys = {key.replace("__", "."): value for key, value in changes.items()}
    return list(sf.train("toy", folder, {**VECTORS, **keys}, device="cpu"))


def test_a_run_without_a_checkpoint_takes_a_new_config(tmp_path, capsys):
    folder = tmp_path / "run"
    with pytest.raises(
        sf.RunError, match="learning_rate=RATE goes on in this folder, or begins anew"
    ):
        toy(folder, training__learning_rate=1e30, training__warmup_steps=0)
    assert not RunDir.open(folder).checkpoint_steps()
    capsys.readouterr()
    again = toy(folder, training__warmup_steps=0, model__width=16, sde__schedule="cosine")
    assert [each.step for each in again] == [2, 4]
    out = capsys.readouterr().out
    assert "has no checkpoint yet, and begins anew with" in out
    assert "sde.schedule" in out
    config, history = RunDir.open(folder).config, RunDir.open(folder).history
    assert config["model"]["width"] == 16
    assert history == []
    assert [row["step"] for row in RunDir.open(folder).read_metrics()] == [2, 4]
    undisturbed = toy(tmp_path / "other", training__warmup_steps=0, model__width=16,
                      sde__schedule="cosine")  # fmt: skip
    assert undisturbed == again
    name = "checkpoints/00000004.pt"
    assert (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with pytest.raises(RequestError, match="holds a run with another config"):
        toy(folder, sde__schedule="linear")  # it has checkpoints now


def test_a_run_whose_checkpoints_were_lost_does_not(tmp_path):
    toy(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(RequestError, match="holds a run with another config"):
        toy(tmp_path / "run", sde__schedule="linear")


def test_a_first_step_that_is_not_finite_does_not_blame_the_learning_rate(tmp_path, monkeypatch):
    kept = Objective.loss

    def hopeless(objective, *arguments):
        loss = kept(objective, *arguments)  # asked before the run too, of a network that answers 0
        return loss * math.inf if loss.requires_grad else loss

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "loss", hopeless)
        with pytest.raises(sf.RunError, match="the learning rate is not the cause") as caught:
            toy(tmp_path / "run")
    assert "step 1: loss" in str(caught.value)
    assert "begins anew in this folder" in str(caught.value)
    assert [each.step for each in toy(tmp_path / "run")] == [2, 4]  # nothing was changed


def test_an_import_is_watched_and_may_be_trained_on_with_what_it_likes(trained, tmp_path, capsys):
    file, folder = tmp_path / "net.safetensors", tmp_path / "imported"
    sf.load(trained, "cpu").export("safetensors", file)
    sf.import_network(file, folder, data="digits", device="cpu", anyway=True)
    was = RunDir.open(folder).checkpoint_steps()
    old = edit(folder, "training.dequantization", "centre")
    assert run("sample", folder) == 2
    assert "it has training.dequantization = centre, and" in capsys.readouterr().err
    edit(folder, "training.dequantization", old)
    changed = {"training.learning_rate": 1e-4, "training.num_steps": was[-1] + 2,
               "training.log_every": 1, "training.checkpoint_every": 1,
               "training.dequantization": "centre"}  # fmt: skip
    config = Config.of_flat(flatten(RunDir.open(folder).config) | changed, "the test")
    steps = list(sf.train(config.to_config_dict(), folder, device="cpu"))
    assert [each.step for each in steps] == [was[-1] + 1, was[-1] + 2]
    assert sf.load(folder, "cpu").config.training.dequantization == "centre"
    edit(folder, "model.prediction", "eps")
    assert run("sample", folder) == 2
    assert "it has model.prediction = eps" in capsys.readouterr().err


def test_a_change_that_no_resume_takes_is_not_proposed(tmp_path):
    saved = flatten(Config().to_dict())
    for steps, proposed in ((saved["training.num_steps"] + 1, True), (1, False)):
        edited = {**saved, "training.num_steps": steps}
        with pytest.raises(RequestError) as caught:
            refuse_edited(frozen(saved), edited, [], 5, tmp_path / "config.json")
        assert ("then change it by" in str(caught.value)) == proposed
