"""The score network as a Denoiser: the one place where a network meets a process."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from scoreflow.errors import RequestError
from scoreflow.models.asking import Asking, DataRange, InputScale, Label, OfTimes
from scoreflow.models.integer_times import CLOCK_ROUNDING, at_real_times, between_integers
from scoreflow.models.residual.pixel_law import Known, PixelLaw
from scoreflow.runtime.device import WITHOUT_FLOAT64
from scoreflow.runtime.gpu.tf32 import tf32
from scoreflow.sde.base import SDE, broadcast, ends_without_signal
from scoreflow.sde.flow import well_posed
from scoreflow.sde.prediction import Prediction, predict, predict_of_datum

Output = Literal["eps", "x_0", "v", "u", "score", "mean", "gradient", "residual"]
OUTPUTS: tuple[str, ...] = get_args(Output)
OUTPUTS_OF_NOISE: tuple[Output, ...] = ("eps", "score", "gradient")
"""Outputs that say nothing of x_0 where no signal is left."""
PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.float32,
    "float16": torch.float32,
    "float64": torch.float64,
}
"""Dtype of a network's input, by the precision of its arithmetic."""

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
COARSE = ("tf32", *HALF)
"""Precisions that round by 0.05 to 0.4 %, more than an adaptive solver's usual tolerance."""
NOTHING = nullcontext()
DDPM_LABEL = Label()
"""t - 1, DDPM's index."""


def arithmetic(precision: str) -> AbstractContextManager[None]:
    """A GPU's float32 products as this precision has them: TF32 under "tf32" and never else."""
    return tf32(precision == "tf32")


def place_of(network: nn.Module) -> torch.device | None:
    """Where a network lies, if states in float64 cannot lie there as well; else None."""
    first = next(chain(network.parameters(), network.buffers()), None)
    return first.device if first is not None and first.device.type in WITHOUT_FLOAT64 else None


def _check_parts(network: object, sde: object, output: str) -> None:
    """Refuse what a ScoreModel cannot be made of."""
    if not isinstance(network, nn.Module):
        raise RequestError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    if not isinstance(sde, SDE):
        raise RequestError(f"sde must be a process, as VPSDE.linear(1000), got {sde!r}")
    if output not in OUTPUTS:
        raise RequestError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    inside = getattr(network, "module", network)
    if output == "residual" and not isinstance(getattr(inside, "pixels", None), PixelLaw):
        raise RequestError(
            "output = residual needs a network with a PixelLaw as its `pixels`, got "
            f"{type(network).__name__} without"
        )


def _check_asking(asking: Asking, output: str, t_min: float, sde: SDE) -> None:
    """Refuse ways of asking that do not go together."""
    for key, infinite in asking.dividing_by_signal.items():
        if ends_without_signal(sde):
            raise RequestError(
                f"model.{key} = {infinite} is infinite at t = N of this process (sde.name), where "
                f"alpha is 0: set model.{key} = {'unit' if key == 'input_scale' else 'time'}"
            )
    if output in ("mean", "residual") and not asking.same_datum:
        raise RequestError(
            f"output = {output} is about images in [-1, 1], with data_std = 1, data_range = "
            f"symmetric and data_scale = 1, got {asking.data_std:g}, {asking.data_range} and "
            f"{asking.data_scale:g}"
        )
    if asking.integer_times and t_min != 1:
        raise RequestError(f"integer_times begin at t = 1, which t_min must be, got {t_min:g}")


class ScoreModel:
    """Network + SDE + kind of prediction -> Denoiser.

    A network on a device without float64 (Apple's MPS) is handed float32 there and its answer
    comes back: x_t, times and all that is made of them lie on the CPU.

    The network is called as network(x, label), and as network(x, label, classes) for a class. By
    default x is x_t / r_t (unit scale under every SDE) and the label the index t - 1, both
    float32; `scoreflow.models.asking` has the formulas of all else. The answer is cast to the
    dtype of x_t, so that samplers and solvers keep their float64 state.

    Args:
        network: (x (B, C, ...), label (B,)) -> (B, C, ...), or (B, 2C, ...) with a learned
            variance; or an object that has this as its `sample`, like a diffusers model's. One
            with `num_classes` above 0 takes classes (B,) int64 as well; without, it answers for no
            class, so that this Denoiser is the unconditional one.
        sde: the process of images in [-1, 1].
        output: what the network's output estimates: a view of `Prediction`; "x_0" also of a
            denoiser D(x; sigma); "score" is of unit scale, the score times sigma, "gradient" the
            score itself, of the images in the network's range; "mean" is DDPM's posterior mean
            over a whole step; "residual" what it knows beyond each pixel alone, of a network with
            a `pixels` (`scoreflow.models.residual`), which gets 4C channels. "x_0", "v" and "u"
            are about x_0 / data_std.
        t_min: the least time it was trained at, in steps; it is never evaluated below. 1 for
            integer times.
        precision: "float32", "tf32" (a GPU's products of matrices and convolutions in 10 bits of
            mantissa; on a CPU float32), "bfloat16" or "float16" (autocast of the network alone) or
            "float64".
        channels_last: memory format of the images handed to the network.
        learned_variance: the second half of the output's channels is the reverse variance.
        label: of the network at times t: a `Label`, affine in t, sigma, log sigma or the log-SNR;
            or a function of t (B,) float64, in steps, that returns (B,); integers stay integers.
        input_scale: "unit", "none" (x_t as it is) or "alpha" (x_t / alpha); or a function of t
            (B,) that gives the factor of x_t, (B,).
        data_std: standard deviation of the images that "unit" takes, EDM's sigma_data.
        data_range: "symmetric" for a network of images in [-1, 1], "unit" for [0, 1].
        integer_times: evaluate the network at integer t alone, with v linear in the angle between.
        data_scale: our images over its own, whose process is this one at the same scale: 255 / 256
            if level k is 2 k / 255 - 1 to it and the centre of a bin to us.

    Raises:
        RequestError: one of these is none of its choices, or does not go with another.
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        output: Output = "eps",
        t_min: float = 1.0,
        precision: str = "float32",
        channels_last: bool = False,
        learned_variance: bool = False,
        *,
        label: Label | OfTimes = DDPM_LABEL,
        input_scale: InputScale | OfTimes = "unit",
        data_std: float = 1.0,
        data_range: DataRange = "symmetric",
        integer_times: bool = False,
        data_scale: float = 1.0,
    ) -> None:
        _check_parts(network, sde, output)
        self.asking = Asking(label, input_scale, data_std, data_range, integer_times, data_scale)
        _check_asking(self.asking, output, t_min, sde)
        self.network, self.place = network, place_of(network)
        self.sde = sde
        self.output: Output = output
        self.t_min = t_min
        self.precision = precision
        self.channels_last = channels_last
        self.learned_variance = learned_variance
        self.label: int | Tensor | None = None
        self.words: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """Classes that the network is conditioned on; 0 for none."""
        inside = getattr(
            self.network, "module", self.network
        )  # of a wrapper that shares gradients
        return getattr(inside, "num_classes", 0)

    @property
    def pixels(self) -> PixelLaw:
        """What a network of the residual knows of each pixel alone."""
        inside: Any = getattr(self.network, "module", self.network)
        found: PixelLaw = inside.pixels
        return found

    @property
    def needs_class(self) -> bool:
        """Whether it cannot answer for no class: each is one, and there is no row for none."""
        inside = getattr(self.network, "module", self.network)
        return self.num_classes > 0 and not getattr(inside, "null_class", True)

    @property
    def posed(self) -> SDE:
        """The process as far as the flow of this network is well posed; mostly all of it."""
        return well_posed(self.sde, "x_0" if self.output == "residual" else self.output)

    def with_network(self, network: nn.Module) -> "ScoreModel":
        """The same Denoiser with another network in this one's place."""
        other = copy.copy(self)
        other.network, other.place = network, place_of(network)
        return other

    def in_precision(self, precision: str) -> "ScoreModel":
        """The same network in another precision, one of `PRECISIONS`."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def for_solver(self) -> "ScoreModel":
        """The same network for a solver that takes its steps by the error that it sees.

        It cannot tell rounding from a path that turns, and answers both by smaller steps; so it
        is never asked in a precision below float32.
        """
        return self.in_precision("float32") if self.precision in COARSE else self

    def solver_remark(self, device: torch.device) -> str:
        """A line where `for_solver` computes otherwise on a device; else ""."""
        if self.precision not in COARSE or (self.precision == "tf32" and device.type == "cpu"):
            return ""
        return (
            f"the adaptive flow of this network of {self.precision} is solved in float32: a "
            "solver would follow coarser rounding with ever smaller steps"
        )

    def labelled(self, label: int | Tensor | None) -> "ScoreModel":
        """The same network with a class: the conditional Denoiser.

        Args:
            label: one class for all rows, in 0..num_classes-1; or one a row, (B,) int64, -1 for no
                class (as in training, for a solver may ask about fewer rows); or None for none.

        Raises:
            RequestError: a class that the network does not know.
        """
        known = self.num_classes
        if label is not None and known == 0:
            raise RequestError(
                "this network was trained without model.conditional: it has no class"
            )
        if isinstance(label, int) and not 0 <= label < known:
            raise RequestError(f"a class must lie in 0..{known - 1}, got {label}")
        other = copy.copy(self)
        other.label = label
        return other

    def dropping(self, words: Tensor) -> "ScoreModel":
        """The same network in training, its dropout a function of these; see `UNet.forward`."""
        other = copy.copy(self)
        other.words = words
        return other

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Estimate at x_t (B, ...) and t, () or (B,), in steps within [t_min, N]."""
        if t.device.type == "cpu":  # on a GPU the check would wait for the device at every call
            self._check(t)
        if self.asking.integer_times:
            return at_real_times(self._of_rows, self.sde, x_t, t)
        return self._at(x_t, t)

    @property
    def further_evaluations(self) -> Callable[[Tensor], Tensor] | None:
        """How often the network is asked beyond once, as a function of t; None for never."""
        return between_integers if self.asking.integer_times else None

    def _of_rows(self, x_t: Tensor, t: Tensor, rows: Tensor | None) -> Prediction:
        """The network's own estimate for some rows of a batch, each with its class."""
        if rows is None or (self.words is None and not isinstance(self.label, Tensor)):
            return self._at(x_t, t)
        of_rows = copy.copy(self)
        of_rows.words = None if self.words is None else self.words[rows]
        of_rows.label = self.label[rows] if isinstance(self.label, Tensor) else self.label
        return of_rows._at(x_t, t)

    def _at(self, x_t: Tensor, t: Tensor) -> Prediction:
        """The network's own estimate, of one evaluation."""
        x = self.asking.input(self.sde, x_t, t).to(PRECISIONS[self.precision])
        known = None
        if self.output == "residual":
            known = self.pixels(x_t, self.sde.alpha(t), self.sde.sigma(t))
            x = torch.cat((x, *(each.to(x.dtype) for each in vars(known).values())), dim=1)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        label = self.asking.labels(self.sde, x, t)
        with self._arithmetic(x):
            answer = self._value(x, label)
        self._check_answer(answer, x_t)
        value = answer.to(x_t.dtype) if self.place is None else answer.to(x_t.device).to(x_t.dtype)
        fraction = None
        if self.learned_variance:
            value, logit = value.chunk(2, dim=1)
            fraction = 0.5 + 0.5 * logit  # Nichol & Dhariwal's scale; not confined to [0, 1]
        return self._predict(x_t, t, value, fraction, known)

    def _arithmetic(self, x: Tensor) -> AbstractContextManager[object]:
        """The context that sets the network's precision; one shared null context for float32."""
        if self.precision in HALF:
            return torch.autocast((self.place or x.device).type, HALF[self.precision])
        return arithmetic("tf32") if self.precision == "tf32" else NOTHING

    def _value(self, x: Tensor, label: Tensor) -> Tensor:
        """The network's output, given the class if there is one."""
        given = [x, label]
        if self.label is None and self.needs_class:
            raise RequestError(
                "this network has no row for no class: it needs one of its classes 0.."
                f"{self.num_classes - 1}, as sampling.label or likelihood.label"
            )
        if isinstance(self.label, Tensor):
            given.append(self.label)
        elif self.label is not None:
            given.append(x.new_full((), self.label).long().expand(len(x)))
        words = {} if self.words is None else {"words": self.words}
        if self.place is not None:
            given = [each.to(self.place) for each in given]
            words = {name: each.to(self.place) for name, each in words.items()}
        value: Tensor = self.network(*given, **words)
        return value if isinstance(value, Tensor) else getattr(value, "sample", value)

    def _predict(
        self, x_t: Tensor, t: Tensor, value: Tensor, fraction: Tensor | None, known: Known | None
    ) -> Prediction:
        match self.output:
            case "residual":
                assert known is not None, "asked for above"
                alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
                v = known.velocity(value, broadcast(alpha, x_t), broadcast(sigma, x_t))
                return predict(self.sde, x_t, t, "v", v, fraction)
            case "score":
                value = value / broadcast(self.sde.sigma(t), x_t)
                return predict(self.sde, x_t, t, "score", value, fraction)
            case "gradient":  # in x, from that in y = (x - c) / d
                value = value / self.asking.noise_unit
                return predict(self.sde, x_t, t, "score", value, fraction)
            case "mean":
                # the posterior mean is affine in x_0: its value at 0 and its slope give x_0 back
                s = (t - 1).clamp(min=0)
                offset, _ = self.sde.posterior(x_t, torch.zeros_like(x_t), t, s)
                _, w = self.sde.transition(s, t)
                slope = broadcast(self.sde.alpha(s) * w / self.sde.variance(t), x_t)
                return predict(self.sde, x_t, t, "x_0", (value - offset) / slope, fraction)
            case kind if kind == "eps" or self.asking.same_datum:
                return predict(self.sde, x_t, t, kind, value, fraction)
            case kind:
                datum = self.asking.centre, self.asking.spread
                return predict_of_datum(self.sde, x_t, t, kind, value, *datum, fraction)

    def _check_answer(self, answer: object, x_t: Tensor) -> None:
        """Refuse an answer of another shape: broadcast, it would be wrong without a word."""
        batch, *event = x_t.shape
        if self.learned_variance:
            event[0] *= 2
        if not isinstance(answer, Tensor):
            raise RequestError(f"the network must return a tensor, got {type(answer).__name__}")
        if answer.shape != (batch, *event) or not answer.is_floating_point():
            raise RequestError(
                f"the network must return floats of shape {(batch, *event)}, got "
                f"{tuple(answer.shape)} {answer.dtype}"
            )

    def _check(self, t: Tensor) -> None:
        low, high = (t.item(), t.item()) if t.ndim == 0 else (t.min().item(), t.max().item())
        if not self.t_min - CLOCK_ROUNDING <= low <= high <= self.sde.num_steps + CLOCK_ROUNDING:
            raise RequestError(
                f"t must lie in [{self.t_min}, {self.sde.num_steps}], got {low} .. {high}; "
                "a network is not asked about times that it was not trained at"
            )
