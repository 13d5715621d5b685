"""The stages of `benchmarks.gpu` and the commands of each."""

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
"""Added to configs/cifar10.py: a run of minutes; an interruption loses at most 1000 steps."""
LIKELIHOOD = ("--config.likelihood.ledger=true", "--config.likelihood.num_images=256")

FEW = ("--variants=float32,best",)
"""Variants of a training step at a large batch, so that it fits a call and the memory."""
AXES = {
    "resolution": ("batches", "processes"),
    "batch": ("resolutions", "processes"),
    "processes": ("resolutions", "batches"),
}
"""Axis of `benchmarks.growth` -> the lists that are left empty."""


@dataclass(frozen=True)
class Part:
    """A command and its results.

    Attributes:
        command: arguments of Python.
        made: name among the results -> pattern of the file below `at`; the first is a JSON that
            marks the part as done.
        at: folder where the command writes them.
        least: minutes of a call that must be left to start it, unless it is the first.
        goes_on: whether it resumes where it was stopped.
        minutes: limit of a training over all calls; 0 for other commands.
    """

    command: tuple[str, ...]
    made: Mapping[str, str] = field(hash=False)
    at: Path
    least: float = 3.0
    goes_on: bool = False
    minutes: float = 0.0

    @property
    def name(self) -> str:
        """Name of its first result, without the ending."""
        return next(iter(self.made)).removesuffix(".json")


@dataclass(frozen=True)
class Options:
    """Options that the commands of the stages depend on.

    Attributes:
        device: its name.
        work: folder of runs and of intermediate results.
        data: folder of CIFAR-10's Parquet files; None for that of the config.
        train_minutes: limit of the CIFAR-10 training.
    """

    device: str
    work: Path
    data: Path | None
    train_minutes: float


def stages(options: Options) -> dict[str, list[Part]]:
    """All stages, in order: name -> parts."""
    return {
        "check": [bench("check", options, "gpu.check"), equivalence(options)],
        "training": [
            bench(f"training-{batch}", options, "training", f"--batch={batch}", *variants)
            for batch, variants in ((128, ()), (256, FEW), (512, FEW))
        ],
        "sampling": [bench("sampling", options, "sampling")],
        "likelihood": [bench("divergence", options, "divergence")],
        "growth": [
            bench(f"growth-{axis}", options, "growth", *(f"--{other}=" for other in AXES[axis]))
            for axis in AXES
        ],
        "cifar10": cifar10(options),
    }


def bench(name: str, options: Options, module: str, *more: str, least: float = 3.0) -> Part:
    """A benchmark, whose results become NAME.json and NAME.md."""
    at, left = options.work / "parts" / name, module.removeprefix("gpu.")
    command = ("-m", f"benchmarks.{module}", f"--device={options.device}", f"--out={at}", *more)
    made = {f"{name}{end}": f"{left}{end}" for end in (".json", ".md")}
    return Part(command, made, at, least)


def equivalence(options: Options) -> Part:
    """The certificate of an untrained network of the digits, in the folder that run.py chooses."""
    command = ("run.py", "--mode=equivalence", f"--device={options.device}")
    made = {"equivalence.json": "results/equivalence.json"}
    return Part(command, made, Path("runs/equivalence-digits-vp"), least=2.0)


def cifar10(options: Options) -> list[Part]:
    """A training of minutes, and every evaluation of the trained network."""
    at = options.work / "cifar10"
    data = [f"--config.data.path={options.data}"] if options.data else []
    more = ("--config=configs/cifar10.py", *data, *TRAINING)
    train = Part(
        mode("train", options, at, *more),
        {"cifar10-training.json": "training.json"},
        at,
        least=2.0,
        goes_on=True,
        minutes=options.train_minutes,
    )
    samples = [
        run(
            f"samples-{name}",
            options,
            at,
            "sample",
            f"--sampler={name}",
            least=2.0,
            name="cifar10-",
        )
        for name in SAMPLERS
    ]
    likelihood = run("likelihood", options, at, "likelihood", *LIKELIHOOD, name="cifar10-")
    ledger = {"cifar10-ledger.json": "results/likelihood-ledger.json"}
    likelihood = Part(
        likelihood.command, {**likelihood.made, **ledger}, at, likelihood.least, goes_on=True
    )
    # images/s at an error need a trained run, which the stage "likelihood" does not have
    rates = (f"--workdir={at}", "--rounds=2")
    divergence = bench("cifar10-divergence", options, "divergence", *rates, least=6.0)
    compare = run("compare", options, at, "compare", name="cifar10-")
    return [train, *samples, likelihood, divergence, compare]


def run(
    result: str,
    options: Options,
    at: Path,
    of: str,
    *more: str,
    least: float = 3.0,
    name: str = "",
) -> Part:
    """A mode of run.py that writes a result, and for samples their picture."""
    made = {f"{name}{result}.json": f"results/{result}.json"}
    if of == "sample":
        sampler = result.removeprefix("samples-")
        made[f"{name}{result}.png"] = f"samples/*-{sampler}.png"
    return Part(mode(of, options, at, *more), made, at, least, goes_on=of == "compare")


def mode(name: str, options: Options, at: Path, *more: str) -> tuple[str, ...]:
    """The command line of a mode of run.py."""
    return ("run.py", f"--mode={name}", f"--workdir={at}", f"--device={options.device}", *more)
