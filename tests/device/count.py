"""Kernels and bytes of a training step of CIFAR-10's network, counted without computing it.

    python -m tests.device.count [--help] [batch]

One eager step in bfloat16 and channels last, ours and that of diffusers' network in its usual loop
(`benchmarks.contenders`). By the rules of `tests/device/rules.py`: numbers to compare and to hold,
no measurement.
"""

import argparse

import torch

from benchmarks import contenders
from benchmarks.command_line import whole_number
from scoreflow.configs import cifar10
from tests.device.pretend import pretending
from tests.device.watch import Seen, watching

BEST = {"precision": "bfloat16", "channels_last": True}


def ours(batch: int, **model: object) -> Seen:
    """What our trainer's second step asks of a GPU.

    Args:
        batch: images a step.
        model: keys of the section model that are not DDPM's.
    """
    config = cifar10.get_config()
    config.training.update(batch_size=batch, **BEST)
    config.model.update(model)
    with pretending(bare=True) as device, watching() as seen:
        trainer = contenders.trainer_of(config, contenders.images(device))
        trainer.advance(1)
        seen.clear()
        trainer.advance(1)
        return seen


def diffusers(batch: int) -> Seen:
    """The same of diffusers' network, in the loop of their training example."""
    with pretending(bare=True) as device, watching() as seen:
        loop = contenders.DiffusersLoop(device, batch, "best")
        loop.called = loop.network  # not compiled
        loop.train(1)
        seen.clear()
        loop.train(1)
        return seen


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    told = "kernels and bytes of a training step of CIFAR-10's network, ours and diffusers'"
    parser = argparse.ArgumentParser("python -m tests.device.count", description=told)
    images = "images a step, 128 if it is left out"
    parser.add_argument("batch", type=whole_number(1), nargs="?", default=128, help=images)
    return parser.parse_args(argv)


def main() -> None:
    """Print both tables."""
    batch = parsed().batch
    torch.set_num_threads(1)
    for name, count in (("ours", ours), ("diffusers", diffusers)):
        print(f"{name}, batch {batch}: kernels and MB a step\n{count(batch).table()}\n")


if __name__ == "__main__":
    main()
