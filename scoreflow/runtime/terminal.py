"""The one place where lines for the user are printed."""

from scoreflow.errors import printable


def tell(text: str) -> None:
    """Print lines; characters that a terminal would obey, of a file's name say, are escaped."""
    print(printable(text), flush=True)
