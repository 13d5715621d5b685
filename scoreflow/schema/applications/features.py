"""The section of --mode features: which activations of a network, at which time, of which data."""

from dataclasses import dataclass
from typing import ClassVar

from scoreflow.schema.ranges import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, Range
from scoreflow.schema.section import Section, key
from scoreflow.schema.training_sections import FITS, READING_MODES

POOLS = ("mean", "max", "quarters", "none")
ALL_BLOCKS = ("blocks",)
BY_LOG_SNR = (0.0,)
BESIDE = ("pixels", "pca", "latent", "classifier")


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Section):
    """Representations: activations of the averaged network, latents and estimates as features."""

    NAME: ClassVar[str] = "features"
    MODES: ClassVar[tuple[str, ...]] = ("features",)

    layer: str = key(
        "",
        "module of the network, by its path or in short (down.0.0, middle, up.1.0); or latent, of "
        "the probability flow, x_0, the network's estimate, or pixels",
    )
    t: float = key(
        0.0,
        "time of the noisy images, in steps; 0 for the least that it was trained at",
        NOT_NEGATIVE,
    )
    draws: int = key(
        1,
        "noises of each image whose features are averaged; 0 for alpha x_0, without noise",
        Range(0, 2**16),
    )
    seed: int = key(0, "seed of the noise, of folds and of k-means", COUNT_OR_NONE)
    pool: str = key(
        "mean",
        "of each channel: its mean or maximum over all pixels, its means over the four quarters "
        "of the image, or all its pixels",
        choices=POOLS,
    )
    label: int | str = key(
        -1,
        "class that a network with classes is asked about, by number or name; -1 for none",
        Range(-1, 2**31),
        classes=True,
    )
    data: str = key("test", 'data: "test" or "train" of the run, a folder or a name on the Hub')
    fit: str = key(
        "",
        'data: those of another size; "" for what was done to the data of the run',
        choices=FITS,
    )
    mode: str = key(
        "",
        'data: converted, as data.mode; "" for what was done to the data of the run',
        choices=READING_MODES,
    )
    background: str = key(
        "", 'colour under transparent pixels; "" for that of the data of the run'
    )
    num_images: int = key(
        0, "the first so many of the data; 0 for all; in a sweep of test data", COUNT_OR_NONE,
    )  # fmt: skip
    batch_size: int = key(256, "images at a time", COUNT)
    clusters: int = key(
        0,
        "K of k-means; 0 for none, and in a sweep for the number of classes",
        Range(0, 2**16),
    )
    sweep: bool = key(
        False,
        "instead of a file: how well classes are told by each layer at each time",
    )
    layers: tuple[str, ...] = key(
        ALL_BLOCKS, "sweep: layers, named as `layer`; blocks for every block", filled=True,
    )  # fmt: skip
    beside: tuple[str, ...] = key(
        BESIDE,
        "sweep: what the layers are held against: the images, as many of their principal "
        "components as have 95 % of the variance, the probability flow's latents, and the "
        "features of the run's classifier of noisy images, if it has one",
        choices=BESIDE,
        filled=True,
    )
    times: tuple[float, ...] = key(
        BY_LOG_SNR,
        "sweep: times, in steps; 0 alone for eight, evenly spaced in log-SNR",
        NOT_NEGATIVE,
        filled=True,
    )
    train_images: int = key(
        0, "sweep: the first so many training images, to fit on; 0 for all", COUNT_OR_NONE,
    )  # fmt: skip
    repeats: int = key(10, "sweep: runs of k-means from other starts", Range(2, 1000))
