"""Lossless compression: the bytes of a file beside what the chain's bound says."""

from collections.abc import Iterator
from functools import partial

from scoreflow.report.blocks import Cell, Section, Table, Text, number, with_error
from scoreflow.report.results import Results
from scoreflow.report.sections.applications import codes
from scoreflow.storage.atomic_files import Json

TITLE = "Compression"
NAME, DATA = "compression", "compression-data-"
PARTS = {
    "images": "images, by bits back",
    "borrowed": "bits lent to the first images",
    "header": "header and check sums",
    "names": "names of the files",
}


def sections(results: Results) -> Iterator[Section]:
    """That of the test set, and those of other images."""
    named = ((NAME, "test images"), *((n, n.removeprefix(DATA)) for n in results.named(DATA)))
    for name, of in named:
        found = results.show(name, partial(_compression, of))
        if found is not None:
            yield found


def _compression(of: str, result: Json) -> Section:
    held, images = result["bytes"], result["num_images"]
    per = 8 / images / result["dims"]
    rows = tuple(
        (Cell(said), number(held[part], form=".0f"), number(held[part] * per, form=".4f"))
        for part, said in PARTS.items()
        if held[part] or part != "names"
    )
    said = result["predicted_bytes"]
    foot = (
        (
            Cell("the file"),
            number(held["file"], form=".0f"),
            number(result["value"], form=".4f"),
        ),
        (
            Cell("images, as the bound predicts"),
            number(said, form=".0f"),
            number(result["predicted"], result["predicted_standard_error"]),
        ),
    )
    table = Table(("part", "bytes", "bits/dim"), rows, foot, sortable=False, note=_apart(result))
    title = TITLE if of == "test images" else f"{TITLE}: {of}"
    value = with_error(result["value"], result["standard_error"])
    how = Text(_how(result), small=True)
    head = Text(f"bits/dim of {images} {of}, lossless", value)
    return Section(title, (head, table, how, *codes.blocks(result)))


def _apart(result: Json) -> str:
    held, said = result["bytes"]["images"], result["predicted_bytes"]
    apart = with_error(result["net_minus_predicted"], result["net_minus_predicted_error"], ".4f")
    share = 100 * (held / said - 1)
    how = "more" if share >= 0 else "less"
    return (
        f"Images take {abs(share):.2f} % {how} than predicted ({apart} bits/dim; the prediction "
        "has noise of its own)."
    )


def _how(result: Json) -> str:
    seconds = result["seconds_per_image"]
    took = "".join(f"; {value:.3f} s an image to {name}" for name, value in seconds.items())
    settings = result["settings"]
    return (
        f"{result['steps']} steps, variances by {result['variance']}, cells of 2^-"
        f"{settings['precision']} of a deviation, batches of {settings['batch_size']}{took}; "
        f"checkpoint of step {result['step']}."
    )
