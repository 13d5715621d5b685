"""The ledger as JSON, as a table for the terminal and as a section of the report."""

import base64
import html
from typing import Any

from scoreflow.figures.line_plot import svg
from scoreflow.likelihood.bound_table import _number
from scoreflow.likelihood.rate_distortion import Rate, plots


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


def _sum(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
