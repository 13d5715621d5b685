"""Which column of a table holds the images and which the labels, and what a cell of them is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scoreflow.data.sources.rows import named
from scoreflow.errors import RequestError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"

Kind = Literal["file", "bytes", "list", "pixels", "path"]
"""A cell: a struct {bytes, path}; a file's bytes; they as a list; levels as lists; a path."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read.

    Attributes:
        image: its name.
        kind: of its cells.
        label: the name of the column of labels, None for none.
        remarks: what is to be said of the other columns.
        unlabelled: why there are no labels, with the columns that could be them; "" if there are.
    """

    image: str
    kind: Kind
    label: str | None
    remarks: tuple[str, ...] = ()
    unlabelled: str = ""


def columns_of(types: Any, schema: Any, labels: str, where: str) -> Columns:  # noqa: ANN401
    """The columns of images and labels.

    Args:
        types: the module `pyarrow.types`.
        schema: of the table.
        labels: "auto" for the column `label`, "none", or a column's name.
        where: the table, for messages.

    Raises:
        RequestError: no column holds images, several may, or that of the labels is not there.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise RequestError(
            f"{where} has several columns called {named(twice)}; rename all but one of each"
        )
    kinds = {field.name: kind_of(types, field.type, field.name) for field in schema}
    found: dict[str, Kind] = {name: kind for name, kind in kinds.items() if kind is not None}
    image = image_column(list(found), [f"{each.name} ({each.type})" for each in schema], where)
    others = [name for name in found if name != image and found[name] != "path"]
    remarks: tuple[str, ...] = ()
    if others:
        remarks = (f"images of column `{image}`; {named(others)} may hold some too, not read",)
    label, unlabelled = label_column(
        labels, schema.names, [f.name for f in schema if _may_be_label(types, f.type)], where
    )
    return Columns(image, found[image], label, remarks, unlabelled)


def holds_images(types: Any, schema: Any) -> bool:  # noqa: ANN401
    """Whether a table has a column that can hold images."""
    return any(kind_of(types, field.type, field.name) for field in schema)


def image_column(candidates: Sequence[str], columns: Iterable[str], where: str) -> str:
    """The column of images: `image`, `img`, or the single one that can be."""
    image = next((name for name in IMAGE_COLUMNS if name in candidates), None)
    if image is None and len(candidates) == 1:
        image = candidates[0]
    if image is None:
        raise RequestError(
            f"{where}: the images must be in a column `image` or `img`, or in the single one that "
            "holds files' bytes (binary, or a struct with `bytes`) or lists of levels, got the "
            f"columns {', '.join(columns)}; rename one of them"
        )
    return image


def label_column(
    labels: str, columns: Sequence[str], candidates: Sequence[str], where: str
) -> tuple[str | None, str]:
    """The column of labels, or None and why there is none, if that is worth a line."""
    if labels == "none":
        return None, ""
    if labels == "auto":
        if LABEL_COLUMN in columns:
            return LABEL_COLUMN, ""
        if not candidates:
            return None, ""
        return None, (
            f"there is no column `{LABEL_COLUMN}`; of {named(candidates)} one can be named, as "
            f"--config.data.labels={candidates[0]}"
        )
    if labels not in columns:
        raise RequestError(
            f"data.labels = {labels} is no column of {where}, got {', '.join(columns)}"
        )
    return labels, ""


def kind_of(types: Any, kind: Any, name: str) -> Kind | None:  # noqa: ANN401
    """What images in a column of this type would be; None for one that can hold none."""
    if _is_binary(types, kind):
        return "bytes"
    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        return "file" if "bytes" in fields and _is_binary(types, fields["bytes"]) else None
    if _is_list(types, kind):
        inner = kind.value_type
        if types.is_uint8(inner):
            return "list"
        deepest = inner
        while _is_list(types, deepest):
            deepest = deepest.value_type
        return "pixels" if _is_list(types, inner) and types.is_integer(deepest) else None
    text = types.is_string(kind) or types.is_large_string(kind)
    return "path" if text and name in IMAGE_COLUMNS else None


def _is_binary(types: Any, kind: Any) -> bool:  # noqa: ANN401
    view = getattr(types, "is_binary_view", lambda _: False)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or view(kind))


def _is_list(types: Any, kind: Any) -> bool:  # noqa: ANN401
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _may_be_label(types: Any, kind: Any) -> bool:  # noqa: ANN401
    text = types.is_string(kind) or types.is_large_string(kind)
    return bool(
        text or types.is_integer(kind) or types.is_boolean(kind) or types.is_dictionary(kind)
    )
