"""The log-likelihood of a test set, each datum once, with the budget of its error."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from samplers import Counted
from scoreflow.data import Data, dequantize
from scoreflow.errors import RunError
from scoreflow.files import Json
from scoreflow.likelihood import (
    LogLikelihood,
    Solver,
    log_likelihood,
    to_bits_per_dim,
    truncation_bits,
)
from scoreflow.model import ScoreModel
from scoreflow.progress import Progress
from scoreflow.rows import Rows
from sde.analytic import Distribution
from sde.noise import Noise, Stream
from sde.ode import Status


@dataclass(frozen=True)
class Budget:
    """What a mean is unsure of, in its unit; None for what is not known.

    Attributes:
        images: standard error of the mean over the images.
        probes: standard error by the random probes of the divergence; 0 when it was exact.
        solver: accumulated local error estimate of the ODE, a mean over images.
        truncation_at_most: bound on what the start at t_min costs; for integers only.
    """

    images: float | None
    probes: float | None
    solver: float | None
    truncation_at_most: float | None


@dataclass(frozen=True)
class Measured:
    """A likelihood as a result for results/ and as a line for the terminal."""

    result: dict[str, Any]
    line: str


def measure(
    model: ScoreModel,
    data: Data,
    num_images: int,
    batch_size: int,
    seed: int,
    solver: Solver,
    truth: Distribution | None = None,
    rows: Rows | None = None,
) -> Measured:
    """Exact log-likelihood of the test set: bits/dim of integers, nats of vectors.

    Args:
        model: asked in float32, whatever precision it was trained in.
        data: its test part is measured.
        num_images: the first so many; 0 for all.
        batch_size: images at a time; the last batch may be smaller.
        seed: of dequantization and probes.
        solver: how the flow is solved.
        truth: the density of vectors, where it is known, to compare with.
        rows: where images that were measured before are found, and new ones are kept.
    """
    start = time.monotonic()
    test = data.test[: num_images or None]
    in_float32 = model.around(model.network, "float32")
    found = _solve(in_float32, data, test, batch_size, seed, solver, rows)
    value = _in_unit(_column(found, "log_prob"), data)
    solver_error = float(_column(found, "solver_error").mean())
    budget = _budget(model, data, value, solver_error, solver.probes)
    result: dict[str, Any] = {
        "value": float(value.mean()),
        "standard_error": budget.images,
        "unit": "nats" if data.num_levels is None else "bits/dim",
        "num_images": len(value),
        "dequantization": "none" if data.num_levels is None else "uniform",
        "num_levels": data.num_levels,
        "t_min": model.t_min,
        "error_budget": asdict(budget),
        "nfe": float(_column(found, "evaluations").mean()),
        "seconds": time.monotonic() - start,
    }
    if data.num_levels is not None:
        result["bits_per_dim"] = result["value"]
    if truth is not None:
        result |= _against(truth, test, value.mean(1))
    return Measured(result, _line(result))


def _solve(
    model: ScoreModel,
    data: Data,
    test: Tensor,
    batch_size: int,
    seed: int,
    solver: Solver,
    rows: Rows | None,
) -> list[Json]:
    """A row for every datum of test, in order. How they are batched does not matter to them."""
    done = dict(rows.done) if rows is not None else {}
    left = torch.tensor([k for k in range(len(test)) if k not in done], dtype=torch.int64)
    start = len(test) - len(left)
    with Progress("likelihood", len(test), "img", start) as progress, _full_float32():
        counted = Counted(model, progress.evaluated)
        for index in left.to(test.device).split(batch_size) if len(left) else ():
            noise = Noise(seed, index)
            x = _points(test[index], data, noise)
            found = log_likelihood(counted, model.sde, x, model.t_min, noise, solver)
            _refuse_unfinished(found, index, solver)
            new = _as_rows(found, index, data)
            done |= {row["image"]: row for row in new}
            if rows is not None:
                rows.append(new)
            progress.advance(len(index), mean=_so_far(list(done.values()), data))
    return [done[k] for k in range(len(test))]


def _so_far(rows: list[Json], data: Data) -> str:
    values = _in_unit(_column(rows, "log_prob"), data).mean(1)
    error = _standard_error(values)
    return f"{values.mean():.4f}" + ("" if error is None else f" +- {error:.4f}")


def _as_rows(found: LogLikelihood, index: Tensor, data: Data) -> list[Json]:
    unit = "nats" if data.num_levels is None else "bits_per_dim"
    values = _in_unit(found.log_prob, data).mean(1)
    columns = (index, values, found.log_prob, found.evaluations, found.solver_error)
    return [
        {
            "image": image,
            unit: value,
            "log_prob": log_prob,
            "evaluations": evaluations,
            "solver_error": solver_error if math.isfinite(solver_error) else None,
        }
        for image, value, log_prob, evaluations, solver_error in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _column(rows: list[Json], key: str) -> Tensor:
    """Of all rows, float64; nan where a solver did not say."""
    values = [math.nan if row[key] is None else row[key] for row in rows]
    return torch.tensor(values, dtype=torch.float64)


def _refuse_unfinished(found: LogLikelihood, index: Tensor, solver: Solver) -> None:
    bad = (found.status != Status.DONE).nonzero().flatten().tolist()
    if bad:
        first = int(index[bad[0]])
        why = Status(int(found.status[bad[0]])).name.lower().replace("_", " ")
        raise RunError(
            f"{len(bad)} of {len(found.status)} images were not solved within "
            f"{solver.max_evaluations} evaluations, the first being test image {first} "
            f"({why}): raise likelihood.max_evaluations or likelihood.tolerance"
        )


@contextmanager
def _full_float32() -> Iterator[None]:
    """TF32 off: near t_min a relative error of the score is multiplied by 1 / sigma."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def _points(batch: Tensor, data: Data, noise: Noise) -> Tensor:
    """The batch as real-valued points, levels uniformly dequantized."""
    if data.num_levels is None:
        return batch.double()
    u = noise.uniform(Stream.DEQUANTIZE, tuple(batch.shape[1:]))
    return dequantize(batch, u, data.num_levels)


def _in_unit(log_prob: Tensor, data: Data) -> Tensor:
    if data.num_levels is None:
        return -log_prob
    return to_bits_per_dim(log_prob, data.test[0].numel(), data.num_levels)


def _budget(
    model: ScoreModel, data: Data, value: Tensor, solver_nats: float, probes: int
) -> Budget:
    """Of the mean of value, (images, probes)."""
    images, columns = value.shape
    spread = (value.var(1) / columns).mean().sqrt() / math.sqrt(images) if columns > 1 else None
    nats_per_unit = 1.0 if data.num_levels is None else data.test[0].numel() * math.log(2)
    truncation = None
    if data.num_levels is not None:
        sigma = model.sde.sigma(torch.tensor(model.t_min, dtype=torch.float64))
        truncation = truncation_bits(float(sigma), data.num_levels)
    return Budget(
        images=_standard_error(value.mean(1)),
        probes=0.0 if probes == 0 else None if spread is None else float(spread),
        solver=solver_nats / nats_per_unit if math.isfinite(solver_nats) else None,
        truncation_at_most=truncation,
    )


def _standard_error(values: Tensor) -> float | None:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def _against(truth: Distribution, test: Tensor, nats: Tensor) -> dict[str, float | None]:
    """What the true density has, and how far the model is from it on the same points."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    true_nats = -truth.log_prob(test.double().cpu(), one, zero)
    gap = nats - true_nats
    return {
        "true_nats": float(true_nats.mean()),
        "gap": float(gap.mean()),
        "gap_error": _standard_error(gap),
    }


def _line(result: dict[str, Any]) -> str:
    budget = result["error_budget"]
    parts = [f"likelihood {result['value']:.4f}"]
    for name in ("images", "probes", "solver"):
        if budget[name] is not None:
            parts.append(f"+- {budget[name]:.4f} ({name})")
    line = " ".join(parts)
    if budget["truncation_at_most"] is not None:
        line += f", truncation <= {budget['truncation_at_most']:.4f}"
    line += f" {result['unit']}; {result['num_images']} test images, "
    line += f"{result['nfe']:.0f} evaluations each"
    if "true_nats" in result:
        line += f"; the true density has {result['true_nats']:.4f} (gap {result['gap']:.4f})"
    return line
