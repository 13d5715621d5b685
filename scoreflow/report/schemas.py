"""What results/*.json must hold for the report and the table of runs, a schema a kind of result.

Only what a page is made of is asked for, with defaults for what older results lack; what else is
there is passed over. `storage.validation` says how the schemas are read.
"""

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

from scoreflow.evaluation.columns import COLUMNS, GUIDANCE, Column
from scoreflow.report.schema_parts import (
    Auroc,
    Count,
    Extreme,
    Kept,
    MeasuredOn,
    Name,
    Rate,
    Result,
    Size,
    Step,
)
from scoreflow.report.schemas_of_applications import (
    Classification,
    Compression,
    Detection,
    Features,
    ProgressiveCompression,
)
from scoreflow.storage.validation import Length, Range, conform

# ---- likelihoods --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LikelihoodSettings:
    """Of the settings, what is said of them."""

    label: int | str = -1


@dataclass(frozen=True)
class ErrorBudget:
    """Contributions to the error of a likelihood."""

    images: Size | None = None
    probes: Size | None = None
    solver: Size | None = None
    truncation_at_most: Size | None = None
    total: Size | None = None
    prior_at_most: Size | None = None
    too_few: Count | None = None
    random: Literal["probes", "nodes", "probes and nodes"] = "probes"


@dataclass(frozen=True)
class AnyLikelihood:
    """What each kind of likelihood has."""

    value: float
    standard_error: Size | None
    unit: str
    num_images: Count
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None
    settings: LikelihoodSettings | None = None
    lowest: list[Extreme] | None = None
    highest: list[Extreme] | None = None


@dataclass(frozen=True)
class Likelihood(AnyLikelihood):
    """Of the test set."""

    error_budget: ErrorBudget = field(default_factory=ErrorBudget)
    t_min: float = 0.0
    dequantization: str = "none"
    nfe: Size = 0.0
    seconds: Size = 0.0
    step: Step = 0
    num_levels: Annotated[int, Range(1)] | None = None
    in_training_set: Count = 0
    warning: str = ""
    true_nats: float | None = None
    gap: float | None = None


@dataclass(frozen=True)
class Against(AnyLikelihood):
    """The difference to other weights."""

    standard_error_of_each: tuple[Size | None, Size | None] = (None, None)
    this: float = 0.0
    other: float = 0.0


@dataclass(frozen=True)
class OtherData(AnyLikelihood):
    """Of other data."""

    error_budget: ErrorBudget = field(default_factory=ErrorBudget)
    detection: dict[str, Auroc] = field(default_factory=dict)
    no_detection: str = ""


@dataclass(frozen=True)
class Bound:
    """A row of the table of bounds."""

    name: str
    kind: str
    value: float
    standard_error: Size | None
    parts: dict[str, float]
    minus_first: float
    minus_first_error: Size | None


@dataclass(frozen=True)
class RateDistortion:
    """Curves over the times of the discrete bound."""

    middles: list[float]
    terms: dict[str, list[float]]
    rate: list[float]
    distortion: list[float]
    times: list[float]


@dataclass(frozen=True)
class Ledger:
    """All bounds and estimates of the same images."""

    unit: str
    num_images: Count
    rows: Annotated[list[Bound], Length(1)]
    rate_distortion: RateDistortion
    step: Step
    value: float | None = None
    standard_error: Size | None = None
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None
    settings: dict[str, object] | None = None


# ---- samples ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SamplerSettings:
    """Of the settings of a draw, what is said of them."""

    sampler: Name
    method: str = ""
    tolerance: float = 0.0
    steps: Count = 0
    grid: str = ""
    variance: str = ""
    corrector: str = ""
    corrections: int = 0
    snr: float = 0.0
    final: str = ""
    clip: bool = True
    precision: str = ""
    label: int | str = -1
    guidance: float = 0.0
    guide: str = ""


@dataclass(frozen=True)
class Outside:
    """Samples that leave the range of images."""

    count: Count
    more_than: float


@dataclass(frozen=True)
class TestData:
    """Test data beside samples."""

    num_test: Count = 0
    num_shown: Count = 0
    picture_of_test_data: str = ""
    classes: list[Count] | None = None
    histogram_bits_per_dim: float | None = None
    standard_error: Size | None = None


@dataclass(frozen=True)
class OfClass(Rate):
    """How many samples of a class look like it."""

    label: int = 0
    rate_of_test_data: float = 0.0


@dataclass(frozen=True)
class Saved:
    """Where all the images of a draw are."""

    as_: str = ""
    measured: Count = 0
    file: str = ""


@dataclass(frozen=True)
class Samples:
    """Samples of one sampler, told from data."""

    settings: SamplerSettings
    step: Step
    num_images: Annotated[int, Range(1)]
    nfe: Size
    images_per_second: Size
    value: float | None
    standard_error: Size | None
    two_sample: dict[str, float | None] | None
    two_sample_of_test_data: dict[str, float | None] | None
    precision_recall: dict[str, float | None] | None = None
    precision_recall_of_test_data: dict[str, float | None] | None = None
    steps: Count | None = None
    clipped: bool = True
    outside: Outside | None = None
    classes: list[Count] | None = None
    data: TestData | None = None
    saved: Saved | None = None
    of_class: OfClass = field(default_factory=lambda: OfClass(0.0, 0.0))
    of_their_class: Rate = field(default_factory=lambda: Rate(0.0, 0.0))
    picture: Name = "none"
    metric: str = ""
    class_names: list[str] = field(default_factory=list)
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None


# ---- comparisons --------------------------------------------------------------------------------


def _row_of(name: str, columns: tuple[Column, ...], *needed: tuple[str, Any]) -> type[Any]:
    """A schema of a row: what it needs, and of the metrics those that it has, with errors."""
    known = {each for each, _ in needed}
    metrics: list[tuple[str, Any, Any]] = []
    for column in columns:
        kind: Any = int if column.form == "d" else float
        keys = ((column.key, kind), (f"{column.key}_error", float))
        metrics += [(key, each | None, None) for key, each in keys if key not in known]
    classes = ("classes", list[Count] | None, None)
    return make_dataclass(name, [*needed, *metrics, classes], frozen=True)


CASE: Any = _row_of(
    "Case",
    COLUMNS,
    ("sampler", Name),
    ("budget", Count),
    ("nfe", Size),
    ("seconds", Size),
    ("num_images", Count),
)
REFERENCE: Any = _row_of("Reference", COLUMNS)
WEIGHT: Any = _row_of("Weight", GUIDANCE, ("weight", float))


@dataclass(frozen=True)
class Order:
    """A sampler's order of convergence."""

    sampler: str
    kind: str
    steps: list[Count]
    errors: list[float]
    errors_error: list[float]
    order: float | None
    order_error: float | None = None
    over: list[Count] | None = None
    stated: float | None = None


@dataclass(frozen=True)
class CompareSettings:
    """Of the settings of a comparison, what is said of them."""

    seed: int
    precision: str = ""
    compiled: bool = False


@dataclass(frozen=True)
class Compare:
    """Samplers compared."""

    rows: Annotated[list[CASE], Length(1)]
    settings: CompareSettings
    test_data: REFERENCE | None
    floors: REFERENCE | None
    step: Step
    orders: list[Order] | None = None
    guidance: list[WEIGHT] | None = None
    pictures: Name = "compare"
    class_names: list[str] = field(default_factory=list)
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None


EMA_LENGTH: Any = _row_of(
    "EmaLength",
    COLUMNS,
    ("name", Name),
    ("length", float | None),
    ("relative_error", Size | None),
    ("nll", float),
    ("nll_error", Size | None),
    ("nll_difference", float),
    ("nll_difference_error", Size),
    ("nll_verdict", str),
    ("sample_difference", float),
    ("sample_difference_error", Size),
    ("sample_verdict", str),
)


@dataclass(frozen=True)
class EmaSettings:
    """Of the settings of averages compared, what is said of them."""

    sampler: str
    budget: Count


@dataclass(frozen=True)
class EmaBest:
    """The names of the best averages."""

    nll: Name
    sample: Name


@dataclass(frozen=True)
class EmaLengths:
    """Averages of several lengths compared."""

    rows: Annotated[list[EMA_LENGTH], Length(1)]
    settings: EmaSettings
    best: EmaBest
    metric: str
    unit: str
    num_images: Count
    num_samples: Count
    step: Step
    pictures: Name = "ema-lengths"
    kept: Kept | None = None
    measured_on: MeasuredOn | None = None


# ---- runs in pairs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfARun:
    """The likelihood of a run in a comparison."""

    value: float
    standard_error: Size | None
    error_budget: ErrorBudget
    nfe: Size
    t_min: float


@dataclass(frozen=True)
class OfRuns:
    """A run in a comparison."""

    name: str
    path: str
    step: Step
    weights: str
    likelihood: OfARun | None
    likelihood_seconds: Size | None
    training_seconds: Size | None
    parameters: float | None
    differs: dict[str, object]
    samples: list[CASE]
    pictures: Name
    failed: list[str]


@dataclass(frozen=True)
class PairOfRuns:
    """A difference of two runs."""

    first: str
    second: str
    value: float
    standard_error: Size | None
    larger: bool
    larger_of_all: bool


@dataclass(frozen=True)
class SettingsOfRuns:
    """Of the settings of a comparison of runs, what is said of them."""

    compare: CompareSettings


@dataclass(frozen=True)
class Runs:
    """Runs compared."""

    runs: Annotated[list[OfRuns], Length(1)]
    pairs: list[PairOfRuns]
    unit: str
    note: str
    num_images: Count
    keys: list[str]
    remarks: list[str]
    settings: SettingsOfRuns
    test_data: REFERENCE | None
    floors: REFERENCE | None
    kept: Kept | None = None


# ---- editing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EditSampling:
    """The sampler of an edit."""

    sampler: str = ""


@dataclass(frozen=True)
class EditSettings:
    """Of the settings of an edit, what is said of them."""

    sampling: EditSampling | None = None
    method: str = ""
    precision: str = ""
    compiled: bool = False


@dataclass(frozen=True)
class EditedImage:
    """One of the images, in results of 0.1."""

    image: str


@dataclass(frozen=True)
class ByTolerance:
    """How far an image is from its own decoded latent."""

    tolerance: float
    value: float
    standard_error: Size | None
    most: float
    levels_changed: float
    nfe: Size


@dataclass(frozen=True)
class Edit:
    """Images drawn, or encoded and decoded, from the user's."""

    value: float
    standard_error: Size | None
    unit: str
    num_images: Count
    nfe: Size
    seconds: Size
    step: Step
    settings: EditSettings
    given: list[str] | None = None
    images: list[EditedImage] = field(default_factory=list)
    caption: str = ""
    picture: Name = "none"
    steps: Count = 0
    noise: float = 0.0
    t_start: float = 0.0
    jacobian_products: Size = 0.0
    misfit_of_levels: float = 0.0
    to_given_value: float = 0.0
    to_given_standard_error: Size | None = None
    spread: float = 0.0
    strides: list[float] = field(default_factory=list)
    tolerances: list[ByTolerance] = field(default_factory=list)
    saved: Saved | None = None
    kept: Kept | None = None


# ---- training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """The data that a network was trained on."""

    name: str
    num_train: Count
    num_test: Count
    num_levels: Count | None
    shape: list[Count]
    num_classes: Count


@dataclass(frozen=True)
class Init:
    """The weights that a training began with."""

    source: str
    step: Step
    sha256: str


@dataclass(frozen=True)
class Training:
    """What a training recorded."""

    data: Trained
    parameters: Count
    date: str
    init: Init | None = None
    kept: Kept | None = None


@dataclass(frozen=True)
class AtATime:
    """The classifier at a noise level; log_snr is None where no signal is left."""

    t: float
    log_snr: float | None
    accuracy: float
    standard_error: Size | None
    cross_entropy: float
    cross_entropy_error: Size | None


@dataclass(frozen=True)
class Classifier:
    """The classifier of noised images."""

    value: float
    standard_error: Size | None
    num_test: Count
    num_classes: Count
    parameters: Count
    seconds: Size
    times: list[AtATime]
    kept: Kept | None = None


@dataclass(frozen=True)
class Share:
    """A part of a step's time."""

    name: str
    milliseconds: float
    share: float
    calls: float


@dataclass(frozen=True)
class Profile:
    """Where a step's time goes."""

    value: float
    unit: str
    images_per_second: Size
    phases: list[Share]
    operations: list[Share]
    kept: Kept | None = None


# ---- certificate and import ---------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a plot."""

    label: str
    x: list[float]
    y: list[float]
    error: list[float] | None


@dataclass(frozen=True)
class Drawing:
    """A plot."""

    title: str
    x_label: str
    y_label: str
    log_x: bool
    log_y: bool
    series: list[Line]


@dataclass(frozen=True)
class Embedded:
    """A picture in a result."""

    caption: str
    png: str


@dataclass(frozen=True)
class Identity:
    """A line of the certificate."""

    group: str
    identity: str
    residual: float | None
    tolerance: float | None
    passed: bool
    basis: str
    plots: list[Drawing] | None = None
    picture: Embedded | None = None


@dataclass(frozen=True)
class Certificate:
    """The equivalence certificate."""

    rows: list[Identity]
    settings: dict[str, object]
    environment: dict[str, object]
    step: Step | None
    kept: Kept | None = None


@dataclass(frozen=True)
class Check:
    """The check of an imported network."""

    passed: bool
    on: str
    value: float
    standard_error: Size | None
    log_snr: list[float]
    eps_error: list[float]
    standard_errors: list[float]
    of_gaussian: list[float]
    others: dict[str, float]
    trouble: str = ""


@dataclass(frozen=True)
class Import:
    """An imported network."""

    check: Check
    source: str
    format: str
    sha256: dict[str, str]
    facts: dict[str, str]
    step: Step | None = None
    kept: Kept | None = None


SCHEMAS: dict[str, type[Any]] = {
    "likelihood-against-": Against,
    "likelihood-data-": OtherData,
    "likelihood-ledger": Ledger,
    "likelihood": Likelihood,
    "detection": Detection,
    "samples-": Samples,
    "compare": Compare,
    "ema-lengths": EmaLengths,
    "features": Features,
    "runs": Runs,
    "training": Training,
    "classifier": Classifier,
    "classify": Classification,
    "profile": Profile,
    "equivalence": Certificate,
    "import": Import,
    "compression": Compression,
    "compression-data-": Compression,
    "compression-progressive": ProgressiveCompression,
    "compression-progressive-": ProgressiveCompression,
    **dict.fromkeys(
        ("vary", "inpaint", "colorize", "superresolve", "reconstruct", "interpolate"), Edit
    ),
}
"""By the name of a result, or how it begins; the first that fits."""


def check(name: str, result: dict[str, Any]) -> None:
    """Refuse a result that is not of its kind.

    Args:
        name: of the headline that it is or stands beside, without ending.
        result: what its file holds.

    Raises:
        InvalidError: something in it is missing, or of another kind.
    """
    fits = (kind for key, kind in SCHEMAS.items() if name == key or _begins(name, key))
    conform(result, next(fits, Result))


def _begins(name: str, key: str) -> bool:
    return key.endswith("-") and name.startswith(key)
