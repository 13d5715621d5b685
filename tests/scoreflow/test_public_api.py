"""The Python door: a run loaded, sampled, measured, encoded; any network; training as a loop."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import scoreflow as sf
from scoreflow.any_model import device_of
from scoreflow.cli.main import main
from scoreflow.data.levels import dequantize
from scoreflow.samplers import ProbabilityFlow
from scoreflow.schema.request import flatten
from scoreflow.sde.analytic import LevelGrid
from scoreflow.training.trainer import Trainer

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run-0.1"
"""A run of version 0.1, made before this door was."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Path(shutil.copytree(FIXTURE, tmp_path_factory.mktemp("api") / "run"))


@pytest.fixture(scope="module")
def run(folder):
    return sf.load(folder, device="cpu")


def test_a_run_is_loaded_without_a_trainer_or_an_optimiser(folder, monkeypatch):
    def refuse(*_args, **_settings):
        raise AssertionError("a Trainer or an optimiser was made")

    monkeypatch.setattr(Trainer, "__init__", refuse)
    monkeypatch.setattr(torch.optim.Adam, "__init__", refuse)
    monkeypatch.setattr("scoreflow.training.ema.EMA.__init__", refuse)
    run = sf.load(folder, device="cpu")
    assert run.sample(2, steps=2).shape == (2, 1, 8, 8)
    assert run.step == 60


def test_its_weights_are_the_averaged_ones(folder, run):
    state = torch.load(folder / "checkpoints" / "00000060.pt", weights_only=True)
    for name, value in run.model.network.state_dict().items():
        assert torch.equal(value, state["ema"][name])
    raw, step = run.weights("model")
    assert step == 60
    for name, value in raw.network.state_dict().items():
        assert torch.equal(value, state["model"][name])
    assert not any(p.requires_grad for p in run.model.network.parameters())


def test_samples_are_those_of_the_command_line(folder, run):
    argv = ["run.py", "--mode=sample", "--sampler=dpm", f"--workdir={folder}", "--device=cpu"]
    more = ["--config.sampling.steps=5", "--config.sampling.num_images=6"]
    assert main([*argv, *more]) == 0
    x = run.sample(6, sampler="dpm", steps=5)
    assert x.dtype == torch.uint8
    written = run.save_grid(x, folder / "grid.png").read_bytes()
    (result,) = (folder / "results").glob("samples-dpm-*.json")  # beside the twelve of the run
    name = json.loads(result.read_text())["picture"]
    assert written == (folder / "samples" / f"{name}.png").read_bytes()
    points = run.sample(6, sampler="dpm", steps=5, levels=False)
    assert points.dtype == torch.float64
    assert run.save_grid(points, folder / "points.png").read_bytes() == written
    assert torch.equal(run.sample(3, sampler="dpm", steps=5, batch_size=1), x[:3])
    assert not torch.equal(run.sample(6, sampler="dpm", steps=5, seed=1), x)


def test_a_picture_is_the_grid_that_a_file_would_hold(folder, run):
    images = run.data.test[:10]
    written = Image.open(run.save_grid(images, folder / "grid.png"))
    shown = run.picture(images)
    assert shown.mode == "L"
    assert shown.tobytes() == written.tobytes()
    assert run.picture(images, columns=5).size == (5 * (48 + 3) + 3, 2 * (48 + 3) + 3)


def test_any_sampling_key_and_the_errors_of_wrong_ones(run):
    assert run.sample(2, sampler="pc", steps=3, corrector="annealed", snr=0.2).shape[0] == 2
    with pytest.raises(sf.RequestError, match=r"unknown config key 'sampling\.stepz'"):
        run.sample(2, stepz=3)
    with pytest.raises(sf.RequestError, match=r"sampler must be one of .* did you mean 'ddim'"):
        run.sample(2, sampler="ddimm")
    with pytest.raises(sf.RequestError, match=r"sampling\.num_images must lie in"):
        run.sample(0)


def test_likelihoods_are_those_of_the_command_line(folder, run):
    argv = ["run.py", "--mode=likelihood", f"--workdir={folder}", "--device=cpu"]
    assert main([*argv, "--config.likelihood.num_images=4"]) == 0
    found = run.log_likelihood(run.data.test[:4])
    (path,) = (folder / "results").glob("likelihood-????????.json")  # beside the twelve of the run
    told = run.folder.read_result(path.stem)
    assert float(found.bits_per_dim.mean()) == pytest.approx(told["value"], abs=1e-6)
    assert found.standard_error == pytest.approx(told["standard_error"], abs=1e-6)
    assert found.error_budget.probes == pytest.approx(told["error_budget"]["probes"], abs=1e-6)
    assert found.unit == "bits/dim"
    assert "(images and probes: 4 images are too few to tell the two apart)" in str(found)
    alone = run.log_likelihood(run.data.test[1:2], seed=0)
    assert alone.standard_error is None


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(2, 1, 8, 8), "must be integer levels in 0..16, got torch.float32"),
        (torch.full((2, 1, 8, 8), 17), r"must be levels in 0..16, got 17\.\.17"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"data must be \(n, 1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "n >= 1"),
    ],
)
def test_what_is_not_like_the_data_is_refused(run, images, reason):
    with pytest.raises(sf.RequestError, match=reason):
        run.log_likelihood(images)
    with pytest.raises(sf.RequestError, match=reason):
        run.encode(images)


def test_arrays_are_as_good_as_tensors(run):
    images = run.data.test[:2]
    assert torch.equal(run.encode(images.numpy()), run.encode(images))
    with pytest.raises(sf.RequestError, match="a tensor or an array of numbers, got str"):
        run.log_likelihood("digits")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda run: run.log_likelihood(run.data.test[:2], ledger=True), "ledger has no effect"),
        (lambda run: run.log_likelihood(run.data.test[:2], data="train"), "pass the images"),
        (lambda run: run.sample(2, task="vary"), "task has no effect on sample"),
        (lambda run: run.weights("emaa"), "weights must be 'ema' or 'model', got 'emaa'"),
        (
            lambda run: run.decode(torch.zeros(2, 1, 9, 9)),
            r"must be floats \(n, 1, 8, 8\)",
        ),
        (lambda run: run.decode(run.data.test[:2]), "latents must be floats"),
    ],
)
def test_what_would_have_no_effect_or_no_sense_is_refused(run, call, reason):
    with pytest.raises(sf.RequestError, match=reason):
        call(run)


def test_encode_and_decode_are_inverse_up_to_the_solver(run):
    images = run.data.test[:3]
    codes = run.encode(images, tolerance=1e-6)
    assert codes.dtype == torch.float64
    back = run.decode(codes, tolerance=1e-6, levels=False)
    half = torch.tensor(0.5, dtype=torch.float64)
    exact = dequantize(images, half, 17)
    assert float((back - exact).abs().max()) < 1e-3
    assert torch.equal(run.decode(codes, tolerance=1e-6), images)
    flow = ProbabilityFlow(run.model.t_min, 1e-6)
    assert torch.equal(codes, flow.encode(run.model, run.model.sde, exact))


def test_settings_of_a_loaded_run_are_checked(folder):
    changed = sf.load(folder, device="cpu", sampling={"steps": 3})
    assert changed.config.sampling.steps == 3
    with pytest.raises(sf.RequestError, match=r"model\.channels belongs to the trained weights"):
        sf.load(folder, device="cpu", model={"channels": 16})
    assert sf.load(folder, torch.device("cpu")).experiment.device.type == "cpu"
    with pytest.raises(sf.RequestError, match="settings by section"):
        sf.load(folder, {"sampling.steps": 3})
    with pytest.raises(sf.RequestError, match="holds no run"):
        sf.load(folder / "nowhere")


def test_the_model_is_a_denoiser(run):
    t = torch.tensor(500.0, dtype=torch.float64)
    x_t = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    found = run.model(x_t, t)
    alpha, sigma = run.model.sde.alpha(t), run.model.sde.sigma(t)
    torch.testing.assert_close(found.score, -found.eps / sigma)
    torch.testing.assert_close(alpha * found.x_0 + sigma * found.eps, x_t)


# ---- any network --------------------------------------------------------------------------------

LEVELS = LevelGrid(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), 4)


class Exact(nn.Module):
    """The exact eps of independent pixels of four levels, as a network of (x, index)."""

    def __init__(self, sde, law=LEVELS):
        super().__init__()
        self.sde, self.denoiser = sde, law.denoiser(sde)
        self.dropout = nn.Dropout(0.5)  # what only training may let through
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, index):
        flat = x.double().flatten(1)
        eps = self.denoiser(flat, index.double() + 1).eps.view_as(x)
        return (self.dropout(torch.ones_like(eps)) * eps).to(x.dtype)


def own_model(num_steps=200):
    sde = sf.VPSDE.log_linear(num_steps, 1e-2)
    return sf.ScoreModel(Exact(sde), sde, "eps", precision="float64")


def test_the_likelihood_of_any_network_is_the_one_that_is_known():
    """Independent pixels of known frequencies, dequantized: -log2 p of each, exactly."""
    model = own_model()
    levels = LEVELS.levels(sf.Noise.of(0, 0, 64)).view(64, 1, 2, 2)
    found = sf.bits_per_dim(model, levels, num_levels=4, probes=0)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    exact = -p[levels.flatten(1).long()].log2().mean()
    budget = found.error_budget
    allowed = 5 * budget.solver + budget.truncation_at_most + 0.01
    assert float(found.bits_per_dim.mean()) == pytest.approx(float(exact), abs=allowed)
    assert allowed < 0.1
    assert model.network.training  # as it was


@pytest.mark.parametrize("num_levels", [2, 17, 4096, 65536])
def test_any_number_of_levels_has_its_bits(num_levels):
    """Uniform, log2 L each; with 1/4 of the mass below 0, the -log2 p of each level."""
    sde = sf.VPSDE.log_linear(200, 1e-4)
    strata = (2 * torch.arange(64) + 1) * num_levels // 128  # none at the edge of a step of p
    images = strata.view(16, 1, 2, 2)
    for shares in ([1.0], [0.25, 0.75]):
        if num_levels % len(shares):
            continue  # the two halves are of whole bins
        law = LevelGrid(torch.tensor(shares, dtype=torch.float64), 4)
        model = sf.ScoreModel(Exact(sde, law), sde, "eps", precision="float64")
        found = sf.bits_per_dim(model, images, num_levels=num_levels, probes=0)
        half = images.flatten(1) * len(shares) // num_levels
        exact = -(torch.tensor(shares)[half] * len(shares) / num_levels).log2().mean(1)
        gap = (found.bits_per_dim.mean() - exact.mean()).abs()
        # whatever the solver, 64 points next to the steps of p and a start at t = 1 leave 0.014
        assert gap < 5 * found.error_budget.solver + 0.02
        drawn = sf.sample(model, (1, 2, 2), 64, "ancestral", num_levels, steps=20)
        assert drawn.dtype == (torch.uint8 if num_levels <= 256 else torch.int32)
        above = float((drawn >= num_levels // 2).double().mean())
        assert above == pytest.approx(shares[-1] * len(shares) / 2, abs=5 / 16 + 0.01)


def test_the_samples_of_any_network_have_its_law():
    x = sf.sample(own_model(), (1, 2, 2), 512, sampler="ancestral", num_levels=4, steps=50)
    frequencies = torch.bincount(x.flatten().long(), minlength=4) / x.numel()
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4])
    error = (expected * (1 - expected) / x.numel()).sqrt()
    assert bool(((frequencies - expected).abs() < 5 * error + 0.01).all()), frequencies


class Returns(nn.Module):
    """A network that returns what a function makes of its input."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x, index):
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: x[:, :, :1, :1], r"floats of shape \(2, 1, 4, 4\), got \(2, 1, 1, 1\)"),
        (lambda x: torch.cat([x, x], 1), r"got \(2, 2, 4, 4\)"),
        (lambda x: x.long(), r"got \(2, 1, 4, 4\) torch\.int64"),
        (lambda x: (x,), "must return a tensor, got tuple"),
        (lambda _: None, "must return a tensor, got NoneType"),
    ],
)
def test_a_network_that_returns_another_shape_is_refused(make, reason):
    """Broadcast, it would give samples, and wrong ones."""
    own = sf.ScoreModel(Returns(make), sf.VPSDE.linear(100), "eps")
    with pytest.raises(sf.RequestError, match=reason):
        sf.sample(own, (1, 4, 4), 2, steps=3)


@pytest.mark.parametrize(
    ("network", "sde", "output", "reason"),
    [
        (lambda x, index: x, sf.VPSDE.linear(100), "eps", r"must be a torch\.nn\.Module"),
        (nn.Identity(), "vp", "eps", "sde must be a process"),
        (nn.Identity(), sf.VPSDE.linear(100), "epsilon", "one of eps, x_0, v, u, score, mean"),
    ],
)
def test_a_score_model_is_checked_when_it_is_made(network, sde, output, reason):
    with pytest.raises(sf.RequestError, match=reason):
        sf.ScoreModel(network, sde, output)


def test_the_low_level_function_takes_points():
    model = own_model()
    model.network.eval()
    x = torch.zeros(2, 4, dtype=torch.float64).view(2, 1, 2, 2)
    noise = sf.Noise.of(0, 0, 2)
    found = sf.log_likelihood(model, model.sde, x, t=1.0, noise=noise, solver=sf.Solver(probes=0))
    one = torch.ones((), dtype=torch.float64)
    alpha, sigma = model.sde.alpha(one), model.sde.sigma(one)
    torch.testing.assert_close(
        found.log_prob[:, 0], LEVELS.log_prob(x.flatten(1), alpha, sigma), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(2, 1, 2, 2), "the dequantization belongs to the likelihood"),
        (torch.full((1, 1, 2, 2), 4), r"must be levels in 0\.\.3, got 4\.\.4"),
    ],
)
def test_images_of_any_network_are_levels(images, reason):
    with pytest.raises(sf.RequestError, match=reason):
        sf.bits_per_dim(own_model(), images, num_levels=4)


@pytest.mark.parametrize("num_levels", [1, 65537])
def test_levels_are_of_16_bits_at_most(num_levels):
    images = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    with pytest.raises(sf.RequestError, match=r"num_levels must lie in 2\.\.65536"):
        sf.bits_per_dim(own_model(), images, num_levels=num_levels)
    with pytest.raises(sf.RequestError, match=r"num_levels must lie in 2\.\.65536"):
        sf.sample(own_model(), (1, 2, 2), 2, num_levels=num_levels)


def test_a_network_that_has_buffers_alone_lies_where_they_do():
    network = nn.BatchNorm1d(2, affine=False)
    sde = sf.VPSDE.linear(100)
    assert device_of(sf.ScoreModel(network, sde)) == torch.device("cpu")
    assert device_of(sf.ScoreModel(network.to("meta"), sde)) == torch.device("meta")
    assert device_of(sf.ScoreModel(nn.Identity(), sde)) == torch.device("cpu")


def test_what_needs_data_is_refused_without_them():
    with pytest.raises(sf.RequestError, match="need training data"):
        sf.sample(own_model(), (1, 2, 2), 2, sampler="ancestral", variance="optimal")


# ---- training -----------------------------------------------------------------------------------

SHORT = {
    "model.width": 8,
    "training.num_steps": 6,
    "training.log_every": 2,
    "training.checkpoint_every": 2,
    "training.batch_size": 8,
}


def test_training_is_a_loop_that_goes_on_where_it_was_left(tmp_path):
    whole = [step.loss for step in sf.train("toy", tmp_path / "whole", SHORT, device="cpu")]
    assert len(whole) == 3
    half = []
    for step in sf.train("toy", tmp_path / "half", SHORT, device="cpu"):
        half.append(step.loss)
        break
    half += [step.loss for step in sf.train("toy", tmp_path / "half", SHORT, device="cpu")]
    assert half == whole
    a, b = (
        torch.load(tmp_path / name / "checkpoints" / "00000006.pt", weights_only=True)
        for name in ("whole", "half")
    )
    assert all(torch.equal(a["ema"][name], b["ema"][name]) for name in a["ema"])
    assert sf.load(tmp_path / "whole", device="cpu").sample(3, steps=2).shape == (3, 2)


def test_overrides_may_be_tuples_and_nested(tmp_path):
    nested = {"training": {"num_steps": 2, "log_every": 1, "checkpoint_every": 1}}
    overrides = {**nested, "model.width": 8, "compare.nfe": (5, 10)}
    assert len(list(sf.train("toy", tmp_path / "run", overrides, device="cpu"))) == 2
    assert list(sf.train("toy", tmp_path / "run", overrides, device="cpu")) == []  # resumed
    assert (tmp_path / "run" / "results" / "training.json").exists()
    assert not (tmp_path / "run" / "lock.pid").exists()


def test_training_refuses_what_the_command_line_refuses(tmp_path):
    with pytest.raises(sf.RequestError, match=r"unknown experiment 'toyy'; did you mean 'toy'"):
        next(sf.train("toyy", tmp_path / "run"))
    with pytest.raises(sf.RequestError, match=r"unknown config key 'model\.widht'"):
        next(sf.train("toy", tmp_path / "run", {"model.widht": 8}))
    assert not (tmp_path / "run").exists()
    next(sf.train("toy", tmp_path / "run", SHORT, device="cpu"))
    with pytest.raises(sf.RequestError, match=r"another config: model\.width"):
        next(sf.train("toy", tmp_path / "run", {**SHORT, "model.width": 16}, device="cpu"))


# ---- runs of 0.1 --------------------------------------------------------------------------------


def test_a_run_of_0_1_resumes_to_the_weights_that_it_had(tmp_path):
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "run"))
    expected = torch.load(folder / "checkpoints" / "00000060.pt", weights_only=True)
    for path in (folder / "checkpoints").glob("00000060.*"):
        path.unlink()
    argv = ["run.py", "--mode=train", f"--workdir={folder}", "--device=cpu"]
    assert main(argv) == 0
    found = torch.load(folder / "checkpoints" / "00000060.pt", weights_only=True)
    for part in ("model", "ema"):
        for name, value in expected[part].items():
            torch.testing.assert_close(found[part][name], value, rtol=1e-4, atol=1e-5)
    assert (folder / "report.html").exists()


def test_the_likelihood_of_a_run_of_0_1_is_what_it_was(run):
    told = run.folder.read_result("likelihood")
    c = flatten(run.config.to_dict())
    assert c["likelihood.num_images"] == 12
    rows = (FIXTURE / "results" / "likelihood.jsonl").read_text().splitlines()[1:]
    assert len(rows) == 12
    found = run.log_likelihood(run.data.test[:12], probes=2)
    assert told["unit"] == found.unit
    bits = sorted((row["image"], row["bits_per_dim"]) for row in map(json.loads, rows))
    torch.testing.assert_close(
        found.bits_per_dim,
        torch.tensor([value for _, value in bits], dtype=torch.float64),
        rtol=1e-4,
        atol=1e-4,
    )
