"""Sections of what follows training: each may change for a trained run."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema import samplers
from scoreflow.schema.ranges import (
    COUNT,
    COUNT_OR_NONE,
    EVALUATIONS,
    LEARNING_RATE,
    LENGTH_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    TOLERANCE,
    AllBut,
    Range,
)
from scoreflow.schema.section import Condition, Section, key
from scoreflow.schema.task_keys import METHODS, TASKS
from scoreflow.schema.training_sections import FITS, PRECISIONS, READING_MODES

DEQUANTIZATIONS = ("uniform", "truncated_normal", "last_step")
MILLION = Range(1, 10**6, "[]")
NODES = Range(8, 4096, "[]")
BY_NODES: Condition = {"likelihood.method": ("nodes",)}
BY_SOLVERS: Condition = {"likelihood.method": AllBut(("nodes",), such_as="dopri5")}
SHIFT = Range(1e-3, 1e3, "[]")
SCORED = ("likelihood", "classify")
"""Modes that ask for log-likelihoods: the second given each class."""
SAMPLE_ALONE = ("sample",)
"""Modes of a key in whose place `compare` has its own."""
DRAWN = ("sample", "compare", "export")
"""Modes of a key that another codebase's sampler has too."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Section):
    """How samples are drawn."""

    NAME: ClassVar[str] = "sampling"
    MODES: ClassVar[tuple[str, ...]] = ("sample", "compare")

    sampler: str = key(
        "ancestral",
        "sampling method",
        choices=samplers.NAMES,
        modes=SAMPLE_ALONE,
        instead={"compare": "name samplers by --samplers ddim,dpm"},
    )
    seed: int = key(0, "seed of the noise", COUNT_OR_NONE, modes=SAMPLE_ALONE)
    step: int = key(
        0,
        "draw from the checkpoint of this training step; 0 for the last",
        COUNT_OR_NONE,
        modes=("sample", "compare", "equivalence", "export", "features"),
    )
    ema_length: float = key(
        0.0,
        "draw from the average of this relative width, reconstructed from the snapshots that "
        "training.ema = power keeps; 0 for the average as trained",
        LENGTH_OR_NONE,
        modes=("sample", "compare", "equivalence", "export", "features"),
    )
    num_images: int = key(64, "samples in all", COUNT, modes=SAMPLE_ALONE)
    batch_size: int = key(
        64, "samples at a time", COUNT, modes=("sample", "compare", "equivalence")
    )
    steps: int = key(
        0,
        f"steps of all but ode; 0 for N, and for those of high order {samplers.FEW_STEPS}",
        COUNT_OR_NONE,
        modes=SAMPLE_ALONE,
    )
    grid: str = key(
        "auto",
        "times of the steps of all but ode; auto is log_snr for high order, else uniform",
        choices=(
            "auto",
            "uniform",
            "trailing",
            "quadratic",
            "leading",
            "log_snr",
            "karras",
            "angle",
            "least_cost",
        ),
        modes=DRAWN,
    )
    shift: float = key(
        1.0,
        "sigma / alpha of the grid's times times this, its ends kept; above 1 for larger images",
        SHIFT,
        modes=DRAWN,
    )
    final: str = key(
        "mean",
        "the step to t = 0: the sampler's own, the estimate of x_0, or none",
        choices=("mean", "x_0", "none"),
    )
    order: int = key(2, "dpm 1..3, deis 1..4, unipc 1..3: order", Range(1, 4, "[]"))
    churn: float = key(0.0, "heun: noise scale raised before a step, relative", Range(0, 0.41421))
    variance: str = key(
        "beta",
        "ancestral, pc: variance of a step",
        choices=("beta", "posterior", "optimal", "learned"),
        modes=DRAWN,
    )
    eta: float = key(0.0, "ddim: share of the posterior's noise", Range(0, 1, "[]"))
    clip: bool = key(True, "clip the estimate of x_0 to [-1, 1], in all but ode", modes=DRAWN)
    dynamic_threshold: float = key(
        0.0, "instead of clipping: threshold at this quantile of |x_0|; 0 for none", Range(0, 1)
    )
    label: int | str = key(
        -1,
        "class of the samples, by number or name; several in turn, as 0,1,2, or all; data "
        "for the shares of the data; -1 for none",
        Range(-1, 2**31),
        classes=True,
    )
    guidance: float = key(
        1.0, "guidance weight: 0 ignores the class, 1 is the model's own law", NOT_NEGATIVE
    )
    guide: str = key(
        "auto", "classifier-free or classifier guidance", choices=("auto", "network", "classifier")
    )
    predictor: str = key("ancestral", "pc: predictor", choices=samplers.PREDICTORS)
    corrector: str = key("langevin", "pc: corrector", choices=("langevin", "annealed"))
    snr: float = key(0.1, "pc: signal-to-noise ratio of a correction", POSITIVE)
    corrections: int = key(1, "pc: corrections at each time", Range(0, 10_000, "[]"))
    tolerance: float = key(1e-4, "ode: local error, unit scale", TOLERANCE, modes=SAMPLE_ALONE)
    method: str = key("dopri5", "ode: dopri5, torchdiffeq:NAME or scipy:NAME")
    max_evaluations: int = key(10_000, "ode: evaluations of a sample, at most", EVALUATIONS)
    save: str = key(
        "grid",
        "a picture of the first 64; or all images: a PNG each, an npz for OpenAI's evaluator, a "
        "tensor file; with a task, npz and pt: its arrays, latents among them",
        choices=("grid", "png", "npz", "pt"),
        modes=SAMPLE_ALONE,
    )
    progressive: bool = key(
        False, "write a picture and a GIF of x_0 along the way", modes=SAMPLE_ALONE
    )
    task: str = key(
        "none",
        "what is done with the image of the `control` section",
        choices=("none", *TASKS),
        modes=SAMPLE_ALONE,
    )


@dataclass(frozen=True, kw_only=True)
class ControlConfig(Section):
    """Editing of a given image, by sampling.task."""

    NAME: ClassVar[str] = "control"
    MODES: ClassVar[tuple[str, ...]] = ("sample",)

    image: str = key("test:0", "the given image: a file, or test:K, the K-th test image")
    other: str = key("test:1", "interpolate: the image at the other end")
    mask: str = key("", 'inpaint: a file, white where to fill in; "" for the middle square')
    fit: str = key("", 'files of another size; "" for what was done to the data', choices=FITS)
    mode: str = key(
        "",
        'files converted, as data.mode; "" for what was done to the data',
        choices=READING_MODES,
    )
    background: str = key("", 'colour under transparent pixels; "" for that of the data')
    factor: int = key(2, "superresolve: pixels of a block, a side", Range(2, 2**15))
    method: str = key(
        "mmps", "inpaint, colorize, superresolve: posterior sampling", choices=tuple(METHODS)
    )
    noise: float = key(
        0.0,
        "mmps: noise of the measurement, in units of [-1, 1]; 0 for the levels' own",
        Range(0, 1e6, "[]"),
    )
    iterations: int = key(3, "mmps: iterations of conjugate gradients", Range(1, 2**15))
    weight: float = key(1.0, "dps: weight of a step along the gradient of the misfit", POSITIVE)
    strength: float = key(
        0.5, "vary: time to which the image is noised, as a share of N", Range(0, 1, "(]")
    )
    count: int = key(8, "images to make; reconstruct: test images from the given one on", COUNT)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Section):
    """Training of a classifier of noisy images."""

    NAME: ClassVar[str] = "classifier"
    MODES: ClassVar[tuple[str, ...]] = ("classifier",)

    num_steps: int = key(2000, "optimiser steps", COUNT)
    batch_size: int = key(64, "images a step", COUNT)
    learning_rate: float = key(1e-3, "learning rate of Adam", LEARNING_RATE)
    width: int = key(32, "channels of its first level", Range(8, 2**15))


SCORES = ("basic", "all")
REFERENCES = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig(Section):
    """The likelihood of test data."""

    NAME: ClassVar[str] = "likelihood"
    MODES: ClassVar[tuple[str, ...]] = ("likelihood",)

    seed: int = key(0, "seed of dequantization and probes", COUNT_OR_NONE, modes=SCORED)
    step: int = key(
        0,
        "measure the checkpoint of this training step; 0 for the last",
        COUNT_OR_NONE,
        modes=SCORED,
    )
    ema_length: float = key(
        0.0,
        "measure the average of this relative width, reconstructed from the snapshots that "
        "training.ema = power keeps; 0 for the average as trained",
        LENGTH_OR_NONE,
        modes=SCORED,
    )
    num_images: int = key(
        0, "the first so many of the test set; 0 for all", COUNT_OR_NONE, modes=SCORED
    )
    label: int | str = key(
        -1,
        "log p given this class, by number or name, of a network with classes; data for each "
        "image's own; -1 for none",
        Range(-1, 2**31),
        classes=True,
    )
    batch_size: int = key(128, "points in flight at a time", COUNT, modes=SCORED)
    dequantization: str = key(
        "uniform", "how integer levels become points", choices=DEQUANTIZATIONS, modes=SCORED
    )
    samples: int = key(
        1, "K, points of each image under one logarithm (importance weights)", Range(1, 2**16)
    )
    t_start: float = key(
        0.0,
        "where the flow starts, in steps; 0 for the least time possible",
        NOT_NEGATIVE,
        modes=SCORED,
    )
    method: str = key(
        "nodes",
        "nodes, random points of a multistep trajectory with fresh probes at each; or a solver "
        "that carries the divergence along with its probes held fixed: dopri5, torchdiffeq:NAME "
        "or scipy:NAME",
        modes=SCORED,
    )
    probes: int = key(
        1,
        "random-sign probes of the divergence, by nodes so many at each; 0 for the exact one",
        Range(0, 2**24),
        modes=SCORED,
    )
    nodes: int = key(
        32, "points where the divergence is estimated", NODES, only=BY_NODES, modes=SCORED
    )
    substeps: int = key(
        1,
        "steps of the trajectory from a node to the next",
        Range(1, 1024),
        only=BY_NODES,
        modes=SCORED,
    )
    trajectory_tolerance: float = key(
        0.05,
        "estimated error of the trajectory, in units of the noise where it is made, above which "
        "an image is solved again with twice the substeps",
        TOLERANCE,
        only=BY_NODES,
        modes=SCORED,
    )
    tolerance: float = key(
        1e-4, "local error of x, unit scale", TOLERANCE, only=BY_SOLVERS, modes=SCORED
    )
    tolerance_bits: float = key(
        1e-4, "local error of the log-density, bits/dim", TOLERANCE, only=BY_SOLVERS, modes=SCORED
    )
    max_evaluations: int = key(
        10_000, "evaluations of a point, at most", EVALUATIONS, modes=SCORED
    )
    checked: int = key(
        16,
        "images solved again more finely, for the solver's error; by nodes twice as many again at "
        "other nodes by other probes, for theirs; 0 for none",
        COUNT_OR_NONE,
    )
    ledger: bool = key(False, "every bound and estimate of the likelihood, next to the exact flow")
    terms: int = key(64, "ledger: random times of the bounds, one in each stratum", MILLION)
    against: str = key("", 'compare in pairs with: "raw", the raw weights, or a run\'s folder')
    data: str = key(
        "",
        'data to score instead: "train", a folder or a name on the Hub; several, as A,B,C, each '
        "of which is told from the test set",
    )
    scores: str = key(
        "basic",
        "by what other data are told from the test set: basic, the likelihood's own numbers; or "
        "all, with a table of sets and scores (docs/anomaly.md)",
        choices=SCORES,
    )
    reference: str = key(
        "train",
        "whose images show what is ordinary: train, of the training part, spread all over it; or "
        "test, the last of the test set, which the network has not seen and which are not scored",
        choices=REFERENCES,
        only={"likelihood.scores": ("all",)},
    )
    held_out: int = key(
        256,
        "images of the reference",
        Range(32, 2**31),
        only={"likelihood.scores": ("all",)},
    )
    fit: str = key(
        "", 'data: those of another size; "" for what was done to the data', choices=FITS
    )
    mode: str = key(
        "",
        'data: converted, as data.mode; "" for what was done to the data',
        choices=READING_MODES,
    )
    background: str = key("", 'colour under transparent pixels; "" for that of the data')


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Section):
    """Samplers compared at equal numbers of evaluations."""

    NAME: ClassVar[str] = "compare"
    MODES: ClassVar[tuple[str, ...]] = ("compare",)

    samplers: tuple[str, ...] = key(
        ("ancestral", "ddim", "dpm", "unipc", "ode"),
        "samplers compared; also as --samplers ancestral,pc,ode",
        choices=samplers.NAMES,
        filled=True,
    )
    nfe: tuple[int, ...] = key((5, 10, 20, 50, 100), "evaluations an image", MILLION, filled=True)
    num_images: int = key(256, "samples of each case", COUNT)
    guidance: tuple[float, ...] = key(
        (0.0, 1.0, 2.0, 4.0), "with classes: guidance weights swept", NOT_NEGATIVE
    )
    inception: str = key("", 'FID, KID, IS: a file of Inception weights, or "download"')
    seed: int = key(0, "seed of the noise that every case starts from", COUNT_OR_NONE)
    ema_lengths: tuple[float, ...] = key(
        (0.0,),
        "instead of samplers: averages of these relative widths compared by likelihood and "
        "samples, of a run with training.ema = power; 0 is the average as trained, and alone none",
        LENGTH_OR_NONE,
        filled=True,
    )
    ema_images: int = key(
        64,
        "test images whose likelihood is measured under each of ema_lengths",
        Range(2, 2**31),
    )


@dataclass(frozen=True, kw_only=True)
class EquivalenceConfig(Section):
    """The certificate of identities."""

    NAME: ClassVar[str] = "equivalence"
    MODES: ClassVar[tuple[str, ...]] = ("equivalence",)

    precision: str = key(
        "",
        'arithmetic of the network; "" for that of training, float32 for float16',
        choices=PRECISIONS[:-1],
    )
    num_images: int = key(256, "samples of each sampler, trained network", Range(2, 2**31))
    steps: int = key(
        64, "steps of ancestral and pc, and half as many, trained network", Range(4, 2**31)
    )
    batch_size: int = key(4, "images of the gradients and trainings compared", COUNT)
    train_steps: int = key(100, "steps of the trainings compared", COUNT)


@dataclass(frozen=True, kw_only=True)
class ProfileConfig(Section):
    """Where the time of a training step goes."""

    NAME: ClassVar[str] = "profile"
    MODES: ClassVar[tuple[str, ...]] = ("profile",)

    num_steps: int = key(10, "training steps under the profiler", COUNT)
    warmup: int = key(3, "training steps before them", COUNT)
