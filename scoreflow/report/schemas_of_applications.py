"""Schemas of what applications write: anomaly scores, features, compression, classification."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from scoreflow.report.schema_parts import (
    Auroc,
    Count,
    Extreme,
    Kept,
    MeasuredOn,
    Name,
    Result,
    Size,
    Step,
)
from scoreflow.storage.validation import Length, Range


@dataclass(frozen=True)
class Told:
    """How well a score tells a set from the test set."""

    auroc: Annotated[float, Range(0, 1)]
    standard_error: Size
    fpr95: Annotated[float, Range(0, 1)]
    fpr95_error: Size


@dataclass(frozen=True)
class Worst(Told):
    """The same of the set that is told worst."""

    set: str = ""


@dataclass(frozen=True)
class ScoreRow:
    """A score of anomaly."""

    name: str
    sets: dict[str, Told]
    worst: Worst
    shift: Auroc
    evaluations: Size


@dataclass(frozen=True)
class AnomalousSet:
    """A set of images, and which of them are the least and the most anomalous."""

    num_images: Count
    bits_per_dim: float
    least: list[Extreme] = field(default_factory=list)
    most: list[Extreme] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """What the scores were learned from."""

    of: str
    num_images: Count


@dataclass(frozen=True)
class Detection(Result):
    """The table of scores and sets."""

    scores: Annotated[list[ScoreRow], Length(1)] = field(default_factory=list)
    sets: dict[str, AnomalousSet] = field(default_factory=dict)
    reference: Reference = field(default_factory=lambda: Reference("", 0))
    histograms: list[dict[str, object]] = field(default_factory=list)
    num_images: Count = 0
    warning: str = ""
    picture: Name | None = None
    seconds: Size = 0.0


# ---- features -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureRow:
    """A layer at a time, or what stands beside the layers; numbers None without labels."""

    case: str
    name: str
    t: float | None
    num_features: Count
    agreement: float
    accuracy: float | None = None
    accuracy_error: Size | None = None
    folds: float | None = None
    folds_error: Size | None = None
    clusters: float | None = None
    clusters_error: Size | None = None
    nmi: float | None = None
    nmi_error: Size | None = None
    ari: float | None = None
    ari_error: Size | None = None
    clusters_train: float | None = None
    clusters_train_error: Size | None = None


@dataclass(frozen=True)
class FeatureDifference:
    """By how much the best layer's probe is better than that of what stands beside it."""

    to: str
    difference: float
    standard_error: Size


@dataclass(frozen=True)
class FeaturePlane:
    """Test data in the plane."""

    points: list[tuple[float, float]]
    shares: list[float]
    labels: list[Count]


@dataclass(frozen=True)
class FeatureSettings:
    """Of the settings of a sweep over layers and times, what is said of them."""

    draws: Count
    pool: str
    repeats: Count


@dataclass(frozen=True)
class Features:
    """Layers and times compared by probes and clusters."""

    value: float
    standard_error: Size | None
    rows: Annotated[list[FeatureRow], Length(1)]
    best: dict[str, str]
    layers: list[str]
    times: list[float]
    plane: FeaturePlane
    num_train: Count
    num_images: Count
    num_clusters: Count
    evaluations: Count
    settings: FeatureSettings
    step: Step
    differences: list[FeatureDifference] = field(default_factory=list)
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None


@dataclass(frozen=True)
class CodedBy:
    """The same images by a code; None where it can't be asked, and the note says why."""

    name: str
    bytes: Count | None
    bits_per_dim: Size | None
    kind: Literal["ours", "predicted", "baseline"]
    note: str


@dataclass(frozen=True)
class BytesOf:
    """The parts of a file of images."""

    file: Count
    images: Size
    borrowed: Count
    header: Count
    names: Count


@dataclass(frozen=True)
class CompressSettings:
    """Of the settings of a compression, what is said of them."""

    precision: Count
    batch_size: Count


@dataclass(frozen=True)
class Compression:
    """Images in real bytes, beside other codes'."""

    value: Size
    standard_error: Size | None
    bytes: BytesOf
    predicted: float
    predicted_standard_error: Size | None
    predicted_bytes: float
    net_minus_predicted: float
    net_minus_predicted_error: Size | None
    num_images: Annotated[int, Range(1)]
    dims: Annotated[int, Range(1)]
    steps: Count
    variance: str
    settings: CompressSettings
    seconds_per_image: dict[str, Size]
    step: Step
    baselines: list[CodedBy] = field(default_factory=list)
    measured_on: MeasuredOn | None = None
    kept: Kept | None = None


@dataclass(frozen=True)
class SentUntil:
    """What a progressive file has by a time."""

    t: Count
    bytes: Count
    bits_per_dim: Size
    divergence: Size
    parts: Size
    rmse: Size
    psnr: float | None


@dataclass(frozen=True)
class LossyCode:
    """The same images by another code, at a quality."""

    code: str
    bits_per_dim: Size
    rmse: Size


@dataclass(frozen=True)
class ProgressiveCompression:
    """Images sent from the noise down to a time."""

    rows: Annotated[list[SentUntil], Length(1)]
    others: list[LossyCode]
    num_images: Annotated[int, Range(1)]
    header_bytes: Count
    step: Step
    measured_on: MeasuredOn | None = None
    kept: Kept | None = None


# ---- classification -----------------------------------------------------------------------------


Portion = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of about one confidence."""

    count: Count
    confidence: Annotated[float, Range(0, 1.000001)]
    accuracy: Portion


@dataclass(frozen=True)
class Calibrated:
    """Stated probabilities against classes."""

    nll: Size
    nll_error: Size | None
    brier: Size
    brier_error: Size | None
    ece: Size
    ece_error: Size
    ece_if_calibrated: Size
    bins: list[ReliabilityBin]


@dataclass(frozen=True)
class ClassMethod:
    """A classifier of the test images."""

    name: str
    accuracy: Portion
    standard_error: Size
    interval: tuple[float, float]
    confusion: list[list[Count]]
    calibration: Calibrated | None = None
    temperatures: list[Size] | None = None
    evaluations: Size | None = None


@dataclass(frozen=True)
class ClassPair:
    """Two classifiers on the same images."""

    first: str
    second: str
    difference: float
    standard_error: Size
    first_only: Count
    second_only: Count
    p_value: float


@dataclass(frozen=True)
class Miss:
    """A misclassified image."""

    image: Count
    own: Count
    found: Count
    stated: float


@dataclass(frozen=True)
class Saving:
    """What early elimination saved."""

    evaluations: Count
    in_full: Count
    saved: float
    standing: Size


@dataclass(frozen=True)
class Classification:
    """Classes by likelihood, beside other classifiers."""

    value: Portion
    standard_error: Size
    num_images: Count
    classes: list[Count]
    methods: Annotated[list[ClassMethod], Length(1)]
    pairs: list[ClassPair]
    misses: list[Miss]
    step: Step
    halving: Saving | None = None
    picture: Name = "none"
    class_names: list[str] = field(default_factory=list)
    settings: dict[str, object] | None = None
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None
