"""Import from Python: what the run's folder holds, and what leaves nothing behind."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import scoreflow as sf
from scoreflow.imported_run import config_of, import_network
from scoreflow.interop import formats

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRAINED = FIXTURES / "improved_diffusion" / "digits_trained" / "ema_0.995_4000.pt"
OPTIONS = {"size": 8, "heads": 4, "steps": 4000, "schedule": "cosine", "norm_groups": 4}
DIGITS = {
    "format": "improved_diffusion",
    "options": OPTIONS,
    "overrides": {"model.prediction": "v"},
    "device": "cpu",
}
DDPM = FIXTURES / "diffusers" / "ddpm"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The trained network with its data."""
    return import_network(
        TRAINED, tmp_path_factory.mktemp("runs") / "run", data="digits", **DIGITS
    )


def test_the_folder_is_a_run_like_any_other(imported):
    path = imported.folder.path
    config = json.loads((path / "config.json").read_text())
    env = json.loads((path / "env.json").read_text())
    result = json.loads((path / "results" / "import.json").read_text())
    assert config["sde"]["num_steps"] == 4000
    assert config["data"]["name"] == "digits"
    assert config["model"]["data_scale"] == pytest.approx(16 / 17)
    digest = hashlib.sha256(TRAINED.read_bytes()).hexdigest()
    assert env["imported"]["sha256"] == {TRAINED.name: digest}
    assert env["imported"]["format"] == "improved_diffusion"
    assert env["imported"]["options"] == OPTIONS
    assert result["check"]["passed"]
    assert result["step"] == imported.step == 4000
    assert imported.folder.checkpoint_steps() == [4000]
    assert not (path / "lock").exists()
    again = sf.load(path, "cpu")
    assert again.fingerprint == imported.fingerprint
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([3.0, 900.0]).double()
    assert torch.equal(again.model(x, t).eps, imported.model(x, t).eps)


def test_its_weights_are_the_file_s(imported):
    held = torch.load(TRAINED, weights_only=True)
    ours = imported.model.network.state_dict()
    torch.testing.assert_close(ours["stem.weight"], held["input_blocks.0.0.weight"].float())
    assert sum(v.numel() for v in ours.values()) == sum(v.numel() for v in held.values())


def test_samples_and_likelihood_of_it(imported):
    samples = imported.sample(16, sampler="dpm", steps=20)
    real = imported.data.test
    near = torch.cdist(samples.double().flatten(1), real.double().flatten(1)).min(1).values
    among = torch.cdist(real.double().flatten(1), real.double().flatten(1))
    among.fill_diagonal_(torch.inf)
    assert near.median() < 1.5 * among.min(1).values.median()  # they are digits
    found = imported.log_likelihood(real[:4], nodes=16, checked=0)
    noise = torch.randint(0, 17, (4, 1, 8, 8), dtype=torch.uint8)
    worse = imported.log_likelihood(noise, nodes=16, checked=0)
    assert found.bits_per_dim.mean() < 4.09 - 0.2  # log2 17, the cost of knowing nothing
    assert worse.bits_per_dim.mean() > found.bits_per_dim.mean() + 1


def test_without_images_its_own_samples_are_checked(tmp_path):
    run = import_network(TRAINED, tmp_path / "run", **DIGITS)
    result = run.folder.read_result("import")
    assert result["check"]["on"] == "16 samples of its own, for want of images"
    assert result["check"]["passed"]
    assert len(run.data.test) == 0
    assert run.sample(2, sampler="ddim", steps=5).shape == (2, 1, 8, 8)
    levels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    found = run.log_likelihood(levels, nodes=8, checked=0)
    assert found.bits_per_dim.isfinite().all()
    with pytest.raises(sf.RequestError, match="measured on training images"):
        run.sample(2, variance="optimal", steps=5)


def test_it_is_checked_on_all_images_and_measured_on_the_same(tmp_path):
    for k in range(10):
        folder = tmp_path / "images" / "test"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * k).save(folder / f"{k}.png")
    data = str(tmp_path / "images")
    run = import_network(TRAINED, tmp_path / "run", data=data, anyway=True, **DIGITS)
    assert run.folder.read_result("import")["check"]["on"] == "10 images of images"
    assert torch.equal(run.data.test, sf.load(tmp_path / "run", "cpu").data.test)
    assert run.data.one_part


def test_a_check_that_fails_writes_nothing_unless_anyway(tmp_path):
    wrong = DIGITS | {"options": OPTIONS | {"rescale_timesteps": False}}
    with pytest.raises(sf.RequestError, match="the label the index x 1000 / N"):
        import_network(TRAINED, tmp_path / "run", data="digits", **wrong)
    assert list(tmp_path.iterdir()) == []
    run = import_network(TRAINED, tmp_path / "run", data="digits", anyway=True, **wrong)
    check = run.folder.read_result("import")["check"]
    assert not check["passed"]
    assert "the label the index x 1000 / N" in check["trouble"]


@pytest.mark.parametrize("key", ["sampling.step", "likelihood.step"])
def test_an_import_has_no_other_checkpoint(key, tmp_path):
    flags = {**DIGITS, "overrides": {**DIGITS["overrides"], key: 4000}}
    with pytest.raises(sf.RequestError, match=rf"{key} names a checkpoint .* has one alone, got"):
        import_network(TRAINED, tmp_path / "run", **flags)
    assert not (tmp_path / "run").exists()


def test_nothing_is_ever_written_over(imported, tmp_path):
    with pytest.raises(sf.RequestError, match="holds a run already"):
        import_network(TRAINED, imported.folder.path, **DIGITS)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(sf.RequestError, match="is not empty"):
        import_network(TRAINED, tmp_path, **DIGITS)
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_an_import_that_is_killed_leaves_no_run(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("scoreflow.imported_run.RunDir.write_result", killed)
    with pytest.raises(KeyboardInterrupt):
        import_network(TRAINED, tmp_path / "run", **DIGITS)
    assert list(tmp_path.iterdir()) == []


def test_raw_weights_stand_beside_the_averaged_ones(tmp_path):
    path = FIXTURES / "diffusers" / "train_unconditional"
    run = import_network(path, tmp_path / "run", anyway=True, device="cpu")
    theirs = formats.read(path)
    for name, weights in (("ema", theirs.weights), ("model", theirs.raw)):
        model, step = run.weights(name)
        assert step == 500
        held = model.network.state_dict()
        assert all(torch.equal(held[k], v) for k, v in weights.items())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "last_step"),  # sigma_1 is 1.3 bins of 256 levels
        ({"data.name": "digits"}, "truncated_normal"),  # and a twelfth of one of 17
        ({"likelihood.dequantization": "uniform"}, "uniform"),
    ],
)
def test_the_dequantization_is_the_one_that_costs_least(settings, name):
    config = config_of(formats.read(DDPM), settings)
    assert config.likelihood.dequantization == name
    assert config.training.dequantization == "centre"


def test_a_wrong_architecture_is_one_line(tmp_path):
    with pytest.raises(sf.RequestError, match="not of the architecture that it tells") as refusal:
        import_network(DDPM, tmp_path / "run", overrides={"model": {"blocks": 1}}, device="cpu")
    assert "\n" not in str(refusal.value)
    with pytest.raises(sf.RequestError, match="unknown config key"):
        import_network(DDPM, tmp_path / "run", overrides={"model.block": 1}, device="cpu")
    with pytest.raises(sf.RequestError, match="3 x 8 x 8"):
        import_network(DDPM, tmp_path / "run", data="digits", device="cpu")
    assert not (tmp_path / "run").exists()


def test_dropout_is_off_in_the_check(tmp_path):
    """A network with dropout is as good as without: it is the training's alone."""
    without = import_network(TRAINED, tmp_path / "a", data="digits", **DIGITS)
    other = {**DIGITS, "overrides": {"model.prediction": "v", "model.dropout": 0.3}}
    dropping = import_network(TRAINED, tmp_path / "b", data="digits", **other)
    curves = [run.folder.read_result("import")["check"] for run in (without, dropping)]
    assert curves[0]["eps_error"] == curves[1]["eps_error"]


def test_the_folder_that_one_stands_in_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = import_network(TRAINED, ".", data="digits", **DIGITS)
    assert made.folder.path == tmp_path
    assert (tmp_path / "config.json").is_file()


def test_the_hash_of_every_file_that_was_read_is_kept(tmp_path):
    path = FIXTURES / "improved_diffusion" / "cifar10_like" / "ema_0.9999_500000.pt"
    told = {"format": "improved_diffusion", "options": OPTIONS, "device": "cpu"}
    run = import_network(path, tmp_path / "run", anyway=True, **told)
    kept = run.folder.read_result("import")["sha256"]
    files = (path, path.with_name("model500000.pt"))
    assert kept == {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
