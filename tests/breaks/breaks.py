"""Small breaks of the code, one line each, and who catches each: `docs/breaks.md` is made of it.

.venv/bin/python -m tests.breaks.breaks > docs/breaks.md
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from scoreflow.certificate.certificate import GROUPS


@dataclass(frozen=True)
class Break:
    """A line of the code, made wrong.

    Attributes:
        what: is wrong then.
        file: from the repository's root.
        old: a piece of one line, which stands in the file once.
        new: what stands there instead.
        caught: "K: words of a row" of the certificate's group K, of an untrained network under a
            VP; or the address of a test.
        also: the address of a test that catches it as well.
    """

    what: str
    file: str
    old: str
    new: str
    caught: str
    also: str = ""

    @property
    def tests(self) -> list[str]:
        """The addresses of all tests that catch it."""
        return [each for each in (self.caught, self.also) if each.startswith("tests/")]

    @property
    def group(self) -> int | None:
        """Of the certificate; None where a test catches it."""
        number = self.caught.split(":")[0]
        return int(number) if number.isdigit() else None


with Path(__file__).with_name("breaks.toml").open("rb") as file:
    BREAKS = [Break(**each) for each in tomllib.load(file)["breaks"]]


def page() -> str:
    """docs/breaks.md."""
    rows = [f"| {each.what} | `{each.file}` | {_who(each)} |" for each in BREAKS]
    by_row = sum(each.group is not None for each in BREAKS)
    return "\n".join([HEAD.format(len(BREAKS), by_row, len(BREAKS) - by_row), *rows, ""])


def _who(each: Break) -> str:
    tests = [f"`{address}`" for address in each.tests]
    if each.group is None:
        return "; ".join(tests)
    words = each.caught.split(": ", 1)[1]
    return "; ".join([f"certificate, *{GROUPS[each.group - 1]}*: {words}", *tests])


HEAD = """# Breaks

    make test-slow

A check that nothing fails is no check. So {} lines of the code are made wrong, one at a time, in a
copy, and each has to be caught: {} by a row of the [certificate](design.md#the-certificate) of an
untrained network under a VP, {} by a test. The command above makes them all; the list, with
the lines, is `tests/breaks/breaks.toml`, and this page is made of it:

    .venv/bin/python -m tests.breaks.breaks > docs/breaks.md

What is in the list was thought of. What the certificate does not look at is said in its result, in
the report, and in `scoreflow/certificate/coverage.py`.

| What is wrong | File | Who catches it |
|---|---|---|"""

if __name__ == "__main__":
    print(page(), end="")
