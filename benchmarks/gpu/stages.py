"""What `benchmarks.gpu` runs: stages, and the commands that they are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SAMPLERS = ("ancestral", "ddim", "dpm", "unipc", "ode")
TRAINING = (
    "--config.training.precision=bfloat16",
    "--config.training.compile=true",
    "--config.training.channels_last=true",
    "--config.training.warmup_steps=1000",
    "--config.training.checkpoint_every=1000",
)
"""Beside configs/cifar10.py: a run of minutes, which loses at most a thousand steps at a stop."""
LIKELIHOOD = ("--config.likelihood.ledger=true", "--config.likelihood.num_images=256")

FEW = ("--variants=float32,best",)
"""Of a training step at a large batch, so that it fits a call and the memory."""
AXES = {
    "resolution": ("batches", "processes"),
    "batch": ("resolutions", "processes"),
    "processes": ("resolutions", "batches"),
}
"""What grows, and what then does not."""


@dataclass(frozen=True)
class Part:
    """A command, and what it leaves.

    Attributes:
        command: arguments of Python.
        made: name among the results -> pattern of the file below `at`; the first is a JSON that
            marks the part as done.
        at: folder where the command leaves them.
        least: minutes of a call that it wants before it is begun, unless it is the first.
        goes_on: whether it goes on where it was stopped.
        minutes: of a training, that it runs in all, over calls, until it is stopped for good, if
            it does not end before; 0 for what is no training.
    """

    command: tuple[str, ...]
    made: Mapping[str, str] = field(hash=False)
    at: Path
    least: float = 3.0
    goes_on: bool = False
    minutes: float = 0.0

    @property
    def name(self) -> str:
        """Of its mark, without the ending."""
        return next(iter(self.made)).removesuffix(".json")


@dataclass(frozen=True)
class Asked:
    """What the stages need to know.

    Attributes:
        device: its name.
        work: folder of runs and of what is not kept.
        data: of CIFAR-10's Parquet files; None for that of the config.
        train_minutes: of the CIFAR-10 training.
    """

    device: str
    work: Path
    data: Path | None
    train_minutes: float


def stages(asked: Asked) -> dict[str, list[Part]]:
    """All of them, in order."""
    return {
        "check": [bench("check", asked, "gpu_check"), equivalence(asked)],
        "training": [
            bench(f"training-{batch}", asked, "training", f"--batch={batch}", *variants)
            for batch, variants in ((128, ()), (256, FEW), (512, FEW))
        ],
        "sampling": [bench("sampling", asked, "sampling")],
        "likelihood": [bench("divergence", asked, "divergence")],
        "growth": [
            bench(f"growth-{axis}", asked, "growth", *(f"--{other}=" for other in AXES[axis]))
            for axis in AXES
        ],
        "cifar10": cifar10(asked),
    }


def bench(name: str, asked: Asked, module: str, *more: str, least: float = 3.0) -> Part:
    """A benchmark of this folder, whose results become NAME.json and NAME.md."""
    at, left = asked.work / "parts" / name, module.removeprefix("gpu_")
    command = ("-m", f"benchmarks.{module}", f"--device={asked.device}", f"--out={at}", *more)
    made = {f"{name}{end}": f"{left}{end}" for end in (".json", ".md")}
    return Part(command, made, at, least)


def equivalence(asked: Asked) -> Part:
    """The certificate, of a fresh network of the digits, in the folder that run.py chooses."""
    command = ("run.py", "--mode=equivalence", f"--device={asked.device}")
    made = {"equivalence.json": "results/equivalence.json"}
    return Part(command, made, Path("runs/equivalence-digits-vp"), least=2.0)


def cifar10(asked: Asked) -> list[Part]:
    """A training of minutes, and everything that is said about a trained network."""
    at = asked.work / "cifar10"
    data = [f"--config.data.path={asked.data}"] if asked.data else []
    more = ("--config=configs/cifar10.py", *data, *TRAINING)
    train = Part(
        mode("train", asked, at, *more),
        {"cifar10-training.json": "training.json"},
        at,
        least=2.0,
        goes_on=True,
        minutes=asked.train_minutes,
    )
    samples = [
        run(
            f"samples-{name}", asked, at, "sample", f"--sampler={name}", least=2.0, name="cifar10-"
        )
        for name in SAMPLERS
    ]
    likelihood = run("likelihood", asked, at, "likelihood", *LIKELIHOOD, name="cifar10-")
    ledger = {"cifar10-ledger.json": "results/likelihood-ledger.json"}
    likelihood = Part(
        likelihood.command, {**likelihood.made, **ledger}, at, likelihood.least, goes_on=True
    )
    # images/s at an error, which the stage "likelihood" cannot have without a trained run
    rates = (f"--workdir={at}", "--rounds=2")
    divergence = bench("cifar10-divergence", asked, "divergence", *rates, least=6.0)
    compare = run("compare", asked, at, "compare", name="cifar10-")
    return [train, *samples, likelihood, divergence, compare]


def run(
    result: str, asked: Asked, at: Path, of: str, *more: str, least: float = 3.0, name: str = ""
) -> Part:
    """A mode of run.py that leaves a result, and of samples their picture."""
    made = {f"{name}{result}.json": f"results/{result}.json"}
    if of == "sample":
        sampler = result.removeprefix("samples-")
        made[f"{name}{result}.png"] = f"samples/*-{sampler}.png"
    return Part(mode(of, asked, at, *more), made, at, least, goes_on=of == "compare")


def mode(name: str, asked: Asked, at: Path, *more: str) -> tuple[str, ...]:
    """The command line of a mode of run.py."""
    return ("run.py", f"--mode={name}", f"--workdir={at}", f"--device={asked.device}", *more)
