"""Several processes, one run: `torchrun` starts them, and each takes its share by index.

Inside a solve nothing is exchanged: images are hard or easy, and processes that had to meet would
wait for the hardest. They meet once, when all are done.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=7)
"""How long a process that is done waits for the others; torchrun ends it if one dies."""


@dataclass(frozen=True)
class Shard:
    """The share of process `rank` of `world`: the indices k with k mod world = rank."""

    rank: int = 0
    world: int = 1

    def has(self, index: int) -> bool:
        """Whether this process takes that index."""
        return index % self.world == self.rank

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

    def of_the_first(self, own: Any) -> Any:  # noqa: ANN401
        """What the first process has; every one of them must call this."""
        return self.gathered({self.rank: own})[0]


def leads() -> bool:
    """Whether this process is the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def shard() -> Shard:
    """This process's share, as `torchrun` says it; joins the others where there are some."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Shard()
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    return Shard(dist.get_rank(), world)
