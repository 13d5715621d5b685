"""A training step as one CUDA graph: recorded once, replayed every step.

A small network's step is a thousand kernels of some microseconds, and the host takes longer to
start them than the GPU to run them. A graph starts all of them at once. It repeats the very calls
that were recorded, numbers that came from the host included, so what changes from step to step
must lie in tensors that the calls read: those of `Dials`. The step itself is the trainer's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from scoreflow.data.stored.images import StoredImages

Say = Callable[[str], None]

WARM_UP = 2
"""Steps that run as they are, aside, before one is recorded: what is only done once is done then.

Compiling, building kernels, the optimiser's state and the libraries' workspaces.
"""


@dataclass(eq=False)
class Dials:
    """What changes from step to step, on the device.

    Attributes:
        size: images of a batch.
        device: of the tensors.
        step: () int64.
        rate: () float32, the learning rate.
        shares: () float32, of the new weights in each of their averages.
        rows: (size,) int64, which data the step sees.
        averages: how many averages there are.
    """

    size: int
    device: torch.device
    averages: int = 1
    step: Tensor = field(init=False)
    rate: Tensor = field(init=False)
    shares: tuple[Tensor, ...] = field(init=False)
    rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.step = torch.zeros((), dtype=torch.int64, device=self.device)
        self.rate, *shares = torch.zeros(1 + self.averages, device=self.device).unbind()
        self.shares = tuple(shares)
        self.rows = torch.zeros(self.size, dtype=torch.int64, device=self.device)

    def turn(self, step: int, rate: float, shares: Sequence[float], rows: Tensor) -> None:
        """Set them for a step, without waiting for the device.

        Args:
            step: from 0.
            rate: the learning rate.
            shares: of the new weights in each of their averages.
            rows: (size,) int64, on the CPU.
        """
        self.step.fill_(step)
        self.rate.fill_(rate)
        for dial, share in zip(self.shares, shares, strict=True):
            dial.fill_(share)
        self.rows.copy_(rows, non_blocking=True)


class Graphed:
    """Work on a GPU that is recorded after some times and replayed from then on.

    Args:
        work: reads nothing that changes but tensors which stay where they are, and returns a
            tensor.
        device: where it works; work on a CPU is never recorded.
        say: gets a line when it is recorded, or why it cannot be: it goes on as it is then.
    """

    def __init__(self, work: Callable[[], Tensor], device: torch.device, say: Say) -> None:
        self._work, self._say = work, say
        self._left = WARM_UP if device.type == "cuda" else None  # None: it stays as it is
        self._aside = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._found: Tensor | None = None

    def __call__(self) -> Tensor:
        """The work, once: what it returned."""
        if self._left is None:
            return self._work()
        if self._left:
            self._left -= 1
            return self._beside()
        if self._graph is None and not self._recorded():
            return self._work()
        assert self._graph is not None and self._found is not None, "recorded"  # noqa: PT018
        self._graph.replay()
        return self._found.clone()

    def _beside(self) -> Tensor:
        """The work on a stream of its own, as that of a recording is one."""
        assert self._aside is not None, "on a GPU"
        here = torch.cuda.current_stream(self._aside.device)
        self._aside.wait_stream(here)
        with torch.cuda.stream(self._aside):
            found = self._work()
        here.wait_stream(self._aside)
        return found

    def _recorded(self) -> bool:
        """Record the work, which does not run by that; False, with a line, if CUDA refuses."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._aside):
                self._found = self._work()
        except RuntimeError as error:
            self._left, why = None, str(error).strip().partition("\n")[0]
            self._say(
                f"training.compile_mode = reduce-overhead: a step cannot be one CUDA graph ({why})"
                ": it goes on without"
            )
            return False
        self._graph = graph
        self._say("a training step is one CUDA graph from now on")
        return True


def obstacle(world: int, precision: str, values: Tensor | StoredImages) -> str | None:
    """Why a step of such a training is no CUDA graph, in words; None where it can be one.

    Args:
        world: processes that share a batch.
        precision: of the training.
        values: the training data.
    """
    if world > 1:
        return "several processes, which exchange gradients inside a step"
    if precision == "float16":
        return "training.precision = float16, whose steps may be skipped"
    if isinstance(values, StoredImages):
        return "images on the disk, which the host reads for each step"
    return None


def without_graphs(compiled: nn.Module, network: nn.Module) -> nn.Module:
    """A compiled network whose own parts are no CUDA graphs, so that the whole step can be one.

    Args:
        compiled: through torch.compile, with mode "reduce-overhead".
        network: the same, not compiled.
    """
    own = getattr(compiled, "without_graphs", None)
    found: Any = own() if callable(own) else torch.compile(network)
    return cast(nn.Module, found)


def numbers_of(optimizer: torch.optim.Optimizer, rate: Tensor) -> None:
    """Have an optimiser read its learning rate from the device, as a recording needs."""
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = rate, True
