"""An image-editing result in words and pictures: a line, a caption, a grid."""

import io
import zipfile

import numpy as np
import torch
from torch import Tensor

from scoreflow.data.levels import to_uint8
from scoreflow.figures.image_grid import image_grid
from scoreflow.generation.editing import Edited
from scoreflow.generation.pictures import GRID_PIXELS
from scoreflow.schema.task_keys import MEASURED

MOST_COLUMNS = 10


def describe(edited: Edited) -> str:
    """The result in a line: how well it fits, and what it cost."""
    match edited.plan.task:
        case "reconstruct":
            return _of_reconstruction(edited)
        case "interpolate":
            return _of_interpolation(edited)
    return _of_samples(edited)


def _of_samples(edited: Edited) -> str:
    plan, result = edited.plan, edited.result
    way = f" by {plan.method}" if plan.method else f" from t = {result['t_start']:g}"
    parts = [f"{plan.task}{way} and {plan.sampler}: {result['num_images']} images"]
    if plan.task in MEASURED:
        parts.append(
            f"misfit {result['value']:.4f} (noise {result['noise']:.4f}, of the levels drawn "
            f"{result['misfit_of_levels']:.4f})"
        )
    else:
        parts.append(f"{result['value']:.3f} from the given one")
    cost = f"{result['nfe']:.0f} evaluations"
    if result["jacobian_products"]:
        cost += f" and {result['jacobian_products']:.0f} vector-Jacobian products"
    return ", ".join((*parts, f"{cost} each", f"{result['seconds']:.1f} s"))


def _of_reconstruction(edited: Edited) -> str:
    result = edited.result
    return (
        f"reconstruct: {result['num_images']} images, off by {result['value']:.2e} at tolerance "
        f"{edited.tolerance:g} (at most {result['most']:.2e}), "
        f"{100 * result['levels_changed']:.2g} % of pixels at another level, "
        f"{result['nfe']:.0f} evaluations each, {result['seconds']:.1f} s"
    )


def _of_interpolation(edited: Edited) -> str:
    result = edited.result
    return (
        f"interpolate: {result['num_images']} points, off by {result['value']:.2e} at the ends "
        f"at tolerance {edited.tolerance:g}, {result['nfe']:.0f} evaluations each, "
        f"{result['seconds']:.1f} s"
    )


def caption(edited: Edited) -> str:
    """What the picture shows, in its order."""
    match edited.plan.task:
        case "reconstruct":
            return "Rows: given, latent, decoded"
        case "interpolate":
            return "The one given, what lies between, the other given"
    if len(edited.plan.given) == 0:
        return "Measured and drawn"
    return "Given and drawn" if edited.shown is None else "Given, measured and drawn"


def tiles(edited: Edited) -> tuple[Tensor, int]:
    """The images of the picture in reading order, (n, C, H, W) levels, and its columns."""
    given, levels = edited.plan.given, edited.levels
    shown = levels[:0] if edited.shown is None else edited.shown
    match edited.plan.task:
        case "reconstruct":
            rows = torch.stack((given, shown, levels))[:, :MOST_COLUMNS]
            return rows.flatten(0, 1), rows.shape[1]
        case "interpolate":
            found = torch.cat((given[:1], levels, given[1:]))
        case _:
            found = torch.cat((given, shown, levels))
    return found, min(len(found), MOST_COLUMNS)


def picture(edited: Edited) -> bytes:
    """The tiles as a PNG."""
    levels, columns = tiles(edited)
    pixels = to_uint8(levels, edited.plan.num_levels)
    return image_grid(pixels, columns, max(1, GRID_PIXELS // pixels.shape[-1]))


def arrays(edited: Edited, kind: str) -> bytes:
    """What a task was given and has made, and its latents where it has any, as a file.

    Args:
        edited: by the task.
        kind: "npz", with `images` and `given` (n, H, W, C) uint8 in 0..255; or "pt", a dict of
            tensors, both as levels (n, C, H, W). `latents` are (n, C, H, W) float64 in either.
    """
    plan, stream = edited.plan, io.BytesIO()
    found = {"images": edited.levels.cpu(), "given": plan.given.cpu()}
    latents = {} if edited.latents is None else {"latents": edited.latents.cpu().double()}
    if kind == "pt":
        torch.save(found | latents, stream)
        return stream.getvalue()
    pixels = {
        name: to_uint8(levels, plan.num_levels).permute(0, 2, 3, 1).numpy()
        for name, levels in found.items()
    }
    with zipfile.ZipFile(stream, "w") as archive:
        for name, values in (pixels | {k: v.numpy() for k, v in latents.items()}).items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)
    return stream.getvalue()
