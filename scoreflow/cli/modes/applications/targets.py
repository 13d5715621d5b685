"""--out of modes that write images: refused before any work where it cannot be written."""

from pathlib import Path

from scoreflow.errors import RequestError
from scoreflow.storage.atomic_files import check_writable


def refuse_taken(out: Path, folder: bool = False) -> None:
    """Refuse a place that is taken, or is in no folder.

    Args:
        out: of the new file, or the new folder.
        folder: whether it is one, which may be there if it is empty.

    Raises:
        RequestError: with what to do.
    """
    empty = folder and out.is_dir() and not any(out.iterdir())
    if (out.exists() or out.is_symlink()) and not empty:
        raise RequestError(f"--out {out} is there already: remove it, or choose another")
    if not out.parent.is_dir():
        raise RequestError(f"--out {out}: there is no folder {out.parent}: make it first")
    check_writable(out.parent, "choose another --out")
