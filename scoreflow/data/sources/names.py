"""What names of files and folders say: splits, shards, junk, and the order of classes."""

import re
from collections.abc import Iterable

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The words for each split, in lower case."""

BESIDE_A_SPLIT = frozenset(
    {"a", "b", "set", "data", "images", "image", "imgs", "img", "split", "partial"}
)
"""Words that a folder's name may have beside that of its split: test_images, trainA."""

JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})
"""What operating systems leave in folders, in lower case."""

_TOKENS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_SHARDS = re.compile(r"(shard|part|chunk|batch)[-_ ]?\d+", re.IGNORECASE)
_FEWEST_DIGITS = 4


def is_junk(name: str) -> bool:
    """Whether a file or a folder is hidden, or left there by an operating system."""
    return name.startswith(".") or name.lower() in JUNK


def split_of_folder(name: str) -> str:
    """The split that a folder's name states: "train", "validation" or "test"; else "".

    The whole name must state it, in any case, with a year or a filler at most: Training, TEST,
    val2017, test_images, trainA; but not "train station".
    """
    tokens = [token.lower() for token in _TOKENS.findall(name)]
    stated = {SPLITS[token] for token in tokens if token in SPLITS}
    others = [token for token in tokens if token not in SPLITS and not token.isdigit()]
    if len(stated) != 1 or not BESIDE_A_SPLIT.issuperset(others):
        return ""
    return stated.pop()


def split_of_file(stem: str) -> str:
    """The split that a word of a file's name states: train-00000-of-00003, mnist_test; else ""."""
    tokens = (token.lower() for token in _TOKENS.findall(stem))
    return next((SPLITS[token] for token in tokens if token in SPLITS), "")


def are_shards(names: Iterable[str]) -> bool:
    """Whether folders only divide many files: digits of one width (00000, 01000), shard-0001."""
    each = list(names)
    if all(_SHARDS.fullmatch(name) for name in each):
        return bool(each)
    widths = {len(name) if name.isdecimal() else 0 for name in each}
    return len(widths) == 1 and widths.pop() >= _FEWEST_DIGITS


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts digits in names by their value: class_2 before class_10."""
    parts = re.split(r"(\d+)", name)
    by_value = [(int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)]
    return by_value, name
