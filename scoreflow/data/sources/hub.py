"""Rows of a data set on the Hugging Face Hub."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from scoreflow.data.sources.layout import FOLDERS
from scoreflow.data.sources.names import split_of_file
from scoreflow.data.sources.rows import Found, Row, Rows, some
from scoreflow.data.sources.tables.columns import IMAGE_COLUMNS, image_column, label_column
from scoreflow.errors import RequestError, first_line


def hub_data(name: str, labels: str) -> Found:
    """An image data set of the Hub by its `name` or `owner/name`.

    Args:
        name: of the data set.
        labels: "auto" for the column `label`, "none", or a column's name.
    """
    try:
        import datasets
    except ImportError as error:
        raise RequestError(
            f"no such folder or file: {name} (looked in {Path.cwd()}); if it is a data set of the "
            "Hugging Face Hub, pip install datasets"
        ) from error
    if labels == FOLDERS:
        raise RequestError(f"data.labels = folders is for image files, and {name} is on the Hub")
    there = _splits(datasets, name)
    known = {split_of_file(each): each for each in reversed(there)}
    known = {split: each for split, each in known.items() if split or len(known) == 1}
    parts = {split: _Part(datasets, name, each, labels) for split, each in reversed(known.items())}
    first = next(iter(parts.values()))
    left_out = [each for each in there if each not in known.values()]
    return Found(
        name=name,
        root="",
        splits={split: part.rows() for split, part in parts.items()},
        classes_by="" if first.label is None else f"column `{first.label}`",
        class_names=first.class_names(),
        unlabelled=first.unlabelled,
        sure=labels not in ("auto", "none"),
        remarks=(f"{name}: its splits {some(left_out)} are not read",) if left_out else (),
    )


class _Part:
    """A split of a data set of the Hub."""

    def __init__(self, datasets: ModuleType, name: str, split: str, labels: str) -> None:
        self.where = f"Hub dataset {name!r}, split {split!r}"
        try:
            found = datasets.load_dataset(name, split=split)
        except Exception as error:  # the library's, its HTTP client's, the file system's
            raise _not_had(self.where, error) from error
        columns, self.features = list(found.column_names), getattr(found, "features", None) or {}
        images = [each for each, kind in self.features.items() if type(kind).__name__ == "Image"]
        named = [each for each in columns if each in IMAGE_COLUMNS]
        self.image = image_column(images or named, columns, self.where)
        others = [each for each in columns if each != self.image]
        self.label, self.unlabelled = label_column(labels, columns, others, self.where)
        try:
            self.table = found.cast_column(self.image, datasets.Image(decode=False))
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"{self.where}: column `{self.image}` must hold images, got {first_line(error)}"
            ) from error

    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, where the Hub states them."""
        names = getattr(self.features.get(self.label), "names", None) or ()
        return tuple(str(name) for name in names)

    def rows(self) -> Rows:
        """Its rows, how many, and where they are."""
        return _cells(self.table, self.where, self.image, self.label), len(self.table), self.where


def _splits(datasets: ModuleType, name: str) -> list[str]:
    """The names of the splits of a Hub dataset."""
    try:
        return [str(each) for each in datasets.get_dataset_split_names(name)]
    except Exception as error:  # whatever the library or its HTTP client raises
        raise _not_had(f"Hub dataset {name!r}", error) from error


def _cells(
    rows: Iterable[dict[str, Any]], where: str, image: str, label: str | None
) -> Iterator[Row]:
    for index, row in enumerate(rows):
        cell = row[image] or {"bytes": None, "path": None}
        source = cell["bytes"] or (cell["path"] and Path(cell["path"]))
        yield f"{where} row {index}", source, None if label is None else row[label]


def _not_had(where: str, error: Exception) -> RequestError:
    return RequestError(
        f"{where} cannot be had ({first_line(error)}): check the name and the connection, or pass "
        f"a folder, of which there is none of this name in {Path.cwd()}"
    )
