"""Names of samples in a run's folder: other settings, another name.

samples/00000800-ddim.png             the first draw of that sampler: the plain name
samples/00000800-ddim.json            what it was drawn with
samples/00000800-ddim-3fa41c07.png    another seed, number of steps, class, ...
samples/00000800-ddim/                where images are saved one by one, or in one file
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from scoreflow.errors import RequestError, RunError
from scoreflow.storage.atomic_files import Json, dumps, load_json, make_folder, write_atomic
from scoreflow.storage.locks.ownership import held

SHORT = 8
"""Digits of a hash in a name."""
NAMED = 3
"""Settings that a line names."""


@dataclass(frozen=True)
class SampleName:
    """Where the samples of some settings belong.

    Attributes:
        folder: of the run's samples.
        name: of their files, without ending.
        settings: all that they are a function of.
        other: the settings under the plain name, None where that is this one.
    """

    folder: Path
    name: str
    settings: Json
    other: Json | None = None

    @property
    def picture(self) -> Path:
        """Their picture."""
        return self.folder / f"{self.name}.png"

    @property
    def images(self) -> Path:
        """The folder for the images themselves."""
        return self.folder / self.name

    def beside(self, what: str) -> Path:
        """Another picture of them, "progress" say."""
        return self.folder / f"{self.name}-{what}.png"

    @property
    def differs(self) -> str:
        """How their settings differ from those under the plain name, "" where they are those."""
        return "" if self.other is None else differences(self.settings, self.other)

    def record(self) -> None:
        """Write down what they are drawn with."""
        make_folder(self.folder)
        write_atomic(
            self.folder / f"{self.name}.json",
            dumps({"hash": hash_of(self.settings), **self.settings}, self.name, RunError),
        )


def name_for(folder: Path, plain: str, settings: Json) -> SampleName:
    """The plain name, or, where other settings have it, one with a hash of these.

    Args:
        folder: of the run's samples.
        plain: step and sampler.
        settings: JSON values.
    """
    own, other = hash_of(settings), read_settings(folder / f"{plain}.json")
    taken = any((folder / f"{plain}{ending}").exists() for ending in (".png", ".gif", ""))
    if other is None and not taken:
        return SampleName(folder, plain, settings)
    if other is not None and other.get("hash") == own:
        return SampleName(folder, plain, settings)
    return SampleName(folder, f"{plain}-{own[:SHORT]}", settings, other or {})


def claim(folder: Path, plain: str, settings: Json) -> SampleName:
    """`name_for`, written down, so that another command with other settings finds it taken."""
    with held(folder / ".names.lock", "takes a name for its samples"):
        place = name_for(folder, plain, settings)
        place.record()
    return place


def hash_of(settings: Json) -> str:
    """SHA-256 of settings, in whatever order they come."""
    text = dumps(settings, "the settings of samples", RunError, indent=None, sort_keys=True)
    return hashlib.sha256(text).hexdigest()


def read_settings(path: Path) -> Json | None:
    """The settings in a file, with their hash; None if it is missing or damaged."""
    try:
        return load_json(path, "", "")
    except RequestError:
        return None


def differences(settings: Json, other: Json) -> str:
    """Which settings are other than those, in a few words."""
    if not other.keys() & settings.keys():
        return "another draw, of which nothing is recorded, has the plain name"
    found = [
        f"{key} {', not '.join(_short(settings[key], other[key]))}"
        for key in settings
        if key in other and json.loads(json.dumps(settings[key])) != other[key]
    ]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more


def _short(one: object, other: object) -> tuple[str, str]:
    """Two values in a few characters each, by which they differ; of paths their last parts."""
    whole = (_said(one), _said(other))
    if all(len(text) <= 2 * SHORT for text in whole):
        return whole
    names = (Path(whole[0]).name, Path(whole[1]).name)
    if any("/" in text for text in whole) and names[0] != names[1]:
        return names
    cut = (whole[0][:SHORT], whole[1][:SHORT])
    if cut[0] == cut[1]:
        return whole
    ends = ["..." if len(text) > SHORT else "" for text in whole]
    return cut[0] + ends[0], cut[1] + ends[1]


def _said(value: object) -> str:
    return "none" if value in ("", None) else str(value)
