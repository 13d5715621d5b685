"""Features of the network: how well classes are told by each layer at each time."""

from collections.abc import Iterator

from scoreflow.figures.fields import Cloud, HeatMap
from scoreflow.report.blocks import (
    Cell,
    Figures,
    Fold,
    Section,
    Table,
    Text,
    number,
    with_error,
)
from scoreflow.report.results import Results, averaged, measured_on
from scoreflow.storage.atomic_files import Json

TITLE = "Features"
BESIDE = {
    "pixels": "pixels",
    "pca": "principal components of the pixels",
    "latent": "latents of the probability flow",
    "classifier": "features of the classifier of noisy images",
}
TIMES = "time in steps, from clean to noisy"


def sections(results: Results) -> Iterator[Section]:
    """The sweep over layers and times, where it was made."""
    found = results.show("features", _section)
    if found is not None:
        yield found


def _section(result: Json) -> Section:
    rows, best = result["rows"], result["best"]
    labelled = "probe" in best
    maps = [("accuracy", "probe", "Linear probe: accuracy on test data")] if labelled else []
    maps += [
        ("clusters", "clusters", "k-means: accuracy of the clusters of test data")
        if labelled
        else ("agreement", "clusters", "k-means: agreement of two runs (ARI)")
    ]
    figures = [_map(result, *each) for each in maps]
    blocks = (
        Text(_said(result), _value(result) if labelled else ""),
        Figures((*figures, *_cloud(result))),
        _table([row for row in rows if _is_shown(row, best)], labelled),
        Text(_note(result, labelled), small=True),
        Fold("Every layer and time", (_table(rows, labelled),)),
    )
    return Section(TITLE, blocks)


def _value(result: Json) -> str:
    return f"{result['value']:.3f} ± {result['standard_error']:.3f}"


def _said(result: Json) -> str:
    of = f"step {result['step']}{averaged(result)}{measured_on(result, ', on ')}"
    layers, times = len(result["layers"]), len(result["times"])
    what = f"{layers} layers at {times} times, {of}"
    if "probe" not in result["best"]:
        return f"Clusters by the activations of the averaged network: {what}."
    row = next(row for row in result["rows"] if row["case"] == result["best"]["probe"])
    apart = ", ".join(
        f"{BESIDE.get(each['to'], each['to'])} "
        f"{with_error(each['difference'], each['standard_error'], '.3f', '+')}"
        for each in result.get("differences", ())
    )
    return (
        f"of {result['num_images']} test data are told rightly by a linear probe of layer "
        f"{row['name']} at t = {row['t']:g}, the best of {what}, by the training data alone."
        + (f" Its share less theirs, on the same test data: {apart}." if apart else "")
    )


def _note(result: Json, labelled: bool) -> str:
    settings = result["settings"]
    draws = settings["draws"]
    noise = f"the mean over {draws} noises" if draws > 1 else "of one noise"
    told = (
        f"Features are pooled by {settings['pool']}, {noise if draws else 'without noise'}; "
        f"{result['evaluations']} evaluations a datum gave all layers. k-means has "
        f"{result['num_clusters']} clusters, fitted on {result['num_train']} training data in "
        f"{settings['repeats']} runs; ± of its scores is the standard error over these alone. "
    )
    if not labelled:
        return told + "Agreement is between the clusters that two starts find."
    return told + (
        "The probe is a logistic regression, its penalty chosen on folds of the training data. "
        "Activations are divided by a standard deviation each, pixels, their components and "
        "latents by one number. The frames mark the layer and time that are best on training data "
        "(probe: on folds left out; k-means: accuracy of their clusters), so the test numbers "
        "there are not chosen. Clusters are matched to classes one to one."
    )


# ---- pictures -----------------------------------------------------------------------------------


def _map(result: Json, key: str, chosen: str, title: str) -> HeatMap:
    by_place = {(row["name"], row["t"]): row for row in result["rows"]}
    layers, times = result["layers"], result["times"]
    values = tuple(
        tuple(by_place[name, t][key] if (name, t) in by_place else None for t in times)
        for name in layers
    )
    row = next(row for row in result["rows"] if row["case"] == result["best"][chosen])
    best = layers.index(row["name"]), times.index(row["t"])
    return HeatMap(title, TIMES, tuple(f"{t:.4g}" for t in times), tuple(layers), values, best)


def _cloud(result: Json) -> list[Cloud]:
    plane = result["plane"]
    if not plane["points"]:
        return []
    row = next(row for row in result["rows"] if row["case"] == result["best"]["clusters"])
    names = [
        f"principal component {k} ({share:.0%} of the variance)"
        for k, share in enumerate(plane["shares"], start=1)
    ]
    title = f"Test data by {row['name']} at t = {row['t']:g}, whose clusters are best"
    return [Cloud(title, names[0], names[1], plane["points"], plane["labels"])]


# ---- tables -------------------------------------------------------------------------------------


def _is_shown(row: Json, best: Json) -> bool:
    return row["t"] is None or row["case"] in best.values()


def _table(rows: list[Json], labelled: bool) -> Table:
    columns = ["features", "t", "numbers"]
    if labelled:
        columns += ["probe, test", "probe, folds", "k-means ACC", "NMI", "ARI", "ACC, training"]
    else:
        columns += ["agreement of starts"]
    return Table(tuple(columns), tuple(_cells(row, labelled) for row in rows))


def _cells(row: Json, labelled: bool) -> tuple[Cell, ...]:
    t = row["t"]
    cells = [
        Cell(str(row["name"] if t is not None else BESIDE.get(row["name"], row["name"]))),
        Cell("" if t is None else f"{t:.4g}", t),
        Cell(str(row["num_features"]), float(row["num_features"])),
    ]
    if labelled:
        keys = ("accuracy", "folds", "clusters", "nmi", "ari", "clusters_train")
        cells += [number(row[key], row[f"{key}_error"], ".3f") for key in keys]
    else:
        cells += [number(row["agreement"], form=".3f")]
    return tuple(cells)
