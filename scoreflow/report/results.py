"""The results in a run's folder, as far as they can be read, and lines about those that cannot."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from scoreflow.errors import RequestError
from scoreflow.figures.pixel_size import reduced
from scoreflow.report.blocks import Picture
from scoreflow.report.schemas import check
from scoreflow.storage.atomic_files import Json, load_json
from scoreflow.storage.measurements import average_of, hash_in, headline_of
from scoreflow.storage.run_folder import RunDir
from scoreflow.storage.schemas.files import EnvFile
from scoreflow.storage.validation import InvalidError

DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What a result raises where it lacks something, or has it of another kind."""
PHONE = 320
"""CSS pixels that a picture has on a phone."""

Made = TypeVar("Made")


def measured_on(result: Json, lead: str = "") -> str:
    """Whose images a result is of, in words behind a lead; "" where they belong to the run."""
    of = result.get("measured_on")
    if not of:
        return ""
    path = "" if of["path"] in ("", of["name"]) else f"{of['path']}, "
    return f"{lead}{of['name']} ({path}SHA-256 of the images {of['sha256']['test'][:12]}…)"


def _date(result: Json) -> str:
    """When it was measured; those that do not say so are the oldest."""
    return str((result.get("kept") or {}).get("date", ""))


def flat(nested: Json, prefix: str = "") -> Json:
    """A config, or settings, by dotted keys."""
    found: Json = {}
    for key, value in nested.items():
        inside = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if inside else {prefix + key: value}
    return found


def called(number: int, names: Sequence[str]) -> str:
    """A class in words: its number, with its name where that is another."""
    name = names[number] if number < len(names) else ""
    return f"{number}" if name in ("", str(number)) else f"{number} ({name})"


def given(result: Json) -> str:
    """The class that a likelihood is given of, in words; results older than classes have none.

    And the average that it is of, where that is not the one as trained.
    """
    label, of = (result.get("settings") or {}).get("label", -1), averaged(result)
    if label in (-1, "none"):
        return of
    return (", each given its own class" if label == "data" else f", given class {label}") + of


def averaged(result: Json) -> str:
    """The length of the average that a result is of, in words; "" of the one as trained."""
    length = average_of(result)
    return f", average of length {length:g}" if length else ""


class Results:
    """What results/*.json hold.

    Attributes:
        run: the run's folder.
        by_name: each result that can be read, by its file's name without the ending.
        others: measurements under other settings than those of a headline, by its name: the name
            of each and the result, the newest first.
        damaged: a line for each file that cannot be read or shown.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.by_name: dict[str, Json] = {}
        self.others: dict[str, list[tuple[str, Json]]] = {}
        self.damaged: list[str] = []
        for path in sorted((run.path / "results").glob("*.json")):
            try:
                self._sort_in(path.stem, run.read_result(path.stem))
            except RequestError as error:
                self.damaged.append(str(error))
            except InvalidError as error:
                self._damage(path.stem, str(error))
        for name, found in self.others.items():
            headline = hash_in(self.by_name.get(name, {}))
            # a kill may have left a measurement under its hash that is the headline by now
            unlike = [each for each in found if hash_in(each[1]) != headline]
            self.others[name] = sorted(unlike, key=lambda each: _date(each[1]), reverse=True)
        self.others = {name: found for name, found in self.others.items() if found}

    def _sort_in(self, name: str, result: Json) -> None:
        headline = headline_of(name, result)
        check(headline, result)
        if headline == name:
            self.by_name[name] = result
        else:
            self.others.setdefault(headline, []).append((name, result))

    def named(self, prefix: str) -> list[str]:
        """The names that begin so, in alphabetical order."""
        return [name for name in self.by_name if name.startswith(prefix)]

    def show(self, name: str, make: Callable[[Json], Made]) -> Made | None:
        """make(result), or None, with a line about it, if there is no whole result."""
        if name not in self.by_name:
            return None
        try:
            return make(self.by_name[name])
        except DAMAGE as error:
            self._damage(name, f"lacks {error}" if isinstance(error, KeyError) else str(error))
            return None

    def _damage(self, name: str, what: str) -> None:
        self.damaged.append(
            f"results/{name}.json is damaged ({what}): make it again, or remove the file"
        )

    def environment(self) -> Json | None:
        """The code, device and versions that made the weights; None, with a line, if unknown."""
        path = self.run.path / "env.json"
        try:
            return load_json(path, "env.json is missing", "it is not shown", EnvFile)
        except RequestError as error:
            self.damaged.append(str(error))
            return None

    def drawn(self, result: Json, step: int, name: str) -> Path:
        """The picture of a result, by the name that it has; the oldest have step and name alone.

        Args:
            result: of a draw.
            step: of its checkpoint.
            name: of the sampler, or the task.
        """
        plain = self.run.sample_path(step, name)
        return plain.with_name(f"{result['picture']}.png") if "picture" in result else plain

    def picture(
        self, path: Path, most: int, title: str, caption: tuple[str, ...] = ()
    ) -> Picture | None:
        """A picture of the run's folder; None if it is not there, with a line if it is damaged.

        Args:
            path: of the PNG or GIF.
            most: CSS pixels that it may be wide, on a wide screen.
            title: what stands below it.
            caption: and below that.
        """
        if not path.exists():
            return None
        link = path.relative_to(self.run.path).as_posix()
        try:
            return picture(path.read_bytes(), most, title, caption, link)
        except (OSError, ValueError) as error:
            self.damaged.append(f"{link} is damaged ({error}): draw it again, or remove the file")
            return None


def picture(
    data: bytes, most: int, title: str, caption: tuple[str, ...] = (), link: str = ""
) -> Picture:
    """A picture at the greatest whole multiple of its pixels that is not too wide.

    Raises:
        ValueError: it is no PNG or GIF.
    """
    kind = "gif" if data.startswith(b"GIF8") else "png"
    small, width, height = reduced(data)
    scale, narrow = max(1, most // width), max(1, min(most, PHONE) // width)
    encoded = base64.b64encode(small).decode()
    return Picture(encoded, kind, width, height, scale, narrow, title, caption, link)


def picture_in_json(text: str, most: int, title: str, caption: tuple[str, ...] = ()) -> Picture:
    """A picture that a result holds in base64.

    Raises:
        ValueError: it holds something else.
    """
    return picture(base64.b64decode(text, validate=True), most, title, caption)
