"""Numbers that no float holds: refused before a folder is made, or said for what they are."""

from pathlib import Path

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.samplers import DDIM, Langevin, PredictorCorrector, grid, sample
from scoreflow.schema.config import KEYS
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
    flags += ["--config.likelihood.max_evaluations=300"]  # of steps that are shorter and shorter
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


OF_A_MODE = {
    "sample": ("sampling.steps=2", "sampling.num_images=2"),
    "likelihood": ("likelihood.num_images=2", "likelihood.checked=0"),
    "classifier": ("classifier.num_steps=2", "classifier.width=8"),
    "classify": ("likelihood.num_images=2", "classify.times=16"),
    "features": ("features.layer=middle", "features.num_images=2"),
}
FILLED = ("sampling.task=inpaint", "control.count=2", "sampling.sampler=ddim")
CARRIED = ("likelihood.method=dopri5",)
AT_NODES = ("likelihood.method=nodes", "likelihood.nodes=8")
AT_ITS_ENDS = {
    "sampling.snr": ("sample", "sampling.sampler=pc"),
    "sampling.eta": ("sample", "sampling.sampler=ddim"),
    "sampling.shift": ("sample", "sampling.sampler=ddim"),
    "sampling.ema_length": ("sample", "sampling.sampler=ddim"),
    "likelihood.ema_length": ("likelihood",),
    "sampling.dynamic_threshold": ("sample", "sampling.sampler=ddim"),
    "sampling.guidance": ("sample", "sampling.label=3", "sampling.guide=classifier"),
    "sampling.tolerance": ("sample", "sampling.sampler=ode", "sampling.max_evaluations=30"),
    "sampling.churn": ("sample", "sampling.sampler=heun"),
    "control.weight": ("sample", *FILLED, "control.method=dps"),
    "control.noise": ("sample", *FILLED, "control.method=mmps"),
    "control.strength": ("sample", "sampling.task=vary", "control.count=2"),
    "likelihood.tolerance": ("likelihood", *CARRIED, "likelihood.max_evaluations=30"),
    "likelihood.tolerance_bits": ("likelihood", *CARRIED, "likelihood.max_evaluations=30"),
    "likelihood.trajectory_tolerance": ("likelihood", *AT_NODES, "likelihood.max_evaluations=30"),
    "likelihood.t_start": ("likelihood", *AT_NODES, "likelihood.max_evaluations=30"),
    "classifier.learning_rate": ("classifier",),
    "classify.z": ("classify",),
    "features.t": ("features",),
}
"""The keys that are read when the work is done, and what has them read."""
TRAINED_AT_ITS_ENDS = {
    "data.test_fraction": (),
    "sde.beta_min": ("sde.schedule=linear",),
    "sde.beta_max": ("sde.schedule=linear",),
    "sde.sigma_min": ("sde.name=ve",),
    "sde.sigma_max": ("sde.name=ve",),
    "sde.alpha_min": ("sde.schedule=log_linear",),
    "sde.rho": ("sde.name=edm",),
    "model.dropout": (),
    "model.norm_eps": (),
    "model.label_scale": (),
    "model.label_offset": (),
    "model.data_std": ("model.prediction=v",),
    "model.data_scale": ("model.data_range=unit",),
    "training.learning_rate": ("training.warmup_steps=0",),
    "training.clip_norm": (),
    "training.ema_decay": (),
    "training.t_min": ("training.times=real",),
    "training.log_normal_mean": ("training.times=log_normal",),
    "training.log_normal_std": ("training.times=log_normal",),
    "training.shift": ("training.times=real",),
    "training.hybrid_weight": ("training.objective=hybrid", "model.learned_variance=true"),
    "training.min_snr_gamma": ("training.objective=min_snr",),
    "training.p2_gamma": ("training.objective=p2",),
    "training.p2_k": ("training.objective=p2",),
    "training.label_dropout": ("model.conditional=true",),
}
"""The keys that a training reads, likewise."""
WILD = ("1e308", "1e200", "1e30", "1e-30", "1e-200", "1e-320")


def test_every_number_is_tried():
    numbers = {key.name for key in KEYS.values() if type(key.default) is float}
    assert numbers == {*AT_ITS_ENDS, *TRAINED_AT_ITS_ENDS}


@pytest.mark.slow
def test_numbers_at_the_ends_of_floats_with_the_work_done(run_copy, capfd):
    """Each ends in one line or with an answer: a traceback would raise here."""
    run, asked = run_copy(), 0
    few = [f"--config.{each}" for each in OF_A_MODE["classifier"]]
    base = ["run.py", "--device=cpu", f"--workdir={run}"]
    assert main([*base, "--mode=classifier", *few]) == 0
    for name, (mode, *more) in AT_ITS_ENDS.items():
        own = [each for each in OF_A_MODE[mode] if fits(name, each)]
        flags = [f"--config.{each}" for each in (*own, *more)]
        for value in WILD:
            capfd.readouterr()
            status = main([*base, f"--mode={mode}", *flags, f"--config.{name}={value}"])
            err = capfd.readouterr().err
            last = err.strip().splitlines()[-1:]
            assert status == 0 or last[0].startswith("run.py: "), (name, value, err)
            assert "has no effect" not in err, (name, value, err)
            asked += 1
    with capfd.disabled():
        print(f"\n{asked} of {asked} numbers at the ends of floats: one line or an answer")


@pytest.mark.slow
def test_trainings_at_the_ends_of_floats(tmp_path, capfd, monkeypatch):
    """Two steps of each, without what follows them."""
    monkeypatch.setattr("scoreflow.cli.modes.train.COMPARED", ())
    monkeypatch.setattr("scoreflow.cli.modes.train.measure_test_set", lambda _: None)
    monkeypatch.setattr("scoreflow.cli.modes.train.write_report", lambda _: None)
    small, asked = ("--config.model.channels=8", "--config.model.num_groups=4"), 0
    for name, more in TRAINED_AT_ITS_ENDS.items():
        for value in WILD:
            capfd.readouterr()
            flags = [f"--config.{each}" for each in (*more, f"{name}={value}")]
            status = train(tmp_path / f"run{asked}", "digits", *small, *flags)
            err = capfd.readouterr().err
            last = err.strip().splitlines()[-1:]
            assert status == 0 or last[0].startswith("run.py: "), (name, value, err)
            assert "has no effect" not in err, (name, value, err)
            asked += 1
    with capfd.disabled():
        print(f"\n{asked} of {asked} trainings at the ends of floats: one line or two steps")


def fits(name: str, flag: str) -> bool:
    """Whether a flag has an effect beside a key: the ode has no steps, `vary` counts by itself."""
    if flag.startswith("sampling.steps"):
        return name != "sampling.tolerance"
    return not (flag.startswith("sampling.num_images") and name.startswith("control"))
