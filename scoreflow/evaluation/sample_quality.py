"""Sample-quality metrics against training, held-out and true data.

Every number has its standard error under the same name with `_error` behind it. Held-out data are
measured as samples are, so that each number can be read against that of as many real data.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import values_of
from scoreflow.evaluation import distances, nearest_neighbours
from scoreflow.sde.analytic import Distribution
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json
from scoreflow.uncertainty import jackknife, mean_and_error, rate_error, ratio

REFERENCE_SEED = 77
"""Of the draws of the truth; the pairs of the floor have the seeds behind it."""
REFERENCE = 10_000
"""Training data whose features are compared with, at most; of FID all, as published ones have."""
FLOOR_PAIRS = 8


class SampleQuality:
    """Metrics of samples against the data, and the true law where it is known.

    Args:
        data: to compare with.
        truth: the law of the data, where it is known.
        labels: values (n, ...) -> the class of each, (n,); None for data without classes.
        features: values (n, ...) -> features (n, F), None where there is no classifier.
        inception: values, reference values -> FID and its like, None to leave them out.
    """

    def __init__(
        self,
        data: Data,
        truth: Distribution | None = None,
        labels: Callable[[Tensor], Tensor] | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
        inception: Callable[[Tensor, Tensor], Json] | None = None,
    ) -> None:
        self.data, self.truth = data, truth
        self.labels, self.features, self.inception = labels, features, inception

    def of_samples(self, x: Tensor) -> Json:
        """The metrics of samples as drawn, (n, ...)."""
        values = values_of(x, self.data)
        found = self._of(values)
        found_ratio = ratio(
            (found["nearest_train_distance"], found["nearest_train_distance_error"]),
            self._yardstick,
        )
        if found_ratio is not None:
            found["nearest_ratio"], found["nearest_ratio_error"] = found_ratio
        return found

    def of_test_data(self, count: int) -> Json:
        """The metrics of the first so many held-out data."""
        return self._of(self.data.test[:count])

    def floors(self, count: int) -> Json:
        """What two sets of the truth get where that is not 0: the mean over several pairs."""
        if self.truth is None:
            return {}
        sets = [self._true(count, k) for k in range(1, 2 * FLOOR_PAIRS + 1)]
        each = torch.tensor(
            [distances.wasserstein(x, y) for x, y in zip(sets[::2], sets[1::2], strict=True)]
        )
        return _with_error("wasserstein", mean_and_error(each))

    def _of(self, values: Tensor) -> Json:
        data = self.data
        n = min(len(values), len(data.train), len(data.test))
        two = nearest_neighbours.two_sample_accuracy(values[:n], data.train[:n])
        nearest = distances.nearest_distances(values, data.train)
        found: Json = {
            "two_sample": two["accuracy"],
            "two_sample_error": two["standard_error"],
            **nearest_neighbours.precision_recall(values[:n], data.train[:n]),
            **_with_error("nearest_train_distance", mean_and_error(nearest)),
            "copies": int((nearest == 0).sum()),
        }
        for side in ("samples_recognised", "real_recognised"):
            found |= _with_error(side, (two[side], rate_error(two[side], n)))
        found |= _with_error("told_apart", (two["told_apart"], two["told_apart_error"]))
        if self.labels is not None:
            found |= self._classes(self.labels(values))
        if self.features is not None:
            pair = self.features(values), self._reference_features
            value = distances.frechet_distance(*pair)
            error = jackknife(distances.frechet_distance, *pair)
            found |= _with_error("feature_distance", (value, error))
        if self.truth is not None:
            found |= self._against_truth(values.cpu())
        if self.inception is not None:
            found |= self.inception(values, data.train)
        return found

    def _classes(self, labels: Tensor) -> Json:
        """How many there are of each class, and how far that is from the training data's."""
        of_train = self._train_labels
        pair = labels.cpu(), of_train
        value = distances.total_variation(*pair)
        counts = distances.class_counts(labels, int(of_train.max()) + 1)
        error = jackknife(distances.total_variation, *pair)
        return {"classes": counts, **_with_error("class_distance", (value, error))}

    def _against_truth(self, x: Tensor) -> Json:
        real = self._true(len(x), 0)
        blocks = max(2, min(8, len(x) // 2))
        energy = distances.energy_distance(x, real, blocks)
        x, real = x[: distances.ASSIGNED], real[: distances.ASSIGNED]
        error = jackknife(distances.wasserstein, x, real)
        return {
            **_with_error("energy_distance", energy),
            **_with_error("wasserstein", (distances.wasserstein(x, real), error)),
        }

    def _true(self, count: int, k: int) -> Tensor:
        assert self.truth is not None, "called only where there is one"
        return self.truth.sample(Noise.of(REFERENCE_SEED + k, 0, count))

    @cached_property
    def _yardstick(self) -> tuple[float, float]:
        """Distance of a held-out datum to its nearest training datum, and its error."""
        test = self.data.test[:REFERENCE]
        return mean_and_error(distances.nearest_distances(test, self.data.train))

    @cached_property
    def _reference_features(self) -> Tensor:
        assert self.features is not None, "called only where there are some"
        return self.features(self.data.train[:REFERENCE])

    @cached_property
    def _train_labels(self) -> Tensor:
        assert self.data.train_labels is not None, "classes come from labelled data"
        return self.data.train_labels.cpu()


def _with_error(name: str, pair: tuple[float, float]) -> Json:
    return {name: pair[0], f"{name}_error": pair[1]}
