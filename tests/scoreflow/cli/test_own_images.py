"""What a training says of the images that it was given, before it begins."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

import scoreflow as sf
from scoreflow.cli.main import main

TINY = {
    "data.name": "images",
    "sde.num_steps": 20,
    "sde.schedule": "log_linear",
    "model.prediction": "v",
    "model.channels": 8,
    "model.num_groups": 4,
    "model.multipliers": (1,),
    "model.blocks": 1,
    "model.attention_sizes": (),
    "training.num_steps": 1,
    "training.batch_size": 2,
    "training.warmup_steps": 1,
    "training.log_every": 1,
    "training.checkpoint_every": 1,
    "sampling.num_images": 2,
    "sampling.steps": 2,
    "likelihood.num_images": 1,
    "likelihood.probes": 1,
    "likelihood.checked": 0,
    "likelihood.nodes": 8,
}


@pytest.fixture
def images(tmp_path):
    """Ten grey images of 4x4 in two classes, in a zip archive."""
    path = tmp_path / "grey.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(10):
            stream = io.BytesIO()
            Image.fromarray(np.full((4, 4), k, np.uint8)).save(stream, "PNG")
            archive.writestr(f"{('cat', 'dog')[k % 2]}/{k}.png", stream.getvalue())
    return path


SAID = "2 classes by folder: cat, dog"


def test_the_command_says_which_classes_were_found(images, tmp_path, capsys):
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    path = f"--config.data.path={images}"
    train = ["run.py", "--mode=train", f"--workdir={tmp_path / 'run'}", *flags, path]
    assert main(train) == 0
    assert capsys.readouterr().out.splitlines()[0] == SAID
    run = sf.load(tmp_path / "run")
    assert run.data.class_names == ("cat", "dog")
    assert capsys.readouterr().out == ""  # it was said when it was trained


def test_so_does_python(images, tmp_path, capsys):
    settings = {**TINY, "data.path": str(images), "model.conditional": True}
    next(sf.train("digits", tmp_path / "run", settings, device="cpu"))
    few = "only values 0..9 occur: --config.data.levels=10 counts them as levels"
    assert capsys.readouterr().out.splitlines() == [SAID, few]


def test_a_set_is_trained_and_measured_on_whole_if_nothing_is_held_out(images, tmp_path, capsys):
    settings = {**TINY, "data.path": str(images), "data.test_fraction": 0}
    next(sf.train("digits", tmp_path / "run", settings, device="cpu"))
    assert "nothing is held out (data.test_fraction = 0): all 10 data" in capsys.readouterr().out
    data = sf.load(tmp_path / "run").data
    assert data.one_part
    assert sorted(data.test[:, 0, 0, 0].tolist()) == list(range(10))
