"""Image editing: what each task drew from the user's images, and how well that fits."""

from collections.abc import Callable, Iterator
from functools import partial

from scoreflow.report.blocks import Block, Cell, Figures, Heading, Section, Table, Text, number
from scoreflow.report.results import Results
from scoreflow.storage.atomic_files import Json

TASKS = ("vary", "inpaint", "colorize", "superresolve", "reconstruct", "interpolate")
WIDE = 640
"""CSS pixels of a picture."""
NAMED = 3
"""Images that a title names."""


def sections(results: Results) -> Iterator[Section]:
    """One section a task that was done."""
    for task in TASKS:
        make = _latent if task in ("reconstruct", "interpolate") else _drawn
        found = results.show(task, partial(_section, results, task, make))
        if found is not None:
            yield found


def _section(
    results: Results, task: str, make: Callable[[Json], list[Block]], result: Json
) -> Section:
    names = result.get("given") or [row["image"] for row in result.get("images", [])]
    step = result["step"]
    caption = result.get("caption") or _tiles(task, names)  # runs of 0.1 have none
    shown = results.picture(results.drawn(result, step, task), WIDE, task, (caption,))
    pictures = [] if shown is None else [Figures((shown,))]
    title = ": ".join([task.capitalize(), *([_listed(names)] if names else [])])
    saved = result.get("saved")
    arrays = [Text(f"Arrays: samples/{saved['file']}.", small=True)] if saved else []
    return Section(title, (*pictures, *make(result), *arrays))


def _listed(names: list[str]) -> str:
    """The first few names, and how many there are more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _tiles(task: str, given: list[str]) -> str:
    """What is in the picture, from the first tile on."""
    if task == "reconstruct":
        return "Rows: given, latent, decoded"
    if task == "interpolate":
        return "The first image, what lies between, the second image"
    if task == "vary":
        return "Given and drawn"
    return "Given, measured and drawn" if given else "Measured and drawn"


def _drawn(result: Json) -> list[Block]:
    """Images drawn under a measurement, or from a noised image."""
    settings = result["settings"]
    sampler, measured = settings["sampling"]["sampler"], "noise" in result
    way = f"by {settings['method']}" if measured else f"from t = {result['t_start']:g}"
    said = (
        f"{result['num_images']} images {way} and {sampler} in {result['steps']} steps, "
        f"checkpoint of step {result['step']}."
    )
    rows = [_row("misfit" if measured else "distance to the given image", result, "")]
    if measured:
        rows.append(
            (Cell("standard deviation of the measurement's noise"), number(result["noise"]))
        )
        rows.append((Cell("misfit of the levels"), number(result["misfit_of_levels"])))
        if "to_given_value" in result:
            rows.append(_row("distance to the given image", result, "to_given_"))
    if "spread" in result:
        rows.append((Cell("spread of the images"), number(result["spread"])))
    rows += _cost(result)
    if result["jacobian_products"]:
        products = number(result["jacobian_products"], form=".0f")
        rows.append((Cell("vector-Jacobian products an image"), products))
    return [Text(said), _table(result, rows)]


def _latent(result: Json) -> list[Block]:
    """Images encoded to latents by the flow, and decoded."""
    ends = "strides" in result  # an interpolation
    name = "distance at the worse end" if ends else "distance after encoding and decoding"
    said = f"{result['num_images']} images, checkpoint of step {result['step']}."
    value = _scientific(result["value"], result["standard_error"])
    blocks: list[Block] = [
        Text(said),
        _table(result, [(Cell(name), value), *_cost(result)]),
    ]
    if "tolerances" in result:
        blocks.append(Heading("By the solver's tolerance"))
        blocks.append(_by_tolerance(result["tolerances"]))
    return blocks


def _by_tolerance(rows: list[Json]) -> Table:
    columns = ("tolerance", "distance", "greatest", "levels changed", "evaluations an image")
    cells = tuple(
        (
            _scientific(row["tolerance"]),
            _scientific(row["value"], row["standard_error"]),
            _scientific(row["most"]),
            Cell(f"{100 * row['levels_changed']:.2g} %", float(row["levels_changed"])),
            number(row["nfe"], form=".0f"),
        )
        for row in rows
    )
    return Table(columns, cells)


def _scientific(value: float, error: float | None = None) -> Cell:
    text = f"{value:.2e}" + ("" if error is None else f" ± {error:.1e}")
    return Cell(text, float(value))


def _row(name: str, result: Json, prefix: str) -> tuple[Cell, Cell]:
    value, error = (result[f"{prefix}{key}"] for key in ("value", "standard_error"))
    return Cell(name), number(value, error)


def _cost(result: Json) -> list[tuple[Cell, Cell]]:
    return [
        (Cell("evaluations an image"), number(result["nfe"], form=".0f")),
        (Cell("seconds"), number(result["seconds"], form=".1f")),
    ]


def _table(result: Json, rows: list[tuple[Cell, Cell]]) -> Table:
    return Table(("measure", "value"), tuple(rows), note=f"{result['unit']}.", sortable=False)
