"""Data that a trained run scores, whatever their splits: a folder, a container, or one image."""

from pathlib import Path

from torch import Tensor

from scoreflow.data import loading
from scoreflow.data.collect import collect
from scoreflow.data.reading.tally import Tally
from scoreflow.data.sources.folders import IMAGE_SUFFIXES, image_files


def load_named(where: str, tally: Tally) -> tuple[Tensor, tuple[str, ...]]:
    """All images of a data set, and what each is called.

    Args:
        where: a folder, a container or a name on the Hub; or the file of one image, whose 0..255
            are spread over the levels as those of `control.image` are.
        tally: says how files are read, and counts what is found in them.

    Returns:
        Levels (n, C, H, W) uint8, and n names; none where the images have none.
    """
    path = Path(where).expanduser()
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        pixels, _ = collect([(str(path), path, None)], 1, str(path), tally.reading, tally)
        return tally.scale().levels(pixels), (path.name,)
    levels = loading.load_pool(where, tally)
    names: tuple[str, ...] = ()
    if path.is_dir() and not any(path.glob("*.parquet")):
        files = [file for file, _ in image_files(path)]
        names = tuple(file.relative_to(path).as_posix() for file in files)
    return levels, names if len(names) == len(levels) else ()
