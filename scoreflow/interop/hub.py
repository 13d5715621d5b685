"""A checkpoint's place: a local path, or a repository on the Hugging Face Hub, brought here."""

import hashlib
import re
from pathlib import Path

from scoreflow.errors import RequestError
from scoreflow.paths import user_path

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
WANTED = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.pkl")
"""Files that a reader may look at."""


def local(source: str | Path) -> Path:
    """Where a source lies on this machine; a name on the Hub is downloaded first.

    Args:
        source: a path; or, where there is nothing there, the Hub's owner/name.

    Raises:
        RequestError: there is neither, or the package or the network for the Hub is missing.
    """
    path = user_path(source, "--from")
    if path.exists():
        return path
    name = str(source)
    if not HUB_NAME.fullmatch(name):
        raise RequestError(
            f"there is no {name}: --from takes a file, a folder, or a name on the Hub as "
            "google/ddpm-cifar10-32"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise RequestError(
            f"there is no {name} here, so it names a repository on the Hugging Face Hub, which "
            "needs the package huggingface_hub: pip install 'scoreflow-sde[hub]', or download it "
            "and pass its folder"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # whatever the Hub, the network or the name did
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(
            f"there is no {name} here, and the Hub did not give it ({first}): check the name and "
            "the network, or download it and pass its folder"
        ) from error


def digests(path: Path, *also: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's files, by their paths inside it.

    Args:
        path: the file or folder that was named.
        also: files beside that file, which were read with it.
    """
    files = (
        [path, *also]
        if path.is_file()
        else sorted(each for each in path.rglob("*") if _is_ours(each))
    )
    base = path.parent if path.is_file() else path
    return {each.relative_to(base).as_posix(): _sha256(each) for each in files}


def _is_ours(path: Path) -> bool:
    return path.is_file() and any(path.match(pattern) for pattern in WANTED)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
