"""The tables of `benchmarks.anomaly` as a picture: AUROC of each score and set, shaded."""

import io
from collections.abc import Mapping

from matplotlib.figure import Figure

from scoreflow.storage.atomic_files import Json


def heat_maps(found: Mapping[str, Json]) -> bytes:
    """A PNG with a map for each run, below one another: scores down, sets across."""
    heights = [len(result["scores"]) for result in found.values()]
    figure = Figure(figsize=(9, 0.32 * sum(heights) + 0.9 * len(heights)), layout="constrained")
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
    for each, (kind, result) in zip(axes, found.items(), strict=True):
        names = list(result["scores"][0]["sets"])
        values = [[row["sets"][name]["auroc"] for name in names] for row in result["scores"]]
        each.imshow(values, vmin=0, vmax=1, cmap="RdBu", alpha=0.7, aspect="auto")
        each.set_xticks(range(len(names)), names)
        each.set_yticks(range(len(values)), [row["name"] for row in result["scores"]], fontsize=8)
        each.set_title(f"trained on {kind}: AUROC against its own test images", fontsize=10)
        each.tick_params(length=0)
        for k, line in enumerate(values):
            for j, value in enumerate(line):
                each.text(j, k, f"{value:.2f}", ha="center", va="center", fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
