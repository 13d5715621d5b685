"""Sections that fix the weights: data, process, network and training."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema.ranges import (
    COUNT,
    COUNT_OR_NONE,
    FRACTION,
    LEARNING_RATE,
    LENGTH,
    NOT_NEGATIVE,
    POSITIVE,
    AllBut,
    Range,
)
from scoreflow.schema.section import (
    AUTO,
    FROM_A_STEP_ON,
    IN_ALL_MODES,
    WHERE_THE_DATA_FIT,
    Condition,
    Section,
    key,
)

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
SCHEDULES = ("linear", "cosine", "log_linear", "linear_continuous", "scaled_linear", "betas")
EMBEDDINGS = ("uniform", "centre")
FITS = ("refuse", "crop", "resize", "pad")
READING_MODES = ("exact", "auto", "grey", "rgb")

IMAGES: Condition = {"data.name": ("images",)}
FILES: Condition = {"data.name": ("images", "vectors")}
SPLIT: Condition = {"data.name": AllBut(("none",))}
UNET: Condition = {"model.name": ("unet",)}
MLP: Condition = {"model.name": ("mlp",)}
OF_CLASSES: Condition = {**UNET, "model.conditional": (True,)}
BETAS: Condition = {"sde.schedule": ("linear", "linear_continuous", "scaled_linear")}
LOG_LINEAR: Condition = {"sde.schedule": ("log_linear",)}
LOG_NORMAL: Condition = {"training.times": ("log_normal",)}
EXPLODING: Condition = {"sde.name": ("ve", "edm")}
"""What several keys need to have an effect."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """The data set and its split."""

    NAME: ClassVar[str] = "data"

    name: str = key(
        "digits",
        "data set: scikit-learn's digits, a mixture of Gaussians in the plane, images, vectors, "
        "none, or given from Python",
        choices=("digits", "toy", "images", "vectors", "given", "none"),
    )
    path: str = key(
        "",
        "a folder or a file of them (docs/data.md says which), or a name on the Hub",
        only=FILES,
        changes=WHERE_THE_DATA_FIT,
    )
    test_fraction: float = key(
        0.2,
        "share held out where the data come in one pool; 0 measures on all of it",
        Range(0, 1),
        only=SPLIT,
    )
    split_seed: int = key(
        0,
        "seed of that split; not the run's seed, so that runs compare",
        COUNT_OR_NONE,
        only=SPLIT,
    )
    size: str = key(
        "",
        'their size as "64" or "48x64" (height x width); "" for that of the files',
        later=True,
        only=IMAGES,
    )
    fit: str = key(
        "refuse",
        "files of another size: refused, cropped, resized or padded",
        choices=FITS,
        later=True,
        only=IMAGES,
    )
    mode: str = key(
        "exact",
        "as they are, else refused; or converted to grey, RGB, or what fits all",
        choices=READING_MODES,
        later=True,
        only=IMAGES,
    )
    background: str = key(
        "",
        'colour under transparent pixels, as "#ffffff"; "" to refuse them',
        later=True,
        only=IMAGES,
    )
    levels: int = key(
        0,
        "levels of a channel; 0 for those of the files",
        Range(0, 65536, "[]"),
        later=True,
        only={"data.name": ("images", "given")},
    )
    scale: str = key(
        "bins",
        "where level k of L lies for the network: 2 (k + 1/2) / L - 1, the centre of its "
        "bin, or 2 k / (L - 1) - 1, so that the outermost are the ends -1 and 1, as DDPM has it",
        choices=("bins", "ends"),
        later=True,
        only={"data.name": AllBut(("toy", "vectors"))},
    )
    labels: str = key(
        "auto",
        "their classes: auto, none, folders, or the column of a table",
        later=True,
        only=IMAGES,
    )
    cache: str = key(
        "",
        'folder where images are kept decoded; "" for the run\'s, and for those alone that would '
        "take more than 1/4 of free memory",
        later=True,
        only=IMAGES,
        changes=WHERE_THE_DATA_FIT,
    )


@dataclass(frozen=True, kw_only=True)
class SDEConfig(Section):
    """The noising process."""

    NAME: ClassVar[str] = "sde"

    name: str = key(
        "vp",
        "process: variance-preserving, sub-VP, variance-exploding, flow matching's straight path, "
        "or EDM's noise scales",
        choices=("vp", "subvp", "ve", "rectified", "edm"),
    )
    num_steps: int = key(1000, "N, steps of the chain", Range(2, 1_000_000, "[]"))
    schedule: str = key(
        "linear", "noise schedule", choices=SCHEDULES, only={"sde.name": ("vp", "subvp")}
    )
    betas: tuple[float, ...] = key(
        (0.0,),
        "the variance added by each of the N steps",
        Range(0, 1, "[]"),
        filled=True,
        later=True,
        only={"sde.schedule": ("betas",)},
    )
    beta_min: float = key(0.1, "N times the first beta", POSITIVE, only=BETAS)
    beta_max: float = key(20.0, "N times the last beta", POSITIVE, only=BETAS)
    sigma_min: float = key(
        1e-3,
        "noise scale at t = 1 (subvp: its square); 0.002 with --sde edm, unless set",
        FRACTION,
        only=(LOG_LINEAR, EXPLODING),
    )
    sigma_max: float = key(
        50.0, "noise scale at t = N; 80 with --sde edm, unless set", POSITIVE, only=EXPLODING
    )
    alpha_min: float = key(5e-3, "signal scale at t = N", FRACTION, only=LOG_LINEAR)
    rho: float = key(
        7.0,
        "sigma^(1/rho) is linear in t",
        Range(1, 100, "[]"),
        later=True,
        only={"sde.name": ("edm",)},
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network."""

    NAME: ClassVar[str] = "model"

    name: str = key(
        "unet", "network: unet for images, mlp for vectors, or your own as package.module:factory"
    )
    prediction: str = key(
        "eps",
        "output of the network: noise, datum, velocity (v of the rotation, u = eps - x_0 of flow "
        "matching), score (times sigma; gradient: itself), the reverse step's mean, or the "
        "residual of what each pixel's own histogram says of it",
        choices=("eps", "x_0", "v", "u", "score", "mean", "gradient", "residual"),
    )
    learned_variance: bool = key(
        False,
        "predicts the variance of a reverse step as well",
        only={"model.name": AllBut(("mlp",))},
    )
    channels: int = key(128, "channels of the finest level", COUNT, only=UNET)
    multipliers: tuple[int, ...] = key(
        (1, 2, 2, 2),
        "channels of the levels over `channels`, fine to coarse",
        COUNT,
        only=UNET,
        filled=True,
    )
    blocks: int = key(2, "residual blocks a level", Range(1, 1000, "[]"), only=UNET)
    attention_sizes: tuple[int, ...] = key(
        (16,), "larger sides of the feature maps with self-attention, pixels", COUNT, only=UNET
    )
    num_groups: int = key(32, "groups of GroupNorm", COUNT, only=UNET)
    dropout: float = key(0.1, "dropout probability", Range(0, 1), only=UNET)
    conditional: bool = key(
        False, "takes the class of the datum", later=True, only={"model.name": AllBut(("mlp",))}
    )
    num_classes: int = key(
        0,
        "classes it is conditioned on; 0 for those of the data",
        COUNT_OR_NONE,
        later=True,
        only={"model.conditional": (True,)},
    )
    num_levels: int = key(
        0,
        "levels of the histograms that it knows; 0 for those of the data",
        Range(0, 4096, "[]"),
        later=True,
        only={"model.prediction": ("residual",)},
    )
    null_class: bool = key(
        True, "has a row for no class; else every class is one", later=True, only=OF_CLASSES
    )
    class_embedding: str = key(
        "after",
        "added after the second dense layer, or to the sinusoids",
        choices=("after", "before"),
        later=True,
        only=OF_CLASSES,
    )
    shape: tuple[int, ...] = key(
        (0, 0, 0),
        "(C, H, W) of its images; zeros for those of the data",
        COUNT_OR_NONE,
        later=True,
    )
    stem_multiplier: int = key(
        1, "channels of the stem over `channels`", COUNT, later=True, only=UNET
    )
    embedding_channels: int = key(
        0,
        "sinusoids of the time embedding; 0 for `channels`",
        COUNT_OR_NONE,
        later=True,
        only=UNET,
    )
    time_embedding: str = key(
        "positional",
        "sinusoids of the label at fixed frequencies, or at stored random ones",
        choices=("positional", "fourier"),
        later=True,
        only=UNET,
    )
    embedding_order: str = key(
        "sin_cos",
        "which sinusoids come first",
        choices=("sin_cos", "cos_sin"),
        later=True,
        only=UNET,
    )
    frequency_shift: int = key(
        1,
        "frequencies 10000^(-k / (half - shift))",
        Range(0, 1, "[]"),
        later=True,
        only={**UNET, "model.time_embedding": ("positional",)},
    )
    norm_eps: float = key(1e-6, "eps of each GroupNorm", POSITIVE, later=True, only=UNET)
    channels_per_group: int = key(
        0,
        "at least so many channels a group; 0 for num_groups",
        COUNT_OR_NONE,
        later=True,
        only=UNET,
    )
    padding: str = key(
        "bottom_right",
        "zeros around the input of a halving convolution",
        choices=("bottom_right", "symmetric"),
        later=True,
        only=UNET,
    )
    heads: int = key(
        1, "heads of each attention", COUNT, later=True, only={**UNET, "model.head_channels": (0,)}
    )
    head_channels: int = key(
        0,
        "channels of a head instead of `heads`; 0 for none",
        COUNT_OR_NONE,
        later=True,
        only=UNET,
    )
    attention_up: str = key(
        "each",
        "on the way up, attention after each block of a level, or the last one",
        choices=("each", "last"),
        later=True,
        only=UNET,
    )
    attention_middle: bool = key(True, "attention in the middle", later=True, only=UNET)
    scale_shift: bool = key(
        False, "the embedding scales and shifts the second norm's output", later=True, only=UNET
    )
    rescaled_skips: bool = key(
        False, "(h + branch) / sqrt 2 after each block and attention", later=True, only=UNET
    )
    resample: str = key(
        "conv",
        "halve and double by a convolution, or a residual block (without, with weights in "
        "its shortcut)",
        choices=("conv", "residual", "residual_conv"),
        later=True,
        only=UNET,
    )
    fir: bool = key(
        False,
        "resize by the filter [1, 3, 3, 1]",
        later=True,
        only={**UNET, "model.resample": ("residual", "residual_conv")},
    )
    input_pyramid: bool = key(
        False, "the input, halved, is added at each halving", later=True, only=UNET
    )
    label: str = key(
        "time",
        "what the network's label is a function of: t in steps, sigma/alpha, its logarithm, or "
        "the log-SNR in decibels",
        choices=("time", "sigma", "log_sigma", "log_snr"),
        later=True,
    )
    label_scale: float = key(
        1.0,
        "label = scale * (time, ...) + offset; with 0.1 the network is smoother in t",
        Range(-1e6, 1e6, "[]"),
        later=True,
    )
    label_offset: float = key(
        -1.0, "the same; DDPM's index is t - 1", Range(-1e6, 1e6, "[]"), later=True
    )
    integer_times: bool = key(
        False, "evaluate it at the chain's integer times only, interpolated between", later=True
    )
    input_scale: str = key(
        "unit",
        "its input: x_t at unit scale, x_t as it is, or x_t / alpha",
        choices=("unit", "none", "alpha"),
        later=True,
    )
    data_std: float = key(
        1.0,
        "standard deviation of the data, EDM's sigma_data: unit scale divides by it, and x_0, v "
        "and u are of x_0 / data_std",
        Range(1e-6, 1e6, "[]"),
        later=True,
    )
    data_range: str = key(
        "symmetric",
        "range of its images: symmetric [-1, 1] or unit [0, 1]",
        choices=("symmetric", "unit"),
        later=True,
    )
    data_scale: float = key(
        1.0,
        "our images over its own: (L - 1) / L if it knows level k of L as 2 k / (L - 1) - 1",
        Range(0, 1, "(]"),
        later=True,
    )
    width: int = key(128, "hidden units of a layer", COUNT, only=MLP)
    depth: int = key(3, "hidden layers", Range(1, 1000, "[]"), only=MLP)
    embedding: int = key(64, "dimensions of the time embedding", Range(4, 2**31), only=MLP)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """The loss and the optimisation."""

    NAME: ClassVar[str] = "training"

    num_steps: int = key(800_000, "optimiser steps in all", COUNT, changes=FROM_A_STEP_ON)
    batch_size: int = key(128, "images a step", COUNT, changes=FROM_A_STEP_ON)
    learning_rate: float = key(
        2e-4, "learning rate of Adam, after the warm-up", LEARNING_RATE, changes=FROM_A_STEP_ON
    )
    warmup_steps: int = key(5000, "steps of linear warm-up", COUNT_OR_NONE, changes=FROM_A_STEP_ON)
    decay: str = key(
        "constant",
        "learning-rate schedule",
        choices=("constant", "cosine"),
        changes=FROM_A_STEP_ON,
    )
    clip_norm: float = key(
        1.0,
        "greatest norm of the gradient; longer ones are scaled to it; 0 for any",
        NOT_NEGATIVE,
        changes=FROM_A_STEP_ON,
    )
    ema: str = key(
        "exponential",
        "average of the weights: exponential, or two by power functions (EDM2), from whose "
        "snapshots any length is reconstructed after training (docs/training.md)",
        choices=("exponential", "power"),
        later=True,
    )
    ema_decay: float = key(
        0.9999,
        "decay of the moving average of the weights, a step",
        Range(0, 1),
        changes=FROM_A_STEP_ON,
        only={"training.ema": ("exponential",)},
    )
    ema_lengths: tuple[float, ...] = key(
        (0.05, 0.1),
        "widths of the two averages over the steps so far (sigma_rel); samples are of the first",
        LENGTH,
        filled=True,
        later=True,
        only={"training.ema": ("power",)},
    )
    objective: str = key(
        "simple",
        "loss",
        choices=(
            "simple",
            "score_matching",
            "mean",
            "variational",
            "hybrid",
            "likelihood",
            "min_snr",
            "p2",
            "velocity",
            "flow_matching",
            "edm",
        ),
    )
    times: str = key(
        "integer",
        "law of the training times: steps of the chain, uniform, uniform in log-SNR, or normal in "
        "ln(sigma/alpha)",
        choices=("integer", "real", "importance", "log_normal"),
    )
    t_min: float = key(
        1.0,
        "least time, in steps",
        Range(0, 1, "(]"),
        only={"training.times": ("real", "importance", "log_normal")},
    )
    log_normal_mean: float = key(
        -1.2,
        "mean of ln(sigma/alpha), EDM's P_mean; m of logit-normal(m, s) on the rectified path",
        Range(-50, 50, "[]"),
        later=True,
        only=LOG_NORMAL,
    )
    log_normal_std: float = key(
        1.2,
        "standard deviation of the same, EDM's P_std",
        Range(1e-3, 50, "[]"),
        later=True,
        only=LOG_NORMAL,
    )
    shift: float = key(
        1.0,
        "factor of their sigma/alpha, as sampling.shift; of log-normal times, of the law's median",
        Range(1e-3, 1e3, "[]"),
        later=True,
        only={"training.times": ("real", "log_normal")},
    )
    coupling: str = key(
        "independent",
        "how datum and noise are drawn; optimal_transport is refused, with the reason",
        choices=("independent", "optimal_transport"),
        later=True,
    )
    flip: bool = key(
        False,
        "mirror each image left to right with probability 1/2",
        changes=FROM_A_STEP_ON,
        only={"data.name": AllBut(("toy", "vectors"))},
    )
    low_discrepancy: bool = key(False, "spread the times of a batch evenly")
    variance: str = key(
        "beta",
        "variance of a reverse step",
        choices=("beta", "posterior"),
        only={"training.objective": ("variational",), "model.learned_variance": (False,)},
    )
    hybrid_weight: float = key(
        1e-3,
        "weight of the bound added to the simple loss",
        POSITIVE,
        only={"training.objective": ("hybrid",)},
    )
    min_snr_gamma: float = key(
        5.0, "greatest weight, an SNR", POSITIVE, only={"training.objective": ("min_snr",)}
    )
    p2_gamma: float = key(
        1.0, "exponent of the weight", POSITIVE, only={"training.objective": ("p2",)}
    )
    p2_k: float = key(
        1.0, "constant added to the SNR", POSITIVE, only={"training.objective": ("p2",)}
    )
    dequantization: str = key(
        "uniform",
        "x_0 of an integer level: uniform on its bin, or its centre",
        choices=EMBEDDINGS,
        later=True,
        only={"data.name": AllBut(("toy", "vectors"))},
    )
    label_dropout: float = key(
        0.1,
        "share of the data shown without class",
        Range(0, 1),
        later=True,
        only={"model.conditional": (True,)},
        changes=FROM_A_STEP_ON,
    )
    micro_batches: int = key(
        1,
        "parts of a batch, one after another, to save memory",
        COUNT,
        later=True,
        changes=FROM_A_STEP_ON,
    )
    recompute: bool = key(
        False,
        "recompute the activations of its blocks, to save memory",
        later=True,
        only=UNET,
        changes=FROM_A_STEP_ON,
    )
    precision: str = key(
        AUTO,
        "arithmetic of the network; auto: tf32 on CUDA, else float32; float16 trains with a "
        "scaled loss; a likelihood is float32 always",
        choices=(AUTO, *PRECISIONS),
        changes=FROM_A_STEP_ON,
        automatic=True,
    )
    compile: bool | str = key(
        AUTO,
        "torch.compile the network; auto: on CUDA, where what is planned outweighs the minutes "
        "that it takes; true: on any device, in training; evaluations are compiled on CUDA alone, "
        "where it is worth it",
        changes=IN_ALL_MODES,
        automatic=True,
    )
    compile_mode: str = key(
        "default",
        "mode of torch.compile",
        choices=("default", "reduce-overhead", "max-autotune"),
        later=True,
        only={"training.compile": (True, AUTO)},
        changes=FROM_A_STEP_ON,
    )
    channels_last: bool = key(
        True, "memory format; see docs/scaling.md", only=UNET, changes=FROM_A_STEP_ON
    )
    log_every: int = key(100, "steps between rows of metrics.jsonl", COUNT, changes=FROM_A_STEP_ON)
    checkpoint_every: int = key(
        5000, "steps between checkpoints, a multiple of log_every", COUNT, changes=FROM_A_STEP_ON
    )
    keep: int = key(
        2,
        "checkpoints kept, the last ones; 0 for all",
        COUNT_OR_NONE,
        later=True,
        changes=FROM_A_STEP_ON,
    )
    preview_every: int = key(
        0,
        "steps between previews (samples, held-out loss), a multiple of log_every; 0 for none",
        COUNT_OR_NONE,
        later=True,
        changes=FROM_A_STEP_ON,
    )
    init: str = key(
        "",
        "start from trained weights: a run's folder, or a file of --mode export --to safetensors",
        later=True,
    )
