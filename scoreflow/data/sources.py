"""Sources of encoded images: rows of Parquet files or of the Hub, and image files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from scoreflow.errors import RequestError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
IMAGE_COLUMNS = ("image", "img")

Row = tuple[str, bytes | Path | None, int | None]
"""Where an image comes from (for messages), its file's bytes or path, its label."""

Rows = tuple[Iterable[Row], int, str]
"""The rows of a split, how many they are, and where they come from."""


def _columns(names: list[str], where: str) -> tuple[str, bool]:
    """The image column's name, and whether there are labels."""
    image = next((name for name in IMAGE_COLUMNS if name in names), None)
    if image is None:
        raise RequestError(
            f"{where}: the images must be in a column `image` or `img`, got the columns"
            f" {', '.join(names)}; rename one of them"
        )
    return image, "label" in names


def parquet_rows(parquet: ModuleType, folder: Path, split: str) -> Rows:
    """The rows of folder/{split}-*.parquet, in the Hugging Face image schema; of "", all files."""
    pattern = f"{split}-*.parquet" if split else "*.parquet"
    files = sorted(folder.glob(pattern))
    if not files:
        present = ", ".join(sorted(file.name for file in folder.glob("*.parquet"))) or "none"
        raise RequestError(
            f"{folder} lacks the split {split!r}: it needs files {split}-*.parquet, got {present}"
        )
    try:
        total = sum(parquet.read_metadata(file).num_rows for file in files)
    except (ValueError, OSError) as error:
        raise RequestError(damaged(str(folder), "parquet file", error)) from error
    rows = (row for file in files for row in _file_rows(parquet, file))
    return rows, total, f"{folder}/{pattern}"


def _file_rows(parquet: ModuleType, file: Path) -> Iterator[Row]:
    schema = parquet.read_schema(file)
    image, labelled = _columns(schema.names, str(file))
    if not str(schema.field(image).type).startswith("struct<bytes: binary"):
        raise RequestError(
            f"{file}: column `{image}` must be a struct {{bytes, path}}, got"
            f" {schema.field(image).type}; write it with the Hugging Face image schema"
        )
    index = 0
    try:
        for batch in parquet.ParquetFile(file).iter_batches(
            batch_size=1024, columns=[image, "label"] if labelled else [image]
        ):
            for row in batch.to_pylist():
                yield f"{file} row {index}", row[image] and row[image]["bytes"], row.get("label")
                index += 1
    except (ValueError, OSError) as error:
        raise RequestError(damaged(str(file), "parquet file", error)) from error


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
    image, labelled = _columns(rows.column_names, where)
    try:
        rows = rows.cast_column(image, datasets.Image(decode=False))
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{where}: column `{image}` must hold images, got {_line(error)}"
        ) from error
    return _cells(rows, where, image, labelled), len(rows), where


def _cells(
    rows: Iterable[dict[str, Any]], where: str, image: str, labelled: bool
) -> Iterator[Row]:
    for index, row in enumerate(rows):
        cell = row[image] or {"bytes": None, "path": None}
        source = cell["bytes"] or (cell["path"] and Path(cell["path"]))
        yield f"{where} row {index}", source, row["label"] if labelled else None


def image_files(root: Path) -> list[tuple[Path, str | None]]:
    """The image files below root in the order of their names, each with its class or None."""
    found = {}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            found[parts] = (path, parts[0] if len(parts) > 1 else None)
    if not found:
        raise RequestError(
            f"no images in {root}: expected files that end in {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [found[parts] for parts in sorted(found)]


def _not_had(where: str, error: Exception) -> RequestError:
    return RequestError(
        f"{where} cannot be had ({_line(error)}): check the name and the connection,"
        " or pass a folder"
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def damaged(where: str, kind: str, error: Exception) -> str:
    """One line for a file that cannot be read."""
    return f"{where}: not a whole {kind} ({_line(error)}); replace or remove it"
