"""Command lines of the benchmarks: parsers, checks of arguments, exit statuses."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import torch

from scoreflow.errors import RequestError, RunError
from scoreflow.runtime.device import build_device

ROOT = Path(__file__).resolve().parents[1]
"""The repository, whose results/ is the default place of results."""


class OneLineParser(argparse.ArgumentParser):
    """A parser that raises a RequestError where argparse prints its usage and exits.

    Args:
        program: the name that --help shows.
        description: what --help says first.
    """

    def __init__(self, program: str, description: str) -> None:
        super().__init__(program, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise RequestError(message)


def whole_number(low: int) -> Callable[[str], int]:
    """A converter for argparse: decimal digits of an integer in [low, 2^31)."""

    def convert(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"a whole number from {low} up, got {text!r}")
        return int(text)

    return convert


def exit_status(program: str, run: Callable[[], None], interrupted: str) -> int:
    """Run a command and report its errors in one line on stderr.

    Args:
        program: named at the start of that line.
        run: the command.
        interrupted: printed after Ctrl-C.

    Returns:
        0 done, 1 the run failed, 2 the request was wrong, 130 interrupted.
    """
    try:
        run()
    except (RequestError, RunError) as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return 130
    return 0


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser with the options that most benchmarks share: --device, --batch, --rounds, --out."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; the best one found")
    parser.add_argument("--batch", type=int, default=0, help="images; 0 for the device's own")
    parser.add_argument("--rounds", type=int, default=3, help="2 or more")
    parser.add_argument("--out", type=Path, default=None, help="folder; default results/DEVICE")
    return parser


def add_channels(parser: argparse.ArgumentParser) -> None:
    """Add --channels, by which the measured network can be made small for a trial."""
    known = range(32, 1025, 32)
    text = "of the network: DDPM's 128, or fewer, to try whether all of it runs"
    parser.add_argument("--channels", type=int, choices=known, default=128, metavar="N", help=text)


def channels_of(args: argparse.Namespace) -> str:
    """--channels as the command that is written down has it: "" for the published network."""
    return "" if args.channels == 128 else f" --channels {args.channels}"


def check_counts(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse, by argparse's error, fewer than two rounds and a negative batch."""
    if args.rounds < 2 or args.batch < 0:
        parser.error(
            f"--rounds must be 2 or more and --batch 1 or more (0 for the device's own), got "
            f"{args.rounds} and {args.batch}"
        )


def device_of(parser: argparse.ArgumentParser, name: str) -> torch.device:
    """The device of that name, the best one for ""; argparse's error if it cannot be used."""
    try:
        return build_device(name)
    except RequestError as error:
        parser.error(str(error))


def variants_of(
    parser: argparse.ArgumentParser, names: str, known: Iterable[str], default: Iterable[str]
) -> list[str]:
    """Variants from a comma-separated list; an unknown one is argparse's error.

    Args:
        parser: reports the error.
        names: the value of --variants; "" for the default.
        known: all of them.
        default: those that run if none is named.
    """
    variants, known = names.split(",") if names else list(default), list(known)
    if unknown := sorted(set(variants) - set(known)):
        parser.error(f"--variants must be of {', '.join(known)}, got {', '.join(unknown)}")
    return variants
