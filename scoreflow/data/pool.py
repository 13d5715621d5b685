"""Data that a trained run scores, whatever their splits: a folder, a container, or one image."""

from pathlib import Path

from torch import Tensor

from scoreflow.data import loading
from scoreflow.data.dataset import Data
from scoreflow.data.reading.user_images import read_images
from scoreflow.data.sources.folders import IMAGE_SUFFIXES, image_files


def load_named(where: str, like: Data) -> tuple[Tensor, tuple[str, ...]]:
    """All images of a data set, and what each is called.

    Args:
        where: a folder, a container or a name on the Hub; or the file of one image, whose 0..255
            are spread over the levels as those of `control.image` are.
        like: the data of the run.

    Returns:
        Levels (n, C, H, W) uint8, and n names; none where the images have none.
    """
    path = Path(where).expanduser()
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        levels, _ = read_images(where, like)
        return levels, (path.name,)
    levels = loading.load_pool(where)
    names: tuple[str, ...] = ()
    if path.is_dir() and not any(path.glob("*.parquet")):
        files = [file for file, _ in image_files(path)]
        names = tuple(file.relative_to(path).as_posix() for file in files)
    return levels, names if len(names) == len(levels) else ()
