"""A sweep over layers and times: a row each, and what stands beside the layers.

What a row is compared by is found on training data alone: a probe's accuracy on folds left out,
and the accuracy of clusters of training data. So the best of many is no luck of the test data,
which the row's other numbers are of.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from sklearn.decomposition import PCA
from torch import Tensor

from scoreflow.evaluation.representations.clusters import SCORES, Clustered, clustered
from scoreflow.evaluation.representations.probe import linear_probe, paired
from scoreflow.evaluation.representations.scaling import Scale
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.validation import InvalidError, Length, Range, conform

Array = np.ndarray[Any, Any]
Share = Annotated[float, Range(0, 1)]
Size = Annotated[float, Range(0)]
SHOWN = 500
"""Test data in a picture."""
OF_VARIANCE = 0.95
"""Share of the images' variance that their principal components have together."""


@dataclass(frozen=True)
class FeatureRow:
    """The schema of a row: a layer at a time, or something beside the layers.

    Attributes:
        name: of the layer, in short; or what it is.
        t: in steps; None for what is of no time.
        log_snr: there.
        num_features: F, numbers of a datum.
        agreement: ARI between the clusters of two runs of k-means, mean and standard deviation
            over pairs.
        accuracy: of the probe on test data; None without labels, as all below.
        folds: of the probe on training data left out, by which rows are compared.
        strength: C of the probe.
        right: which test data it tells rightly, as `probe.Probed` has it.
        clusters, nmi, ari: of the clusters of test data, means over runs of k-means.
        clusters_train: accuracy of those of training data, by which rows are compared.
    """

    name: Annotated[str, Length(1)]
    t: float | None
    log_snr: float | None
    num_features: Annotated[int, Range(1)]
    agreement: float
    agreement_sd: Size
    accuracy: Share | None = None
    accuracy_error: Size | None = None
    folds: Share | None = None
    folds_error: Size | None = None
    strength: Size | None = None
    right: str | None = None
    clusters: Share | None = None
    clusters_error: Size | None = None
    nmi: float | None = None
    nmi_error: Size | None = None
    ari: float | None = None
    ari_error: Size | None = None
    clusters_train: Share | None = None
    clusters_train_error: Size | None = None


def case_of(name: str, t: float | None) -> str:
    """The case of a row: "middle.1@225.6", or "pixels"."""
    return name if t is None else f"{name}@{str(t).removesuffix('.0')}"


def check_row(row: Json) -> None:
    """Refuse what is no row of its case.

    Raises:
        InvalidError: with the field that is wrong.
    """
    found = conform(row, FeatureRow)
    if row["case"] != case_of(found.name, found.t):
        raise InvalidError(f"the row of {case_of(found.name, found.t)} is called {row['case']}")


@dataclass(frozen=True)
class Scoring:
    """How features are scored.

    Attributes:
        labels: classes of the training and of the test data, (n,) and (m,); None without.
        clusters: K.
        repeats: runs of k-means.
        seed: of folds, and the first of k-means.
    """

    labels: tuple[Array, Array] | None
    clusters: int
    repeats: int
    seed: int

    def row(
        self, name: str, t: float | None, log_snr: float | None, train: Tensor, test: Tensor
    ) -> Json:
        """The row of some features.

        Args:
            name: of the layer, or what it is.
            t: None for what is of no time.
            log_snr: there.
            train: features (n, ...) of training data.
            test: (m, ...) of test data.
        """
        a, b = train.flatten(1).numpy(), test.flatten(1).numpy()
        seeds = tuple(range(self.seed, self.seed + self.repeats))
        found = clustered(*scaled(name, a, b), self.clusters, seeds, self.labels)
        numbers = _of_clusters(found)
        if self.labels is not None:
            alike = name in IN_ONE_UNIT
            probe = linear_probe(a, self.labels[0], b, self.labels[1], self.seed, alike)
            about = asdict(probe)
            numbers |= {"accuracy_error": about.pop("error"), **about}
        about_it = {"name": name, "t": t, "log_snr": log_snr, "num_features": a.shape[1]}
        return {"case": case_of(name, t), **about_it, **numbers}


def _of_clusters(found: Clustered) -> Json:
    agreement, spread = found.agreement
    numbers: Json = {"agreement": agreement, "agreement_sd": spread}
    for name in SCORES if found.scores else ():
        numbers[name], numbers[f"{name}_error"] = found.scores[name]
    if found.train is not None:
        numbers["clusters_train"], numbers["clusters_train_error"] = found.train
    return numbers


IN_ONE_UNIT = ("pixels", "pca", "latent", "x_0")
"""Features whose distances are those of images."""


def scaled(name: str, train: Array, test: Array) -> tuple[Array, Array]:
    """Features as k-means takes them, by their name."""
    scale = Scale.of(train, name in IN_ONE_UNIT)
    return scale(train), scale(test)


def principal(train: Array, test: Array) -> tuple[Array, Array]:
    """The first principal components of training data, `OF_VARIANCE` of them together."""
    found = PCA(OF_VARIANCE, svd_solver="full").fit(train.astype(np.float64))
    return found.transform(train.astype(np.float64)), found.transform(test.astype(np.float64))


def in_the_plane(name: str, train: Array, test: Array) -> tuple[Array, list[float]]:
    """Test data by the first two principal components of features as k-means takes them.

    Returns:
        (min(m, SHOWN), 2), and the shares of the variance that they have.
    """
    a, b = scaled(name, train, test)
    found = PCA(2, svd_solver="full").fit(a.astype(np.float64))
    return found.transform(b[:SHOWN].astype(np.float64)), found.explained_variance_ratio_.tolist()


def best_of(rows: Sequence[Json]) -> dict[str, str]:
    """The cases of the best layers, by what training data say: "probe" and "clusters".

    Without labels "clusters" alone, the one whose clusters depend the least on their start.
    """
    if rows[0].get("folds") is None:
        return {"clusters": _greatest(rows, "agreement")}
    return {"probe": _greatest(rows, "folds"), "clusters": _greatest(rows, "clusters_train")}


def differences(best: Json, beside: Sequence[Json], count: int) -> list[Json]:
    """By how much the best layer's probe is better than others on the same test data.

    Args:
        best: its row.
        beside: the other rows.
        count: of test data.

    Returns:
        Of each "to", its case, "difference" and "standard_error"; none without labels.
    """
    found = []
    for row in beside if best.get("right") else ():
        difference, error = paired(best["right"], row["right"], count)
        found.append({"to": row["case"], "difference": difference, "standard_error": error})
    return found


def _greatest(rows: Sequence[Json], key: str) -> str:
    return str(max(rows, key=lambda row: float(row[key]))["case"])
