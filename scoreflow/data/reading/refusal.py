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
    """

    def __init__(self, where: str, what: str, remedy: str, message: str = "") -> None:
        super().__init__(f"{message or f'{where}: {what}'}; {remedy}")
        self.where, self.what, self.remedy = where, what, remedy


def together(refused: list[Refused], read: int, total: int) -> RequestError:
    """One error for all that were refused, by what is in the way.

    Args:
        refused: at least one.
        read: how many images were tried.
        total: how many there are.
    """
    if len(refused) == 1:
        return refused[0]
    kinds: dict[str, list[str]] = {}
    for each in refused[:MOST_NAMED]:
        kinds.setdefault(each.what, []).append(each.where)
    named = "; ".join(f"{what}: {', '.join(names)}" for what, names in kinds.items())
    more = f"; and {len(refused) - MOST_NAMED} more" if len(refused) > MOST_NAMED else ""
    count = (
        f"{len(refused)} of {total}" if read == total else f"{len(refused)} of the first {read}"
    )
    remedies = "; or ".join(dict.fromkeys(each.remedy for each in refused))
    return RequestError(f"{count} images are refused. {named}{more}. Remedy: {remedies}")
