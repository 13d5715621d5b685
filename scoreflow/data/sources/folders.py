"""Image files, arrays and zip archives of them: one place for what a layout of names gives."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from scoreflow.data.reading.formats import SUFFIXES
from scoreflow.data.reading.image_file import MOST_BYTES
from scoreflow.data.sources.layout import FOLDERS, layout
from scoreflow.data.sources.names import is_junk
from scoreflow.data.sources.rows import Found, Row, Rows, Source, damaged, some
from scoreflow.errors import RequestError

ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)
"""What `zipfile` raises on archives that are damaged, encrypted or of an unknown compression."""

LABEL_FILE = "dataset.json"
"""Classes of files as EDM's and StyleGAN's dataset tools write them."""


def suffix_of(name: str) -> str:
    """The ending of a file's name, in lower case and with its dot."""
    return PurePosixPath(name).suffix.lower()


def single_image(path: Path) -> Found:
    """One image file as a data set."""
    rows: Rows = ([(str(path), path, None)], 1, str(path))
    return Found(path.name, f"{path.parent}/", {"": rows})


def image_folder(
    root: Path,
    files: Sequence[str],
    labels: str,
    others: Sequence[str],
    load: Callable[[Path], Source] = lambda path: path,
) -> Found:
    """Files below a folder, each an image.

    Args:
        root: the folder.
        files: the images' names below it.
        labels: where the classes are: "auto", "none" or "folders".
        others: the names of the other files there.
        load: an image of its path.
    """

    def text_of(name: str) -> bytes:
        return (root / name).read_bytes()

    return _found(root, files, labels, others, lambda name: load(root / name), text_of)


def image_zip(path: Path, labels: str) -> Found:
    """A zip archive of images, read without unpacking it."""
    try:
        archive = zipfile.ZipFile(path)
        names = sorted(
            (each.filename for each in archive.infolist() if not each.is_dir()),
            key=lambda name: name.split("/"),
        )
    except ZIP_DAMAGE as error:
        raise damaged(str(path), "zip archive", error) from error
    visible = [name for name in names if not any(map(is_junk, name.split("/")))]
    files = [name for name in visible if suffix_of(name) in SUFFIXES]
    others = [name for name in visible if suffix_of(name) not in SUFFIXES]
    if not files:
        raise RequestError(
            f"no images in {path}: a zip archive is read where it holds image files, and this one "
            f"has {some(others) or 'no files'}; unpack it, and pass the folder"
        )

    def read(name: str) -> bytes:
        try:
            if archive.getinfo(name).file_size > MOST_BYTES:
                raise zipfile.BadZipFile(f"it would take more than {MOST_BYTES} bytes")
            return archive.read(name)
        except ZIP_DAMAGE as error:
            raise damaged(f"{path}/{name}", "member of the archive", error) from error

    return _found(path, files, labels, others, read, read)


def _found(
    root: Path,
    files: Sequence[str],
    labels: str,
    others: Sequence[str],
    load: Callable[[str], Source],
    text_of: Callable[[str], bytes],
) -> Found:
    """The data set of files in folders, real ones or those of an archive."""
    if labels not in ("auto", "none", FOLDERS):
        raise RequestError(
            f"data.labels = {labels} names a column, and {root} holds image files, which have "
            "none: it can be auto, none or folders"
        )
    arranged = layout(files, labels)
    told = [name for name in others if name.rpartition("/")[2] == LABEL_FILE]
    by_file: dict[str, object] | None = {}
    if labels == "auto" and len(told) == 1:
        by_file = _labels_of(text_of(told[0]))
    unread = (
        f"{told[0]} is not read for classes, as it does not hold "
        '{"labels": [[file, class], ...]}, as EDM\'s dataset tool writes it'
        if by_file is None
        else ""
    )
    below = told[0].removesuffix(LABEL_FILE) if by_file else ""

    def label_of(name: str) -> object:
        return by_file.get(name.removeprefix(below)) if by_file else arranged.class_of(name)

    rows = {
        split: _rows(root, members, label_of, load) for split, members in arranged.splits.items()
    }
    classes_by = LABEL_FILE if by_file else "" if labels == "none" or arranged.shards else "folder"
    return Found(
        name=root.resolve().name,
        root=f"{root}/",
        splits=rows,
        classes_by=classes_by,
        sure=labels == FOLDERS or bool(by_file),
        unlabelled="" if labels == "none" else arranged.shards,
        remarks=(*arranged.remarks, *filter(None, [unread])),
        left_out=(*arranged.left_out, *(name for name in others if name not in told[:1])),
    )


def _rows(
    root: Path,
    members: Sequence[str],
    label_of: Callable[[str], object],
    load: Callable[[str], Source],
) -> Rows:
    def rows() -> Iterator[Row]:
        for name in members:
            yield f"{root}/{name}", load(name), label_of(name)

    return rows(), len(members), str(root)


def _labels_of(told: bytes) -> dict[str, object] | None:
    """The classes in a dataset.json: {"labels": [[name, class], ...]}, or null for none.

    None where it is something else, which may lie beside images under that name.
    """
    try:
        content = json.loads(told)
        pairs = (content or {}).get("labels") or []
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        return {str(name): _one_hot(label) for name, label in pairs}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _one_hot(label: object) -> object:
    """The place of the 1 in a vector with one 1 and zeros; any other label as it is."""
    if isinstance(label, list) and label.count(1) == 1 and label.count(0) == len(label) - 1:
        return label.index(1)
    return label
