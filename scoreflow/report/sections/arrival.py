"""An imported network: what was found in its file, and whether it is asked as it was trained."""

from collections.abc import Iterator

from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import Block, Cell, Figures, Section, Table, Text, number
from scoreflow.report.results import Results
from scoreflow.storage.atomic_files import Json

TITLE = "Imported network"


def sections(results: Results) -> Iterator[Section]:
    """The section of an import, if the run came about by one."""
    found = results.show("import", _section)
    if found is not None:
        yield found


def _section(result: Json) -> Section:
    arrival = result["check"]
    files = tuple(
        (Cell(f"sha256 of {name}"), Cell(digest)) for name, digest in result["sha256"].items()
    )
    facts = tuple((Cell(name), Cell(text)) for name, text in result["facts"].items())
    about = ((Cell("source"), Cell(result["source"])), (Cell("format"), Cell(result["format"])))
    found = Table(("what", "found"), about + facts + files, sortable=False, prose=True)
    return Section(TITLE, (found, *_check(arrival)))


def _check(arrival: Json) -> list[Block]:
    """The curve of the check, and what else was tried."""
    verdict = "passed" if arrival["passed"] else f"failed: {arrival['trouble']}"
    said = (
        f"Check on arrival, on {arrival['on']}: {verdict}. Errors of the noise estimate must lie "
        "below those of the best estimate under a Gaussian of the data's variance."
    )
    x = [float(each) for each in arrival["log_snr"]]
    errors = [float(each) for each in arrival["standard_errors"]]
    lines = (
        Series("network", x, [float(each) for each in arrival["eps_error"]], errors),
        Series("Gaussian", x, [float(each) for each in arrival["of_gaussian"]]),
    )
    plot = Plot(
        "Noise error by log-SNR", "log-SNR", "mean |eps error|^2 a dimension", lines, log_y=False
    )
    own = (Cell("as it was read"), number(float(arrival["value"]), arrival["standard_error"]))
    others = ((Cell(name), number(float(v))) for name, v in arrival["others"].items())
    table = Table(("asked otherwise", "mean error"), tuple(others), foot=(own,))
    return [Text(said), Figures((plot,)), table]
