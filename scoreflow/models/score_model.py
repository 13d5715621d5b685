"""The score network as a Denoiser: the one place where a network meets a process."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from scoreflow.errors import RequestError
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import Prediction, predict

Output = Literal["eps", "x_0", "v", "score", "mean"]
OUTPUTS: tuple[str, ...] = get_args(Output)
PRECISIONS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.float32,
    "float64": torch.float64,
}
"""Dtype of a network's input, by the precision of its arithmetic."""

NOTHING = nullcontext()
CLOCK_ROUNDING = 1e-9
"""Steps by which a time may fall short of t_min: angle and back is exact to a few last places."""


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """A GPU's float32 products as this precision has them: TF32 under "tf32" and never else."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _check_parts(network: object, sde: object, output: str) -> None:
    """Refuse what a ScoreModel cannot be made of."""
    if not isinstance(network, nn.Module):
        raise RequestError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    if not isinstance(sde, SDE):
        raise RequestError(f"sde must be a process, as VPSDE.linear(1000), got {sde!r}")
    if output not in OUTPUTS:
        raise RequestError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")


class ScoreModel:
    """Network + SDE + kind of prediction -> Denoiser.

    The network sees x_t / r_t (unit scale under every SDE) and the index t - 1, both float32; its
    answer is cast to the dtype of x_t, so that samplers and solvers keep their float64 state.

    Args:
        network: (x (B, C, ...), index (B,)) -> (B, C, ...), or (B, 2C, ...) with a learned
            variance. One with `num_classes` above 0 takes labels (B,) as well; without, it
            answers for no class, so that this Denoiser is the unconditional one.
        sde: the process.
        output: what the network's output estimates: a view of `Prediction`; "score" is an output
            of unit scale that is divided by sigma, and "mean" DDPM's posterior mean over a whole
            step.
        t_min: the least time it was trained at, in steps; it is never evaluated below. 1 for
            integer times.
        precision: "float32", "tf32" (a GPU's products of matrices and convolutions in 10 bits of
            mantissa; on a CPU float32), "bfloat16" (autocast of the network alone) or "float64".
        channels_last: memory format of the images handed to the network.
        learned_variance: the second half of the output's channels is the reverse variance.
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
    ) -> None:
        _check_parts(network, sde, output)
        self.network = network
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

    def with_network(self, network: nn.Module) -> "ScoreModel":
        """The same Denoiser with another network in this one's place."""
        other = copy.copy(self)
        other.network = network
        return other

    def in_precision(self, precision: str) -> "ScoreModel":
        """The same network in another precision, one of `PRECISIONS`."""
        other = copy.copy(self)
        other.precision = precision
        return other

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
        dtype = PRECISIONS[self.precision]
        r = self.sde.scale(t)
        of_one = r.ndim == 0 and r.is_cpu and r.item() == 1  # a VP's: nothing to divide by
        x = (x_t if of_one else x_t / broadcast(r, x_t)).to(dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if t.ndim == 0 and t.is_cpu:  # a copy to a GPU would wait for it; a number does not
            index = x.new_full((len(x),), float(t) - 1)
        else:
            index = (t - 1).to(x.device, dtype).expand(len(x))
        with self._arithmetic(x):
            answer = self._value(x, index)
        self._check_answer(answer, x)
        value = answer.to(x_t.dtype)
        fraction = None
        if self.learned_variance:
            value, logit = value.chunk(2, dim=1)
            fraction = 0.5 + 0.5 * logit  # Nichol & Dhariwal's scale; not confined to [0, 1]
        return self._predict(x_t, t, value, fraction)

    def _arithmetic(self, x: Tensor) -> AbstractContextManager[object]:
        """The context that sets the network's precision; one shared null context for float32."""
        if self.precision == "bfloat16":
            return torch.autocast(x.device.type, torch.bfloat16)
        return arithmetic("tf32") if self.precision == "tf32" else NOTHING

    def _value(self, x: Tensor, index: Tensor) -> Tensor:
        """The network's output, given the class if there is one."""
        given: dict[str, Tensor] = {}
        if isinstance(self.label, Tensor):
            given["label"] = self.label
        elif self.label is not None:
            given["label"] = index.new_full((), self.label).long().expand(len(x))
        if self.words is not None:
            given["words"] = self.words
        value: Tensor = self.network(x, index, **given)
        return value

    def _predict(
        self, x_t: Tensor, t: Tensor, value: Tensor, fraction: Tensor | None
    ) -> Prediction:
        match self.output:
            case "score":
                value = value / broadcast(self.sde.sigma(t), x_t)
                return predict(self.sde, x_t, t, "score", value, fraction)
            case "mean":
                # the posterior mean is affine in x_0: its value at 0 and its slope give x_0 back
                s = (t - 1).clamp(min=0)
                offset, _ = self.sde.posterior(x_t, torch.zeros_like(x_t), t, s)
                _, w = self.sde.transition(s, t)
                slope = broadcast(self.sde.alpha(s) * w / self.sde.variance(t), x_t)
                return predict(self.sde, x_t, t, "x_0", (value - offset) / slope, fraction)
            case kind:
                return predict(self.sde, x_t, t, kind, value, fraction)

    def _check_answer(self, answer: object, x: Tensor) -> None:
        """Refuse an answer of another shape: broadcast, it would be wrong without a word."""
        batch, *event = x.shape
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
