"""All images of a file onto one stack, and off it in their order, with check sums a block."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scoreflow.errors import RunError
from scoreflow.likelihood.compression.ans_stack import WORD, AnsStack, WrongBitsError
from scoreflow.likelihood.compression.bits_back import Grid, pop, push
from scoreflow.likelihood.compression.halfway import Halfway

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Encoded:
    """A stack with images on it.

    Attributes:
        words: from the bottom to the top; those that were never looked at are left out.
        borrowed: words at the bottom that were lent, and hold no image.
        net_bits: that each batch added, in the order of the images.
    """

    words: Words
    borrowed: int
    net_bits: list[int]


def encode(
    grid: Grid,
    levels: Tensor,
    batch: int,
    seed: int,
    on_call: Callable[[], None] = lambda: None,
    begun: Halfway | None = None,
    on_batch: Callable[[Callable[[], Halfway]], None] = lambda _state: None,
) -> Encoded:
    """Put images onto a stack, the last batch first, so that the first comes off first.

    Args:
        grid: of the chain.
        levels: (n, ...) in 0..L-1, n >= 1.
        batch: B, images in flight: so many borrow bits at a time.
        seed: of the bits that are lent.
        on_call: called after each evaluation of the network, K times a batch.
        begun: the state after some batches, from which it goes on to the same words.
        on_batch: called after each batch with what gives the state.
    """
    lent = np.random.default_rng(seed).integers(
        1, 2**WORD, grid.borrowed(min(batch, len(levels))) // WORD + 4, dtype=np.uint32
    )
    stack, net = AnsStack(lent if begun is None else begun.words), list[int]()
    if begun is not None:
        stack.least, net = begun.least, [*begun.net_bits]

    def state() -> Halfway:
        return Halfway(stack.words(), stack.least, [*net])

    for each in [*reversed(levels.split(batch))][len(net) :]:
        before = stack.num_bits
        push(stack, grid, each, on_call)
        net.append(stack.num_bits - before)
        on_batch(state)
    if stack.least < 1:
        raise RunError("the coder lent too few bits: report this, and take a smaller batch_size")
    return Encoded(stack.words()[stack.least :], len(lent) - stack.least, net[::-1])


def decode(
    grid: Grid,
    words: Words,
    count: int,
    batch: int,
    on_call: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """The images of a stack, a batch at a time, in their order.

    Raises:
        WrongBitsError: no encoder with these laws has made it.
    """
    try:
        stack = AnsStack(words)
        for start in range(0, count, batch):
            yield pop(stack, grid, min(batch, count - start), on_call)
    except (OverflowError, ValueError) as error:  # of numbers that no law has
        raise WrongBitsError(str(error)) from error


def checks_of(levels: Tensor, block: int) -> tuple[int, ...]:
    """CRC-32 of each block of images: of bytes, or of int32 little-endian."""
    return tuple(check(part) for part in levels.split(block))


def check(levels: Tensor, before: int = 0) -> int:
    """CRC-32 of levels after others."""
    values = levels.cpu().numpy()
    return zlib.crc32(values.astype("u1" if values.itemsize == 1 else "<i4").tobytes(), before)
