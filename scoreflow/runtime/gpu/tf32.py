"""TF32: whether a GPU may round the factors of float32 products to 10 bits of mantissa.

torch has two switches for products of matrices and convolutions: `allow_tf32`, and from 2.9 on
`fp32_precision`, where "none" is whatever the level above says. They are one setting seen twice;
where a program has set the newer, the older may raise when it is read, so here it is only
written, and both always say the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

MATMUL: Any = torch.backends.cuda.matmul
CUDNN: Any = torch.backends.cudnn
INHERITED = "none"


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """TF32 on or off inside, and afterwards as the program had set it."""
    newer = {part: _own(part) for part in _parts()}
    older = [_older(MATMUL, [MATMUL]), _older(CUDNN, _parts()[1:])]
    try:
        switch_tf32(on)
        yield
    finally:
        MATMUL.allow_tf32, CUDNN.allow_tf32 = older
        for part, value in newer.items():
            part.fp32_precision = value


def switch_tf32(on: bool) -> None:
    """TF32 on or off from here on, in products of matrices and in convolutions."""
    _switch(MATMUL, _parts()[:1], on)
    switch_convolutions(on)


def switch_convolutions(on: bool) -> None:
    """TF32 on or off from here on in convolutions alone."""
    _switch(CUDNN, _parts()[1:], on)


def _switch(backend: Any, parts: list[Any], on: bool) -> None:  # noqa: ANN401
    backend.allow_tf32 = on
    for part in parts:  # the line above says "as the level above" for off, which may be on
        part.fp32_precision = "tf32" if on else "ieee"


def _parts() -> list[Any]:
    """What has the newer switch, products of matrices first; none before torch 2.9."""
    return [MATMUL, CUDNN.conv, CUDNN.rnn] if hasattr(CUDNN, "conv") else []


def _own(part: Any) -> str:  # noqa: ANN401
    """What a part itself says: torch tells what holds, and not whether the level above said it."""
    value = str(part.fp32_precision)
    return INHERITED if value == CUDNN.fp32_precision else value


def _older(backend: Any, parts: list[Any]) -> bool:  # noqa: ANN401
    """What the older switch says; where it does not answer, what does not fit the newer."""
    with suppress(RuntimeError):
        return bool(backend.allow_tf32)
    return not all(part.fp32_precision == "tf32" for part in parts)
