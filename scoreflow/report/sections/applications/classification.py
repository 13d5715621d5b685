"""Classes by Bayes' rule: methods side by side, reliability, confusion, misclassified images."""

import base64
import math
from collections.abc import Iterator

from scoreflow.figures.matrix import matrix_picture
from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import (
    Block,
    Cell,
    Figures,
    Fold,
    Picture,
    Section,
    Table,
    Text,
    number,
    with_error,
)
from scoreflow.report.results import Results, averaged, called, measured_on, picture_in_json
from scoreflow.storage.atomic_files import Json

TITLE = "Classification by likelihood"
WIDE = 640
"""CSS pixels of the picture of misclassified images."""
NOTE = (
    "p(class | image) is proportional to p(class) p(image | class), by the exact flow or by the "
    "bound, with the same dequantization, times and noise for all classes of an image. The "
    "log-likelihood is a sum over all dimensions, whose errors are not independent, so that such "
    "a posterior may be too sure of itself. Tempered, p(image | class) is raised to the power "
    "1 / T, with T fitted on nine tenths of the test images for the last. NLL is the mean of "
    "-log p(own class); the calibration error (ECE) is the mean distance of accuracy and "
    "confidence over 15 bins, beside what it would be of as many images if each stated "
    "probability were right."
)


def sections(results: Results) -> Iterator[Section]:
    """The classification, where it was made."""
    found = results.show("classify", lambda result: _section(results, result))
    if found is not None:
        yield found


def _section(results: Results, result: Json) -> Section:
    first = result["methods"][0]
    low, high = first["interval"]
    said = (
        f"of {result['num_images']} test images{measured_on(result, ' of ')} are found in their "
        f"class of {len(result['classes'])} by {first['name']} (95 % interval {low:.3f} to "
        f"{high:.3f}){averaged(result)}"
    )
    head = with_error(result["value"], result["standard_error"])
    blocks: list[Block] = [
        Text(said, head),
        _methods(result),
        Figures((_reliability(result), _confusion(result, first))),
    ]
    if "halving" in result:
        blocks.append(Text(_saved(result["halving"])))
    blocks += [Text(NOTE, small=True), *_pairs(result)]
    if (missed := _missed(results, result)) is not None:
        blocks.append(Figures((missed,)))
    return Section(TITLE, tuple(blocks))


def _methods(result: Json) -> Table:
    columns = (
        "method",
        "accuracy",
        "NLL, nats",
        "Brier score",
        "ECE",
        "if calibrated",
        "temperature",
        "evaluations an image",
    )
    return Table(columns, tuple(map(_method, result["methods"])))


def _method(row: Json) -> tuple[Cell, ...]:
    stated, temperatures = row.get("calibration"), row.get("temperatures")
    cost = row.get("evaluations")
    scores = (
        (Cell(),) * 4
        if stated is None
        else (
            number(stated["nll"], stated["nll_error"], ".3f"),
            number(stated["brier"], stated["brier_error"], ".3f"),
            number(stated["ece"], stated["ece_error"], ".3f"),
            number(stated["ece_if_calibrated"], None, ".3f"),
        )
    )
    return (
        Cell(row["name"]),
        number(row["accuracy"], row["standard_error"]),
        *scores,
        Cell() if not temperatures else _range(temperatures),
        Cell() if cost is None else Cell(f"{cost:,.0f}", float(cost)),
    )


def _range(temperatures: list[float]) -> Cell:
    """The least and the greatest."""
    low, high = min(temperatures), max(temperatures)
    return Cell(f"{low:.2f} to {high:.2f}", low)


def _reliability(result: Json) -> Plot:
    """Accuracy against confidence, of the methods that state probabilities, as they state them."""
    series = [Series("calibrated", [0.0, 1.0], [0.0, 1.0])]
    for row in result["methods"]:
        bins = (row.get("calibration") or {}).get("bins") or []
        if bins and not row.get("temperatures"):  # those would lie on the others
            error = [_error(each["accuracy"], each["count"]) for each in bins]
            x, y = ([float(each[key]) for each in bins] for key in ("confidence", "accuracy"))
            series.append(Series(row["name"], x, y, error))
    return Plot("Reliability", "stated probability", "share that is right", tuple(series),
                log_y=False)  # fmt: skip


def _error(rate: float, n: int) -> float:
    """Standard error of a rate, with two successes and two failures more."""
    p = (rate * n + 2) / (n + 4)
    return math.sqrt(p * (1 - p) / (n + 4))


def _confusion(result: Json, row: Json) -> Picture:
    names = [called_short(k, result.get("class_names") or []) for k in result["classes"]]
    data = matrix_picture(row["confusion"], names, "own", "found")
    caption = ("a row an image's own class, a column the one found",)
    encoded = base64.b64encode(data).decode()
    return picture_in_json(encoded, 320, f"Confusion by {row['name']}", caption)


def called_short(label: int, names: list[str]) -> str:
    """A class in few letters: its name, or its number."""
    return names[label] if label < len(names) else str(label)


def _saved(saved: Json) -> str:
    return (
        f"Early elimination: the bound was asked {saved['evaluations']:,} times instead of "
        f"{saved['in_full']:,}, {saved['saved']:.1%} saved; {saved['standing']:.2f} classes an "
        "image stood to the end."
    )


def _pairs(result: Json) -> Iterator[Block]:
    """Every two methods on the same images."""
    rows = tuple(
        (
            Cell(pair["first"]),
            Cell(pair["second"]),
            number(pair["difference"], pair["standard_error"], ".4f", "+"),
            Cell(f"{pair['first_only']} / {pair['second_only']}", float(pair["first_only"])),
            Cell(f"{pair['p_value']:.2g}", float(pair["p_value"])),
        )
        for pair in result["pairs"]
    )
    if rows:
        columns = ("first", "second", "difference", "right alone", "p (McNemar)")
        yield Fold("Methods in pairs, image by image", (Table(columns, rows),))


def _missed(results: Results, result: Json) -> Picture | None:
    """The images that the first method takes for others, the surest first."""
    if "picture" not in result:
        return None
    names = result.get("class_names") or []
    told = [
        f"{called(miss['own'], names)} taken for {called(miss['found'], names)} "
        f"({miss['stated']:.2f})"
        for miss in result["misses"]
    ]
    path = results.drawn(result, result["step"], "classify")
    return results.picture(path, WIDE, "Misclassified, the surest first", ("; ".join(told),))
