"""What samples are held against: data of the classes asked for, and by which classifier."""

import hashlib
from pathlib import Path

from ml_collections import ConfigDict

from scoreflow.data.classes import of_classes
from scoreflow.data.dataset import Data
from scoreflow.evaluation import fid
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.factory.evaluation import build_judge
from scoreflow.factory.guidance import build_guidance
from scoreflow.models.classifier import NoisyClassifier
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.config import without_effect
from scoreflow.storage.atomic_files import Json


def asked_for(config: ConfigDict, model: ScoreModel, data: Data) -> Data:
    """The data that samples are to be like: those of the classes of sampling.label, or all.

    Args:
        config: of the run.
        model: the network.
        data: all of them.
    """
    guidance = build_guidance(config, model, data)
    return of_classes(data, guidance.numbers) if guidance.guide else data


def judge_by(
    inception: str, data: Data, everything: Data, classifier: NoisyClassifier | None, file: Path
) -> tuple[SampleQuality, Json]:
    """The metrics of samples against data, and what of them a row depends on.

    Args:
        inception: compare.inception.
        data: to compare with.
        everything: the data set of all classes.
        classifier: whose features are used, None for no feature distance.
        file: that it was read from.
    """
    by: Json = {"classifier": "", "inception": inception}
    if classifier is not None:
        by["classifier"] = hashlib.sha256(file.read_bytes()).hexdigest()
    judge = build_judge(inception, data, everything, classifier)
    if inception and inception != fid.DOWNLOAD:  # a file that is there: it has been read
        by["inception"] = hashlib.sha256(Path(inception).read_bytes()).hexdigest()
    return judge, by


def sampling_of(config: ConfigDict, model: ScoreModel, data: Data) -> Json:
    """What a row of samples depends on of the section `sampling`, beside sampler and budget."""
    guidance = build_guidance(config, model, data)
    read = {
        key: value
        for key, value in config.sampling.items()
        if without_effect(f"sampling.{key}", "compare") is None
        and key != "ema_length"  # the weights say it
    }
    if read["shift"] == 1:  # as rows are kept that are older than the key
        del read["shift"]
    return read | {"label": guidance.asked}
