"""What the folders that files lie in mean: splits, classes, or neither; from their names alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from scoreflow.data.sources.names import are_shards, split_of_folder
from scoreflow.data.sources.rows import some
from scoreflow.errors import RequestError

FOLDERS = "folders"
"""The value of data.labels that makes folders classes, whatever they are called."""

Folder = tuple[str, ...]
"""A folder below the root, by its parts."""

Place = tuple[str, Folder]
"""The split that a folder is of, "" for one pool, and what of it may be a class."""


@dataclass
class Layout:
    """How files are arranged.

    Attributes:
        splits: of "train", "validation", "test", or "" for one pool, its files in their order.
        classes: of each folder, by its path below the root; None for none.
        remarks: a line each.
        shards: a line, where folders are taken for shards and not for classes.
        left_out: files that belong to no split.
    """

    splits: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, str | None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    shards: str = ""
    left_out: list[str] = field(default_factory=list)

    def class_of(self, name: str) -> str | None:
        """The class of a file."""
        return self.classes[name.rpartition("/")[0]]


def layout(files: Sequence[str], labels: str = "auto") -> Layout:
    """The splits and classes of files by the folders that they lie in.

    Folders around everything are passed over. Then folders named like splits are splits, in any
    case, at the top (train/cat/) or one below (cat/train/), and the first other folder is the
    class, unless folders only divide many files into shards, or one lies around all.

    Args:
        files: names below the root, with "/" between their parts, in order.
        labels: "auto"; "folders" for folders that are classes whatever they are called.

    Raises:
        RequestError: a folder is named like a split, and may be a class.
    """
    found, by_force = Layout(), labels == FOLDERS
    folders = {
        each: tuple(each.split("/")) if each else ()
        for each in dict.fromkeys(name.rpartition("/")[0] for name in files)
    }
    places = _places(list(folders.values()), by_force, found)
    rests = [rest for _, rest in places.values()]
    if not by_force and _wrapped(list(places.values())):
        classes: dict[Folder, str | None] = dict.fromkeys(rests)
    else:
        classes = _classes(rests, by_force, found)
    of_path = {path: places[folder] for path, folder in folders.items() if folder in places}
    found.classes = {path: classes[rest] for path, (_, rest) in of_path.items()}
    for name in files:
        place = of_path.get(name.rpartition("/")[0])
        if place is None:
            found.left_out.append(name)
        else:
            found.splits.setdefault(place[0], []).append(name)
    return found


def _places(folders: Collection[Folder], by_force: bool, found: Layout) -> dict[Folder, Place]:
    """The split of each folder, and what lies below it; those of no split are not there."""
    around = _around(folders)
    for depth in range(around + 1):
        if _splits_at(folders, depth):
            return _below_splits(folders, depth, found)
    for depth in range(1, around + 2):
        if all(split_of_folder(_part(folder, depth)) for folder in folders):
            return {f: (split_of_folder(f[depth]), (f[depth - 1],)) for f in folders}
    if not by_force:
        _refuse_a_split_among_others(folders)
    return {folder: ("", folder) for folder in folders}


def _part(folder: Folder, depth: int) -> str:
    return folder[depth] if depth < len(folder) else ""


def _around(folders: Collection[Folder]) -> int:
    """How many folders lie around everything."""
    count = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _wrapped(places: Collection[Place]) -> bool:
    """Whether one folder lies around all images of one pool, and images lie in it."""
    rests = [rest for _, rest in places]
    around = _around(rests)
    pooled = not any(split for split, _ in places)
    return pooled and around > 0 and any(len(rest) == around for rest in rests)


def _splits_at(folders: Collection[Folder], depth: int) -> bool:
    """Whether folders at a depth are splits: all of them, or some that are a whole data set."""
    splits = {split_of_folder(_part(folder, depth)) for folder in folders}
    stated = splits - {""}
    return bool(stated) and (splits == stated or ("train" in stated and len(stated) > 1))


def _below_splits(folders: Collection[Folder], depth: int, found: Layout) -> dict[Folder, Place]:
    split_of = {part: split_of_folder(part) for part in (_part(f, depth) for f in folders)}
    renamed = [
        f"{part}/ is {split}" for part, split in split_of.items() if split and part != split
    ]
    if renamed:
        found.remarks.append(f"splits by folder: {some(renamed)}")
    placed = ((f, split_of[_part(f, depth)]) for f in folders)
    return {
        folder: (split, _below(folder[depth + 1 :], split)) for folder, split in placed if split
    }


def _below(rest: Folder, split: str) -> Folder:
    """What lies below a split, without its name again: test/test/ is test/."""
    return _below(rest[1:], split) if rest and split_of_folder(rest[0]) == split else rest


def _refuse_a_split_among_others(folders: Collection[Folder]) -> None:
    """Refuse to pool what may be a split with other images."""
    for folder in folders:
        for depth, part in enumerate(folder):
            if not split_of_folder(part):
                continue
            stated = folder[: depth + 1]
            beside = next("/".join(f) for f in folders if f[: depth + 1] != stated)
            raise RequestError(
                f"the folder {'/'.join(stated)}/ is named like a split, but other images lie in "
                f"{f'{beside}/' if beside else 'none'}: if these are classes, add "
                "--config.data.labels=folders; if it is a split, keep all images in train/ and "
                "test/, or pass its own path as data.path"
            )


def _classes(rests: Collection[Folder], by_force: bool, found: Layout) -> dict[Folder, str | None]:
    """The class of each folder below its split, None for none: the first that tells them apart."""
    around = _around(rests)
    skip = around if all(len(rest) > around for rest in rests) else 0
    names = {rest[skip] for rest in rests if len(rest) > skip}
    if names and not by_force and are_shards(names):
        found.shards = (
            f"{some(f'{each}/' for each in sorted(names))} are taken for shards of one pool "
            "(--config.data.labels=folders makes them classes)"
        )
        return dict.fromkeys(rests)
    return {rest: _part(rest, skip) or None for rest in rests}
