"""The likelihood of data by some weights, its rows kept in a run's folder.

`--mode likelihood` and a comparison of runs ask by this, so what one has measured the other finds.
"""

from dataclasses import dataclass, field, replace

from ml_collections import ConfigDict

from scoreflow.data import toy
from scoreflow.data.dataset import Data, digest
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.likelihood import (
    OF_EACH,
    asked_of,
    build_question,
    labels_of,
    products_of,
)
from scoreflow.likelihood.dataset_likelihood import Measured, check_row, measure
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime import distributed
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.run_folder import RunDir

NOT_OF_A_ROW = (
    "ema_length",
    "num_images",
    "batch_size",
    "max_evaluations",
    "checked",
    "ledger",
    "terms",
    "against",
    "data",
    "scores",
    "reference",
    "held_out",
    "fit",
    "mode",
    "background",
)
"""Keys of the section that a row does not depend on."""

OF_NODES = ("nodes", "substeps", "trajectory_tolerance")
NOT_OF_NODES = ("tolerance", "tolerance_bits")
"""Keys that one method reads and the others do not; rows older than the first have none."""


@dataclass(frozen=True)
class Weights:
    """A network to score, and its experiment, whose likelihood settings are this run's.

    Attributes:
        name: in the names of its results.
        experiment: its config and data.
        model: the network.
        step: of the checkpoint in whose results it stands.
        digest: SHA-256 of the weights.
        trained_with: the hash of their config, as `TrainedRun.trained_with`.
    """

    name: str
    experiment: Experiment
    model: ScoreModel
    step: int
    digest: str
    trained_with: Json = field(default_factory=dict)


def kept_likelihood(
    folder: RunDir,
    weights: Weights,
    of: Data,
    name: str,
    dequantization: str = "",
    every: bool = False,
) -> Measured:
    """The likelihood of data, its rows in results/{name}.jsonl.

    Args:
        folder: of the run.
        weights: to score with.
        of: the data, whose test part is measured.
        name: of the rows' file, without ending.
        dequantization: instead of that of the config.
        every: measure all of them, whatever the config's number of images, and solve none again.

    Raises:
        RunError: some were not solved; what was found is kept.
    """
    experiment = weights.experiment
    model = asked_of(experiment.config, weights.model, of)
    shard, c = distributed.shard(), experiment.config.likelihood
    question = build_question(experiment.config, model, of, dequantization)
    count = len(of.test) if every else count_of(of, c)
    if every:
        question = replace(question, checked=0)
    labels = labels_of(experiment.config, model, of)
    truth = toy.distribution() if name == "likelihood" and of.is_toy else None
    heading, agree = heading_of(weights, of, dequantization), shard.broadcast_from_rank_0
    with folder.rows(name, heading, shard.rank, "image", check_row, agree) as rows:
        left = count - len(rows.done)
        model = experiment.fast(model, "vjp", products_of(question, of), left)
        found = measure(model, of, count, question, truth, rows, shard, labels)
        found.result["rows"] = rows.path.name
    return replace(found, solved=max(0, left))


def heading_of(weights: Weights, of: Data, dequantization: str = "") -> Json:
    """All that a row depends on but its number."""
    experiment = weights.experiment
    c, label = experiment.config.likelihood, label_of(weights, of)
    idle = NOT_OF_NODES if c.method == "nodes" else OF_NODES
    unread = {*NOT_OF_A_ROW, *idle}
    heading = {key: value for key, value in c.to_dict().items() if key not in unread}
    heading |= {
        "dequantization": dequantization or c.dequantization,
        "step": weights.step,
        "device": experiment.device.type,
        "weights": weights.digest,
        "data": digest(of.test),
        **weights.trained_with,
    }
    del heading["label"]
    if label != -1:  # rows older than the key have none
        heading["label"] = label
    if label == OF_EACH and of.test_labels is not None:
        heading["labels"] = digest(of.test_labels)
    if c.method not in ("nodes", "dopri5"):  # one clock for a batch: rows depend on their mates
        heading["batch"] = [c.num_images, c.batch_size, distributed.shard().world]
    return heading


def label_of(weights: Weights, of: Data) -> int | str:
    """The class by its number, -1 for none; or that it is each image's own."""
    if labels_of(weights.experiment.config, weights.model, of) is not None:
        return OF_EACH
    label = asked_of(weights.experiment.config, weights.model, of).label
    return label if isinstance(label, int) else -1


def count_of(of: Data, c: ConfigDict) -> int:
    """How many data are measured."""
    return min(len(of.test), c.num_images or len(of.test))
