"""Ways to ask an imported network otherwise: what its file may have meant, and how to say so.

Each is the same weights with one thing changed: the label, the input's range or scale, what the
output estimates, the schedule, or the order of the rows that attention takes for q, k and v.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from scoreflow.models.asking import Asking, Label
from scoreflow.models.score_model import Output, ScoreModel
from scoreflow.sde import VPSDE

ORDERS = {
    "rows of qkv as (head, 3, channel)": (1, 0, 2),
    "rows of qkv as (head, channel, 3)": (1, 2, 0),
}
"""Orders in which codebases keep them: the axes of (3, head, channel), as we have them."""
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
    """Labels of another unit, or with an end instead of a beginning at 0."""
    own, n = model.asking.label, model.sde.num_steps
    if not isinstance(own, Label):
        return
    remedy = (
        "its label is likely another: model.label, model.label_scale and model.label_offset say "
        "what it is (OpenAI's files: --set rescale_timesteps=true or false)"
    )
    units = {"the index from 0": (1.0, -1.0), "999 t": (999 / n, 0.0), "t in [0, 1]": (1 / n, 0.0)}
    units |= {"the index x 1000 / N": (1000 / n, -1000 / n)}
    units |= {f"labels {way} to N": (-1.0, float(n)) for way in ("falling",)}
    for name, (scale, offset) in units.items():
        label = Label("time", scale, offset)
        if label != own and not _near(label, own, n):
            yield Reading(f"the label {name}", _asking(model, label=label), remedy)
    logs = {"ln(sigma)": (1.0, 0.0), "ln(sigma) / 4": (0.25, 0.0)}
    for name, (scale, offset) in logs.items():
        label = Label("log_sigma", scale, offset)
        if own.of != "time" and label != own:
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
        if scale == asking.input_scale or (isinstance(model.sde, VPSDE) and scale == "none"):
            continue
        yield Reading(
            f"its input scaled by {scale}",
            _asking(model, input_scale=scale),
            f"its input likely has another scale: --config.model.input_scale={scale}",
        )


def _outputs(model: ScoreModel) -> Iterator[Reading]:
    for output in ESTIMATES:
        if output != model.output:
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

    def forward(self, *given: Tensor, **named: Tensor) -> Tensor:
        """The network's answer with the other sign; its variance too, which is not asked for."""
        answer: Tensor = self.network(*given, **named)
        return -answer


def _schedules(model: ScoreModel) -> Iterator[Reading]:
    """The usual schedules of a chain of as many steps."""
    if type(model.sde) is not VPSDE:
        return
    n = model.sde.num_steps
    usual: dict[str, Callable[[], VPSDE]] = {
        "linear": lambda: VPSDE.linear(n),
        "cosine": lambda: VPSDE.cosine(n),
    }
    for name, make in usual.items():
        sde = make()
        if (sde.betas - model.sde.betas).abs().max() > 1e-9:
            other = copy.copy(model)
            other.sde = sde
            yield Reading(
                f"the {name} schedule",
                other,
                f"its noise schedule is likely {name}: --config.sde.schedule={name} (OpenAI's "
                f"files: --set schedule={name})",
            )


def _heads(model: ScoreModel) -> Iterator[Reading]:
    """Other orders of the rows of q, k and v, where there is more than one head."""
    if max((heads_of(each) for _, each in _attentions(model.network)), default=1) < 2:
        return
    for name, axes in ORDERS.items():
        network = copy.deepcopy(model.network)
        for _, each in _attentions(network):
            heads = heads_of(each)
            for kind in (each.qkv.weight, each.qkv.bias):  # type: ignore[union-attr]
                kind.data = _reordered(kind.data, heads, axes)
        yield Reading(
            name,
            model.with_network(network),
            "the rows of q, k and v are likely in another order (OpenAI's files: --set "
            "attention_order=head_major or qkv_major)",
        )


def _reordered(rows: Tensor, heads: int, axes: tuple[int, int, int]) -> Tensor:
    """Rows that are kept in the order `axes` of (3, head, channel), brought to that order."""
    sizes = (3, heads, len(rows) // (3 * heads))
    kept = rows.unflatten(0, tuple(sizes[axis] for axis in axes))
    back = [axes.index(axis) for axis in range(3)]
    return kept.permute(*back, *range(3, kept.ndim)).flatten(0, 2).contiguous()


def _attentions(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, each in network.named_modules():
        if isinstance(getattr(each, "qkv", None), nn.Conv2d):
            yield name, each


def heads_of(attention: nn.Module) -> int:
    """Heads of an attention of our U-Net."""
    return int(getattr(attention, "heads", 1))
