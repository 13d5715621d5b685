"""Images sent from the noise down to a time: any beginning of the code is all images, coarser.

The lossless code is a stack, where an image's noise is other images' bits: no part of it says
anything of an image. Here every state of the chain (`chain`) is itself sent, as DiffC does (Theis,
Salimans, Hoffman & Mentzer 2022),

    z_K ~ q(z_K | x) by candidates from the prior,      z_(k-1) ~ q(z_(k-1) | z_k, x) from p

by `relative_entropy`, and the images are the estimates of x_0 at the last state that is there.
Here x is the centres of the levels' bins. The elements of a state, in an order that spreads
neighbours, are cut into equal parts of at most `part_bits`, as many as an image needs, which is
sent too; all images' indices of a state follow one another, and those of the next state them.

What the receiver makes of an index depends on the network's floats, but which bits are read does
not: on another machine the images differ by what its roundings come to, and are read all the same.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoreflow.likelihood.compression.chain import Chain, Normal
from scoreflow.likelihood.compression.error_law import ErrorLaw, Measured
from scoreflow.likelihood.compression.progressive.file import law_bytes
from scoreflow.likelihood.compression.progressive.index_code import (
    Frequencies,
    Reader,
    Writer,
    told_as,
)
from scoreflow.likelihood.compression.progressive.relative_entropy import (
    Chosen,
    Pair,
    Shared,
    choose,
)
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream

OVER = 1.2, 0.7
"""Bits that an index is expected to take beyond those of its part: any, and in log2(bits + 1)."""
SPREAD = (0.6, 0.8, 1.0, 1.2, 1.4)
"""Bits of images in units of their mean, of which each may need another count of parts."""
TYPICAL, PER_PART = 6, 4
"""Bits of what is told of a layer: its count of parts, and the bits of one."""
MOST_TOLD = 2**TYPICAL - 1


@dataclass(frozen=True)
class State:
    """What the receiver has at a time.

    Attributes:
        t: the time.
        estimate: of x_0, (n, ...) float64 within [-1, 1].
        sent: by then; None from the receiver.
    """

    t: int
    estimate: Tensor
    sent: "Sent | None" = None


@dataclass(frozen=True)
class Sent:
    """What was sent, of all images.

    Attributes:
        bits: of the code.
        nats: the KLs of all parts.
        parts: indices.
        cut: of them, whose search was given up (`relative_entropy.MOST`).
    """

    bits: int = 0
    nats: float = 0.0
    parts: int = 0
    cut: int = 0


OnState = Callable[[State], None]


@dataclass(frozen=True)
class Progressive:
    """The code of images by a chain, down to its first time above 0.

    Attributes:
        chain: of K steps; the one from its first time to the levels is not sent.
        seed: of the shared candidates.
        batch_size: images that the network is asked of at once.
        part_bits: KL of a part at the most, where it has more than one element.
        device: of the network; all else is done on the CPU.
    """

    chain: Chain
    seed: int
    batch_size: int
    part_bits: float
    device: torch.device = torch.device("cpu")

    def encode(self, x_0: Tensor, on_state: OnState) -> np.ndarray[Any, Any]:
        """The code of images: (words,) uint32.

        Args:
            x_0: points in [-1, 1], (n, C, H, W) float64 on the CPU.
            on_state: called at each of the chain's times but 0, from N down.
        """
        sender = _Sender(self, x_0)
        for t, estimate in self._states(len(x_0), sender.send):
            on_state(State(t, estimate, sender.sent))
        return sender.writer.words()

    def decode(
        self, words: np.ndarray[Any, Any], count: int, on_state: OnState, stop: int = 0
    ) -> None:
        """What the receiver has, time by time.

        Args:
            words: of a code, or as many of its first ones as there are for these times.
            count: n.
            on_state: called at each of the chain's times but 0, from N down.
            stop: no time below it is read; 0 for all.
        """
        receiver = _Receiver(self, words, count)
        for t, estimate in self._states(count, receiver.receive, stop):
            on_state(State(t, estimate))

    @torch.no_grad()
    def _states(
        self, count: int, normals: "Normals", stop: int = 0
    ) -> Iterator[tuple[int, Tensor]]:
        """Times and estimates there, as both sides have them, from the normals of each layer."""
        chain = self.chain
        shape = (count, *chain.event)
        law = Normal(
            torch.zeros(shape, dtype=torch.float64),
            torch.full(shape, chain.prior_std, dtype=torch.float64),
        )
        z = law.mean
        for layer, k in enumerate(range(chain.num_steps, 0, -1)):
            z = law.mean + law.std * normals(layer, law, z).view(shape)
            parts = [chain.estimate(k, each.to(self.device)) for each in z.split(self.batch_size)]
            estimate = torch.cat(parts).cpu()
            yield chain.times[k], estimate
            if chain.times[k - 1] < max(stop, 1):
                return
            law = _reverse(chain, k, z, estimate)


Normals = Callable[[int, Normal, Tensor], Tensor]
"""Layer, law of the next state and the state before it -> its normals, (n, D)."""


def _reverse(chain: Chain, k: int, z: Tensor, estimate: Tensor) -> Normal:
    """As `Chain.reverse`, of an estimate that is known."""
    of_z, of_x_0, variance = chain.posterior(k)
    error = chain.law.of(chain.times[k], estimate)
    return Normal(of_z * z + of_x_0 * estimate, (variance + of_x_0**2 * error).sqrt())


class _Sender:
    """Chooses the normals of each layer, and writes which."""

    def __init__(self, code: Progressive, x_0: Tensor) -> None:
        self.code, self.x_0, self.sent = code, x_0, Sent()
        self.writer = Writer()

    def send(self, layer: int, law: Normal, z: Tensor) -> Tensor:
        """See `Normals`."""
        mean, std = self._target(layer, z)
        order = order_of(self.x_0[0].numel())
        own, wide, other = (each.flatten(1)[:, order] for each in (law.mean, law.std, mean))
        pair = Pair.of(own, wide, other, std)
        divergence = pair.divergence()
        counts = part_counts(divergence, self.code.part_bits)
        found = {count: self._search(layer, pair, counts, count) for count in _distinct(counts)}
        cut = sum(each.cut for parts in found.values() for each in parts)
        indices = _by_image(counts, {n: [p.index for p in parts] for n, parts in found.items()})
        self._write(indices, divergence.sum(1) / counts)
        self.sent = Sent(
            self.writer.bits,
            self.sent.nats + float(divergence.sum()),
            self.sent.parts + int(counts.sum()),
            self.sent.cut + cut,
        )
        return normals_of(Shared(self.code.seed, layer), indices, len(order))

    def _write(self, indices: list[list[int]], nats: Tensor) -> None:
        """A layer's indices; nats are the KL of a part of each image on average, (n,)."""
        counts, dims = torch.tensor([len(own) for own in indices]), self.x_0[0].numel()
        laws = _Laws.told(self.writer, counts, nats / math.log(2), dims)
        for own in indices:
            self.writer.put(len(own) - 1, laws.counts)
            for index in own:
                self.writer.put_index(index, laws.of(len(own)))

    def _target(self, layer: int, z: Tensor) -> tuple[Tensor, float]:
        """Mean and standard deviation of the state that is to be sent, given x."""
        chain = self.code.chain
        if layer == 0:
            end = torch.tensor(float(chain.times[-1]), dtype=torch.float64)
            return float(chain.sde.alpha(end)) * self.x_0, float(chain.sde.sigma(end))
        of_z, of_x_0, variance = chain.posterior(chain.num_steps + 1 - layer)
        return of_z * z + of_x_0 * self.x_0, math.sqrt(variance)

    def _search(self, layer: int, pair: Pair, counts: Tensor, count: int) -> list[Chosen]:
        """The indices of all images that have so many parts, part by part."""
        rows, shared = (counts == count).nonzero()[:, 0], Shared(self.code.seed, layer)
        found = []
        for part in parts_of(pair.ratio.shape[1], count):
            first, dims = part.start, part.stop - part.start
            candidates, gaps = shared.candidates(first, dims), shared.gaps(first)
            found.append(choose(pair.rows(rows, part), candidates, gaps))
        return found


class _Receiver:
    """Reads the normals of each layer."""

    def __init__(self, code: Progressive, words: np.ndarray[Any, Any], count: int) -> None:
        self.code, self.count = code, count
        self._reader = Reader(words)

    def receive(self, layer: int, law: Normal, z: Tensor) -> Tensor:
        """See `Normals`."""
        dims = z[0].numel()
        laws = _Laws.read(self._reader, dims)
        indices = [self._image(laws) for _ in range(self.count)]
        return normals_of(Shared(self.code.seed, layer), indices, dims)

    def _image(self, laws: "_Laws") -> list[int]:
        """The indices of an image's parts."""
        count = self._reader.get(laws.counts) + 1
        return [self._reader.get_index(laws.of(count)) for _ in range(count)]


@dataclass
class _Laws:
    """Frequencies of what is sent in a layer.

    Attributes:
        counts: of parts, less one.
        alone: of the index of one part that is all.
        among: of those of several.
    """

    counts: Frequencies
    alone: Frequencies
    among: Frequencies

    @classmethod
    def told(cls, writer: Writer, counts: Tensor, bits: Tensor, dims: int) -> "_Laws":
        """Of these counts of parts, and their bits, each (n,); what they are is written."""
        typical = min(int(counts.median()), MOST_TOLD)
        alone, among = (_told_mean(bits[which]) for which in (counts == 1, counts > 1))
        writer.put_even(typical, TYPICAL)
        writer.put_even(alone, PER_PART)
        writer.put_even(among, PER_PART)
        return cls.of_told(typical, alone, among, dims)

    @classmethod
    def read(cls, reader: Reader, dims: int) -> "_Laws":
        """Of what was written."""
        typical, alone, among = (reader.get_even(b) for b in (TYPICAL, PER_PART, PER_PART))
        return cls.of_told(typical, alone, among, dims)

    @classmethod
    def of_told(cls, typical: int, alone: int, among: int, dims: int) -> "_Laws":
        """Of the three numbers."""
        of_parts = (Frequencies.of_indices(each) for each in (alone, among))
        return cls(Frequencies.around(max(typical, 1) - 1, dims), *of_parts)

    def of(self, count: int) -> Frequencies:
        """Of the indices of an image that has so many."""
        return self.alone if count == 1 else self.among


def _told_mean(bits: Tensor) -> int:
    """The mean as it is told; 0 of none."""
    return told_as(float(bits.mean())) if len(bits) else 0


# ---- parts --------------------------------------------------------------------------------------


def order_of(dims: int) -> Tensor:
    """The elements in an order that spreads neighbours, always the same, (D,)."""
    found: Tensor = Noise.of(0, 0, 1).uniform(Stream.DATA, (dims,))[0].argsort()
    return found


def parts_of(dims: int, count: int) -> list[slice]:
    """Equal parts of D elements, as nearly as they can be."""
    ends = [k * dims // count for k in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(ends)]


def part_counts(divergence: Tensor, part_bits: float) -> Tensor:
    """Of each image, into how few parts it is cut for each to have at most so many bits: (n,).

    Args:
        divergence: KL of each element, nats, (n, D), in the order of the parts.
        part_bits: at the most, positive.
    """
    count, dims = divergence.shape
    most = part_bits * math.log(2)
    sums = torch.cat([divergence.new_zeros(count, 1), divergence.cumsum(1)], 1)
    counts = torch.full((count,), dims)
    open_ = torch.arange(count)
    for parts in range(1, dims):
        ends = [k * dims // parts for k in range(parts + 1)]
        fits = (sums[open_][:, ends].diff(dim=1) <= most).all(1)
        counts[open_[fits]] = parts
        open_ = open_[~fits]
        if not len(open_):
            break
    return counts


def normals_of(shared: Shared, indices: list[list[int]], dims: int) -> Tensor:
    """The normals that indices stand for, an image's parts a row, in the elements' own order.

    Args:
        shared: of the layer.
        indices: of each image's parts.
        dims: D.
    """
    found = torch.empty(len(indices), dims, dtype=torch.float64)
    counts = torch.tensor([len(own) for own in indices])
    for count in _distinct(counts):
        rows = (counts == count).nonzero()[:, 0]
        own = torch.tensor([indices[row] for row in rows.tolist()])
        for k, part in enumerate(parts_of(dims, count)):
            width = part.stop - part.start
            found[rows, part] = shared.at(own[:, k], part.start, width)
    return torch.empty_like(found).index_copy_(1, order_of(dims), found)


def _distinct(counts: Tensor) -> list[int]:
    return sorted(set(counts.tolist()))


def _by_image(counts: Tensor, found: dict[int, list[Tensor]]) -> list[list[int]]:
    """The indices of each image's parts, from those of all that have as many."""
    rows = {count: iter(torch.stack(parts, 1).tolist()) for count, parts in found.items()}
    return [next(rows[count]) for count in counts.tolist()]


# ---- times --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A law and times for it.

    Attributes:
        law: at all times but the first two.
        times: 0, the last one sent, ..., N.
        bits: expected of the code of all images and the law's own.
    """

    law: ErrorLaw
    times: tuple[int, ...]
    bits: float


def plan(
    halves: tuple[Measured, Measured],
    times: tuple[int, ...],
    sde: SDE,
    stop: int,
    images: int,
    dims: int,
    part_bits: float,
) -> Plan:
    """What sends so many images in the fewest bits, as the other half of training images has it.

    Args:
        halves: errors of two parts of the training images.
        times: of the errors, rising, the last one N.
        sde: the process.
        stop: one of them.
        images: to be sent.
        dims: D.
        part_bits: of a part at the most.
    """
    plans = []
    for kind, tally in halves[0].items():
        law = tally.law(times)
        path, bits = cheapest_times(
            dims * halves[1][kind].costs(law, sde)[1:, 1:], times, stop, part_bits
        )
        whole = (tally + halves[1][kind]).law(times).at(path[2:])
        plans.append(Plan(whole, path, images * bits + 8 * len(law_bytes(whole))))
    return min(plans, key=lambda each: each.bits)


def cheapest_times(
    nats: Tensor, times: tuple[int, ...], stop: int, part_bits: float
) -> tuple[tuple[int, ...], float]:
    """0, then the times from `stop` to N by which an image takes the fewest bits, and these.

    A state has the price of its bits and of its indices: few states are far from the images, and
    many have many indices.

    Args:
        nats: of an image, from the time of a row to that of a column: (M, M).
        times: M of them, rising, the last one N.
        stop: one of them.
        part_bits: of a part at the most.
    """
    first, last = times.index(stop), len(times) - 1
    price = torch.stack([_price(each * nats / math.log(2), part_bits) for each in SPREAD]).mean(0)
    best, whence = {last: 0.0}, {}
    for j in range(last - 1, first - 1, -1):
        costs = {i: best[i] + float(price[i, j]) for i in range(j + 1, last + 1)}
        whence[j] = min(costs, key=lambda i: costs[i])
        best[j] = costs[whence[j]]
    path, at = [0, times[first]], first
    while at != last:
        at = whence[at]
        path.append(times[at])
    return tuple(path), best[first]


def _price(bits: Tensor, part_bits: float) -> Tensor:
    """Bits that states of so many bits are expected to take."""
    parts = (bits / part_bits).ceil().clamp(min=1)
    return bits + parts * (OVER[0] + OVER[1] * (bits / parts + 1).log2())
