"""Sections that fix the weights: data, process, network and training."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema.ranges import COUNT, COUNT_OR_NONE, FRACTION, POSITIVE, Range
from scoreflow.schema.section import Section, key

PRECISIONS = ("float32", "tf32", "bfloat16")
SCHEDULES = ("linear", "cosine", "log_linear", "linear_continuous", "scaled_linear", "betas")
EMBEDDINGS = ("uniform", "centre")


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
        "images: a folder of Parquet or image files, or a name on the Hub; vectors: a table",
    )
    test_fraction: float = key(0.2, "share held out where the data come in one pool", FRACTION)
    split_seed: int = key(
        0, "seed of that split; not the run's seed, so that runs compare", COUNT_OR_NONE
    )
    size: str = key(
        "",
        'images: their size as "64" or "48x64" (height x width); "" for that of the files',
        later=True,
    )
    fit: str = key(
        "refuse",
        "images of another size: refused, cropped, resized or padded",
        choices=("refuse", "crop", "resize", "pad"),
        later=True,
    )
    mode: str = key(
        "exact",
        "images: as they are, else refused; or converted to grey, RGB, or what fits all",
        choices=("exact", "auto", "grey", "rgb"),
        later=True,
    )
    background: str = key(
        "", 'colour under transparent pixels, as "#ffffff"; "" to refuse them', later=True
    )
    levels: int = key(
        0, "levels of a channel; 0 for those of the files", Range(0, 65536, "[]"), later=True
    )
    labels: str = key(
        "auto", "classes: none, those of the folders, or a column of the Parquet files", later=True
    )
    cache: str = key(
        "",
        'folder where images are kept decoded; "" for the run\'s, and for those alone that would '
        "take more than 1/4 of free memory",
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class SDEConfig(Section):
    """The noising process."""

    NAME: ClassVar[str] = "sde"

    name: str = key(
        "vp",
        "process: variance-preserving, sub-VP or variance-exploding",
        choices=("vp", "subvp", "ve"),
    )
    num_steps: int = key(1000, "N, steps of the chain", Range(2, 1_000_000, "[]"))
    schedule: str = key("linear", "vp, subvp: noise schedule", choices=SCHEDULES)
    betas: tuple[float, ...] = key(
        (0.0,), "betas: the variance added by each of the N steps", Range(0, 1, "[]"), later=True
    )
    beta_min: float = key(0.1, "linear, scaled_linear: N times the first beta", POSITIVE)
    beta_max: float = key(20.0, "linear, scaled_linear: N times the last beta", POSITIVE)
    sigma_min: float = key(
        1e-3, "log_linear, ve: noise scale at t = 1 (subvp: its square)", FRACTION
    )
    sigma_max: float = key(50.0, "ve: noise scale at t = N", POSITIVE)
    alpha_min: float = key(5e-3, "log_linear: signal scale at t = N", FRACTION)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network."""

    NAME: ClassVar[str] = "model"

    name: str = key(
        "unet", "network: unet for images, mlp for vectors, or your own as package.module:factory"
    )
    prediction: str = key(
        "eps",
        "output of the network: noise, datum, velocity, score (times sigma; gradient: itself), or "
        "the reverse step's mean",
        choices=("eps", "x_0", "v", "score", "mean", "gradient"),
    )
    learned_variance: bool = key(False, "unet: predicts the variance of a reverse step as well")
    channels: int = key(128, "unet: channels of the finest level", COUNT)
    multipliers: tuple[int, ...] = key(
        (1, 2, 2, 2),
        "unet: channels of the levels over `channels`, fine to coarse",
        COUNT,
    )
    blocks: int = key(2, "unet: residual blocks a level", COUNT)
    attention_sizes: tuple[int, ...] = key(
        (16,), "unet: larger sides of the feature maps with self-attention, pixels", COUNT
    )
    num_groups: int = key(32, "unet: groups of GroupNorm", COUNT)
    dropout: float = key(0.1, "unet: dropout probability", Range(0, 1))
    conditional: bool = key(False, "unet: takes the class of the datum", later=True)
    num_classes: int = key(
        0, "unet: classes it is conditioned on; 0 for those of the data", COUNT_OR_NONE, later=True
    )
    null_class: bool = key(
        True, "unet, conditional: has a row for no class; else every class is one", later=True
    )
    class_embedding: str = key(
        "after",
        "unet, conditional: added after the second dense layer, or to the sinusoids",
        choices=("after", "before"),
        later=True,
    )
    shape: tuple[int, ...] = key(
        (0, 0, 0),
        "(C, H, W) of its images; zeros for those of the data",
        COUNT_OR_NONE,
        later=True,
    )
    stem_multiplier: int = key(1, "unet: channels of the stem over `channels`", COUNT, later=True)
    embedding_channels: int = key(
        0, "unet: sinusoids of the time embedding; 0 for `channels`", COUNT_OR_NONE, later=True
    )
    time_embedding: str = key(
        "positional",
        "unet: sinusoids of the label at fixed frequencies, or at stored random ones",
        choices=("positional", "fourier"),
        later=True,
    )
    embedding_order: str = key(
        "sin_cos", "unet: which sinusoids come first", choices=("sin_cos", "cos_sin"), later=True
    )
    frequency_shift: int = key(
        1, "unet: frequencies 10000^(-k / (half - shift))", Range(0, 1, "[]"), later=True
    )
    norm_eps: float = key(1e-6, "unet: eps of each GroupNorm", POSITIVE, later=True)
    channels_per_group: int = key(
        0, "unet: at least so many channels a group; 0 for num_groups", COUNT_OR_NONE, later=True
    )
    padding: str = key(
        "bottom_right",
        "unet: zeros around the input of a halving convolution",
        choices=("bottom_right", "symmetric"),
        later=True,
    )
    heads: int = key(1, "unet: heads of each attention", COUNT, later=True)
    head_channels: int = key(
        0, "unet: channels of a head instead of `heads`; 0 for none", COUNT_OR_NONE, later=True
    )
    attention_up: str = key(
        "each",
        "unet: on the way up, attention after each block of a level, or the last one",
        choices=("each", "last"),
        later=True,
    )
    attention_middle: bool = key(True, "unet: attention in the middle", later=True)
    scale_shift: bool = key(
        False, "unet: the embedding scales and shifts the second norm's output", later=True
    )
    rescaled_skips: bool = key(
        False, "unet: (h + branch) / sqrt 2 after each block and attention", later=True
    )
    resample: str = key(
        "conv",
        "unet: halve and double by a convolution, or a residual block (without, with weights in "
        "its shortcut)",
        choices=("conv", "residual", "residual_conv"),
        later=True,
    )
    fir: bool = key(False, "unet: resize by the filter [1, 3, 3, 1]", later=True)
    input_pyramid: bool = key(
        False, "unet: the input, halved, is added at each halving", later=True
    )
    label: str = key(
        "time",
        "what the network's label is a function of: t, sigma/alpha or its logarithm",
        choices=("time", "sigma", "log_sigma"),
        later=True,
    )
    label_scale: float = key(
        1.0, "label = scale * (time, ...) + offset", Range(-1e6, 1e6, "[]"), later=True
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
        1.0, "standard deviation of the data that its unit scale takes", POSITIVE, later=True
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
    width: int = key(128, "mlp: hidden units of a layer", COUNT)
    depth: int = key(3, "mlp: hidden layers", COUNT)
    embedding: int = key(64, "mlp: dimensions of the time embedding", Range(4, 2**31))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """The loss and the optimisation."""

    NAME: ClassVar[str] = "training"

    num_steps: int = key(800_000, "optimiser steps in all", COUNT)
    batch_size: int = key(128, "images a step", COUNT)
    learning_rate: float = key(2e-4, "learning rate of Adam, after the warm-up", POSITIVE)
    warmup_steps: int = key(5000, "steps of linear warm-up", COUNT_OR_NONE)
    decay: str = key("constant", "learning-rate schedule", choices=("constant", "cosine"))
    clip_norm: float = key(
        1.0, "greatest norm of the gradient; longer ones are scaled to it", POSITIVE
    )
    ema_decay: float = key(
        0.9999, "decay of the moving average of the weights, a step", Range(0, 1)
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
        ),
    )
    times: str = key(
        "integer",
        "law of the training times: steps of the chain, uniform, or uniform in log-SNR",
        choices=("integer", "real", "importance"),
    )
    t_min: float = key(1.0, "real, importance: least time, in steps", Range(0, 1, "(]"))
    flip: bool = key(False, "mirror each image left to right with probability 1/2")
    low_discrepancy: bool = key(False, "spread the times of a batch evenly")
    variance: str = key(
        "beta",
        "variational, unless learned: variance of a reverse step",
        choices=("beta", "posterior"),
    )
    hybrid_weight: float = key(
        1e-3, "hybrid: weight of the bound added to the simple loss", POSITIVE
    )
    min_snr_gamma: float = key(5.0, "min_snr: greatest weight, an SNR", POSITIVE)
    p2_gamma: float = key(1.0, "p2: exponent of the weight", POSITIVE)
    p2_k: float = key(1.0, "p2: constant added to the SNR", POSITIVE)
    dequantization: str = key(
        "uniform",
        "x_0 of an integer level: uniform on its bin, or its centre",
        choices=EMBEDDINGS,
        later=True,
    )
    label_dropout: float = key(
        0.1, "conditional: share of the data shown without class", Range(0, 1), later=True
    )
    micro_batches: int = key(
        1, "parts of a batch, one after another, to save memory", COUNT, later=True
    )
    recompute: bool = key(
        False, "unet: recompute the activations of its blocks, to save memory", later=True
    )
    precision: str = key(
        "float32", "arithmetic of the network; tf32 on a GPU alone", choices=PRECISIONS
    )
    compile: bool = key(False, "torch.compile the network")
    compile_mode: str = key(
        "default",
        "compile: mode of torch.compile",
        choices=("default", "reduce-overhead", "max-autotune"),
        later=True,
    )
    channels_last: bool = key(True, "unet: memory format; see docs/scaling.md")
    log_every: int = key(100, "steps between rows of metrics.jsonl", COUNT)
    checkpoint_every: int = key(5000, "steps between checkpoints, a multiple of log_every", COUNT)
