"""Rows of Parquet files in the Hugging Face image schema."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from scoreflow.data.reading.image_file import damaged
from scoreflow.data.sources.rows import Row, Rows
from scoreflow.errors import RequestError

IMAGE_COLUMNS = ("image", "img")


def columns_of(names: list[str], where: str) -> tuple[str, bool]:
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
    image, labelled = columns_of(schema.names, str(file))
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
