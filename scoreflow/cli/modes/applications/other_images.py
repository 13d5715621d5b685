"""Images of a mode's own: the training set, a folder or a Hub name, refused unless they fit."""

from dataclasses import replace

from scoreflow.cli.console import say
from scoreflow.data.dataset import Data
from scoreflow.data.loading import load_whole
from scoreflow.data.reading.settings import Reading
from scoreflow.errors import RequestError
from scoreflow.paths import user_path


def other_images(
    own: Data, wanted: str, key: str, reading: Reading, labels: str = "none"
) -> tuple[str, Data]:
    """Images that a key names, as the test part of the run's data, and their name.

    Args:
        own: the data of the run.
        wanted: the key's value: train, a folder, a file or a name on the Hub.
        key: for messages.
        reading: how files are read.
        labels: where their classes are, as in `load_images`.

    Raises:
        RequestError: the run's network cannot be asked about them.
    """
    if own.num_levels is None:
        raise RequestError(f"{key} is for images; this run's data are vectors")
    if wanted == "train":
        train = replace(own, name="train", test=own.train, test_labels=own.train_labels)
        return "train", replace(train, test_names=())
    pool = load_whole(wanted, reading.like(own.test.shape[1:], own.num_levels), labels)
    levels, names = pool.test, pool.test_names
    top = int(levels.max())
    if levels.shape[1:] != own.test.shape[1:]:
        raise RequestError(
            f"{key}: this run's images are {tuple(own.test.shape[1:])} (channels, "
            f"height, width), got {tuple(levels.shape[1:])} in {wanted}"
        )
    if top >= own.num_levels:
        raise RequestError(
            f"{key}: levels must lie in 0..{own.num_levels - 1}, got {top} in {wanted}"
        )
    for remark in pool.remarks:
        say(f"{key}: {remark}")
    name, levels = user_path(wanted, key).resolve().name, levels.to(own.test.device)
    found = replace(own, name=name, test=levels, test_labels=pool.test_labels)
    return name, replace(found, test_names=names)
