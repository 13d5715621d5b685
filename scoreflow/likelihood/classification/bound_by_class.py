"""The continuous bound of every class at the same times and noise, with early elimination.

    -log p(x_0 | k) <= L_T + J_k + L_0k,     J_k = 1/2 integral of E|x_0 error of k|^2 dsnr

(`likelihood.continuous_bound`). L_T is the same for all classes, and so are the point x_0, the
times and the noise: what differs is how well each class's denoiser finds x_0 again. A class that
is left out keeps the difference to the best one that it had then, over the times that both had.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoreflow.data.levels import Embedding, points
from scoreflow.likelihood.classification import elimination
from scoreflow.likelihood.classification.times import TimeLaw
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.losses.decoder import decoder_term
from scoreflow.losses.variational import prior_term
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser

OfClass = Callable[[Tensor], Denoiser]
"""Classes (B,) -> the denoiser of rows of these classes."""
CLASS_TIMES = 3 << 24
"""First noise step of the times: those of the ledger come before."""


@dataclass(frozen=True)
class LogLikelihoods:
    """Of some images, a row each, and of every class, a column each.

    Attributes:
        nats: log p(x | class), of integers log P, (b, K).
        errors: standard error of the difference to the most likely class, 0 for that one; None
            where it is not estimated, (b, K).
        evaluations: of the network, (b, K).
    """

    nats: Tensor
    errors: Tensor | None
    evaluations: Tensor


@dataclass(frozen=True)
class BoundByClass:
    """The bound of all classes.

    Attributes:
        denoiser: of rows of given classes.
        law: of the times.
        classes: their numbers, (K,) int64.
        log_prior: of them, (K,) float64.
        num_levels: L; None for vectors.
        embedding: what the network was trained on, of integers.
        seed: of dequantization, times and noise.
        rounds: how many times each has.
        z: standard errors beyond which a class is left out; infinite for never.
        batch_size: rows (an image and a class) that the denoiser is asked about at once.
        reference: what scatters less where its errors are taken off; None for nothing.
    """

    denoiser: OfClass
    law: TimeLaw
    classes: Tensor
    log_prior: Tensor
    num_levels: int | None
    embedding: Embedding
    seed: int
    rounds: tuple[int, ...]
    z: float
    batch_size: int
    reference: Reference | None = None

    @torch.no_grad()
    def of(self, data: Tensor, index: Tensor) -> LogLikelihoods:
        """Log-likelihoods of some data.

        Args:
            data: levels or vectors, (b, ...).
            index: which of the data set they are, (b,); it addresses their noise.
        """
        noise = Noise(self.seed, index)
        x_0 = points(data, self.num_levels, noise, Stream.DEQUANTIZE, self.embedding)
        standing = torch.ones(len(x_0), len(self.classes), dtype=torch.bool, device=x_0.device)
        begun, evaluations = self._first(x_0, data, noise), standing.long()
        prior = self.log_prior.to(x_0.device)
        latest, errors = begun.clone(), torch.zeros_like(begun)
        terms: list[Tensor] = []
        gone: list[tuple[Tensor, Tensor, Tensor]] = []
        for size in self.rounds:
            asked = standing & (standing.sum(1, keepdim=True) > 1)
            if not bool(asked.any()):
                break
            terms.append(self._terms(x_0, noise, sum(t.shape[2] for t in terms), size, asked))
            evaluations = evaluations + size * asked
            found = elimination.differences(terms, begun, prior, asked)
            latest = torch.where(asked, found.total, latest)
            errors = torch.where(asked, found.error, errors)
            out = elimination.dropped(found, asked, self.z)
            gone.append((out, found.best, found.total - _taken(found.total, found.best)))
            standing = standing & ~out
        for out, best, apart in reversed(gone):  # the best one then may itself have gone later
            latest = torch.where(out, _taken(latest, best) + apart, latest)
        return LogLikelihoods(-latest, errors, evaluations)

    def _first(self, x_0: Tensor, data: Tensor, noise: Noise) -> Tensor:
        """All of the bound but J's samples, with the reference's part in closed form: (b, K)."""
        t_min, here = self.law.t_min, noise.at(CLASS_TIMES)
        eps = here.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
        t = x_0.new_full((len(x_0),), t_min)
        found = x_0.new_zeros(len(x_0), len(self.classes))
        x_t, every = self.law.sde.perturb(x_0, t, eps), torch.ones_like(found, dtype=torch.bool)
        row, column, estimate = self._estimates(x_t, t, every)
        square = (x_0[row] - estimate).square().flatten(1).sum(1) + self._known(x_0, eps)[row]
        common = self._common(x_0)
        found[row, column] = self._last(estimate, square, data[row]) + common[row]
        return found

    @property
    def _snr(self) -> Tensor:
        """The SNR at N and at t_min, (2,) on the CPU."""
        sde = self.law.sde
        ends = torch.tensor([float(sde.num_steps), self.law.t_min], dtype=torch.float64)
        return sde.log_snr(ends).exp()

    @property
    def _spread(self) -> bool:
        """Whether a datum lies anywhere in its bin, or has none, so that x_0 has a density."""
        return self.embedding == "uniform" or self.num_levels is None

    def _common(self, x_0: Tensor) -> Tensor:
        """What all classes have: L_T, the reference's J, and the volume of a bin: (b,)."""
        found = prior_term(self.law.sde, x_0)
        if self.reference is not None:
            found = found + self.reference.integral(x_0, *self._snr)
        if self._spread and self.num_levels is not None:
            found = found - x_0[0].numel() * math.log(2 / self.num_levels)
        return found

    def _known(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """The mean of the reference's squared error at t_min, minus this draw of it: (b,)."""
        if self.reference is None:
            return x_0.new_zeros(len(x_0))
        snr = self._snr[1:].to(x_0.device)
        mean = self.reference.expected_sums(x_0, snr, torch.ones_like(snr), [1])[:, 0]
        return mean - self.reference.square(x_0, snr.expand(len(x_0)), eps)

    def _last(self, estimate: Tensor, square: Tensor, data: Tensor) -> Tensor:
        """L_0: the normal density of x_0, or the decoder's of an integer that has no other place.

        Args:
            estimate: of x_0 at t_min, (B, ...).
            square: its squared error, (B,).
            data: levels, (B, ...); of vectors unread.
        """
        snr = float(self._snr[1])
        if self._spread:
            return 0.5 * (data[0].numel() * math.log(2 * math.pi / snr) + snr * square)
        assert self.num_levels is not None, "vectors are spread"
        variance = torch.tensor(1 / snr, dtype=torch.float64)
        return decoder_term(estimate, data, self.num_levels, variance)

    def _terms(self, x_0: Tensor, noise: Noise, before: int, size: int, asked: Tensor) -> Tensor:
        """Samples of J of the classes asked, by strata; of the others 0: (b, K, size)."""
        found = x_0.new_zeros(*asked.shape, size)
        for k in range(size):
            here = noise.at(CLASS_TIMES + 1 + before + k)
            t, weight = self.law.at((k + here.uniform(Stream.TRAIN_TIME)) / size)
            eps = here.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
            row, column, estimate = self._estimates(self.law.sde.perturb(x_0, t, eps), t, asked)
            square = (x_0[row] - estimate).square().flatten(1).sum(1)
            if self.reference is not None:
                snr = self.law.sde.log_snr(t).exp()
                square = square - self.reference.square(x_0, snr, eps)[row]
            found[row, column, k] = weight[row] * square
        return found

    def _estimates(self, x_t: Tensor, t: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column of each one asked, and its estimate of x_0."""
        row, column = asked.nonzero(as_tuple=True)
        classes = self.classes.to(x_t.device)
        parts = [
            self.denoiser(classes[k])(x_t[i], t[i]).x_0
            for i, k in zip(row.split(self.batch_size), column.split(self.batch_size), strict=True)
        ]
        return row, column, torch.cat(parts)


def _taken(values: Tensor, column: Tensor) -> Tensor:
    """The value of a column in each row: (b, 1)."""
    return values.gather(1, column[:, None])
