"""Numbers that no float holds: refused before a folder is made, or said for what they are."""

from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.samplers import DDIM, Langevin, PredictorCorrector, grid, sample
from scoreflow.sde import VESDE, Noise
from scoreflow.sde.prediction import predict

ROOT = Path(__file__).parents[3]
TINY = [
    "--device=cpu",
    "--config.training.num_steps=2",
    "--config.training.batch_size=8",
    "--config.training.log_every=1",
    "--config.training.checkpoint_every=2",
    "--config.training.preview_every=0",
    "--config.sampling.num_images=4",
    "--config.sampling.steps=2",
    "--config.sampling.tolerance=0.1",
    "--config.likelihood.num_images=2",
    "--config.likelihood.checked=0",
]
HYBRID = ["--config.model.learned_variance=true", "--config.training.objective=hybrid"]


def train(workdir: Path, config: str, *flags: str) -> int:
    """The exit status of a training of a config."""
    file = str(ROOT / "configs" / f"{config}.py")
    command = ["run.py", "--mode=train", f"--config={file}", f"--workdir={workdir}"]
    return main([*command, *TINY, *flags])


@pytest.mark.parametrize(
    ("flags", "keys"),
    [
        (["--sde=ve", "--config.sde.sigma_max=1e20"], "sde.sigma_max"),
        (["--sde=ve", "--config.sde.sigma_max=1e200"], "sde.sigma_max"),
        ([*HYBRID, "--config.training.hybrid_weight=1e300"], "training.hybrid_weight"),
    ],
    ids=["ve", "ve-more", "hybrid"],
)
def test_a_loss_that_no_float_holds_is_refused_before_the_folder(flags, keys, tmp_path, capfd):
    assert train(tmp_path / "run", "digits", *flags) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "is no number in float32, whatever the network answers" in line
    assert keys in line
    assert "learning_rate" not in line
    assert not (tmp_path / "run").exists()


def test_a_flow_beyond_every_float_is_said_and_the_report_is_written(tmp_path, capfd, monkeypatch):
    """A hardly trained `mean` answers 0, and its flow grows by e a step, past float32."""
    monkeypatch.setattr("scoreflow.cli.modes.train.COMPARED", ())
    flags = ["--config.model.width=8", "--config.model.prediction=mean"]
    flags += ["--config.sde.num_steps=450", "--config.likelihood.num_images=1"]
    assert train(tmp_path / "run", "toy", *flags) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert "1 of 1 images have no likelihood" in line
    assert "--config.training.num_steps" in line
    assert "max_evaluations" not in line
    assert (tmp_path / "run" / "report.html").exists()


def test_a_correction_without_a_score_moves_nothing():
    """Of a clipped x_0 that is x_t itself, where sigma is next to 0: no step of infinite size."""
    sde = VESDE(50, 1e-100, 20.0)

    def denoiser(x_t, t):
        return predict(sde, x_t, t, "x_0", x_t.clamp(-1, 1))

    sampler = PredictorCorrector(DDIM(), Langevin())
    for name in ("uniform", "log_snr"):
        times = grid(name, sde, 5)
        x = sample(sampler, denoiser, sde, times, Noise.of(0, 0, 4), (3,))
        assert x.isfinite().all()
        assert (x.abs() <= 1).all()
    assert torch.equal(x, sample(sampler, denoiser, sde, times, Noise.of(0, 0, 4), (3,)))
