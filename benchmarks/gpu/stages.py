"""The stages of `benchmarks.gpu` and the commands of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.contenders import variants_in

SAMPLERS = ("ancestral", "ddim", "dpm", "unipc", "ode")
TRAINING = (
    "--config.training.warmup_steps=1000",
    "--config.training.checkpoint_every=1000",
)
"""Added to configs/cifar10.py: a run of minutes; an interruption loses at most 1000 steps.

Whether it is compiled is left to the device, for what is measured on it has the same config.
"""
LIKELIHOOD = ("--config.likelihood.ledger=true", "--config.likelihood.num_images=256")

STEPS = {
    "128-eager": ("float32", "channels_last", "tf32", "bfloat16", "half_last"),
    "128-gpu": ("gpu",),
    "128-best": ("best",),
    "128-graphs": ("graphs",),
    "256": ("float32", "best"),
    "512": ("float32", "best"),
}
"""Batch of a training step, and what tells the part -> variants; of compiled ones one a part."""
DRAWN = {
    "sampling": ("float32", "tf32", "bfloat16"),
    "sampling-gpu": ("gpu",),
    "sampling-best": ("best",),
}
COMPILED = ("gpu", "best", "graphs")
COMPILING = 3.0
"""Minutes that a contender's compiled training step and forward pass are given."""

AXES = {
    "resolution": ("batches", "processes"),
    "batch": ("resolutions", "processes"),
    "processes": ("resolutions", "batches"),
}
"""Axis of `benchmarks.growth` -> the lists that are left empty."""
OF_AXIS = {"resolution": "resolutions", "batch": "batches", "processes": "processes"}

# of a dry run
TINY = ("--channels=32", "--batch=2", "--rounds=2")
SMALL_GROWTH = {"resolutions": "32", "batches": "1,2", "processes": "1"}
FEW = tuple(
    f"--config.{key}"
    for key in (
        *("model.channels=32", "training.num_steps=4", "training.batch_size=4"),
        *("training.log_every=2", "training.checkpoint_every=2"),
        *("sampling.num_images=4", "sampling.batch_size=4", "sampling.steps=3"),
        *("sampling.tolerance=0.1", "likelihood.num_images=2", "likelihood.nodes=8"),
        *("compare.num_images=8", "compare.nfe=3"),
    )
)
"""Of a dry run's training, and, as they are its config, of what is measured on it."""


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
        subset: images of each split that the data are the first of; 0 for all, or no data.
        inside: whether it is run in `at`, for it writes to runs/ of the folder that it is in.
    """

    command: tuple[str, ...]
    made: Mapping[str, str] = field(hash=False)
    at: Path
    least: float = 3.0
    goes_on: bool = False
    minutes: float = 0.0
    subset: int = 0
    inside: bool = False

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
        subset: images of each split that the data are the first of; 0 for all.
        half: half precision that the device has, as `half_on` of the contenders says.
        dry: whether each command is to do as little as it can, to see that it runs.
    """

    device: str
    work: Path
    data: Path | None
    train_minutes: float
    subset: int = 0
    dry: bool = False
    half: str = "bfloat16"


def stages(options: Options) -> dict[str, list[Part]]:
    """All stages, in order: name -> parts."""
    return {
        "check": [bench("check", options, "gpu.check", least=4.0), equivalence(options)],
        "training": [step(name, options) for name in STEPS],
        "sampling": [drawing(name, options) for name in DRAWN],
        "likelihood": [bench("divergence", options, "divergence", *tiny(options))],
        "growth": [growth(axis, options) for axis in AXES],
        "cifar10": cifar10(options),
    }


def tiny(options: Options, *own: str) -> tuple[str, ...]:
    """Options of a benchmark on the U-Net: its own, or those of a dry run."""
    return TINY if options.dry else own


def step(name: str, options: Options) -> Part:
    """A training step at one batch, in some variants."""
    batch, variants = name.partition("-")[0], STEPS[name]
    asked = ",".join(variants_in(options.half, variants))
    more = f"--variants={asked}", *tiny(options, f"--batch={batch}")
    least = (
        1.0 + 0.5 * len(variants) + 2 * COMPILING * bool({*variants} & {"gpu", "best", "graphs"})
    )
    return bench(f"training-{name}", options, "training", *more, least=min(least, 9.0))


def drawing(name: str, options: Options) -> Part:
    """Images a second of some variants."""
    more = f"--variants={','.join(variants_in(options.half, DRAWN[name]))}", *tiny(options)
    return bench(name, options, "sampling", *more, least=4.0 if name == "sampling" else 6.0)


def growth(axis: str, options: Options) -> Part:
    """How a training step grows along one axis."""
    more = {f"--{other}=" for other in AXES[axis]}
    if options.dry:
        more |= {"--channels=32", "--rounds=2", f"--{OF_AXIS[axis]}={SMALL_GROWTH[OF_AXIS[axis]]}"}
    return bench(f"growth-{axis}", options, "growth", *sorted(more), least=6.0)


def bench(name: str, options: Options, module: str, *more: str, least: float = 3.0) -> Part:
    """A benchmark, whose results become NAME.json and NAME.md."""
    at, left = options.work / "parts" / name, module.removeprefix("gpu.")
    command = ("-m", f"benchmarks.{module}", f"--device={options.device}", f"--out={at}", *more)
    made = {f"{name}{end}": f"{left}{end}" for end in (".json", ".md")}
    return Part(command, made, at, least)


def equivalence(options: Options) -> Part:
    """The certificate of an untrained network of the digits, which lies in runs/ of `at`."""
    command = ("run.py", "--mode=equivalence", f"--device={options.device}")
    made = {"equivalence.json": "runs/*/results/equivalence.json"}
    return Part(command, made, options.work / "equivalence", least=2.0, inside=True)


def cifar10(options: Options) -> list[Part]:
    """A training of minutes, and every evaluation of the trained network."""
    at = options.work / (f"cifar10-{options.subset}" if options.subset else "cifar10")
    ledger = {"cifar10-ledger.json": "results/likelihood-ledger.json"}
    likelihood = mode("likelihood", options, at, *LIKELIHOOD[: 1 if options.dry else None])
    # images/s at an error need a trained run, which the stage "likelihood" does not have
    rates = (f"--workdir={at}", *tiny(options, "--rounds=2"), *("--images=2",) * options.dry)
    parts = [
        _training(options, at),
        *(_samples(name, options, at) for name in SAMPLERS),
        Part(likelihood, {**_result("likelihood"), **ledger}, at, goes_on=True),
        bench("cifar10-divergence", options, "divergence", *rates, least=6.0),
        Part(mode("compare", options, at), _result("compare"), at, goes_on=True),
    ]
    return [replace(part, subset=options.subset) for part in parts]


def _training(options: Options, at: Path) -> Part:
    """DDPM's recipe over minutes; a dry run without images trains on the digits."""
    named = "digits" if options.dry and options.data is None else "cifar10"
    data = (f"--config.data.path={options.data}",) if options.data else ()
    half = f"--config.training.precision={options.half}"
    more = (f"--config=configs/{named}.py", *data, half, *TRAINING, *FEW * options.dry)
    return Part(
        mode("train", options, at, *more),
        {"cifar10-training.json": "training.json"},
        at,
        least=2.0,
        goes_on=True,
        minutes=options.train_minutes,
    )


def _samples(name: str, options: Options, at: Path) -> Part:
    """Images by one sampler, and their picture."""
    made = {**_result(f"samples-{name}"), f"cifar10-samples-{name}.png": f"samples/*-{name}.png"}
    return Part(mode("sample", options, at, f"--sampler={name}"), made, at, least=2.0)


def _result(name: str) -> dict[str, str]:
    """What a mode of run.py writes about the trained run."""
    return {f"cifar10-{name}.json": f"results/{name}.json"}


def mode(name: str, options: Options, at: Path, *more: str) -> tuple[str, ...]:
    """The command line of a mode of run.py."""
    return ("run.py", f"--mode={name}", f"--workdir={at}", f"--device={options.device}", *more)
