"""--mode table: runs side by side, from the files of their folders alone."""

from scoreflow.cli.console import say
from scoreflow.run_table import check_ending, table
from scoreflow.schema.request import Request


def run(request: Request, _argv: list[str]) -> None:
    """Print the table, and write it where --out says."""
    assert request.listing is not None, "the command line refuses a table without runs"
    if request.listing.out is not None:
        check_ending(request.listing.out)
    found = table(request.listing.runs, request.listing.sort)
    say(str(found))
    if request.listing.out is not None:
        say(f"written to {found.write(request.listing.out)}")
