"""What a path is: the kinds of folders and files that images are read from."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scoreflow.data.reading.formats import SUFFIXES
from scoreflow.data.sources.arrays import npy_file, npz_file, one_array
from scoreflow.data.sources.folders import (
    image_folder,
    image_zip,
    single_image,
    suffix_of,
)
from scoreflow.data.sources.rows import Found, some
from scoreflow.data.sources.tables.files import SUFFIXES as TABLES
from scoreflow.data.sources.tables.files import refuse_pointer
from scoreflow.data.sources.tables.repository import one_table, only_describe, tables
from scoreflow.data.sources.walk import files_below
from scoreflow.errors import RequestError

READ = (
    "a folder of image files, of .npy arrays, or of Parquet or Arrow files (a clone of a Hub "
    "repository, save_to_disk); a .zip of image files; a .npz or .npy; an image file"
)
"""The kinds of data sets that are read, for messages."""

FILES: dict[str, Callable[[Path, str], Found]] = {
    ".npy": lambda path, labels: npy_file(path),
    ".npz": npz_file,
    ".zip": image_zip,
    **dict.fromkeys(TABLES, one_table),
    **dict.fromkeys(sorted(SUFFIXES), lambda path, labels: single_image(path)),
}
"""What reads a file, by its suffix; folders are taken by the files in them."""

UNPACK = {".tar": "tar -xf", ".tgz": "tar -xf", ".gz": "gunzip", ".7z": "7z x", ".rar": "unrar x"}
"""What unpacks an archive that is not read."""


def what_is_at(path: Path, labels: str) -> Found:
    """The data set at a path that exists.

    Args:
        path: a folder or a file.
        labels: where its classes are: "auto", "none", "folders", or the name of a column.

    Raises:
        RequestError: no images that are read are there, or more than one kind of them.
    """
    if path.is_dir():
        return _folder(path, labels)
    suffix = suffix_of(path.name)
    if suffix not in FILES:
        vectors = ", or name vectors by --config.data.name=vectors" if suffix == ".csv" else ""
        raise RequestError(
            f"{path} is no set of images that is read{_unpack([path.name])}; pass {READ}{vectors}"
        )
    refuse_pointer(path)
    return FILES[suffix](path, labels)


def _folder(root: Path, labels: str) -> Found:
    """A folder by its files: tables before images, which may lie beside them."""
    files = files_below(root)
    in_tables = [name for name in files if suffix_of(name) in TABLES]
    images = [name for name in files if suffix_of(name) in SUFFIXES]
    arrays = [name for name in files if suffix_of(name) == ".npy"]
    _refuse_both(root, images, arrays)
    _refuse_both(root, *([name for name in in_tables if suffix_of(name) == s] for s in TABLES))
    if in_tables and not (images and only_describe(root, in_tables)):
        return tables(root, in_tables, labels, _others(files, in_tables))
    if not images and not arrays:
        raise RequestError(_nothing(root, files))
    chosen = images or arrays
    refuse_pointer(root / chosen[0])
    load = one_array if arrays else Path
    return image_folder(root, chosen, labels, _others(files, chosen), load)


def _refuse_both(root: Path, some_files: Sequence[str], other_files: Sequence[str]) -> None:
    """Refuse a folder with two kinds of files, which may hold the same images."""
    if some_files and other_files:
        raise RequestError(
            f"{root} holds {some(some_files)}, and {some(other_files)}: keep one kind of files, "
            "or pass a folder that holds one"
        )


def _others(files: Sequence[str], chosen: Sequence[str]) -> list[str]:
    taken = set(chosen)
    return [name for name in files if name not in taken]


def _nothing(root: Path, files: Sequence[str]) -> str:
    kinds = dict.fromkeys(suffix_of(name) or "no suffix" for name in files)
    held = f"{len(files)} files, ending in {some(kinds)}" if files else "no files"
    single = [name for name in files if suffix_of(name) in (".zip", ".npz")]
    if single:
        return f"{root} holds {some(single)}: pass the file, --config.data.path={root / single[0]}"
    return f"no images in {root}, which holds {held}{_unpack(files)}; pass {READ}"


def _unpack(files: Sequence[str]) -> str:
    archives = [name for name in files if suffix_of(name) in UNPACK]
    if not archives:
        return ""
    packed = archives[0].lower().endswith(".tar.gz")
    how = UNPACK[".tar" if packed else suffix_of(archives[0])]
    return f": an archive is not read in place, unpack it ({how} {archives[0]})"
