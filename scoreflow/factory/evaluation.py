"""Which metrics samples get: by a classifier, by the truth of the toy data, by Inception."""

from functools import partial

from torch import Tensor

from scoreflow.data import toy
from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.evaluation import fid, nearest_neighbours
from scoreflow.evaluation.features import clean_features
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.models.classifier import NoisyClassifier


def build_judge(
    inception: str, data: Data, everything: Data, classifier: NoisyClassifier | None
) -> SampleQuality:
    """The metrics of samples against data.

    Args:
        inception: compare.inception: a file of weights, "download", or "" for no FID.
        data: what samples are to be like; of one class where samples of one are compared.
        everything: the data set of all classes.
        classifier: whose features and classes are used; None for the nearest training image's.
    """
    if inception and data.num_levels is not None and data.train.shape[1] not in (1, 3):
        raise RequestError(
            f"compare.inception knows grey and RGB images, got {data.train.shape[1]} channels: "
            "leave it out"
        )
    scores = fid.scores(inception, data.num_levels, data.train.device) if inception else None
    truth = toy.distribution() if data.is_toy else None
    if data.train_labels is None or data.num_levels is None:
        return SampleQuality(data, truth, inception=scores)
    if classifier is None:
        assert everything.train_labels is not None, "a part of it is labelled"
        nearest = partial(
            nearest_neighbours.nearest_labels,
            real=everything.train,
            labels=everything.train_labels,
        )
        return SampleQuality(data, truth, nearest, inception=scores)
    features = partial(clean_features, classifier, num_levels=data.num_levels)
    head = classifier.network.head

    def labels(values: Tensor) -> Tensor:
        found: Tensor = head(features(values).float()).argmax(1)
        return found

    return SampleQuality(data, truth, labels, features, scores)
