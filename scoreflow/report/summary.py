"""The numbers on top of a report: bits/dim, the best sampler, and the certificate."""

from collections.abc import Iterator
from contextlib import suppress

from scoreflow.evaluation.columns import COLUMNS, told_apart
from scoreflow.report.blocks import Headline, Mark, with_error
from scoreflow.report.results import DAMAGE, Results, given
from scoreflow.storage.atomic_files import Json

RANKED_BY = ("fid", "wasserstein", "feature_distance", "told_apart")
"""What says which sampler is best, the first that was measured."""
RUNS = "likelihoods-in-pairs"
TOLD_APART = "told from training data: the worse recognition rate's distance from 0.5 (0 is best)"


def headlines(results: Results) -> Iterator[Headline]:
    """The headline of each result that is whole; of damaged ones their sections speak."""
    makers = {
        "likelihood": _likelihood,
        "classify": _classification,
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
    with suppress(*DAMAGE):
        yield from _runs(results.by_name["runs"])


def _likelihood(result: Json) -> Headline:
    number = with_error(result["value"], result["standard_error"])
    count = result["num_images"]
    what = "exact negative log-likelihood (lower is better)"
    of = result.get("measured_on")
    label = f"{result['unit']}, {what} of {count} test data" + (f" of {of['name']}" if of else "")
    label += given(result)
    return Headline(number, label, "exact-log-likelihood")


def _classification(result: Json) -> Headline:
    number = with_error(result["value"], result["standard_error"])
    label = (
        f"of {result['num_images']} test images found in their class of "
        f"{len(result['classes'])}, by {result['methods'][0]['name']}"
    )
    return Headline(number, label, "classification-by-likelihood")


def _comparison(result: Json) -> Headline:
    rows = result["rows"]
    key = next((key for key in RANKED_BY if key in rows[0]), RANKED_BY[-1])
    column = next(column for column in COLUMNS if column.key == key)
    best = min(rows, key=lambda row: column.distance(row[key]))
    name = TOLD_APART if key == "told_apart" else column.title
    label = f"{name}, best of the samplers: {best['sampler']}, {best['nfe']:.0f} evaluations"
    return Headline(column.text(best, "±"), label, "samplers-compared")


def _samples(found: list[Json]) -> Iterator[Headline]:
    """The sampler that is told from the data the least, where no comparison was made."""
    measured = [each for each in found if each["value"] is not None]
    if not measured:
        return
    best = min(measured, key=lambda each: told_apart(each["two_sample"])[0])
    value, error = told_apart(best["two_sample"])
    sampler = best["settings"]["sampler"]
    label = f"{TOLD_APART}, of {sampler}, {best['nfe']:.0f} evaluations"
    yield Headline(with_error(value, error, ".3f"), label, "samples")


def _runs(result: Json) -> Iterator[Headline]:
    """The best of the runs compared, and how many differ from it by more than the error."""
    solved = {each["name"]: each["likelihood"] for each in result["runs"] if each["likelihood"]}
    if not solved:
        return
    best = min(solved, key=lambda name: float(solved[name]["value"]))
    found = solved[best]
    label = f"{result['unit']} of {best}, the best of {len(solved)} runs"
    yield Headline(with_error(found["value"], found["standard_error"]), label, RUNS)
    alike = _alike_but_seed(result["runs"], best)
    to_best = [
        each
        for each in result["pairs"]
        if best in (each["first"], each["second"]) and not alike & {each["first"], each["second"]}
    ]
    if not to_best:
        return
    larger = sum(each["larger_of_all"] for each in to_best)
    unlike = "runs, not counting those of another seed alone," if alike else "runs"
    label = (
        f"{unlike} are worse than {best} by more than the error by the choice of images, in "
        "pairs; what another training seed would change is not in it"
    )
    yield Headline(f"{larger} of {len(to_best)}", label, RUNS)


def _alike_but_seed(runs: list[Json], best: str) -> set[str]:
    """The runs that differ from one by nothing but the seed of their training."""

    def but_seed(run: Json) -> Json:
        told = {key: value for key, value in run["differs"].items() if key != "seed"}
        return {**told, "step": run["step"]}

    of = next(each for each in runs if each["name"] == best)
    return {
        each["name"]
        for each in runs
        if each["name"] != best
        and but_seed(each) == but_seed(of)
        and each["differs"].get("seed") != of["differs"].get("seed")
    }


def _certificate(result: Json) -> Headline:
    rows = result["rows"]
    passed = sum(row["passed"] for row in rows)
    mark: Mark = "" if passed == len(rows) else "failed"
    label = "identities of the equivalence certificate hold"
    return Headline(f"{passed} of {len(rows)}", label, "equivalence-certificate", mark)
