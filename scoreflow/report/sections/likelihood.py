"""Exact log-likelihoods: of the test set, against other weights, and of other data."""

import math
from collections.abc import Iterator
from functools import partial

from scoreflow.report.blocks import Cell, Section, Table, Text, number, with_error
from scoreflow.report.results import Results, given, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Exact log-likelihood"
PIXELS = ("histogram_bits_per_dim", "standard_error", "num_test")
"""What a result of samples knows about a density of independent pixels."""
LATER = ("total", "prior_at_most")
"""Parts of a budget that older results lack."""
AGAINST, DATA = "likelihood-against-", "likelihood-data-"


def sections(results: Results) -> Iterator[Section]:
    """The test set's, and the difference to other weights."""
    of_data = _of_data(results)
    own = results.show("likelihood", lambda result: _likelihood(result, of_data))
    if own is not None:
        yield own
    for name in results.named(AGAINST):
        other = name.removeprefix(AGAINST)
        against = results.show(name, partial(_against, other))
        if against is not None:
            yield against


def of_other_data(results: Results) -> Iterator[Section]:
    """A section a set of other data, below the table of all of them (`applications.detection`)."""
    for name in results.named(DATA):
        other = name.removeprefix(DATA)
        data = results.show(name, partial(_other_data, other))
        if data is not None:
            yield data


def _of_data(results: Results) -> Json:
    """What a result of samples knows about the test set; {} if none does."""
    for name in results.named("samples-"):
        data = results.by_name[name].get("data")
        if isinstance(data, dict) and all(
            isinstance(data.get(key), int | float) for key in PIXELS
        ):
            return data
    return {}


def named(random: str) -> str:
    """The random part of a budget: probes of the divergence, nodes, or both."""
    return f"divergence {random}"


def _likelihood(result: Json, of_data: Json) -> Section:
    budget = result["error_budget"]
    random = budget.get("random", "probes")
    labels = {
        "total": f"spread over images, {random} among it",
        "images": "spread over images",
        "probes": named(random),
        "solver": "ODE solver",
        "truncation_at_most": f"starting at t = {result['t_min']} costs at most",
        "prior_at_most": "the prior where the flow ends costs at most",
    }
    if budget.get("too_few") is None:  # else images and probes are not told apart
        del labels["total"]
    else:
        del labels["probes"]
    rows = tuple(
        (Cell(label), number(budget[key], form=".5f"))
        for key, label in labels.items()
        if (budget.get(key) if key in LATER else budget[key]) is not None
    )
    head = with_error(result["value"], result["standard_error"])
    table = Table(("contribution to the error", result["unit"]), rows, sortable=False)
    return Section(
        TITLE,
        (
            Text(f"{result['unit']} on the test set", head),
            *([Text(f"Beware: {result['warning']}")] if result.get("warning") else []),
            table,
            Text(_how(result), small=True),
            *_extremes(result),
            *_without_a_model(result, of_data),
            *_truth(result),
        ),
    )


def _how(result: Json) -> str:
    doubles = result.get("in_training_set", 0)
    among = f", {doubles} of them in the training set too" if doubles else ""
    of, law = measured_on(result, " of "), result["dequantization"]
    dequantized = "" if law == "none" else f"{law} dequantization, "
    return (
        f"{result['num_images']} test data{of}{among}{given(result)}, "
        f"{result['nfe']:.0f} evaluations each, {result['seconds']:.1f} s, {dequantized}"
        f"checkpoint of step {result['step']}."
    )


def _extremes(result: Json) -> list[Table]:
    """The data with the lowest and the highest value, by their names."""

    def cells(row: Json) -> tuple[Cell, Cell]:
        return Cell(str(row.get("name", f"number {row['image']}"))), number(row["value"])

    pairs = zip(result.get("lowest") or [], result.get("highest") or [], strict=True)
    rows = tuple((*cells(low), *cells(high)) for low, high in pairs)
    columns = ("lowest", result["unit"], "highest", result["unit"])
    return [Table(columns, rows, sortable=False)] if rows else []


def _without_a_model(result: Json, of_data: Json) -> list[Text]:
    """The bits/dim of densities that need no network."""
    levels = result.get("num_levels")
    if not levels:
        return []
    told = [f"a uniform law over {levels} levels {math.log2(levels):.4f}"]
    if of_data:
        value = with_error(of_data["histogram_bits_per_dim"], of_data["standard_error"])
        told.append(
            f"independent pixels {value} on all {of_data['num_test']} test images (each pixel "
            "with its histogram over the training set, one added to every count)"
        )
    return [Text(f"For comparison, bits/dim: {'; '.join(told)}.", small=True)]


def _truth(result: Json) -> list[Text]:
    """The true density's log-likelihood of the same points, where it is known."""
    if result.get("true_nats") is None:
        return []
    return [
        Text(
            f"The true density has {result['true_nats']:.4f} {result['unit']} on the same points: "
            f"the model's gap is {result['gap']:.4f}.",
            small=True,
        )
    ]


def _against(other: str, result: Json) -> Section:
    """A difference of two networks, paired by image."""
    each = result["standard_error_of_each"]
    unit, count = result["unit"], result["num_images"]
    rows = (
        (Cell("this run"), number(result["this"], each[0])),
        (Cell(other), number(result["other"], each[1])),
        (
            Cell("difference, paired by image"),
            number(result["value"], result["standard_error"], sign="+"),
        ),
    )
    of = measured_on(result, " of ")
    note = f"{count} images{of}, with the same dequantization and probes."
    table = Table(("weights", unit), rows, note=note, sortable=False)
    return Section(f"Log-likelihood against {other}", (table,))


def _other_data(other: str, result: Json) -> Section:
    """Other data's log-likelihood, and how well each score separates them from the test set."""
    detected = tuple(
        (Cell(score), number(row["auroc"], row["standard_error"], ".3f"))
        for score, row in result["detection"].items()
    )
    head = with_error(result["value"], result["standard_error"])
    note = (
        "An AUROC of 0.5 is chance; 1 separates the data from the test set"
        f"{measured_on(result, ', ')}, without error."
    )
    table: tuple[Table | Text, ...] = (
        Table(("score", "AUROC against the test set"), detected, note=note, sortable=False),
    )
    if not detected:
        table = (Text(f"{result['no_detection']}.", small=True),)
    budget, count = result["error_budget"], result["num_images"]
    random = named(budget.get("random", "probes"))
    parts = [
        f"{name} {budget[key]:.4f}"
        for key, name in (("probes", random), ("solver", "ODE solver"))
        if budget.get(key) is not None
    ]
    images = "image" if count == 1 else "images"
    return Section(
        f"Log-likelihood of other data: {other}",
        (
            Text(f"{result['unit']} on {count} {images} of {other}{given(result)}", head),
            Text(f"Errors: {', '.join(parts)}.", small=True),
            *_extremes(result),
            *table,
        ),
    )
