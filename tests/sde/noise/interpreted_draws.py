"""Run by `test_fused.py` in a process of its own, where Triton interprets its kernels on a CPU."""

import torch

from scoreflow.sde.noise.plain_draws import DRAWS, Address
from scoreflow.sde.noise.triton_draws import draw

LAST = 2**32 - 1
PLACES = [  # indices, clock, first step, steps, lane, count
    ([0, 1, 2], None, 0, 1, 4, 1),
    ([LAST, 7], None, LAST, 1, (2**24 - 1) << 8 | 255, 7),
    ([5], 3, 2**31 - 2, 3, 11, 1030),  # more than a tile, and steps across a sign
    ([2**31, 2**31 - 1, LAST], LAST - 1, 0, 2, 2 << 8, 64),
    (list(range(200)), 0, 9, 2, 3, 5),  # more rows than a tile
    ([], None, 3, 1, 0, 5),
    ([1], None, 3, 1, 0, 0),
]
DTYPES = {"words": [torch.int64]}


def main() -> None:
    for seed in (2**32 + 5, 2**64 - 1):
        for index, clock, *rest in PLACES:
            ticks = None if clock is None else torch.tensor(clock)
            at = Address(torch.tensor(index, dtype=torch.int64), ticks, seed, *rest)
            for kind in DRAWS:
                for dtype in DTYPES.get(kind, [torch.float64, torch.float32]):
                    check(kind, at, dtype)


def check(kind: str, at: Address, dtype: torch.dtype) -> None:
    signed = at.seed - 2**64 if at.seed >= 2**63 else at.seed
    found = draw(kind, at.index, at.clock, signed, at.step, at.steps, at.lane, at.count, dtype)
    assert found.is_contiguous()
    expected = DRAWS[kind](at).to(dtype)
    exact = kind != "normal"
    atol = 0 if exact else (1e-12 if dtype == torch.float64 else 1e-6)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=atol, msg=lambda text: f"{kind} {at}: {text}"
    )


if __name__ == "__main__":
    main()
