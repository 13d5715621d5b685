"""Other data of --mode likelihood: which they are, and what is refused before any work."""

from pathlib import Path

from scoreflow.cli.modes.applications.other_images import other_images
from scoreflow.data.dataset import Data, digest
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose_key
from scoreflow.factory.editing import build_user_reading
from scoreflow.factory.likelihood import OF_EACH
from scoreflow.likelihood.detection.table import OWN_SETS
from scoreflow.schema.config import AnyConfig, Config

Others = dict[str, Data]
"""Other data by their names, in the order in which they were asked for."""


def paths_in(wanted: str) -> tuple[str, ...]:
    """The sets that likelihood.data names: several with commas between, unless that is a path.

    Raises:
        RequestError: a name is empty, or there twice.
    """
    if "," not in wanted or _is_there(wanted):
        return (wanted,)
    found = tuple(each.strip() for each in wanted.split(","))
    if not all(found):
        raise RequestError(
            f"likelihood.data: between two commas stands a folder or a name, got {wanted!r}"
        )
    twice = next((each for k, each in enumerate(found) if each in found[:k]), None)
    if twice is not None:
        raise RequestError(f"likelihood.data names {twice!r} twice: leave one out")
    return found


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a list of paths may be too long for one
        return False


def other_data(config: AnyConfig, own: Data) -> Others:
    """The data that likelihood.data names, refused unless the model can score them."""
    wanted = Config.of(config).likelihood.data
    if not wanted:
        return {}
    if own.num_levels is None:
        raise RequestError("likelihood.data is for images; this run's data are vectors")
    found: Others = {}
    known: dict[str, str] = {}
    for path in paths_in(wanted):
        name, data = _one_set(path, config, own)
        if name in found:
            raise RequestError(
                f"likelihood.data: two of the sets are called {name}, and so would their results "
                "be: rename one"
            )
        images = digest(data.test)
        if images in known:
            raise RequestError(
                f"likelihood.data: {known[images]} and {name} are the same images: leave one out"
            )
        found[name], known[images] = data, name
    return found


def _one_set(wanted: str, config: AnyConfig, own: Data) -> tuple[str, Data]:
    checked = Config.of(config)
    reading = build_user_reading(checked.likelihood, checked.data)
    return other_images(own, wanted, "likelihood.data", reading)


def check(config: AnyConfig, own: Data, others: Others) -> None:
    """Refuse, before any work, a table of scores that cannot be made.

    Raises:
        RequestError: there is nothing to tell apart, or too few images.
    """
    c = Config.of(config).likelihood
    if choose_key("likelihood.scores", c.scores) != "all":
        return
    if not others:
        raise RequestError(
            "likelihood.scores = all tells other data from the test set: name them by "
            "--config.likelihood.data=A,B,..., or leave it out"
        )
    if c.label == OF_EACH:
        raise RequestError(
            "likelihood.scores = all asks about one law, that of a class or of none, and not of "
            "each image's own class: leave out either it or likelihood.label = data"
        )
    taken = next((name for name in others if name in OWN_SETS), "")
    if taken:
        raise RequestError(
            f"likelihood.scores = all calls a set of its own {taken!r}: rename that folder of "
            "likelihood.data"
        )
    by_train = choose_key("likelihood.reference", c.reference) == "train"
    if by_train and "train" in others:
        raise RequestError(
            "likelihood.data = train is what the scores are learned from: add "
            "--config.likelihood.reference=test, or leave it out"
        )
    part = own.train if by_train else own.test
    most = len(part) - (0 if by_train else 2)
    if c.held_out > most:
        raise RequestError(
            f"likelihood.held_out must be at most {max(most, 0)}, for the run has {len(part)} "
            f"{'training' if by_train else 'test'} images"
            f"{'' if by_train else ', of which two at least are scored'}, got {c.held_out}"
        )
    for name, data in {"the test set": own, **others}.items():
        if min(len(data.test), c.num_images or 2) < 2:
            raise RequestError(
                f"likelihood.scores = all takes two images of each set at least, got "
                f"{min(len(data.test), c.num_images or 2)} of {name}"
            )
