"""Data-parallel processes of `torchrun`: rank, share of the indices, collectives.

Inside a solve nothing is exchanged: images are hard or easy, and processes that had to meet would
wait for the hardest. They meet once, when all are done.
"""

import atexit
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # a bar or a refusal need not pay for it
    from torch import Tensor

from scoreflow.errors import RequestError, first_line

T = TypeVar("T")

MEETING = timedelta(minutes=10)
"""How long the processes wait until all of them are there."""
PAUSE = 0.2
"""Seconds between two attempts to reach the first process."""
PATIENCE = timedelta(days=7)
"""How long a process that is done waits for the others; torchrun ends it if one dies."""

_ALONE = "unset WORLD_SIZE to work in one process, or start all of them by torchrun"


@dataclass(frozen=True)
class Shard:
    """The share of process `rank` of `world`: the indices k with k mod world = rank."""

    rank: int = 0
    world: int = 1

    def has(self, index: int) -> bool:
        """Whether this process takes that index."""
        return index % self.world == self.rank

    def slice_of(self, count: int) -> slice:
        """This process's share of `count` places in a row, the first ones a place larger."""
        base, more = divmod(count, self.world)
        start = self.rank * base + min(self.rank, more)
        return slice(start, start + base + (self.rank < more))

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            self.gathered({})

    def mean(self, values: "Tensor") -> "Tensor":
        """The mean over the processes, on the CPU; every process must call this."""
        values = values.cpu()
        if self.world == 1:
            return values
        import torch.distributed as dist

        dist.all_reduce(values)
        return values / self.world

    def asking_any(self, question: Callable[[], bool]) -> Callable[[], bool]:
        """Whether any process answers yes; every process must call this, and then the answer.

        Alone, it is asked when the answer is called for. Of several processes each is asked now,
        and the answers travel while it does something else: all get the same one.
        """
        if self.world == 1:
            return question
        import torch
        import torch.distributed as dist

        flag = torch.tensor([int(question())])
        travelling = dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)

        def answer() -> bool:
            travelling.wait()
            return bool(flag.item())

        return answer

    def gathered(self, own: dict[int, Any]) -> dict[int, Any]:
        """What all processes have found, by index; every process must call this."""
        if self.world == 1:
            return own
        import torch.distributed as dist

        everything: list[Any] = [None] * self.world
        dist.all_gather_object(everything, own)
        return {k: value for part in everything for k, value in part.items()}

    def total(self, own: int) -> int:
        """The sum over all processes; every one of them must call this."""
        return sum(self.gathered({self.rank: own}).values())

    def broadcast_from_rank_0(self, own: T) -> T:
        """The value that rank 0 has; every process must call this."""
        value: T = self.gathered({self.rank: own})[0]
        return value


def placement() -> Shard:
    """This process's rank among how many, as `torchrun` says it; nobody is joined.

    Raises:
        RequestError: the variables of the environment contradict each other.
    """
    if not _variable("WORLD_SIZE"):  # a cluster may set RANK for purposes of its own
        return Shard()
    world = _whole("WORLD_SIZE", 1, None, _ALONE)
    if world == 1:
        return Shard()
    rank = _whole("RANK", 0, world, _ALONE)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not _variable(name)]
    if missing:
        raise RequestError(
            f"WORLD_SIZE = {world} processes meet at an address, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: {_ALONE}"
        )
    return Shard(rank, world)


def local_rank() -> int | None:
    """Place of this process among those of its machine, None where there are no others.

    Where the launcher does not say it, it is taken from the rank, and `remark` says so.
    """
    here = placement()
    if here.world == 1 and not (_variable("WORLD_SIZE") and _variable("LOCAL_RANK")):
        return None
    if not _variable("LOCAL_RANK"):
        return here.rank
    return _whole("LOCAL_RANK", 0, None, "start the processes by torchrun, which sets it")


def local_world() -> int:
    """Processes of this run on this machine, at least, as the launcher says."""
    if placement().world == 1:
        return 1
    place = (local_rank() or 0) if _variable("LOCAL_RANK") else 0
    if not _variable("LOCAL_WORLD_SIZE"):
        return place + 1
    beside = _whole("LOCAL_WORLD_SIZE", 1, None, "start the processes by torchrun, which sets it")
    return max(beside, place + 1)


def remark() -> str | None:
    """What is made of variables of the environment that do not go together; None where they do."""
    rank = _variable("RANK")
    here = placement()
    if rank not in ("", "0") and here.world == 1:
        world = _variable("WORLD_SIZE")
        where = f"beside WORLD_SIZE = {world}" if world else "without WORLD_SIZE"
        return f"RANK = {rank} {where} is ignored: this process works alone"
    if here.world > 1 and here.rank == 0 and not _variable("LOCAL_RANK"):
        return "LOCAL_RANK is not set: a process takes the GPU of its RANK"
    return None


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _whole(name: str, least: int, end: int | None, remedy: str) -> int:
    """A whole number of the environment, from `least` to below `end`."""
    text = _variable(name)
    if re.fullmatch(r"[0-9]{1,9}", text):
        number = int(text)
        if least <= number and (end is None or number < end):
            return number
    within = f"from {least}" if end is None else f"in {least}..{end - 1}"
    within += ", below WORLD_SIZE" if name == "RANK" else ""
    raise RequestError(f"{name} must be a whole number {within}, got {text!r}: {remedy}")


def is_main_process() -> bool:
    """Whether this process is rank 0, the one that prints and writes files."""
    return placement().rank == 0


def shard() -> Shard:
    """This process's share, as `torchrun` says it; joins the others where there are some.

    Raises:
        RequestError: the environment does not say where they are, or they are not there.
    """
    if placement().world == 1:
        return Shard()
    import torch.distributed as dist

    if not dist.is_initialized():
        import torch

        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            store = _met(placement())
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if gpus else "gloo",
                store=store,
                rank=placement().rank,
                world_size=placement().world,
                timeout=PATIENCE,
            )
        except RequestError:
            raise
        except (RuntimeError, ValueError) as error:
            raise RequestError(
                f"the other processes cannot be joined ({first_line(error)}): start all of them "
                "by torchrun"
            ) from error
        atexit.register(leave)  # gloo's threads abort a process that ends inside its group
    return Shard(dist.get_rank(), dist.get_world_size())


def _met(here: Shard) -> Any:  # noqa: ANN401  # a Store, a type of torch
    """The store through which processes find each other, once every one of them is there.

    Raises:
        RequestError: some do not come within `MEETING`.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    address, port = _variable("MASTER_ADDR"), _whole("MASTER_PORT", 1, 65536, _ALONE)
    until = time.monotonic() + MEETING.total_seconds()
    _reach(here, (address, port), until)
    try:
        store, *_ = next(rendezvous("env://", here.rank, here.world, timeout=MEETING))
    except dist.DistStoreError as error:  # that of rank 0, which counts who has come
        raise RequestError(_absent(here)) from error
    store.set(f"here/{here.rank}", "yes")
    while not store.check([f"here/{rank}" for rank in range(here.world)]):
        if time.monotonic() > until:
            raise RequestError(_absent(here))
        time.sleep(PAUSE)
    store.set_timeout(PATIENCE)
    return store


def _reach(here: Shard, address: tuple[str, int], until: float) -> None:
    """Wait until the first process listens at its address; for it, until the name is known.

    Args:
        here: this process.
        address: host and port of rank 0.
        until: when to give up, as `time.monotonic` counts.

    Raises:
        RequestError: it was given up.
    """
    while True:
        try:
            if here.rank == 0:
                socket.getaddrinfo(*address)
            else:
                socket.create_connection(address, timeout=MEETING.total_seconds()).close()
            return
        except OSError as error:  # not there yet
            if time.monotonic() > until:
                raise RequestError(_absent(here, f" ({error.strerror or error})")) from error
        time.sleep(PAUSE)


def _absent(here: Shard, why: str = "") -> str:
    """That not all processes came."""
    return (
        f"the {here.world} processes that WORLD_SIZE says did not all come to "
        f"{_variable('MASTER_ADDR')}:{_variable('MASTER_PORT')} within "
        f"{MEETING.total_seconds():.0f} seconds{why}: {_ALONE}"
    )


def leave() -> None:
    """Part from the other processes, if they were joined; safe to call again."""
    if "torch" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
