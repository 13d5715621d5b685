"""Rows of a data set on the Hugging Face Hub."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from scoreflow.data.sources.parquet import columns_of
from scoreflow.data.sources.rows import Row, Rows
from scoreflow.errors import RequestError, first_line


def hub_splits(datasets: ModuleType, name: str) -> list[str]:
    """The names of the splits of a Hub dataset."""
    try:
        return [str(each) for each in datasets.get_dataset_split_names(name)]
    except Exception as error:  # whatever the library or its HTTP client raises
        raise _not_had(f"Hub dataset {name!r}", error) from error


def hub_rows(datasets: ModuleType, name: str, split: str) -> Rows:
    """The rows of a split of a Hub dataset."""
    where = f"Hub dataset {name!r}, split {split!r}"
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library's, its HTTP client's, the file system's: all end here
        raise _not_had(where, error) from error
    image, labelled = columns_of(rows.column_names, where)
    try:
        rows = rows.cast_column(image, datasets.Image(decode=False))
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{where}: column `{image}` must hold images, got {first_line(error)}"
        ) from error
    return _cells(rows, where, image, labelled), len(rows), where


def _cells(
    rows: Iterable[dict[str, Any]], where: str, image: str, labelled: bool
) -> Iterator[Row]:
    for index, row in enumerate(rows):
        cell = row[image] or {"bytes": None, "path": None}
        source = cell["bytes"] or (cell["path"] and Path(cell["path"]))
        yield f"{where} row {index}", source, row["label"] if labelled else None


def _not_had(where: str, error: Exception) -> RequestError:
    return RequestError(
        f"{where} cannot be had ({first_line(error)}): check the name and the connection,"
        " or pass a folder"
    )
