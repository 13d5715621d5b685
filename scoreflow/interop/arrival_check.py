"""Is an imported network asked as it was trained? Its noise errors, held against a Gaussian's.

At data x_0 and noise eps, x_t = alpha x_0 + sigma eps, the best estimate of eps under *any* law of
data with variance v a dimension errs by no more than under the Gaussian of that variance, whose
best estimate is linear (LMMSE):

    E|eps error|^2 / D  <=  alpha^2 v / (alpha^2 v + sigma^2),

which rises from 0 where there is noise alone to 1 where there is none. A trained network lies
below it, and far below in between. One that is asked with a wrong label, range or order of heads
lies above, or would err less if it were asked in another way: a few such ways are tried, on the
same images and noise, and the best of them is the likeliest cause.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scoreflow.interop.other_readings import Reading
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.uncertainty import standard_error

TIMES = 16
"""Times of the check, even in log-SNR."""
STRIDE = 2
"""Other ways to ask are tried at every so many of them."""
REACH = 12.0
"""Greatest |log-SNR| of them: beyond, every network errs by 0 or 1."""
ALLOWED, ALLOWED_SHARE = 0.05, 0.1
"""What a network may err more than the Gaussian: in all, and as a share of that."""
SURE, GAIN = 4.0, 0.02
"""Standard errors, and share of the error, by which another way to ask must be better to count."""
FIRST_NOISE = 5 << 24
"""First noise step of the check; those of other measurements lie below."""


@dataclass(frozen=True)
class Errors:
    """E|eps error|^2 / D by time.

    Attributes:
        times: rising, in steps, (T,) float64.
        log_snr: at these, (T,).
        each: of each datum, (n, T) float64.
        of_gaussian: what the best estimate errs under a Gaussian of the data's variance, (T,).
    """

    times: Tensor
    log_snr: Tensor
    each: Tensor
    of_gaussian: Tensor

    @property
    def mean(self) -> Tensor:
        """Over the data, (T,)."""
        return self.each.mean(0)

    @property
    def error(self) -> Tensor:
        """Standard error of the mean, (T,); zeros for a single datum."""
        if len(self.each) < 2:
            return torch.zeros_like(self.mean)
        found: Tensor = self.each.std(0) / len(self.each) ** 0.5
        return found

    @property
    def excess(self) -> Tensor:
        """How far each mean lies above what is allowed, (T,); above 0 is too far."""
        allowed = self.of_gaussian * (1 + ALLOWED_SHARE) + ALLOWED
        found: Tensor = self.mean - SURE * self.error - allowed
        return found

    @property
    def above(self) -> bool:
        """Whether it errs more than the Gaussian, at some time or on average."""
        of_all = float(self.mean.mean() - self.of_gaussian.mean())
        return not bool((self.excess <= 0).all()) or not of_all <= ALLOWED


@dataclass(frozen=True)
class Arrival:
    """The outcome of the check.

    Attributes:
        errors: of the network as it is asked.
        others: name of each other way that was tried, and its mean error over data and times.
        best: the way that is better than how it is asked, beyond doubt; None if none is.
        on: what data it was made on, in words.
    """

    errors: Errors
    others: dict[str, float]
    best: Reading | None
    on: str

    @property
    def passed(self) -> bool:
        """Whether the network is asked as it was trained, as far as can be seen."""
        return self.best is None and not self.errors.above

    def trouble(self) -> str:
        """What is wrong and the likeliest cause, in one line; "" where nothing is."""
        if self.passed:
            return ""
        e = self.errors
        if not bool(e.each.isfinite().all()):
            return "the network's answers are not finite"
        k = int(e.excess.argmax())
        told = (
            f"at t = {e.times[k]:g} its mean |eps error|^2 is {e.mean[k]:.3g} a dimension, where "
            f"a Gaussian of the data's variance has {e.of_gaussian[k]:.3g}"
            if self.errors.above
            else f"its mean |eps error|^2 is {e.mean.mean():.3g} a dimension"
        )
        if self.best is None:
            return (
                f"{told}; no other way of asking that was tried does better, so its options, its "
                "architecture or its weights are likely wrong, or the images unlike its own"
            )
        there = self.others[self.best.name]
        return f"{told}; {there:.3g} on average with {self.best.name}: {self.best.remedy}"

    def as_result(self) -> dict[str, Any]:
        """For results/: the curve, what was tried, and the verdict."""
        e = self.errors
        return {
            "passed": self.passed,
            "on": self.on,
            "trouble": self.trouble(),
            "value": float(e.mean.mean()),
            "standard_error": standard_error(e.each.mean(1)),
            "unit": "E|eps error|^2 / D, mean over times even in log-SNR",
            "times": e.times.tolist(),
            "log_snr": e.log_snr.tolist(),
            "eps_error": e.mean.tolist(),
            "standard_errors": e.error.tolist(),
            "of_gaussian": e.of_gaussian.tolist(),
            "others": self.others,
        }


def times_of(sde: SDE, t_min: float) -> Tensor:
    """Times even in log-SNR, within t_min and N: whole ones where they are above 1."""
    ends = torch.tensor([t_min, float(sde.num_steps)], dtype=torch.float64)
    high, low = sde.log_snr(ends).clamp(-REACH, REACH).tolist()
    even = torch.linspace(high, low, TIMES, dtype=torch.float64)
    t = sde.time_of_log_snr(even)
    found: Tensor = torch.where(t >= 1, t.round(), t).clamp(t_min, sde.num_steps).unique()
    return found


@torch.no_grad()
def errors_of(
    model: ScoreModel,
    times: Tensor,
    x_0: Tensor,
    labels: Tensor | None = None,
    seed: int = 0,
    stride: int = 1,
    batch_size: int = 16,
    on_call: Callable[[], None] = lambda: None,
) -> Errors:
    """The errors of a network at some data.

    Args:
        model: evaluated once a batch and time.
        times: in steps, (T,).
        x_0: (n, ...) float64; datum k meets the noise of sample index k.
        labels: the class of each, (n,) int64; None for no class.
        seed: of the noise.
        stride: at every so many of the times alone, each with the noise that is its own.
        batch_size: data at a time.
        on_call: called after each evaluation.
    """
    sde, rows = model.sde, []
    for index in torch.arange(len(x_0), device=x_0.device).split(batch_size):
        batch, found = x_0[index], []
        denoiser = model if labels is None else model.labelled(labels[index])
        for k in range(0, len(times), stride):
            t, noise = times[k], Noise(seed, index, FIRST_NOISE + k)
            eps = noise.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
            estimate = denoiser(sde.perturb(batch, t, eps), t).eps
            found.append((estimate - eps).square().flatten(1).mean(1).double())
            on_call()
        rows.append(torch.stack(found, 1).cpu())
    times = times[::stride]
    signal = sde.alpha(times) ** 2 * float(x_0.var())
    return Errors(
        times, sde.log_snr(times), torch.cat(rows), signal / (signal + sde.variance(times))
    )


def check(
    asked: Reading,
    others: Sequence[Reading],
    x_0: Tensor,
    on: str,
    labels: Tensor | None = None,
    tried: int = 8,
    on_call: Callable[[], None] = lambda: None,
    on_reading: Callable[[], None] = lambda: None,
) -> Arrival:
    """Measure a network as it is asked, and in other ways.

    Args:
        asked: the network as it was read.
        others: ways to read it otherwise, each with its remedy.
        x_0: data, (n, ...) float64, at least 2.
        on: what they are, in words.
        labels: the class of each, (n,) int64; None for no class.
        tried: the first so many of them, on which a way must not be worse to be tried on all.
        on_call: called after each evaluation of a batch.
        on_reading: called after each of the 1 + len(others) ways.
    """
    measure = partial(_measured, x_0=x_0, labels=labels, on_call=on_call)
    times = times_of(asked.model.sde, asked.model.t_min)
    log_snr = asked.model.sde.log_snr(times)
    errors = errors_of(asked.model, times, x_0, labels, on_call=on_call)
    found, best, least = {}, None, 0.0
    for other in others:
        on_reading()  # after the one before
        theirs = measure(other.model, log_snr, count=tried, stride=STRIDE)
        found[other.name] = float(theirs.mean.mean())
        if float((errors.each[:tried, ::STRIDE] - theirs.each).mean()) < least:
            continue
        theirs = measure(other.model, log_snr, count=len(x_0), stride=1)
        found[other.name] = float(theirs.mean.mean())
        gain = (errors.each - theirs.each).mean(1)
        doubt = SURE * (standard_error(gain) or 0.0) + GAIN * float(errors.mean.mean())
        if not theirs.above and float(gain.mean()) > max(doubt, least):
            best, least = other, float(gain.mean())
    on_reading()
    return Arrival(errors, found, best, on)


def _measured(
    model: ScoreModel,
    log_snr: Tensor,
    *,
    count: int,
    stride: int,
    x_0: Tensor,
    labels: Tensor | None,
    on_call: Callable[[], None],
) -> Errors:
    """The errors of a network at its own times of these log-SNRs."""
    t = model.sde.time_of_log_snr(log_snr)
    at = torch.where(t >= 1, t.round(), t).clamp(model.t_min, model.sde.num_steps)
    few = None if labels is None else labels[:count]
    return errors_of(model, at, x_0[:count], few, stride=stride, on_call=on_call)
