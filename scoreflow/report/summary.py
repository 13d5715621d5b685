"""The numbers on top of a report: bits/dim, the best sampler, and the certificate."""

from collections.abc import Iterator

from scoreflow.evaluation.columns import COLUMNS
from scoreflow.report.blocks import Headline, Mark, with_error
from scoreflow.report.results import DAMAGE, Results, given
from scoreflow.storage.atomic_files import Json

RANKED_BY = ("fid", "wasserstein", "feature_distance", "told_apart")
"""What says which sampler is best, the first that was measured."""


def headlines(results: Results) -> Iterator[Headline]:
    """The headline of each result that is whole; of damaged ones their sections speak."""
    makers = {
        "likelihood": _likelihood,
        "compare": _comparison,
        "equivalence": _certificate,
    }
    for name, make in makers.items():
        try:
            if name in results.by_name:
                yield make(results.by_name[name])
            elif name == "compare" and results.named("samples-"):
                yield from _samples([results.by_name[each] for each in results.named("samples-")])
        except DAMAGE:
            continue


def _likelihood(result: Json) -> Headline:
    number = with_error(result["value"], result["standard_error"])
    count = result["num_images"]
    what = "exact negative log-likelihood (lower is better)"
    of = result.get("measured_on")
    label = f"{result['unit']}, {what} of {count} test data" + (f" of {of['name']}" if of else "")
    label += given(result)
    return Headline(number, label, "exact-log-likelihood")


def _comparison(result: Json) -> Headline:
    rows = result["rows"]
    key = next((key for key in RANKED_BY if key in rows[0]), "two_sample")
    column = next(column for column in COLUMNS if column.key == key)
    best = min(rows, key=lambda row: column.distance(row[key]))
    name = "recognition rate, distance from 0.5" if key == "told_apart" else column.title
    label = f"{name}, best of the samplers: {best['sampler']}, {best['nfe']:.0f} evaluations"
    return Headline(column.text(best, "±"), label, "samplers-compared")


def _samples(found: list[Json]) -> Iterator[Headline]:
    """The sampler with the best two-sample accuracy, where no comparison was made."""
    measured = [each for each in found if each["value"] is not None]
    if not measured:
        return
    best = min(measured, key=lambda each: abs(each["value"] - 0.5))
    number = with_error(best["value"], best["standard_error"], ".3f")
    sampler = best["settings"]["sampler"]
    label = f"two-sample accuracy (0.5 is best) of {sampler}, {best['nfe']:.0f} evaluations"
    yield Headline(number, label, "samples")


def _certificate(result: Json) -> Headline:
    rows = result["rows"]
    passed = sum(row["passed"] for row in rows)
    mark: Mark = "" if passed == len(rows) else "failed"
    label = "identities of the equivalence certificate hold"
    return Headline(f"{passed} of {len(rows)}", label, "equivalence-certificate", mark)
