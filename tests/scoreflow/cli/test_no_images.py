"""A run without images: it samples and reports; what needs images says so in one line."""

import json

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.configs import default
from scoreflow.factory import assembly
from scoreflow.schema import request, resolve
from scoreflow.storage.run_folder import RunDir

SMALL = {
    "data.name": "none",
    "model.shape": [3, 8, 8],
    "model.channels": 8,
    "model.num_groups": 4,
    "model.blocks": 1,
    "model.multipliers": [1],
    "model.attention_sizes": [],
    "training.dequantization": "centre",
    "likelihood.dequantization": "truncated_normal",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a fresh network, in a folder as of a training."""
    path = tmp_path_factory.mktemp("runs") / "none"
    flat = {**request.flatten(default.get_config().to_dict()), **SMALL}
    config = resolve.resolve(flat, "test")
    made = assembly.experiment(config, torch.device("cpu"), training=False)
    state = made.network.state_dict()
    with RunDir.create(path, config.to_dict(), {}) as run:
        run.save_checkpoint(0, {"ema": state, "model": state, "step": 0})
    return path


def call(folder, capsys, mode, *more):
    argv = ["run.py", "--mode", mode, "--workdir", str(folder), "--device", "cpu", *more]
    capsys.readouterr()
    status = main(argv)
    return status, capsys.readouterr().err


FEW = ("--config.sampling.num_images=12", "--config.sampling.steps=3")


def test_it_samples_and_reports_without_numbers_against_data(folder, capsys):
    status, said = call(folder, capsys, "sample", "--sampler", "dpm", *FEW)
    assert status == 0, said
    found = json.loads((folder / "results" / "samples-dpm.json").read_text(encoding="utf-8"))
    assert found["value"] is None
    assert found["two_sample"] is None
    assert found["data"] == {}
    assert found["num_images"] == 12
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "dpm" in page
    assert "data:image/png;base64" in page


REFUSED = {
    ("likelihood",): "measures on images",
    ("compare",): "measures on images",
    ("classifier",): "measures on images",
    ("equivalence",): "measures on images",
    ("profile",): "measures on images",
    ("train",): "has no images (data.name = none)",
    ("sample", "--sampler", "ancestral", "--config.sampling.variance=optimal"): "training images",
    ("sample", "--config.sampling.task=inpaint"): "has no test images: name a file",
}


@pytest.mark.parametrize("asked", REFUSED, ids=" ".join)
def test_what_needs_images_says_so_with_the_remedy(folder, capsys, asked):
    status, said = call(folder, capsys, *asked)
    assert status == 2, said
    (line,) = said.splitlines()
    assert REFUSED[asked] in line
    assert "--data PATH" in line


@pytest.mark.parametrize("mode", ["equivalence", "profile"])
def test_a_fresh_network_without_images_is_refused(mode, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["run.py", "--mode", mode, "--config.data.name=none", "--config.model.shape=(3,8,8)"]
    assert main([*argv, "--device", "cpu"]) == 2
    assert "needs images, got data.name = none: add --data PATH" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_shape_of_its_own_frees_no_data_of_a_run_that_was_trained_here(folder, capsys):
    status, said = call(folder, capsys, "sample", "--data=digits")
    assert status == 2
    assert "data.name belongs to the trained weights (none there, digits asked)" in said
