"""What a GPU gains speed by: compiled networks, TF32, and the fastest kernel of each shape.

A network is compiled where the work that is planned outweighs the minutes that it takes, and into
one graph for each use of it: training, evaluation without gradients, and evaluation with the
products that a likelihood takes of it. So a run has three at most, whatever its batches.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scoreflow.sde.noise import kernels

Use = Literal["train", "eval", "vjp"]
Say = Callable[[str], None]
BACKEND = "inductor"
"""Of torch.compile; tests have another that counts graphs."""
WORTH = 3e9
"""Numbers of images, times evaluations of them, from which compiling is worth its minutes.

An estimate by counting: eager, a training step of DDPM's CIFAR-10 network moves 97 GB more than
compiled, at 128 images of 3072 numbers and about 3 evaluations' work. At the 3.35 TB/s of an H100
that is 2.5e-8 s a number and evaluation, and a minute and a quarter for this many; to compile is
taken to need one minute to two and a half. It is 10^6 evaluations of an image of CIFAR-10.
"""
NEWER_GPU = "a GPU of compute capability 7.0 or later"
"""What is missing where the GPU is older than those that compiled networks run on."""
PASSES = 3
"""Evaluations that a training step's forward and backward pass are worth."""
TAKES = (
    "which takes the first step one to three minutes, and less where torch has it in its cache; "
    "--config.training.compile=false turns it off"
)
"""What a line about a network that is compiled goes on with."""
TF32_FROM = (8, 0)
"""The first compute capability with products in TF32."""


def precision_on(precision: str, device: torch.device) -> str:
    """A precision as a device has it: TF32, and so "auto", on CUDA from Ampere, else float32.

    "auto" is what others' training scripts and pipelines switch on there, for training and
    samples; likelihoods are float32 whatever this says.
    """
    if precision not in ("auto", "tf32"):
        return precision
    if device.type != "cuda":
        return "float32"
    known = torch.cuda.is_available()
    older = known and torch.cuda.get_device_capability(device) < TF32_FROM
    return "float32" if older else "tf32"


def worth_compiling(evaluations: float, images: int, event: tuple[int, ...]) -> bool:
    """Whether so much work is worth the minutes that a network takes to be compiled.

    Args:
        evaluations: of the network for each image; a product with its Jacobian counts as two.
        images: how many.
        event: shape of an image.
    """
    return evaluations * images * math.prod(event) >= WORTH


def solver_evaluations(tolerance: float) -> float:
    """About how many evaluations an adaptive solve of the flow takes, to plan with.

    56 at a tolerance of 1e-3 on the digits; they grow with the fifth root.
    """
    return 56.0 * math.pow(1e-3 / max(tolerance, 1e-12), 0.2)


def missing_for(device: torch.device) -> str:
    """What torch.compile needs on this machine for a device and has not got; "" for nothing."""
    if device.type == "cpu":
        found = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
        return "" if found else "a C++ compiler (g++ or clang++)"
    there = device.type == "cuda" and torch.cuda.is_available()
    if there and not kernels.is_new_enough(device.index):
        return NEWER_GPU
    return kernels.lacking() or ""


@contextmanager
def fixed_shapes(device: torch.device) -> Iterator[None]:
    """On CUDA, cuDNN tries its kernels for each new shape and keeps the fastest; restored after.

    For work whose batches are alike: they are tried anew for each shape.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Compiled(nn.Module):
    """A network through torch.compile for one use, in one graph; other calls go to it as it is.

    Evaluations have any number of rows: the graph is made for a number that is not known, and a
    single row, of which the compiler would make a case of its own, is asked about twice. A class
    for all rows, one a row and none are asked for alike, by a class a row.

    Args:
        network: (x, label) or (x, label, classes) -> (B, ...); its weights stay where they are.
        use: "train": all calls, with gradients of the weights; "eval": calls without gradients;
            "vjp": calls whose x has one.
        mode: of torch.compile.
        varying: whether the rows of a training's calls differ in number.
        say: gets a line when the first call is over, with the seconds that it took.
    """

    def __init__(
        self,
        network: nn.Module,
        use: Use,
        mode: str = "default",
        varying: bool = False,
        say: Say | None = None,
    ) -> None:
        super().__init__()
        self.network, self.use, self.varying = network, use, varying or use != "train"
        if use == "vjp":  # which is asked for again and again of one evaluation
            _keep_what_is_saved()
        if use != "train":  # a CUDA graph would be recorded for each number of rows
            mode = {"max-autotune": "max-autotune-no-cudagraphs"}.get(mode, "default")
        # in a tuple, lest its weights are this module's a second time
        self._called: tuple[Any] = (torch.compile(network, mode=mode, backend=BACKEND),)
        self._say, self._begun = say, 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """What the network says of itself, as how many classes it knows."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def without_graphs(self) -> "Compiled":
        """The same with no CUDA graphs of its own, for a whole step that is one."""
        return Compiled(self.network, self.use, "default", self.varying, self._say)

    def forward(
        self, x: Tensor, index: Tensor, label: Tensor | None = None, **more: Tensor
    ) -> Tensor:
        """The network's answer."""
        if self.use == "train":
            return self._timed(x, index, *(() if label is None else (label,)), **more)
        if len(x) and not more and self._is_of_its_use(x):
            return self._of_rows(x, index, label)
        given = () if label is None else (label,)
        found: Tensor = self.network(x, index, *given, **more)
        return found

    def _is_of_its_use(self, x: Tensor) -> bool:
        """Whether a call is without gradients, or with one of x, as the graph is."""
        if self.use == "vjp" or not torch.is_grad_enabled():
            return (torch.is_grad_enabled() and x.requires_grad) == (self.use == "vjp")
        return not x.requires_grad and not any(p.requires_grad for p in self.parameters())

    def _of_rows(self, x: Tensor, index: Tensor, label: Tensor | None) -> Tensor:
        """The answer for any number of rows, by arguments whose form is always the same."""
        count = len(x)
        if label is None and getattr(self.network, "num_classes", None):
            label = x.new_full((count,), -1, dtype=torch.int64)
        given = [x, index] if label is None else [x, index, label]
        if count == 1:
            given = [torch.cat((each, each)) for each in given]
        given = [_plain(each) for each in given]
        with torch.set_grad_enabled(self.use == "vjp"):
            return self._timed(*given)[:count]

    def _timed(self, *given: Tensor, **more: Tensor) -> Tensor:
        """The compiled network's answer; a line about the first call when the second comes."""
        if self.varying:
            for each in (*given, *more.values()):
                torch._dynamo.mark_dynamic(each, 0)
        now = time.monotonic() if self._say else 0.0
        if self._say and self._begun:
            self._say(f"compiled: the first step took {now - self._begun:.0f} s")
            self._say = None
        self._begun = self._begun or now
        found: Tensor = self._called[0](*given, **more)
        return found


def uncompiled(network: nn.Module) -> nn.Module:
    """A network itself, where it was wrapped by `Compiled` or torch.compile.

    The names of the weights of a wrapped one begin with `network.`, or `_orig_mod.`.
    """
    found: nn.Module = getattr(network, "_orig_mod", network)
    return found.network if isinstance(found, Compiled) else found


def _plain(each: Tensor) -> Tensor:
    """A tensor whose strides follow from its shape and order of memory alone."""
    if each.ndim == 4 and each.shape[1] > 1 and each.is_contiguous(memory_format=_LAST):
        return each
    return each.contiguous().flatten().view(each.shape)


_LAST = torch.channels_last


def _keep_what_is_saved() -> None:
    """Have compiled backward passes keep what they were given, so that they can be asked again.

    They are free to use it up else, and are refused a second time; the memory is given back with
    the graph.
    """
    import torch._functorch.config as config

    config.donated_buffer = False


class Compiler:
    """Compiles networks for their evaluation, where the work that is planned is worth it.

    Args:
        wanted: whether it may; it hands out networks as they are otherwise.
        mode: of torch.compile.
        say: gets the lines about it.
    """

    def __init__(self, wanted: bool, mode: str = "default", say: Say | None = None) -> None:
        self.wanted, self._mode, self._say = wanted, mode, say
        # by the network's id, which is nobody else's as long as the value has it
        self._known: dict[tuple[int, Use], tuple[Compiled, str]] = {}

    def network(
        self,
        network: nn.Module,
        use: Use,
        evaluations: float,
        images: int,
        event: tuple[int, ...],
        precision: str = "float32",
    ) -> nn.Module:
        """A network to evaluate: compiled where it is already, or where that is worth it.

        For one precision a use, the first that was worth it: another would be a graph more.

        Args:
            network: as it is.
            use: "eval" or "vjp".
            evaluations: planned for each image.
            images: how many.
            event: shape of an image.
            precision: that it is evaluated in.
        """
        key = id(network), use
        if key in self._known:
            return self._known[key][0] if self.has(network, use, precision) else network
        if not self.wanted or not worth_compiling(evaluations, images, event):
            return network
        if self._say:
            self._say(
                f"the network is compiled for about {evaluations * images:.1e} evaluations of an "
                f"image, {TAKES}"
            )
        found = Compiled(network, use, self._mode, say=self._say)
        self._known[key] = found, precision
        return found

    def has(self, network: nn.Module, use: Use, precision: str = "float32") -> bool:
        """Whether it has compiled a network for a use in a precision."""
        known = self._known.get((id(network), use))
        return known is not None and known[1] == precision
