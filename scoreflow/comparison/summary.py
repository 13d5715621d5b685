"""A comparison of runs as a result for results/runs.json, and as tables for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from torch import Tensor

from scoreflow.comparison.paired import ERRORS, Pair, chance_of_one, mark, of_all, pairs_of, to
from scoreflow.evaluation import columns
from scoreflow.storage.atomic_files import Json


def in_pairs(entries: Sequence[Json], values: Mapping[str, Tensor]) -> Json:
    """What the differences of the runs that have a likelihood say.

    Args:
        entries: of the runs.
        values: of each run that has a likelihood, by its name, one value a datum, (n,).

    Returns:
        The name of the best, its value and standard error, all pairs, and at how many standard
        errors they are marked; without a likelihood None, and no pair.
    """
    solved = {each["name"]: each["likelihood"] for each in entries if each["name"] in values}
    if not solved:
        return {"best": None, "value": None, "standard_error": None, "pairs": []}
    best = min(solved, key=lambda name: float(solved[name]["value"]))
    solver = {name: solved[name]["error_budget"]["solver"] or 0.0 for name in solved}
    guessed = guesses(entries)
    found = pairs_of({name: values[name] for name in solved}, solver, guessed)
    count = len(values[best])
    times = [ERRORS] if count < 2 else [ERRORS, of_all(max(1, len(found)), count)]
    return {
        "best": best,
        "value": solved[best]["value"],
        "standard_error": solved[best]["standard_error"],
        "pairs": [asdict(each) for each in found],
        "marked_at": times,
    }


def guesses(entries: Sequence[Json]) -> list[str]:
    """The runs whose error by the solver is its own guess: none was solved more finely."""
    return [
        each["name"]
        for each in entries
        if each["likelihood"] and each["likelihood"]["error_budget"].get("solver_guess")
    ]


def pairs_in(result: Json) -> list[Pair]:
    """The pairs of a result."""
    return [Pair(**each) for each in result["pairs"]]


def table(result: Json) -> str:
    """The result as tables for the terminal: likelihoods, then samples."""
    lines = [*_likelihoods(result), ""] if result["best"] is not None else []
    lines += [f"{each['name']}: {why}" for each in result["runs"] for why in each["failed"]]
    rows = [
        {**row, "sampler": f"{each['name']} {row['sampler']}"}
        for each in result["runs"]
        for row in each["samples"]
    ]
    if rows:
        real = columns.reference_rows(result["test_data"], result["floors"])
        lines += [columns.table([*rows, *real]), *result["remarks"]]
    return "\n".join(lines)


def _likelihoods(result: Json) -> list[str]:
    """A line a run, the best first, and what the marks mean."""
    best, pairs = result["best"], pairs_in(result)
    solved = [each for each in result["runs"] if each["likelihood"]]
    head = ["", result["unit"], "- best, in pairs", "", "probes, nodes", "solver", "truncation <="]
    cells = [[*head, "evaluations", "steps", "training, s", "likelihood, s"]]
    for each in sorted(solved, key=lambda run: float(run["likelihood"]["value"])):
        found, pair = each["likelihood"], to(best, each["name"], pairs)
        budget = found["error_budget"]
        cells.append(
            [
                each["name"],
                _number(found["value"], found["standard_error"]),
                "" if pair is None else _number(pair.value, pair.standard_error, "+"),
                "" if pair is None else mark(pair),
                _number(budget["probes"]),
                _number(budget["solver"]) + (" guessed" if budget.get("solver_guess") else ""),
                _number(budget["truncation_at_most"]),
                f"{found['nfe']:.0f}",
                f"{each['step']}",
                _number(each["training_seconds"], form=".1f"),
                _number(each["likelihood_seconds"], form=".1f"),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in cells
    ]
    return [*lines, result["note"]]


def note(pairs: int, count: int, guessed: Sequence[str] = (), length: float = 0.0) -> str:
    """What differences in pairs are, and what their marks mean.

    Args:
        pairs: how many there are.
        count: test data that they are of.
        guessed: runs whose error by the solver is a guess.
        length: relative width of the average that the numbers are of; 0 for the one as trained.
    """
    of = f"Weights: each run's average of length {length:g}. " if length else ""
    return (
        f"{of}{count} test data, with the same dequantization and probes for every run. * means "
        f"beyond {ERRORS:g} standard errors of the difference and what the solver may move"
        f"{_by_chance(pairs, count)}. These errors are by the choice of images; what another "
        f"training seed would change is in none of them.{_of_guesses(guessed)}"
    )


def _by_chance(pairs: int, count: int) -> str:
    """How often equal runs are marked, by Student's law."""
    if count < 2:
        return ""
    one = f", as normal differences of two equal runs are in {chance_of_one(count):.1%} of cases"
    if pairs < 2:
        return f"{one}, and ** says no more of a single pair"
    return (
        f"{one}, ** also beyond {of_all(pairs, count):.2f}, so that of all {pairs} pairs of equal "
        "runs any is marked no more often than that (Student's law, Bonferroni's bound)"
    )


def _of_guesses(guessed: Sequence[str]) -> str:
    if not guessed:
        return ""
    return (
        f" What the solver may move is its own guess for {', '.join(guessed)}, not measured: "
        "likelihood.checked = 0 solves no image more finely, and marks there may be wrong."
    )


def _number(
    value: float | None, error: float | None = None, sign: str = "", form: str = ".4f"
) -> str:
    """A number, and its standard error; a dash for none."""
    if value is None:
        return "-"
    return f"{value:{sign}{form}}" + ("" if error is None else f" +- {error:{form}}")
