"""What a data set is and where it lies, as a run keeps it, so that it can be told from another.

data.json holds names, shapes, counts and SHA-256s of a run's data, and their path as it was given,
absolute, and relative to the run. A run that is trained on, or measured, wants the same data; one
that is sampled from needs none, for what it needs to know of them is here.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoreflow.data.dataset import BLOCK, Data, digest
from scoreflow.errors import RequestError
from scoreflow.paths import user_path

Record = dict[str, Any]
"""What data.json holds."""
PARTS = ("train", "test")
WORDS = {"train": "training", "test": "held-out"}


@dataclass(frozen=True)
class AbsentData(Data):
    """Data that are known by their record alone: shape, levels and classes, and no images.

    Args:
        classes: how many.
    """

    classes: int = 0

    @property
    def num_classes(self) -> int:
        """As the data's own."""
        return self.classes

    @property
    def one_part(self) -> bool:
        """Nothing is here."""
        return False


def record(data: Data, path: str, run: Path, found: str = "") -> Record:
    """What a run keeps of its data.

    Args:
        data: the data.
        path: where they were read, as the config has it; "" for those without a place.
        run: the run's folder.
        found: where they were found instead, as the path is of another place; "" for the path.
    """
    return {
        "name": data.name,
        **places(found or path, run),
        "path": path,
        "shape": list(data.train.shape[1:]),
        "dtype": str(data.train.dtype).removeprefix("torch."),
        "num_levels": data.num_levels,
        "num_classes": data.num_classes,
        "empty_classes": list(data.empty_classes),
        "class_names": list(data.class_names),
        "train": _part(data.train, data.train_labels),
        "test": _part(data.test, data.test_labels),
        "remarks": list(data.remarks),
    }


def places(path: str, run: Path) -> dict[str, str]:
    """A path as it was given, absolute, and relative to the run; the last two "" for none."""
    there = _there(path)
    if not path or there is None:
        return {"path": path, "absolute": "", "relative": ""}
    absolute = there.resolve()
    try:
        relative = os.path.relpath(absolute, run.resolve())
    except ValueError:  # another drive
        relative = ""
    return {"path": path, "absolute": str(absolute), "relative": relative}


def candidates(of: Record, path: str, run: Path) -> list[str]:
    """Where a run's data may lie: as its config says, or where they were, or beside the run.

    Args:
        of: the run's record.
        path: that of the config.
        run: the run's folder.

    Returns:
        The places that are there, none twice; the path itself where it is no folder or file, for
        it may be a name on the Hub that was read as one.
    """
    was_a_place = bool(of.get("absolute"))
    found = [] if was_a_place and _there(path) is None else [path]
    later = [of.get("absolute", "")]
    if of.get("relative"):
        later.append(str((run.resolve() / of["relative"]).resolve()))
    for each in later:
        known = [_there(other) for other in found]
        if each and (there := _there(each)) is not None and there not in known:
            found.append(each)
    return found


def _there(path: str) -> Path | None:
    """A place, resolved; None where nothing is, or where we may not look or could not.

    The path may be of another machine, which has another home or lets us into other folders.
    """
    try:
        place = user_path(path, "data.path")
        return place.resolve() if place.exists() else None
    except (RequestError, OSError):
        return None


def differences(of: Record, data: Data) -> str:
    """How data differ from those of a record, in words; "" where they are the same."""
    found = list(_of_all(of, data))
    for part in PARTS if not found else ():
        values = getattr(data, part)
        labels = getattr(data, f"{part}_labels")
        found += _of_part(of[part], _part(values, labels), WORDS[part])
    return "; ".join(found)


def absent(of: Record, device: torch.device) -> AbsentData:
    """A stand-in for the data of a record."""
    empty = torch.empty(0, *of["shape"], dtype=getattr(torch, of["dtype"]), device=device)
    names, levels = tuple(of["class_names"]), of["num_levels"]
    return AbsentData(
        of["name"],
        empty,
        empty,
        levels,
        None,
        None,
        class_names=names,
        classes=of["num_classes"],
    )


def _of_all(of: Record, data: Data) -> Iterator[str]:
    shape = list(data.train.shape[1:])
    if shape != of["shape"]:
        yield f"they are {_by(shape)}, not {_by(of['shape'])}"
    if data.num_levels != of["num_levels"]:
        yield f"they have {data.num_levels} levels, not {of['num_levels']}"
    if data.num_classes != of["num_classes"]:
        yield f"{data.num_classes} classes, not {of['num_classes']}"


def _of_part(old: Record, new: Record, name: str) -> Iterator[str]:
    if new["count"] != old["count"]:
        more = new["count"] - old["count"]
        word = "more" if more > 0 else "fewer"
        yield f"{abs(more)} {word} {name} data ({new['count']}, not {old['count']})"
    elif new["sha256"] != old["sha256"]:
        same = new["content"] == old["content"]
        yield f"the {name} data are in another order" if same else f"other {name} data"
    elif new["labels_sha256"] != old["labels_sha256"]:
        yield f"other labels of the {name} data"


def _part(values: Tensor, labels: Tensor | None) -> Record:
    return {
        "count": len(values),
        "sha256": digest(values),
        "content": _content(values),
        "labels_sha256": "" if labels is None else digest(labels),
    }


def _content(values: Tensor) -> str:
    """A SHA-256 that does not depend on the order: of the data's own, sorted."""
    hashes = []
    for start in range(0, len(values), BLOCK):
        rows = values[start : start + BLOCK].cpu().numpy()
        hashes += [hashlib.sha256(row.tobytes()).digest() for row in rows]
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def _by(shape: list[int]) -> str:
    return " x ".join(map(str, shape))
