"""--mode import: a checkpoint of another codebase becomes a run, on which every mode works."""

from scoreflow.cli.command_line import command_of, program_of
from scoreflow.cli.console import say
from scoreflow.imported_run import bring_in
from scoreflow.report.page import write_report
from scoreflow.schema.request import Request


def run(request: Request, argv: list[str]) -> None:
    """Read, check and write it, and say what was found."""
    assert request.source is not None, "the command line refuses an import without --from"
    assert request.workdir is not None, "and one without --workdir"
    trained = bring_in(
        request.source,
        request.workdir,
        request.overrides,
        request.device,
        command_of(argv),
        say,
    )
    program, folder = program_of(argv), trained.folder.path
    data = " --data PATH" if not len(trained.data.test) else ""
    say(
        f"\nLook at   {write_report(trained.folder)}\n"
        f"next      {program} --mode likelihood --workdir {folder}{data}"
    )
