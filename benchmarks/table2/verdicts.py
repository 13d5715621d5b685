"""Which published orderings of the cells are reproduced, by two standard errors."""

import math

import torch

from benchmarks.table2.cells import CELLS
from scoreflow.storage.atomic_files import Json

CLAIMS = (
    ("noise prediction under L_simple has the best samples", "two_sample", 5, (0, 1, 2, 3, 4)),
    ("under L, predicting mean or noise gives equal samples", "two_sample", 1, (4,)),
    ("with the mean, a learned variance has worse samples", "two_sample", 1, (0,)),
    ("for noise prediction, L has a better bound than L_simple (Table 1)", "bound", 4, (5,)),
    ("L_hybrid has a better bound than L_simple (Nichol & Dhariwal)", "bound", 6, (5,)),
    ("and L has a better exact likelihood than L_simple", "exact", 4, (5,)),
)
"""Published claim, the measure, the better cell, the worse ones; by place in `CELLS`."""


def verdicts(rows: list[Json]) -> list[str]:
    """A sentence for each claim: reproduced, contradicted or undecided, with the differences.

    A cell without the number is left out of its comparisons, and named.

    Args:
        rows: of all cells, in order.
    """
    return [_sentence(rows, *claim) for claim in CLAIMS]


def _sentence(rows: list[Json], claim: str, key: str, better: int, worse: tuple[int, ...]) -> str:
    lost = [k for k in (better, *worse) if rows[k][key] is None]
    why = "; ".join(f"{CELLS[k].name}: {why_none(rows[k], key)}" for k in lost)
    others = [k for k in worse if k not in lost]
    if better in lost or not others:
        return f"{claim}: not to be said ({why})"
    gaps = [difference(rows[k], rows[better], key) for k in others]
    shown = ", ".join(f"{g:+.3f} ± {e:.3f}" for g, e in gaps)
    left_out = f"; left out, {why}" if lost else ""
    return f"{claim}: {_verdict(gaps, 'equal' in claim)} ({shown}{left_out})"


def _verdict(gaps: list[tuple[float, float]], equal: bool) -> str:
    if equal:
        return "reproduced" if all(abs(g) < 2 * e for g, e in gaps) else "not reproduced"
    if all(g > 2 * e for g, e in gaps):
        return "reproduced"
    return "contradicted" if any(g < -2 * e for g, e in gaps) else "undecided here"


def difference(a: Json, b: Json, key: str) -> tuple[float, float]:
    """A - b and its standard error; in pairs of images, where each image has a value."""
    if f"{key}_each" not in a:
        return a[key] - b[key], math.hypot(a[f"{key}_error"], b[f"{key}_error"])
    each = torch.tensor(a[f"{key}_each"]) - torch.tensor(b[f"{key}_each"])
    return float(each.mean()), float(each.std()) / len(each) ** 0.5


def why_none(row: Json, key: str) -> str:
    """Why a row lacks a number."""
    if key == "exact" and "exact_failed" in row:
        return f"not solved within {row['max_evaluations']} evaluations"
    return "diverged"
