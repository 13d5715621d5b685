"""--mode table: runs side by side, from the files of their folders alone."""

from scoreflow.cli.console import say
from scoreflow.errors import RequestError
from scoreflow.run_table import check_ending, table
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import check_writable


def run(request: Request, _argv: list[str]) -> None:
    """Print the table, and write it where --out says."""
    assert request.listing is not None, "the command line refuses a table without runs"
    out = request.listing.out
    if out is not None:
        check_ending(out)
        check_writable(out.parent, "choose another --out")
    found = table(request.listing.runs, request.listing.sort)
    say(str(found))
    if not any(row.is_run for row in found.rows):
        raise RequestError("--mode table shows runs, and none of these folders holds one")
    if out is not None:
        say(f"written to {found.write(out)}")
