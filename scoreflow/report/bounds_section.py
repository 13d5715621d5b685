"""The ledger as JSON, as a table for the terminal and as a section of the report."""

import base64
import html
from typing import Any

from scoreflow.ledger import Entry, standard_error
from scoreflow.plot import svg
from scoreflow.rate import Rate, plots


def as_result(entries: list[Entry], rate: Rate) -> dict[str, Any]:
    """The ledger for results/: a row an entry, its difference to the first paired by image."""
    rows = []
    for entry in entries:
        difference = entry.values - entries[0].values
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "value": entry.value,
                "standard_error": entry.standard_error,
                "parts": entry.parts,
                "minus_first": float(difference.mean()),
                "minus_first_error": standard_error(difference),
            }
        )
    return {
        "value": entries[0].value,
        "standard_error": entries[0].standard_error,
        "unit": rate.unit.name,
        "num_images": len(entries[0].values),
        "rows": rows,
        "rate_distortion": {
            "times": rate.times,
            "rate": rate.rate,
            "distortion": rate.distortion,
            "middles": rate.middles,
            "terms": rate.terms,
        },
    }


def table(result: dict[str, Any]) -> str:
    """The rows of `as_result` for the terminal."""
    lines = [f"{'the ledger, ' + result['unit']:40s} {'':8s} {'minus the first (paired)':>33s}"]
    for row in result["rows"]:
        name = row["name"] + {"exact": "", "bound": " >=", "estimate": " ~"}[row["kind"]]
        lines.append(
            f"{name:46s} {_number(row['value'], row['standard_error']):20s}"
            f" {_number(row['minus_first'], row['minus_first_error'], sign='+')}"
        )
    return "\n".join(lines)


def section(result: dict[str, Any], rate: Rate, picture: bytes | None) -> str:
    """The ledger as a part of the report: its table, plots and progressive reconstructions.

    Args:
        result: of `as_result`.
        rate: the curve.
        picture: a PNG of an image a row, reconstructed from x_N on the left to x_1.
    """
    rows = "".join(
        f"<tr><td>{html.escape(row['name'])}</td><td>{row['kind']}</td>"
        f"<td>{_number(row['value'], row['standard_error'])}</td>"
        f"<td>{_number(row['minus_first'], row['minus_first_error'], sign='+')}</td>"
        f"<td class=small>{_sum(row['parts'])}</td></tr>"
        for row in result["rows"]
    )
    figures = "".join(svg(each) for each in plots(rate))
    if picture is not None:
        source = base64.b64encode(picture).decode()
        figures += (
            f'<figure><img src="data:image/png;base64,{source}" alt="reconstructions">'
            "<figcaption>Estimates of x_0 as more of the code arrives</figcaption></figure>"
        )
    return (
        f"<h2>The ledger: the same {result['num_images']} images by every account</h2>"
        f"<table class=wide><tr><th>account</th><th></th><th>{result['unit']}</th>"
        f"<th>minus the first</th><th>parts</th></tr>{rows}</table>"
        f"<div class=figures>{figures}</div>"
    )


def _number(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + ("" if error is None else f" +- {error:.4f}")


def _sum(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
