"""Rules that decide from a table's figures what limits a training step.

Time and memory are two limits: a row names the limit of its time, and adds memory if that is next.
"""

from scoreflow.storage.atomic_files import Json

ENOUGH = 0.5
"""Least share of the convolution peak of a step that is limited by arithmetic."""
GROWS = 1.25
"""Time at twice the batch over time: below, most of a step does not depend on the batch."""
SCALES = 1.6
"""Rate of two processes over the rate of one: below, they hinder each other."""
SAME = ("resolution", "recompute", "micro_batches", "processes", "exchange", "threads")
"""Columns in which two rows must agree for their batches to be compared."""
RULES = f"""Limited by, from the figures of the table alone:

- *arithmetic*: at least {ENOUGH:.0%} of the convolution peak;
- *what does not grow*: less than that, and twice the batch takes less than {GROWS:g} times as long
  (launches, the optimiser, the average: work that is the same for any batch);
- *the rest*: neither, or no other batch to compare with: moving activations, small operations;
- *exchange*: K processes have less than {SCALES / 2:g} K times the images/s of one, and without
  the exchange of gradients they would have that; *shared machine*: nor would they without it;
- *memory next*: twice the batch, or twice the resolution, would no longer fit the limit if what is
  beyond weights, gradients, moments and average became two, or four, times as large."""


def limited_by(row: Json, rows: list[Json], limit_gb: float) -> str:
    """Name what limits a row.

    Args:
        row: one of `rows`, with `failed` or the figures of `growth.row`.
        rows: of the whole table.
        limit_gb: memory that there is.
    """
    if row["failed"]:
        return "does not fit" if row["failed"].startswith("does not fit") else "failed"
    found = [_of_processes(row, rows) if row["processes"] > 1 else _of_time(row, rows)]
    if row["axis"] != "processes" and grown_gb(row) > limit_gb:
        found.append("memory next")
    return "; ".join(found)


def grown_gb(row: Json) -> float:
    """Memory of the next case along the axis of a row, GB."""
    factor = 4 if row["axis"] == "resolution" else 2
    return needed_gb(row, row["resolution"], factor * row["batch"])


def needed_gb(row: Json, resolution: int, batch: float) -> float:
    """Memory at another resolution and batch, GB: all but the weights' share in proportion."""
    images = batch / row["processes"] * (resolution / row["resolution"]) ** 2
    return row["base_gb"] + row["weights_gb"] + max(row["gb_an_image"], 0.0) * images


def too_large(case: Json, rows: list[Json], limit_gb: float) -> str:
    """Why a case is not tried, predicted from a smaller one of its kind; "" if it fits.

    Args:
        case: settings of a row.
        rows: measured so far.
        limit_gb: memory that there is.
    """
    kind = ("axis", "recompute", "micro_batches", "processes")
    alike = [r for r in rows if not r["failed"] and all(r[key] == case[key] for key in kind)]
    if not alike:
        return ""
    needed = needed_gb(alike[-1], case["resolution"], case["batch"])
    if needed <= limit_gb:
        return ""
    return f"does not fit: {needed:.1f} GB by the row before, of {limit_gb:.1f}"


def _of_time(row: Json, rows: list[Json]) -> str:
    if row["share_of_convolution"] >= ENOUGH:
        return "arithmetic"
    ratio = _of_twice_the_batch(row, rows)
    return "what does not grow" if ratio is not None and ratio < GROWS else "the rest"


def _of_twice_the_batch(row: Json, rows: list[Json]) -> float | None:
    """Ratio of time at twice the batch: of this batch, or else of half of it."""
    alike = [r for r in rows if not r["failed"] and all(r[key] == row[key] for key in SAME)]
    seconds = {r["batch"]: r["seconds"] for r in alike}
    batch = row["batch"]
    for more in (2 * batch, batch):
        if more in seconds and more / 2 in seconds:
            return float(seconds[more] / seconds[more / 2])
    return None


def _of_processes(row: Json, rows: list[Json]) -> str:
    """Limit of several processes, by their rate with and without the exchange."""
    key = ("axis", "resolution", "batch", "recompute", "micro_batches", "threads")
    alike = [r for r in rows if not r["failed"] and all(r[k] == row[k] for k in key)]
    rates = {(r["processes"], r["exchange"]): r["images_per_second"] for r in alike}
    one, world = rates.get((1, True)), row["processes"]
    if one is None:
        return "the rest"
    enough = SCALES / 2 * world * one
    if row["images_per_second"] >= enough:
        return _of_time(row, rows)
    free = rates.get((world, False))
    return "exchange" if row["exchange"] and free and free >= enough else "shared machine"
