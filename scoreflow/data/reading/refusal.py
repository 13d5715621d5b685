"""An image that is refused: where it is, what it holds, what would help."""

import struct
import zlib

from PIL import Image

from scoreflow.errors import RequestError

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on bytes that are no whole image."""

MOST_NAMED = 20
"""So many refused images are named in one message."""
MOST_REFUSED = 100
"""After so many the rest is not read."""


class Refused(RequestError):
    """One image that cannot be read, or not without a conversion that is not allowed.

    Args:
        where: what the image is called.
        what: what it holds that is in the way.
        remedy: what to do.
        message: where it alone is refused, instead of "where: what".
        flags: those of the remedy; beside images of other kinds, those that help there.
        others: what is to be done that no flag does.
        size: (H, W) that it is read at, if known.
    """

    def __init__(
        self,
        where: str,
        what: str,
        remedy: str,
        message: str = "",
        flags: tuple[str, ...] = (),
        others: tuple[str, ...] = (),
        size: tuple[int, int] | None = None,
    ) -> None:
        self.said = message or f"{where}: {what}"
        super().__init__(f"{self.said}; {remedy}")
        self.where, self.what, self.remedy = where, what, remedy
        self.flags, self.others, self.size = flags, others, size


def together(
    refused: list[Refused], read: int, total: int, sizes: tuple[str, ...] = ()
) -> RequestError:
    """One error for all that were refused, by what is in the way.

    Args:
        refused: at least one.
        read: how many images were tried.
        total: how many there are.
        sizes: flags that make one size of theirs and the other images'.
    """
    remedy = _remedy(refused, len(refused) < read, sizes)
    if len(refused) == 1:
        return RequestError(f"{refused[0].said}; {remedy}")
    kinds: dict[str, list[str]] = {}
    for each in refused[:MOST_NAMED]:
        kinds.setdefault(each.what, []).append(each.where)
    named = "; ".join(f"{what}: {', '.join(names)}" for what, names in kinds.items())
    more = f"; and {len(refused) - MOST_NAMED} more" if len(refused) > MOST_NAMED else ""
    count = (
        f"{len(refused)} of {total}" if read == total else f"{len(refused)} of the first {read}"
    )
    return RequestError(f"{count} images are refused. {named}{more}. Remedy: {remedy}")


def _remedy(refused: list[Refused], beside: bool, sizes: tuple[str, ...]) -> str:
    """What helps all: their one remedy, or the flags of all at once.

    Args:
        refused: at least one.
        beside: whether there are images that are not.
        sizes: flags that make one size of them.
    """
    alike = len({each.remedy for each in refused}) == 1
    if alike and not beside and not sizes:
        return refused[0].remedy
    flags = [*sizes, *dict.fromkeys(flag for each in refused for flag in each.flags)]
    flags = _one_mode(list(dict.fromkeys(flags)))
    others = dict.fromkeys(
        other
        for each in refused
        for other in (each.others if each.flags else each.others or (each.remedy,))
    )
    add = "add all of:" if len(flags) > 1 and not alike else "add"
    return "; and ".join([*([f"{add} {' '.join(flags)}"] if flags else []), *others])


def _one_mode(flags: list[str]) -> list[str]:
    """Flags of which one alone states the mode: auto, unless all are to become RGB."""
    modes = [flag for flag in flags if ".mode=" in flag]
    if not modes or modes == [modes[0].partition("=")[0] + "=rgb"]:
        return flags
    auto = modes[0].partition("=")[0] + "=auto"
    return [*(flag for flag in flags if flag not in modes), auto]
