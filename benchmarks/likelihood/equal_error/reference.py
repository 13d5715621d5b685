"""What errors are measured against: the exact trace, and fine solves of the same probe."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.likelihood import settings
from benchmarks.likelihood.bench import Bench, Points
from benchmarks.likelihood.methods import ours, solver_of
from benchmarks.measure import say
from scoreflow.errors import RunError
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.storage.atomic_files import dumps, load_json, write_atomic


@dataclass(frozen=True)
class Reference:
    """Bits/dim of some images.

    Attributes:
        exact: schedule -> with the exact trace, (B,).
        same_probe: schedule -> with the probe that repetition 0 has, (B,).
    """

    exact: dict[str, Tensor]
    same_probe: dict[str, Tensor]


def reference_of(bench: Bench, points: Points, work: Path) -> Reference:
    """Both references, read from `work` where a run before has left them.

    The exact trace is dear and taken on the schedule of the training alone; on the smooth one it
    differs by as much as the estimates by one probe do.

    Raises:
        RunError: some images were not solved.
    """
    same = same_probe(bench, points, work)
    trace = solver_of(settings.EXACT, probes=0)
    exact = kept(bench.trained, points, trace, work, "exact trace")
    moved = {name: exact + (bits - same["as trained"]) for name, bits in same.items()}
    return Reference(moved, same)


def same_probe(bench: Bench, points: Points, work: Path) -> dict[str, Tensor]:
    """Schedule -> bits/dim by the first repetition's probe at the tightest tolerance, (B,)."""
    fine = solver_of(settings.TRUTH)
    return {
        name: kept(model, points, fine, work, f"one probe, {name}")
        for name, model in bench.models.items()
    }


def kept(model: ScoreModel, points: Points, solver: Solver, work: Path, name: str) -> Tensor:
    """Bits/dim, (B,), of a solve that is done once: of these weights, points and settings."""
    words = "-".join(name.replace(",", "").split())
    path = work / f"{words}-{_hash(model, points, solver)}.json"
    if path.is_file():
        bits = torch.tensor(
            load_json(path, f"{path} is gone", "remove it")["bits"], dtype=torch.float64
        )
        if bits.shape == (len(points.x),):
            say(f"{name}: read from {path}")
            return bits
    say(f"{name}, tolerance {solver.tolerance:g}: is computed, once")
    found = ours(model, points, solver)
    if found.unsolved:
        raise RunError(
            f"{found.unsolved} images have no reference ({name}) at tolerance {solver.tolerance:g}"
        )
    bits = found.bits.mean(1)
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(path, dumps({"solver": repr(solver), "bits": bits.tolist()}, name, RunError))
    return bits


def _hash(model: ScoreModel, points: Points, solver: Solver) -> str:
    """Of all that the bits depend on but the code."""
    times = torch.linspace(points.t, float(model.sde.num_steps), 97, dtype=torch.float64)
    how = solver.method, solver.probes, solver.tolerance, solver.tolerance_bits
    digest = hashlib.sha256(repr((how, points.noise.seed, points.t)).encode())
    tensors = [*model.network.state_dict().values(), points.x, model.sde.log_snr(times)]
    for tensor in (*tensors, points.noise.index):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
