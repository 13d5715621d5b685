"""The training loop, an iterator; each number in it is a function of (config, step).

The order of the data, the dequantization, the times, the noise, which units drop and which labels
are hidden (so that one network learns the law with the class and without it: Ho & Salimans 2022,
Algorithm 1) are addressed by the step and the place in the batch, so a checkpoint needs no
generator state: a run that is killed and resumed goes on bit for bit on a CPU. Inside a step
nothing waits for the device; losses are looked at once an interval, and one that is not finite
ends the run with the name of its step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.nn.parallel import DistributedDataParallel

from scoreflow.data.dataset import Batches, Data
from scoreflow.data.levels import Embedding, points
from scoreflow.errors import RequestError, RunError
from scoreflow.losses.objective import Objective
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.runtime.compiling import fixed_shapes
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.gpu.transfer import load_weights, moved
from scoreflow.sde.noise import Noise, Stream
from scoreflow.storage.checkpoints.content import (
    check_adam,
    check_pending,
    check_scaler,
    check_step,
    check_trained_with,
    check_weights,
)
from scoreflow.storage.checkpoints.states import DamagedError
from scoreflow.training.batch_reader import BatchReader
from scoreflow.training.ema import EMA
from scoreflow.training.graphed.whole_step import (
    Dials,
    Graphed,
    Say,
    numbers_of,
    obstacle,
    without_graphs,
)
from scoreflow.training.scaling import Scaling
from scoreflow.training.settings import TrainingSettings

ALONE = Shard()
MORE = "averages"
"""In a state: averages besides the first, in a list."""
PHASES = ("batch", "forward", "backward", "clip", "optimizer", "average")
"""Names of a step's phases in a profile; a step that is one CUDA graph has none."""

SMALLER = (
    "a checkpoint, if there is one, is from before it. Try a smaller training.learning_rate: the "
    "same command with --config.training.learning_rate=RATE goes on in this folder, or begins "
    "anew there if it has no checkpoint"
)
AT_ONCE = (
    "no weight had been moved, so the learning rate is not the cause: it is in the data's values, "
    "or in keys of the sections sde, model and training that scale the loss; the same command "
    "with other values of theirs begins anew in this folder, which has no checkpoint"
)
"""What to do about a number that is not finite: after some steps, and in the first one."""


@dataclass(frozen=True)
class Interval:
    """Means over the steps since the last one: loss, and gradient norm before clipping.

    In float16 those of the steps that were not skipped (nan where all were), and how many were.
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    skipped: int | None = None


class Trainer:
    """Network, average, optimiser and data of a run, and where it stands.

    Args:
        model: the Denoiser to train; the network inside may be compiled. If it is conditional, it
            gets the labels of the data.
        network: the same network, not compiled: what is saved.
        ema: its moving average.
        data: levels or vectors.
        objective: what is minimised.
        settings: the training section.
        seed: of the run.
        shard: this process's share of every batch.
        eras: (first step, batch size) of each part of a training whose batch size changed.
        say: gets a line about the CUDA graph that compile_mode = reduce-overhead asks for.
        more: further averages, which are saved and no more.

    Attributes:
        step: how many are done.
        stopped: whether the last `run` was asked to end before its last step.
    """

    def __init__(
        self,
        model: ScoreModel,
        network: nn.Module,
        ema: EMA,
        data: Data,
        objective: Objective,
        settings: TrainingSettings,
        seed: int,
        shard: Shard = ALONE,
        eras: tuple[tuple[int, int], ...] = (),
        say: Say = lambda line: None,
        more: Sequence[EMA] = (),
    ) -> None:
        check_parts(settings, shard.world)
        self.shard, self._say = shard, say
        graphed = self._takes_a_graph(model, network, data, settings)
        if graphed:
            model = model.with_network(without_graphs(model.network, network))
        if shard.world > 1:  # the gradients' mean over the processes, while they are computed
            model = model.with_network(DistributedDataParallel(model.network))
        self.model, self.network, self.ema, self.data = model, network, ema, data
        self.averages = (ema, *more)
        self.objective, self.settings, self.seed = objective, settings, seed
        self.step, self.stopped = 0, False
        self._pending = torch.empty(0, 2)  # rows of an interval that is not yet over
        self.optimizer = adam(network, settings.learning_rate)
        self.batches = Batches(len(data.train), settings.batch_size, seed, eras)
        self._labels = labels_of(data, model)
        self._dropout_places = getattr(network, "dropout_places", 0)
        own = torch.arange(settings.batch_size)[shard.slice_of(settings.batch_size)]
        self._micro_batches = own.to(data.train.device).tensor_split(settings.micro_batches)
        self._reader = BatchReader(data.train, self._micro_batches)
        self.scaling = Scaling(settings.precision, data.train.device)
        self._dials: Dials | None = None
        self._graphed: Callable[[], Tensor] | None = None
        if graphed:
            self.in_one_graph()

    def _takes_a_graph(
        self, model: ScoreModel, network: nn.Module, data: Data, settings: TrainingSettings
    ) -> bool:
        """Whether a whole step is to be a CUDA graph; a line where it is asked for and cannot."""
        on_gpu = data.train.device.type == "cuda"
        if settings.compile_mode != "reduce-overhead" or model.network is network or not on_gpu:
            return False
        if why := obstacle(self.shard.world, settings.precision, data.train):
            self._say(
                "training.compile_mode = reduce-overhead: the network's passes are CUDA graphs, "
                f"the whole step is none: {why}"
            )
        return why is None

    def in_one_graph(self) -> None:
        """From the next step on, read what changes from step to step on the device.

        So that a step is one CUDA graph after some; on a CPU it stays as it is, but for that.
        """
        device = self.data.train.device
        self._dials = Dials(self.settings.batch_size, device, len(self.averages))
        self._graphed = Graphed(self._move, device, self._say)

    def release(self) -> None:
        """Give back the memory of a step: gradients, and what is recorded; it may still go on."""
        self.optimizer.zero_grad(set_to_none=True)
        if self._dials is not None:
            self.in_one_graph()
        if self.data.train.device.type == "cuda":
            torch.cuda.empty_cache()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, loadable with weights_only=True.

        Raises:
            RunError: the last step left a weight that is not finite.
        """
        norms = torch._foreach_norm(list(self.network.parameters()), math.inf)
        if not torch.stack(norms).isfinite().all():
            raise RunError(f"step {self.step}: it left weights that are not finite; {SMALLER}")
        pending = {"pending": self._pending} if len(self._pending) else {}
        return {
            "step": self.step,
            "model": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            **({MORE: self.states_of_averages()[1:]} if len(self.averages) > 1 else {}),
            **self.scaling.state(),
            "optimizer": self._state_of_optimizer(),
            **pending,
        }

    def states_of_averages(self) -> list[dict[str, Any]]:
        """The weights of each average, the one that modes read first; tensors not copied."""
        return [each.state_dict() for each in self.averages]

    def _state_of_optimizer(self) -> dict[str, Any]:
        """As one has it whose learning rate is a number of the host."""
        state = self.optimizer.state_dict()
        if self._dials is not None:
            for group in state["param_groups"]:
                group["lr"], group["capturable"] = self.settings.rate(max(self.step - 1, 0)), False
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; every name must match."""
        device = next(self.network.parameters()).device
        load_weights(self.network, state["model"])
        for average, held in zip(self.averages, [state["ema"], *state.get(MORE, [])], strict=True):
            average.load_state_dict(held)
        self.optimizer.load_state_dict(moved(state["optimizer"], device, apart=True))
        self.scaling.load_state(state)
        self.step = state["step"]
        inside = self.step % self.settings.log_every
        pending = state.get("pending", torch.empty(0, 2)).cpu()
        self._pending = pending[max(len(pending) - inside, 0) :]
        if self._dials is not None:  # what was recorded wrote to the state before this one
            self.in_one_graph()

    def run(self, stop: Callable[[], bool] | None = None) -> Iterator[Interval]:
        """Train to the last step, pausing after every log interval.

        Args:
            stop: asked after each step whether to end there; of several processes all end at the
                same one, if any is asked to. What the interval had so far is in `state`, so a
                run that goes on from there logs what it would have logged.

        Raises:
            RunError: a loss or gradient was not finite; names the step.
        """
        settings, self.stopped = self.settings, False
        while self.step < settings.num_steps and not self.stopped:
            inside = self.step % settings.log_every
            count = min(settings.log_every - inside, settings.num_steps - self.step)
            new = self.shard.mean(self.advance(count, stop))
            self._refuse_non_finite(new)
            rows = torch.cat([self._pending, new])
            self._pending = rows if self.step % settings.log_every else rows[:0]
            if len(new) == count:
                loss, grad_norm, skipped = self.scaling.means(rows)
                yield Interval(self.step, loss, grad_norm, settings.rate(self.step - 1), skipped)

    def advance(self, count: int, stop: Callable[[], bool] | None = None) -> Tensor:
        """Some steps, whatever the interval: (count, 2), their losses and gradient norms.

        Args:
            count: of the steps, at least 1.
            stop: as in `run`; there are fewer rows where it said so.
        """
        self.model.network.train()
        rows: list[Tensor] = []
        with arithmetic(self.settings.precision), fixed_shapes(self.data.train.device):
            while len(rows) < count and not self.stopped:
                agreed = self.shard.asking_any(stop) if stop is not None else None
                rows.append(self._advance())
                self.stopped = agreed is not None and agreed()
        return torch.stack(rows)

    def _advance(self) -> Tensor:
        """One optimiser step: (2,), the loss and the norm of its gradient, still on the device."""
        rate = self.settings.rate(self.step)
        if self._dials is None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        else:
            rows = self.batches.indices(self.step)
            self._dials.turn(self.step, rate, self._shares(), rows)
            numbers_of(self.optimizer, self._dials.rate)
        row = self._move() if self._graphed is None else self._graphed()
        self.step += 1
        return row

    def _move(self) -> Tensor:
        """The work of a step: (2,), as `_advance`."""
        settings = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        if settings.compile and self._dials is None:  # a graph has done with what it left behind
            torch.compiler.cudagraph_mark_step_begin()
        losses = []
        for k, places in enumerate(self._micro_batches):
            with self._exchanging(last=k == len(self._micro_batches) - 1):
                loss = self._loss(k, places)
                with record_function("backward"):
                    self.scaling.scaled(loss).backward()
            losses.append(loss.detach())
        with record_function("clip"):
            self.scaling.unscale(self.optimizer)
            most = settings.clip_norm or math.inf
            grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), most)
        with record_function("optimizer"):
            self.scaling.step(self.optimizer)
        with record_function("average"):
            dials = self._dials
            shares: Sequence[float | Tensor] = dials.shares if dials else self._shares()
            for average, share in zip(self.averages, shares, strict=True):
                average.follow(self.network, share)
        loss = torch.stack(losses).sum()
        return torch.stack([loss, grad_norm.to(loss.device)])

    def _shares(self) -> list[float]:
        """Of the new weights in each of their averages."""
        return [each.share(self.step) for each in self.averages]

    def _exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Gradients meet those of the other processes with the last micro-batch alone."""
        network = self.model.network
        if isinstance(network, DistributedDataParallel) and not last:
            context: AbstractContextManager[None] = network.no_sync()
            return context
        return nullcontext()

    def _loss(self, part: int, places: Tensor) -> Tensor:
        """The share that a micro-batch, at these places of the batch, has in the step's objective.

        Shares of a process add up to `world` times its share of the batch's mean: the mean of that
        over the processes, which is how their gradients meet, is the batch's.
        """
        data, settings = self.data, self.settings
        event = tuple(data.train.shape[1:])
        with record_function("batch"):
            noise, rows, values = self._read(part, places)
            x_0 = shown(data, values, noise, settings.flip, settings.dequantization)
            t, density = self.objective.draw(noise, self.model.sde, settings.batch_size)
            eps = noise.normal(Stream.TRAIN_EPS, event, dtype=torch.float32)
            model = self.model
            if self._labels is not None:
                dropped = noise.uniform(Stream.TRAIN_LABEL) < settings.label_dropout
                model = model.labelled(self._labels[rows].masked_fill(dropped, -1))
            if self._dropout_places:
                words = noise.words(Stream.TRAIN_DROPOUT, (self._dropout_places, 2))
                model = model.dropping(words)
        with record_function("forward"):
            each = (self.objective.loss(model, x_0, t, eps) / density).float()
            return each.sum() * (self.shard.world / settings.batch_size)

    def _read(self, part: int, places: Tensor) -> tuple[Noise, Tensor, Tensor]:
        """Noise, rows and values of a micro-batch: (b,) and (b, ...), on the device."""
        if self._dials is None:
            rows, values = self._reader.read(self.batches, self.step, part)
            return Noise(self.seed, places, self.step), rows, values
        rows = self._dials.rows[places]
        return Noise(self.seed, places, clock=self._dials.step), rows, self.data.train[rows]

    def _refuse_non_finite(self, rows: Tensor) -> None:
        """Rows are (steps, 2): losses and gradient norms of the steps just done."""
        if self.scaling.on:
            self.scaling.refuse_hopeless(self.step)
            return
        bad = (~rows.isfinite()).any(1).nonzero()
        if len(bad):
            first = self.step - len(rows) + int(bad[0]) + 1
            loss, grad_norm = rows[int(bad[0])].tolist()
            told = f"step {first}: loss {loss}, gradient norm {grad_norm}: not finite; "
            raise RunError(told + (SMALLER if first > 1 else AT_ONCE))


def adam(network: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """The optimiser of a training at its beginning."""
    return torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)


def check_state(
    network: nn.Module, step: int, state: dict[str, Any], fresh: bool = False, more: int = 0
) -> None:
    """Refuse a checkpoint that a training could not go on from, or would go on from wrongly.

    Args:
        network: what is trained.
        step: that the checkpoint is of.
        state: of `Trainer.state`.
        fresh: whether its optimiser may have taken no step, as that of an imported network.
        more: averages that it must have besides the first.

    Raises:
        DamagedError: names the entry.
    """
    check_step(step, state)
    check_trained_with(state)
    for name in ("model", "ema"):
        check_weights(name, state.get(name), network)
    check_more(state.get(MORE, []), network, more)
    skipping = "scaler" in state  # whose every step so far may have overflowed
    check_adam(state.get("optimizer"), adam(network, 1.0), fresh or skipping or step == 0)
    if skipping:
        check_scaler(state["scaler"])
    if "pending" in state:
        check_pending(state["pending"])


def check_more(held: object, network: nn.Module, count: int) -> None:
    """Refuse averages besides the first that are not as many as a training keeps, or no weights.

    Raises:
        DamagedError: names what is wrong.
    """
    if not isinstance(held, list) or len(held) != count:
        got = len(held) if isinstance(held, list) else held
        raise DamagedError(f"{MORE} must hold {count} besides ema, got {got!r:.40}")
    for number, weights in enumerate(held):
        check_weights(f"{MORE}[{number}]", weights, network)


def check_parts(settings: TrainingSettings, world: int) -> None:
    """Refuse a batch of fewer data than the parts that it is cut into.

    Args:
        settings: of the training.
        world: processes that share a batch.

    Raises:
        RequestError: with the least batch.
    """
    if settings.batch_size < world * settings.micro_batches:
        raise RequestError(
            f"training.batch_size must be at least processes x training.micro_batches "
            f"({world} x {settings.micro_batches}), got {settings.batch_size}"
        )


def labels_of(data: Data, model: ScoreModel) -> Tensor | None:
    """Labels of the training data where they lie, if the network is conditional.

    Raises:
        RequestError: the data have none.
    """
    if model.num_classes == 0:
        return None
    if data.train_labels is None:
        raise RequestError(f"a conditional network needs data with labels; {data.name} has none")
    return data.train_labels.to(data.train.device)


def shown(
    data: Data, values: Tensor, noise: Noise, flip: bool, dequantization: Embedding
) -> Tensor:
    """Training data as x_0, float32: mirrored at random if `flip`, levels as points of their bins.

    Args:
        data: the data set.
        values: some of its training data, (B, ...).
        noise: of the step, with a sample index for each of them.
        flip: mirror each left to right with probability 1/2; vectors have no sides.
        dequantization: "uniform" on a bin, or its "centre".
    """
    if flip and data.num_levels is not None:
        mirrored = noise.uniform(Stream.TRAIN_FLIP, (1,) * (values.ndim - 1)) < 0.5
        values = torch.where(mirrored, values.flip(-1), values)
    return points(values, data.num_levels, noise, Stream.TRAIN_DEQUANTIZE, dequantization).float()
