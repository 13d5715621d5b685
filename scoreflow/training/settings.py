"""Hyperparameters of the training of a score network and of a classifier of noisy images."""

import math
from dataclasses import dataclass

from scoreflow.data.levels import Embedding


@dataclass(frozen=True)
class TrainingSettings:
    """The `training` section of a config, but for its objective.

    Attributes:
        num_steps: optimiser steps in all.
        batch_size: images a step.
        learning_rate: of Adam, after the warm-up.
        warmup_steps: linear warm-up; 0 for none.
        decay: "constant" (DDPM) or "cosine" to zero at num_steps.
        clip_norm: greatest norm of the gradient; longer ones are scaled to it; 0 for any norm.
        ema: "exponential", one average of a fixed decay, or "power", one a length below.
        ema_decay: of the exponential average.
        ema_lengths: of the power averages, relative to the training so far; the first is read.
        precision: of the network in training and sampling: "float32", "tf32", "bfloat16" or
            "float16" (with a scaled loss).
        compile: torch.compile the network.
        compile_mode: of torch.compile: "default", "reduce-overhead" (CUDA graphs, for small
            batches, whose launches take longer than their work) or "max-autotune".
        channels_last: memory format of weights and images.
        micro_batches: parts in which a process takes its share of a batch, to spare memory.
        flip: mirror each image left to right with probability 1/2.
        dequantization: x_0 of a level, "uniform" on its bin or its "centre" (DDPM).
        label_dropout: share of the data that a conditional network sees without their class.
        log_every: steps between rows of metrics.jsonl.
        checkpoint_every: steps between checkpoints, a multiple of log_every.
        keep: checkpoints that are kept; 0 for all.
        preview_every: steps between previews, a multiple of log_every; 0 for none.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    decay: str
    clip_norm: float
    ema_decay: float
    precision: str
    compile: bool
    compile_mode: str
    channels_last: bool
    micro_batches: int
    flip: bool
    dequantization: Embedding
    label_dropout: float
    log_every: int
    checkpoint_every: int
    keep: int = 2
    preview_every: int = 0
    ema: str = "exponential"
    ema_lengths: tuple[float, ...] = (0.05, 0.1)

    def rate(self, step: int) -> float:
        """Learning rate of a step, 0-based; the first is not wasted on a rate of 0."""
        warm = min((step + 1) / max(self.warmup_steps, 1), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        return self.learning_rate * warm * (cosine if self.decay == "cosine" else 1.0)


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is trained.

    Attributes:
        num_steps: optimiser steps.
        batch_size: images a step.
        learning_rate: of Adam, at the beginning.
        width: channels of its first level.
        flip: mirror images as the run's training does.
        dequantization: "uniform" or "centre", as the run's training has it.
        seed: of the run.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    width: int
    flip: bool
    dequantization: Embedding
    seed: int
