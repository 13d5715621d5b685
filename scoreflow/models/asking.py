"""How a network is asked: range and scale of its input, its label, and the datum it is about.

A network that was trained elsewhere knows our images by other numbers. It may see them in another
range, y, and estimate them at unit variance, z, by a rotation of its own:

    y_t = (x_t - alpha c) / d = alpha y_0 + (sigma / d) eps,    z_0 = y_0 / s = (x_0 - c) / (d s)

with c = 0, d = 1 for images in [-1, 1], c = -1, d = 2 for images in [0, 1], and s its `data_std`
(EDM's sigma_data, Karras et al. 2022, Table 1). Both c and d are multiplied by its `data_scale`.
The noise that it sees is the process' over d: a process with noise scale sigma_y on images in
[0, 1] is the one here with sigma = 2 sigma_y and the same alpha. Its input is y_t times
a factor of time,

    unit    1 / sqrt(alpha^2 s^2 + sigma^2 / d^2)           none    1           alpha    1 / alpha

and its label a function of time: affine in t, in sigma / (alpha d), which is the ratio of noise to
signal that it sees, in the logarithm of that, or in the log-SNR in decibels,

    10 log10((1 + delta^2 r^2) / r^2),      r = sigma / (alpha d),      delta^2 = 1e-6

which is 10 log10(1 / r^2) but for r near 1 / delta = 1000, and -60 dB, not -inf, where no signal
is left. In t DDPM's index embedding, whose fastest sinusoid has a period of 2 pi labels, turns
about N / 2 pi times from data to noise; in decibels about 20 times, whatever N is, so that the
network is smooth in t and a solver takes long steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from scoreflow.errors import RequestError
from scoreflow.sde.base import SDE, broadcast

Quantity = Literal["time", "sigma", "log_sigma", "log_snr"]
InputScale = Literal["unit", "none", "alpha"]
DataRange = Literal["symmetric", "unit"]
OfTimes = Callable[[Tensor], Tensor]
"""Times (B,) float64, in steps -> (B,), one number a row."""
DIVIDING_BY_SIGNAL: tuple[Quantity, ...] = ("sigma", "log_sigma")
"""Quantities that are infinite where alpha is 0."""
LEAST_SNR = 1e-6
"""delta^2, added to the ratio of signal to noise powers: -60 dB."""
DECIBELS = 10 / math.log(10)
"""Decibels of a power in one unit of its natural logarithm."""


@dataclass(frozen=True)
class Label:
    """label = scale * quantity + offset; the default is DDPM's index t - 1.

    Attributes:
        of: "time" in steps; "sigma", the ratio of noise to signal that the network sees;
            "log_sigma", its natural logarithm; or "log_snr", in decibels, -60 at least.
        scale: in labels per unit of the quantity.
        offset: in labels.
    """

    of: Quantity = "time"
    scale: float = 1.0
    offset: float = -1.0

    def __post_init__(self) -> None:
        _choose("label", self.of, get_args(Quantity))

    def __call__(self, sde: SDE, t: Tensor, noise_unit: float) -> Tensor:
        """The labels at times t, in steps.

        Args:
            sde: the process.
            t: () or (B,) float64.
            noise_unit: d, by which the network's noise is smaller than the process'.

        Returns:
            Shaped like t, float64.
        """
        if self.of == "time":
            return self.scale * t + self.offset
        if self.of == "log_snr":
            return self.scale * _decibels(sde, t, noise_unit) + self.offset
        sigma = sde.sigma(t) / (sde.alpha(t) * noise_unit)
        return self.scale * (sigma if self.of == "sigma" else sigma.log()) + self.offset


def _decibels(sde: SDE, t: Tensor, noise_unit: float) -> Tensor:
    """The log-SNR that a network sees, in decibels, finite where alpha is 0; shaped like t."""
    noise = sde.variance(t) / noise_unit**2
    return DECIBELS * ((sde.alpha(t) ** 2 + LEAST_SNR * noise).log() - noise.log())


@dataclass(frozen=True)
class Asking:
    """What a network is given, and what datum its answer is about; the defaults are DDPM's.

    Attributes:
        label: affine in a quantity, or a function of the times. What that returns is cast to the
            dtype of the input if it is of floats, and else left as it is.
        input_scale: by name, or the factor of the images as a function of the times.
        data_std: s, of the images in the range that the network sees.
        data_range: "symmetric", [-1, 1], or "unit", [0, 1].
        data_scale: our images in [-1, 1] over such images as it knows them.
        integer_times: it is evaluated at the integers of the process only; see
            `scoreflow.models.integer_times`.
    """

    label: Label | OfTimes = field(default_factory=Label)
    input_scale: InputScale | OfTimes = "unit"
    data_std: float = 1.0
    data_range: DataRange = "symmetric"
    integer_times: bool = False
    data_scale: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.label):
            raise RequestError(
                f"label must be a Label, or a function of the times, got {self.label!r}"
            )
        if not callable(self.input_scale):
            _choose("input_scale", self.input_scale, get_args(InputScale))
        _choose("data_range", self.data_range, get_args(DataRange))
        if not 1e-6 <= self.data_std <= 1e6:  # its square, in float32 too
            raise RequestError(f"data_std must be in [1e-06, 1e+06], got {self.data_std}")
        if not self.data_scale > 0:
            raise RequestError(f"data_scale must be positive, got {self.data_scale}")

    @cached_property
    def centre(self) -> float:
        """The c of x_0 = c + d y_0."""
        return -self.data_scale if self.data_range == "unit" else 0.0

    @cached_property
    def noise_unit(self) -> float:
        """The d of x_0 = c + d y_0, by which the noise that the network sees is smaller."""
        return (2.0 if self.data_range == "unit" else 1.0) * self.data_scale

    @cached_property
    def spread(self) -> float:
        """The factor of x_0 = c + spread z_0."""
        return self.noise_unit * self.data_std

    @cached_property
    def same_datum(self) -> bool:
        """Whether z_0 is x_0: nothing to convert."""
        return self.centre == 0 and self.spread == 1

    @cached_property
    def dividing_by_signal(self) -> dict[str, str]:
        """Which of its fields, by name, are infinite where alpha is 0."""
        found = {}
        if isinstance(self.label, Label) and self.label.of in DIVIDING_BY_SIGNAL:
            found["label"] = str(self.label.of)
        if self.input_scale == "alpha":
            found["input_scale"] = "alpha"
        return found

    def input(self, sde: SDE, x_t: Tensor, t: Tensor) -> Tensor:
        """y_t times its factor, shaped like x_t, in its dtype.

        Args:
            sde: the process.
            x_t: (B, ...).
            t: () or (B,) float64, in steps.
        """
        if self.input_scale == "unit" and self.same_datum:
            r = sde.scale(t)
            of_one = r.ndim == 0 and r.is_cpu and r.item() == 1  # a VP's: nothing to divide by
            return x_t if of_one else x_t / broadcast(r, x_t)
        y = x_t
        if self.centre != 0 or self.noise_unit != 1:
            y = (x_t - self.centre * broadcast(sde.alpha(t), x_t)) / self.noise_unit
        match self.input_scale:
            case "none":
                return y
            case "alpha":
                return y / broadcast(sde.alpha(t), x_t)
            case "unit":
                variance = sde.variance(t) / self.noise_unit**2
                r = ((self.data_std * sde.alpha(t)) ** 2 + variance).sqrt()
                return y / broadcast(r, x_t)
            case of_times:
                return y * broadcast(_of_rows("input_scale", of_times, t, x_t), x_t)

    def labels(self, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
        """The labels at times t, one a row of x: (B,).

        Args:
            sde: the process.
            x: the network's input, whose dtype and device they have.
            t: () or (B,) float64, in steps.
        """
        label, shared = self.label, t.ndim == 0 and t.is_cpu
        if not isinstance(label, Label):
            found = _of_rows("label", label, t, x)
            return found.to(x.dtype) if found.is_floating_point() else found
        if shared and label.of == "time":  # a copy to a GPU would wait for it; a number does not
            return x.new_full((len(x),), label.scale * t.item() + label.offset)
        found = label(sde, t, self.noise_unit)
        if shared:
            return x.new_full((len(x),), found.item())
        return found.to(x.device, x.dtype).expand(len(x))


def _of_rows(what: str, of_times: OfTimes, t: Tensor, x: Tensor) -> Tensor:
    """A user's function of time, one number a row of x, where x lies."""
    found = of_times(t.to(x.device).expand(len(x)))
    if not isinstance(found, Tensor) or found.shape != (len(x),):
        raise RequestError(
            f"{what} must return a tensor of shape ({len(x)},), one number a time, got "
            f"{tuple(found.shape) if isinstance(found, Tensor) else found!r}"
        )
    return found.to(x.device)


def _choose(what: str, name: object, options: tuple[str, ...]) -> None:
    if name not in options:
        raise RequestError(f"{what} must be one of {', '.join(options)}, got {name!r}")
