"""Samples of each sampler: pictures, how they are told from data, classes, held-out data."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scoreflow.evaluation.columns import COLUMNS, Column, told_apart
from scoreflow.report.blocks import (
    Block,
    Cell,
    Figures,
    Fold,
    Heading,
    Picture,
    Section,
    Table,
    Text,
    plain,
    with_error,
)
from scoreflow.report.results import Results, averaged, called, measured_on, picture_in_json
from scoreflow.report.sections.tables import class_table, metrics_table
from scoreflow.schema.samplers import SAMPLERS
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.sample_names import differences, read_settings

WIDE, STRIP = 420, 1000
"""CSS pixels of a picture of samples, and of a strip of times."""
KEYS = (
    "nfe",
    "images_per_second",
    "told_apart",
    "samples_recognised",
    "real_recognised",
    "precision",
    "recall",
    "outside",
)
SHOWN = (
    *(column for column in COLUMNS if column.key in KEYS),
    Column("held_out", "held-out data told apart", ""),
    Column("held_out_precision", "their precision", ""),
    Column("held_out_recall", "their recall", ""),
    Column("num_held_out", "held-out data used", "", "d"),
)
NOTE = (
    "Two rates say whether samples and training data can be told apart: how often the nearest "
    "neighbour of a sample is a sample (samples recognised), and that of a training datum a "
    "training datum (data recognised). 0.5 is best for each: above it a kind lies closer to its "
    "own than to the other, below it closer to the other. Told apart is the distance of the worse "
    "one from 0.5: 0 is best, and 0.5, which noise has, is worst. Their mean, the two-sample "
    "accuracy, is no measure: a miss above cancels one below. Precision is the share of samples "
    "among the data, recall that of data among the samples. Held-out data stand in for the "
    "samples in the last columns: what a perfect model would get."
)


class _Drawn(NamedTuple):
    """The samples of one sampler.

    Attributes:
        name: of the sampler.
        row: its metrics, under the keys of `COLUMNS`.
        shown: its picture, None where that is gone.
        classes: how many samples have each class, None where there are no classes.
        progress: a GIF and a strip of the estimates on the way, if the draw made them.
        real: test data, where the result has them: how many are shown, and the rest.
        others: a row for each draw with other settings: its picture, and what differs.
        class_names: of the classes, where they have any.
    """

    name: str
    row: Json
    shown: Picture | None
    classes: list[int] | None
    progress: list[Picture]
    real: Json | None
    others: list[tuple[Cell, ...]]
    class_names: tuple[str, ...] = ()


def sections(results: Results) -> Iterator[Section]:
    """One section, where there are samples."""
    found = [results.show(name, lambda r: _read(results, r)) for name in results.named("samples-")]
    drawn = [each for each in found if each is not None]
    if not drawn:
        return
    real = max(
        (each.real for each in drawn if each.real is not None),
        key=lambda real: int(real["num_shown"]),
        default=None,
    )
    pictures = [each.shown for each in drawn if each.shown is not None]
    if real is not None:
        pictures.append(real["picture"])
    blocks: list[Block] = [Figures(tuple(pictures)), _table(drawn)]
    blocks += [*_too_few(drawn), *_out_of_range(results, drawn), Text(NOTE, small=True)]
    if any(each.classes is not None for each in drawn):
        blocks += _classes(drawn, real)
    if others := tuple(row for each in drawn for row in each.others):
        table = Table(("picture", "in place of the settings above"), others, prose=True)
        blocks.append(Fold("Draws with other settings", (table,)))
    for each in drawn:
        if each.progress:
            heading = f"{each.name}, step by step"
            blocks += [Heading(heading), Figures(tuple(each.progress))]
    yield Section("Samples", tuple(blocks))


def _read(results: Results, result: Json) -> _Drawn:
    name, step = result["settings"]["sampler"], result["step"]
    names = tuple(result.get("class_names", ()))
    lines = [_settings(results.run.config, result, names)]
    lines += _asked_in(results.run.config, result["settings"])
    count = result["num_images"]
    lines.append(f"{count} images from the checkpoint of step {step}{averaged(result)}")
    if "of_class" in result:
        lines.append(_of_class(result["of_class"], names))
    if "of_their_class" in result:
        found = result["of_their_class"]
        rate = with_error(found["rate"], found["standard_error"], ".3f")
        lines.append(f"{rate} of them are nearest to a training image of the class asked for")
    if against := measured_on(result, "held against "):
        lines.append(against)
    if saved := result.get("saved"):
        lines.append(_saved(results.drawn(result, step, name).with_suffix(""), saved))
    path = results.drawn(result, step, name)
    return _Drawn(
        name,
        _row(result),
        results.picture(path, WIDE, name, tuple(lines)),
        result.get("classes"),
        _progress(results, result),
        _real(result.get("data")),
        _others(results, result),
        names,
    )


def _saved(images: Path, saved: Json) -> str:
    """Where all the images are, and how many of them the table is of."""
    where = f"{images.parent.name}/{images.name}/"
    return f"all as {saved['as']} in {where}; measured on the first {saved['measured']}"


def _row(result: Json) -> Json:
    """The metrics under the names that a comparison gives them."""
    sides, real = result["two_sample"], result["two_sample_of_test_data"]
    row: Json = {
        "nfe": float(result["nfe"]),
        "images_per_second": float(result["images_per_second"]),
        "told_apart": None,
    }
    if left := result.get("outside"):
        row["outside"] = left["count"] / result["num_images"]
    if result["value"] is None:
        return row
    float(result["value"]), result["standard_error"]  # of a whole result; older, other numbers
    row["told_apart"], row["told_apart_error"] = told_apart(sides)
    row |= {key: float(sides[key]) for key in ("samples_recognised", "real_recognised")}
    row |= result.get("precision_recall") or {}
    if real is not None:
        row |= _held_out(real, result.get("precision_recall_of_test_data") or {})
    return row


def _held_out(real: Json, both: Json) -> Json:
    """The same of held-out data, under names of their own."""
    row: Json = {"num_held_out": int(real["num_each"])}
    row["held_out"], row["held_out_error"] = told_apart(real)
    return row | {f"held_out_{key}": value for key, value in both.items()}


def _of_class(found: Json, names: tuple[str, ...]) -> str:
    """How many samples of a class look like it."""
    rate = with_error(found["rate"], found["standard_error"], ".3f")
    line = (
        f"class {called(found['label'], names)}: {rate} of the samples are nearest to a training "
        "image of it"
    )
    if "rate_of_test_data" in found:
        line += f", of its test images {found['rate_of_test_data']:.3f}"
    return line


def _progress(results: Results, result: Json) -> list[Picture]:
    """How the samples came about, as a GIF and as a strip, where the last draw made them."""
    drawn = results.drawn(result, result["step"], result["settings"]["sampler"])
    strip = drawn.with_name(f"{drawn.stem}-progress.png")
    moving = strip.with_suffix(".gif")
    if "progress" not in result or not (strip.exists() and moving.exists()):
        return []
    shown = (
        results.picture(moving, WIDE, "generation", (plain(result["progress"]),)),
        results.picture(strip, STRIP, "generation by time", ("by t, in steps",)),
    )
    return [each for each in shown if each is not None]


def _real(data: Json | None) -> Json | None:
    """Test data next to samples; results made before they were kept have none."""
    if not data:  # nor has a network that was imported without images
        return None
    caption = f"{data['num_shown']} of {data['num_test']} held-out test data"
    shown = picture_in_json(data["picture_of_test_data"], WIDE, "real", (caption,))
    return {
        "num_shown": data["num_shown"],
        "picture": shown,
        "classes": data.get("classes"),
    }


def _others(results: Results, result: Json) -> list[tuple[Cell, ...]]:
    """The pictures of this sampler under other settings, and what is other about them."""
    shown = results.drawn(result, result["step"], result["settings"]["sampler"])
    here = read_settings(shown.with_suffix(".json"))
    rows: list[tuple[Cell, ...]] = []
    for path in sorted(shown.parent.glob("*.json")):
        there, picture = read_settings(path), path.with_suffix(".png")
        if here is None or there is None or picture == shown or not picture.exists():
            continue
        if there.get("sampler") != here["sampler"] or "task" in there:
            continue
        link = picture.relative_to(results.run.path).as_posix()
        same = {key: value for key, value in there.items() if key != "hash"}
        rows.append((Cell(picture.stem, link=link), Cell(differences(same, here))))
    return rows


def _table(drawn: list[_Drawn]) -> Table:
    """The metrics, a row a sampler."""
    rows = [{"sampler": each.name, **each.row} for each in drawn]
    shown = [column for column in SHOWN if any(column.key in row for row in rows)]
    return metrics_table("sampler", lambda row: str(row["sampler"]), rows, [], shown)


def _too_few(drawn: list[_Drawn]) -> list[Text]:
    """The samplers that drew too few images to be compared with data."""
    names = [each.name for each in drawn if each.row["told_apart"] is None]
    said = f"{', '.join(names)}: too few images for a two-sample test."
    return [Text(said, small=True)] if names else []


def _out_of_range(results: Results, drawn: list[_Drawn]) -> list[Text]:
    """The samplers of which samples leave the range of images, and by how much."""
    lines = []
    for each in drawn:
        if each.row.get("outside"):
            more = results.by_name[f"samples-{each.name}"]["outside"]["more_than"]
            lines.append(
                f"{each.name}: {each.row['outside']:.1%} of the samples leave [-1, 1] by more "
                f"than {more:g}, and are cut off there: the estimates go astray on the way."
            )
    return [Text(line) for line in lines]


def _classes(drawn: list[_Drawn], real: Json | None) -> list[Block]:
    counted = [(each.name, each.classes) for each in drawn if each.classes is not None]
    foot = []
    if real is not None and real["classes"] is not None:
        foot.append(("test set, by its labels", real["classes"]))
    names = next((each.class_names for each in drawn if each.class_names), ())
    table = class_table([*counted], foot, names)
    return [Fold("Classes of the samples, by the nearest training image", (table,))]


def _settings(config: Json, result: Json, names: tuple[str, ...] = ()) -> str:
    """The settings that have an effect on the sampler."""
    c = result["settings"]
    name = c["sampler"]
    if name == "ode":
        return f"{c['method']} at tolerance {c['tolerance']:g}{_guided(c, names)}"
    told = [f"{result.get('steps') or c['steps'] or config['sde']['num_steps']} steps"]
    if "grid" in c:
        told[0] += f" ({c['grid']} grid)"
    if name in ("ancestral", "pc"):
        told.append(f"variance {c['variance']}")
    if name == "pc":
        told.append(f"corrector {c['corrector']}, {c['corrections']} a step, snr {c['snr']:g}")
    own = () if name in ("ancestral", "pc") else SAMPLERS[name].keys
    told += [f"{key} {c[key]:g}" for key in own]
    if c.get("final", "mean") != "mean":
        told.append(f"last step {c['final']}")
    told.append("x_0 clipped" if result.get("clipped", c["clip"]) else "x_0 not clipped")
    return ", ".join(told) + _guided(c, names)


def _asked_in(config: Json, c: Json) -> list[str]:
    """The network's arithmetic, where it or that of training is none that goes without saying."""
    asked = c.get("precision", "")
    trained = config.get("training", {}).get("precision", "float32")
    said = asked and (asked != "float32" or trained not in ("float32", "auto"))
    return [f"network evaluated in {asked}"] if said else []


def _guided(c: Json, names: tuple[str, ...]) -> str:
    """The requested classes; results older than classes have none."""
    label = c.get("label", -1)
    if label == -1:
        return ""
    asked = f"class {called(label, names)}" if isinstance(label, int) else f"classes {label}"
    return f", {asked} with weight {c['guidance']:g} by the {c['guide']}"
