"""Ways to ask an imported network otherwise: what its file may have meant, and how to say so.

Each is the same weights with one thing changed: the label, the input's range or scale, what the
output estimates, the schedule, or the order of the rows that attention takes for q, k and v.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from scoreflow.models.asking import DIVIDING_BY_SIGNAL, Asking, Label
from scoreflow.models.score_model import Output, ScoreModel
from scoreflow.sde import SDE, VPSDE
from scoreflow.sde.base import Rescaled, in_units

OURS = "(3, head, channel)"
HEAD_MAJOR = "(head, 3, channel)"
Axes = tuple[int, int, int]
ORDERS: dict[str, Axes] = {OURS: (0, 1, 2), HEAD_MAJOR: (1, 0, 2), "(head, channel, 3)": (1, 2, 0)}
"""Orders in which codebases keep the rows of q, k and v: axes of ours."""
MISREAD = [
    (was, order) for was in ORDERS for order in ORDERS if was != order and OURS in (was, order)
]
SAME_ORDER = [(OURS, OURS), (HEAD_MAJOR, HEAD_MAJOR)]
"""Orders that a file may have been read in, and those that it may be kept in."""
HEADS, HEAD_CHANNELS = (1, 2, 4, 8), (8, 64)
"""Numbers of heads that are usual, and channels of one."""
ESTIMATES: tuple[Output, ...] = ("eps", "x_0", "v")


@dataclass(frozen=True)
class Reading:
    """A network, and how it is asked.

    Attributes:
        name: what is different, in words.
        model: the network so asked.
        remedy: what to change if this is better.
    """

    name: str
    model: ScoreModel
    remedy: str


def others_of(model: ScoreModel) -> list[Reading]:
    """Other ways to ask a network.

    Args:
        model: as it was read.
    """
    found = [*_labels(model), *_inputs(model), *_outputs(model), *_schedules(model)]
    return [*found, *_heads(model)]


def _asking(model: ScoreModel, **changed: object) -> ScoreModel:
    other = copy.copy(model)
    other.asking = replace(model.asking, **changed)  # type: ignore[arg-type]
    return other


def _labels(model: ScoreModel) -> Iterator[Reading]:
    """Labels of another unit, or counted from the other end."""
    own, n = model.asking.label, model.sde.num_steps
    if not isinstance(own, Label):
        return
    remedy = (
        "its label is likely another: model.label, model.label_scale and model.label_offset say "
        "what it is (OpenAI's files: --set rescale_timesteps=true or false)"
    )
    candidates = {
        "the index from 0": Label("time", 1.0, -1.0),
        "the index x 1000 / N": Label("time", 1000 / n, -1000 / n),
        "999 t / N": Label("time", 999 / n, 0.0),
        "t / N": Label("time", 1 / n, 0.0),
        "steps from the noisiest": Label("time", -1.0, float(n)),
    }
    if own.of in DIVIDING_BY_SIGNAL:
        candidates |= {"ln(sigma)": Label("log_sigma", 1.0, 0.0)}
        candidates |= {"ln(sigma) / 4": Label("log_sigma", 0.25, 0.0)}
        candidates |= {"sigma": Label("sigma", 1.0, 0.0)}
    seen = [own]
    for name, label in candidates.items():
        if not any(_near(label, each, n) for each in seen):
            seen.append(label)
            yield Reading(f"the label {name}", _asking(model, label=label), remedy)


def _near(a: Label, b: Label, n: int) -> bool:
    """Whether two labels differ by less than a network can tell: two steps of a thousand."""
    if a.of != b.of:
        return False
    return all(
        abs((a.scale - b.scale) * t + a.offset - b.offset) <= 2e-3 * abs(b.scale) * n
        for t in (1, n)
    )


def _inputs(model: ScoreModel) -> Iterator[Reading]:
    asking: Asking = model.asking
    other = "symmetric" if asking.data_range == "unit" else "unit"
    shown = {"unit": "[0, 1]", "symmetric": "[-1, 1]"}[other]
    yield Reading(
        f"images in {shown}",
        _asking(model, data_range=other),
        f"it was likely trained on images in {shown}: --config.model.data_range={other}",
    )
    for scale in ("unit", "none", "alpha"):
        if scale == asking.input_scale or (type(plain(model.sde)) is VPSDE and scale == "none"):
            continue
        yield Reading(
            f"its input scaled by {scale}",
            _asking(model, input_scale=scale),
            f"its input likely has another scale: --config.model.input_scale={scale}",
        )


def _outputs(model: ScoreModel) -> Iterator[Reading]:
    for output in ESTIMATES:
        if model.output not in (output, "residual"):  # whose network has other channels
            other = copy.copy(model)
            other.output = output
            yield Reading(
                f"its output as {output}",
                other,
                f"it likely estimates {output}: --config.model.prediction={output}",
            )
    yield Reading(
        "its output negated",
        model.with_network(_Negated(model.network)),
        "the sign of its output is likely the other: the file is of another codebase (--as)",
    )


class _Negated(nn.Module):
    """-network(...).

    Args:
        network: any.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = getattr(network, "num_classes", 0)
        self.pixels = getattr(network, "pixels", None)

    def forward(self, *given: Tensor, **named: Tensor) -> Tensor:
        """The network's answer with the other sign; its variance too, which is not asked for."""
        answer: Tensor = self.network(*given, **named)
        return -answer


def _schedules(model: ScoreModel) -> Iterator[Reading]:
    """The usual schedules of a chain of as many steps."""
    own = plain(model.sde)
    if type(own) is not VPSDE:
        return
    n = model.sde.num_steps
    usual: dict[str, Callable[[], VPSDE]] = {
        "linear": lambda: VPSDE.linear(n),
        "cosine": lambda: VPSDE.cosine(n),
    }
    for name, make in usual.items():
        sde = make()
        if (sde.betas - own.betas).abs().max() > 1e-9:
            other = copy.copy(model)
            other.sde = in_units(sde, model.asking.data_scale)
            yield Reading(
                f"the {name} schedule",
                other,
                f"its noise schedule is likely {name}: --config.sde.schedule={name} (OpenAI's "
                f"files: --set schedule={name})",
            )


def _heads(model: ScoreModel) -> Iterator[Reading]:
    """Other numbers of heads, and other orders of the rows of q, k and v."""
    attentions = _attentions(model.network)
    widths = [each.qkv.weight.shape[1] for each in attentions]
    own = tuple(each.heads for each in attentions)
    if not own:
        return
    counts: dict[tuple[int, ...], str] = {own: ""}
    for count in HEADS:
        counts.setdefault(tuple(count for _ in widths), f"{count} heads")
    for width in HEAD_CHANNELS:
        counts.setdefault(tuple(c // width for c in widths), f"{width} channels a head")
    for heads, name in counts.items():
        if not all(h and c % h == 0 for h, c in zip(heads, widths, strict=True)):
            continue
        one = max((*own, *heads)) == 1  # whose rows are those of any order but the last
        for was, order in [] if one else MISREAD if heads == own else SAME_ORDER:
            network = copy.deepcopy(model.network)
            for each, before, now in zip(_attentions(network), own, heads, strict=True):
                _reinterpret(each, before, now, ORDERS[was], ORDERS[order])
            rows = f"rows of qkv as {order}" + ("" if was == order else f", not {was}")
            yield Reading(
                ", ".join(filter(None, (name, rows))),
                model.with_network(network),
                "its attention likely has other heads, or the rows of q, k and v another order "
                "(OpenAI's files: --set heads=, head_channels=, attention_order=)",
            )


def _reinterpret(attention: Any, before: int, now: int, was: Axes, order: Axes) -> None:  # noqa: ANN401
    """Read the rows of an attention's file anew, which were read as `before` heads.

    Args:
        attention: changed in place.
        before: its heads.
        now: the heads that it gets.
        was: the order in which its file's rows were read.
        order: the one in which they are read now.
    """
    attention.heads = now
    for part in (attention.qkv.weight, attention.qkv.bias):
        part.data = _reordered(_reordered(part.data, before, was, back=True), now, order)


def _reordered(rows: Tensor, heads: int, axes: Axes, back: bool = False) -> Tensor:
    """Rows that are kept in the order `axes` of (3, head, channel), in that order; or back."""
    sizes = (3, heads, len(rows) // (3 * heads))
    order = tuple(axes.index(axis) for axis in range(3))
    if back:
        kept, order = rows.unflatten(0, sizes), axes
    else:
        kept = rows.unflatten(0, tuple(sizes[axis] for axis in axes))
    found: Tensor = kept.permute(*order, *range(3, kept.ndim)).flatten(0, 2).contiguous()
    return found


def _attentions(network: nn.Module) -> list[Any]:
    """The attentions of our U-Net in a network, in their order; none of another architecture."""
    return [
        each
        for each in network.modules()
        if isinstance(getattr(each, "qkv", None), nn.Conv2d) and hasattr(each, "heads")
    ]


def plain(sde: SDE) -> SDE:
    """The process in its own units."""
    return sde.base if isinstance(sde, Rescaled) else sde
