"""Training: its loss, the classifier's accuracy, and where a step's time goes."""

from collections.abc import Iterator

from scoreflow.figures.plot import Plot, Series
from scoreflow.report.blocks import (
    Cell,
    Figures,
    Heading,
    Section,
    Table,
    Text,
    number,
    plain,
    with_error,
)
from scoreflow.report.results import Results
from scoreflow.storage.atomic_files import Json

CURVES = (
    ("loss", "Training loss", "loss", True),
    ("held_out_loss", "Loss of the averaged weights on held-out data", "loss", True),
    ("grad_norm", "Norm of the gradient", "norm", True),
    ("learning_rate", "Learning rate", "learning rate", False),
)
"""What is plotted of metrics.jsonl, where it is there: key, title, ordinate, if logarithmic."""


PREVIEW, SHOWN = 400, 6
"""CSS pixels of a preview, and how many are shown."""


def sections(results: Results) -> Iterator[Section]:
    """The curves of the training, the classifier and the profile, of what is there."""
    curves = _curves(results)
    if curves:
        said = "Each point is the mean over the steps since the point before."
        more = (*_previews(results), *_history(results))
        yield Section("Training", (Text(said), Figures(tuple(curves)), *more))
    for name, make in (("classifier", _classifier), ("profile", _profile)):
        found = results.show(name, make)
        if found is not None:
            yield found


def _curves(results: Results) -> list[Plot]:
    rows = results.run.read_metrics()
    found = []
    for key, title, y_label, log_y in CURVES:
        line = [(row["step"], row[key]) for row in rows if key in row]
        if line:
            x, y = zip(*line, strict=True)
            found.append(Plot(title, "step", y_label, (Series("", x, y),), log_y=log_y))
    return found


def _previews(results: Results) -> Iterator[Heading | Text | Figures]:
    """Samples on the way: the last previews, from the same noise."""
    paths = sorted((results.run.path / "previews").glob("*.png"))
    # the last one, and back from it at about half the steps each: early ones differ most
    chosen, step = [], None
    for path in reversed(paths):
        if step is None or int(path.stem) <= step / 2:
            chosen.append(path)
            step = int(path.stem)
    found = (results.picture(each, PREVIEW, f"step {int(each.stem):,}") for each in chosen[:SHOWN])
    pictures = [each for each in found if each is not None]
    if pictures:
        yield Heading("Previews")
        yield Text("Samples of the averaged weights, in all of them from the same noise.")
        yield Figures(tuple(reversed(pictures)))


def _history(results: Results) -> Iterator[Heading | Table]:
    """What was changed on resuming."""
    rows = tuple(
        (
            number(each["step"], form=","),
            Cell(key),
            Cell(_as_told(old)),
            Cell(_as_told(new)),
            Cell(str(each["date"])),
        )
        for each in results.run.history
        for key, (old, new) in each["changes"].items()
    )
    if rows:
        yield Heading("Changed on the way")
        yield Table(("from step", "key", "before", "since", "date"), rows)


def _as_told(value: object) -> str:
    """A value as a flag has it: a switch may be auto as well as true and false."""
    return str(value).lower() if isinstance(value, bool) else plain(value)


def _classifier(result: Json) -> Section:
    head = with_error(result["value"], result["standard_error"], ".3f")
    said = (
        f"of {result['num_test']} test images get their own class of {result['num_classes']}, "
        f"un-noised; {result['parameters']:,} parameters, trained in {result['seconds']:.0f} s"
    )
    times = result["times"]
    x, y, errors = ([float(r[k]) for r in times] for k in ("t", "accuracy", "standard_error"))
    line = Series("", x, y, errors)
    plot = Plot("Accuracy on noised test images", "t, steps", "accuracy", (line,), log_y=False)
    rows = tuple(
        (
            number(row["t"], form="g"),
            Cell("noise alone") if row["log_snr"] is None else number(row["log_snr"], form=".2f"),
            number(row["accuracy"], row["standard_error"], ".3f"),
            number(row["cross_entropy"], row["cross_entropy_error"], ".3f"),
        )
        for row in times
    )
    columns = ("t, steps", "log-SNR", "accuracy", "cross-entropy, nats")
    return Section(
        "Classifier of noised images", (Text(said, head), Figures((plot,)), Table(columns, rows))
    )


def _profile(result: Json) -> Section:
    said = f"{result['unit']}; {result['images_per_second']:.1f} images/s"
    blocks: list[Text | Heading | Table] = [Text(said, f"{result['value']:.1f}")]
    for key, title in (("phases", "Phases of a step"), ("operations", "Operations")):
        rows = tuple(
            (
                Cell(row["name"]),
                number(row["milliseconds"], form=".2f"),
                Cell(f"{100 * row['share']:.1f} %", float(row["share"])),
                number(row["calls"], form=".1f"),
            )
            for row in result[key]
        )
        blocks += [Heading(title), Table(("name", "ms a step", "share", "calls a step"), rows)]
    return Section("Where a training step's time goes", tuple(blocks))
