"""DIR/report.html: the results of a run on one page that opens from disk without a network."""

from pathlib import Path

from scoreflow.report.html import render
from scoreflow.report.results import Results
from scoreflow.report.sections import (
    arrival,
    bounds,
    certificate,
    comparison,
    editing,
    likelihood,
    others,
    samples,
    training,
)
from scoreflow.report.sections import (
    run as run_section,
)
from scoreflow.report.summary import headlines
from scoreflow.storage.atomic_files import write_atomic
from scoreflow.storage.run_folder import RunDir

SECTIONS = (
    run_section.sections,
    arrival.sections,
    samples.sections,
    likelihood.sections,
    bounds.sections,
    comparison.sections,
    editing.sections,
    others.sections,
    training.sections,
    certificate.sections,
)
"""From top to bottom."""


def write_report(run: RunDir) -> Path:
    """Write the report of all results that a run has.

    It is made from the files of the run's folder alone: results/*.json, samples/, metrics.jsonl,
    config.json and env.json. A result that is damaged is a line of its own; the others stay.

    Args:
        run: its folder.

    Returns:
        The path of the page, DIR/report.html.
    """
    results = Results(run)
    sections = [section for make in SECTIONS for section in make(results)]
    anchors = {section.anchor for section in sections}
    page = render(
        "page.html",
        title=run.path.resolve().name,
        sections=sections,
        headlines=[each for each in headlines(results) if each.anchor in anchors],
        damaged=results.damaged,
    )
    path = run.path / "report.html"
    write_atomic(path, page.encode(errors="backslashreplace"))
    return path
