"""DIR/report.html: the results of a run on one page that opens from disk without a network."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scoreflow.report.blocks import Section
from scoreflow.report.compared import about as about_runs
from scoreflow.report.compared import likelihoods as likelihoods_of_runs
from scoreflow.report.compared import samples as samples_of_runs
from scoreflow.report.html import render
from scoreflow.report.results import DAMAGE, Results
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
from scoreflow.report.sections.applications import (
    classification,
    compression,
    detection,
    features,
    progressive,
)
from scoreflow.report.sections.sweeps import ema_lengths
from scoreflow.report.summary import headlines
from scoreflow.storage.atomic_files import write_atomic
from scoreflow.storage.run_folder import RunDir

SECTIONS = (
    run_section.sections,
    arrival.sections,
    samples.sections,
    likelihood.sections,
    detection.sections,
    likelihood.of_other_data,
    bounds.sections,
    classification.sections,
    compression.sections,
    progressive.sections,
    comparison.sections,
    ema_lengths.sections,
    editing.sections,
    features.sections,
    others.sections,
    training.sections,
    certificate.sections,
)
"""From top to bottom."""
OF_RUNS = (
    likelihoods_of_runs.sections,
    samples_of_runs.sections,
    others.sections,
    about_runs.sections,
)
"""The same of a comparison of runs."""

Maker = Callable[[Results], Iterator[Section]]


def write_report(run: RunDir) -> Path:
    """Write the report of all results that a run has.

    It is made from the files of the run's folder alone: results/*.json, samples/, metrics.jsonl,
    config.json and env.json. A result that is damaged is a line of its own; the others stay.

    Args:
        run: its folder.

    Returns:
        The path of the page, DIR/report.html.
    """
    return _written(run, SECTIONS, run.path.resolve().name)


def write_comparison(folder: RunDir) -> Path:
    """Write the report of a comparison of runs.

    Args:
        folder: of the comparison, with results/runs.json, samples/ and env.json.

    Returns:
        The path of the page, DIR/report.html.
    """
    return _written(folder, OF_RUNS, "Runs compared")


def _written(run: RunDir, makers: Sequence[Maker], title: str) -> Path:
    results = Results(run)
    sections = [section for make in makers for section in _made(make, results)]
    anchors = {section.anchor for section in sections}
    page = render(
        "page.html",
        title=title,
        sections=sections,
        headlines=[each for each in headlines(results) if each.anchor in anchors],
        damaged=results.damaged,
    )
    path = run.path / "report.html"
    write_atomic(path, page.encode(errors="backslashreplace"))
    return path


def _made(make: Maker, results: Results) -> list[Section]:
    """The sections of a kind; none, and a line, where a file that they are of is damaged.

    The schemas find nearly all damage before; nothing that they miss shall cost the page.
    """
    try:
        return list(make(results))
    except DAMAGE as error:
        kind = make.__module__.rpartition(".")[2]
        results.damaged.append(
            f"the section of {kind} cannot be shown ({type(error).__name__}: {error}): a file in "
            "results/ is damaged; make it again, or remove it"
        )
        return []
