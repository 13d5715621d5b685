"""An image that is refused: where it is, what it holds, what would help."""

from scoreflow.errors import RequestError

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
        joint: between where and what.
    """

    def __init__(self, where: str, what: str, remedy: str, joint: str = ": ") -> None:
        self.named, self.remedy = f"{where}{joint}{what}", remedy
        super().__init__(f"{self.named}; {remedy}")


def together(refused: list[Refused], read: int, total: int) -> RequestError:
    """One error for all that were refused.

    Args:
        refused: at least one.
        read: how many images were tried.
        total: how many there are.
    """
    if len(refused) == 1:
        return refused[0]
    count = (
        f"{len(refused)} of {total}" if read == total else f"{len(refused)} of the first {read}"
    )
    named = "; ".join(f"{each.named}" for each in refused[:MOST_NAMED])
    more = f"; and {len(refused) - MOST_NAMED} more" if len(refused) > MOST_NAMED else ""
    remedies = "; or ".join(dict.fromkeys(each.remedy for each in refused))
    return RequestError(f"{count} images are refused: {named}{more}. Remedy: {remedies}")
