"""Exact log-likelihood of a data set: one row an image, resumable, shared by processes."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError, RunError
from scoreflow.likelihood.dequantization import Dequantizer, at_most_bits, warning
from scoreflow.likelihood.error_budget import Budget, budget_of
from scoreflow.likelihood.flow_likelihood import Flow, LogLikelihood, Solver
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.runtime.distributed import Shard
from scoreflow.runtime.gpu.transfer import moved
from scoreflow.runtime.progress_bar import Progress
from scoreflow.samplers.denoisers.instrumentation import Counted
from scoreflow.sde.analytic import Distribution
from scoreflow.sde.flow import prior_cost
from scoreflow.sde.noise import Noise
from scoreflow.sde.ode import Status
from scoreflow.sde.prediction import Denoiser
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.result_rows import Rows
from scoreflow.storage.validation import Length, Range, conform
from scoreflow.uncertainty import standard_error


@dataclass(frozen=True)
class LikelihoodSettings:
    """Settings of a likelihood measurement.

    Attributes:
        solver: how the flow is solved.
        seed: of dequantization and probes.
        dequantizer: of integers; None for vectors, which stand at t = t_min as they are.
        samples: K dequantized points of each image, under one logarithm.
        batch_size: points at a time.
        checked: so many data are solved again at a tenth of the tolerance, or at more steps
            between nodes, to know what the solver does to the mean; by nodes `REPEATED` times as
            many at other nodes by other probes, to know what those do. 0 for the solver's own
            guess, and for nothing about nodes.
    """

    solver: Solver
    seed: int = 0
    dequantizer: Dequantizer | None = None
    samples: int = 1
    batch_size: int = 128
    checked: int = 16

    def __post_init__(self) -> None:
        if self.samples > 1 and self.solver.probes:
            raise RequestError(
                "likelihood.samples > 1 needs the exact divergence, likelihood.probes = 0: the "
                "mean of exp(log p) over noisy logarithms is too large, and no bound "
                f"(got samples {self.samples}, probes {self.solver.probes})"
            )


@dataclass(frozen=True)
class Row:
    """The schema of a datum's row.

    Attributes:
        image: number of the datum.
        nats: log-likelihood, a value a probe; None where one is not finite.
        evaluations: of the denoiser.
        solver_error: accumulated local error estimate, nats; None where it is not finite.
        status: `sde.ode.Status`, in lower case.
        bits_per_dim: of an image; None where it is not finite.
        nats_per_datum: of a vector, with its sign changed; None where it is not finite.
        name: of its file.
    """

    image: Annotated[int, Range(0)]
    nats: Annotated[list[float], Length(1)] | None
    evaluations: Annotated[int, Range(0)]
    solver_error: float | None
    status: Literal["done", "max_evaluations", "step_underflow", "not_finite"]
    bits_per_dim: float | None = None
    nats_per_datum: float | None = None
    name: str = ""


def check_row(row: Json) -> None:
    """Refuse what is no row of a datum.

    Raises:
        InvalidError: with the field that is wrong.
    """
    conform(row, Row)


CHECK_FACTOR = 10.0
REPEATED = 2
"""Times the data that are solved more finely, which takes three times as long: of 32 the standard
error by probes and nodes is known to an eighth, of 16 to less than a fifth."""
EXTREMES = 5
"""Data with the lowest and the highest likelihood that a result names."""


@dataclass(frozen=True)
class Measured:
    """A likelihood as a result for results/, a line for the terminal, and what each datum had.

    Attributes:
        result: for results/.
        line: for the terminal.
        values: bits/dim or nats, a row a datum and a column a probe, (n, P).
        evaluations: of the denoiser, (n,).
        solver_error: of the solve's estimate, as in `Row`, nan where it is not finite, (n,).
        solved: data that were solved for it; rows of the others were there.
    """

    result: dict[str, Any]
    line: str
    values: Tensor
    evaluations: Tensor
    solver_error: Tensor
    solved: int = 0


def measure(
    model: ScoreModel,
    data: Data,
    num_images: int,
    settings: LikelihoodSettings,
    truth: Distribution | None = None,
    rows: Rows | None = None,
    shard: Shard | None = None,
    labels: Tensor | None = None,
) -> Measured:
    """Exact log-likelihood of the test set: bits/dim of integers, nats of vectors.

    Args:
        model: evaluated in float32, whatever precision it was trained in.
        data: its test part is measured.
        num_images: the first so many; 0 for all.
        settings: of the measurement.
        truth: the density of vectors, where it is known, to compare with.
        rows: where data that were measured before are found, and new ones are kept.
        shard: this process's share, where there are several.
        labels: of the test part, where each datum is measured given its own class.

    Raises:
        RunError: some were not solved; what was found is kept in the rows.
    """
    start, test = time.monotonic(), data.test[:num_images] if num_images else data.test
    shard = shard or Shard()
    likelihood = DatasetLikelihood(model.in_precision("float32"), test, settings, data.test_names)
    found = likelihood.given(labels, range(len(test)), rows, shard, "likelihood")
    _refuse_unfinished(found, settings.solver)
    values = (
        torch.tensor([row["nats"] for row in found], dtype=torch.float64) * -likelihood.per_nat
    )
    check = likelihood.checked(labels, shard)
    result = _result(model, data, likelihood, found, values, check)
    if truth is not None:
        result |= _against(truth, test, values.mean(1))
    result |= _extremes(values.mean(1), data.test_names)
    result["seconds"] = time.monotonic() - start
    evaluations = torch.tensor([row["evaluations"] for row in found], dtype=torch.float64)
    error = torch.tensor(
        [math.nan if row["solver_error"] is None else row["solver_error"] for row in found],
        dtype=torch.float64,
    )
    return Measured(result, line(result), values, evaluations, error)


@dataclass(frozen=True)
class _Check:
    """Values of a few data by number, in the unit of the mean.

    Attributes:
        finer: by a finer solver.
        repeated: at other nodes by other probes.
    """

    finer: dict[int, float]
    repeated: dict[int, float]


class DatasetLikelihood:
    """Log-likelihood of a data set, image by image, resumable.

    Args:
        model: in float32.
        test: levels or vectors.
        settings: of the measurement.
        names: of the data, which their rows carry; none where they have none.
    """

    def __init__(
        self,
        model: ScoreModel,
        test: Tensor,
        settings: LikelihoodSettings,
        names: tuple[str, ...] = (),
    ) -> None:
        self.model, self.test, self.settings, self.names = model, test, settings, names
        deq = settings.dequantizer
        self.t = model.t_min if deq is None else deq.t
        self.per_nat = 1.0 if deq is None else 1 / (test[0].numel() * math.log(2))
        self.flow = Flow(model, model.posed, test, self.t, settings.solver)
        self.unit = "nats_per_datum" if deq is None else "bits_per_dim"

    def finer(self) -> "DatasetLikelihood":
        """The same at tolerances that are a tenth, or at the same nodes with more steps."""
        return self._solved_by(self.settings.solver.finer(CHECK_FACTOR))

    def repeated(self) -> "DatasetLikelihood":
        """The same with other probes and nodes, of the same dequantization."""
        solver = self.settings.solver
        return self._solved_by(replace(solver, repeat=solver.repeat + 1))

    def _solved_by(self, solver: Solver) -> "DatasetLikelihood":
        return DatasetLikelihood(self.model, self.test, replace(self.settings, solver=solver))

    def checked(self, labels: Tensor | None, shard: Shard) -> _Check:
        """The first few data once more, for the errors of the solver, and of nodes and probes."""
        count, nodes = self.settings.checked, self.settings.solver.method == "nodes"

        def values(way: DatasetLikelihood, number: int) -> dict[int, float]:
            wanted = range(min(number, len(self.test)))
            rows = way.given(labels, wanted, None, shard, "check") if wanted else []
            return {row["image"]: self._value(row) for row in rows if row["status"] == "done"}

        return _Check(
            finer=values(self.finer(), count),
            repeated=values(self.repeated(), REPEATED * count) if nodes else {},
        )

    def given(
        self, labels: Tensor | None, wanted: range, kept: Rows | None, shard: Shard, title: str
    ) -> list[Json]:
        """As `rows`, each datum given its class: those of a class together, as it is asked.

        Args:
            labels: the class of each datum; None for the network's own law.
            wanted: as in `rows`, and so on.
            kept: as in `rows`.
            shard: as in `rows`.
            title: as in `rows`.
        """
        if labels is None:
            return self.rows(wanted, kept, shard, title)
        found: dict[int, Json] = {}
        of_each = labels.tolist()
        own = [of_each[k] for k in wanted]
        for label in sorted(set(own)):
            of_class = [k for k, its in zip(wanted, own, strict=True) if its == label]
            model = self.model.labelled(int(label))
            asked = DatasetLikelihood(model, self.test, self.settings, self.names)
            rows = asked.rows(of_class, kept, shard, f"{title}, class {label}", adopt=False)
            found |= dict(zip(of_class, rows, strict=True))
        if kept is not None and shard.rank == 0:
            kept.adopt()
        return [found[k] for k in wanted]

    def rows(
        self,
        wanted: Sequence[int],
        kept: Rows | None,
        shard: Shard,
        title: str,
        adopt: bool = True,
    ) -> list[Json]:
        """A row for every wanted datum, in order; this process solves its share of them."""
        there = {} if kept is None else kept.done
        done = {k: r for k, r in there.items() if isinstance(k, int) and self._is_answer(r)}
        left = [k for k in wanted if k not in done and shard.has(k)]
        ours = sum(shard.has(k) for k in wanted)
        so_far = _Mean(map(self._value, done.values()))
        with Progress(title, ours, "img", ours - len(left)) as progress, arithmetic("float32"):
            for new in self._solved(left, Counted(self.model, progress.evaluated)):
                done |= {row["image"]: row for row in new}
                if kept is not None:
                    kept.append(new)
                so_far.add(self._value(row) for row in new if row["status"] == "done")
                progress.advance(len(new), mean=str(so_far))
        theirs = shard.gathered({k: done[k] for k in wanted if k in done and shard.has(k)})
        if adopt and kept is not None and shard.rank == 0:
            kept.adopt()
        done |= theirs
        return [done[k] for k in wanted]

    def _is_answer(self, row: Json) -> bool:
        """Whether a row that was kept is what would be found now.

        Rows older than the hashes of rows have two spellings of one value, which must agree.
        """
        nats = row.get("nats")
        if row.get("status") != "done" or not nats:
            return False
        if len(nats) != max(1, self.settings.solver.probes):  # one a probe, or a single one
            return False
        told, rounding = row.get(self.unit), 1e-9 * max(map(abs, nats)) * self.per_nat
        return told is not None and abs(told - self._value(row)) <= rounding

    def _value(self, row: Json) -> float:
        """Bits/dim or nats of a row that is done."""
        return float(-sum(row["nats"]) / len(row["nats"]) * self.per_nat)

    def _solved(self, left: list[int], denoiser: Denoiser) -> Iterator[list[Json]]:
        """Rows as they are found: one when all K points of its datum are."""
        k_points, device = self.settings.samples, self.test.device
        index = torch.tensor(left, dtype=torch.int64, device=device).repeat_interleave(k_points)
        offsets = torch.zeros(len(index), dtype=torch.float64, device=device)
        self.flow.denoiser = denoiser
        arrived = 0

        def arrivals(most: int) -> tuple[Tensor, Noise]:
            nonlocal arrived
            now = slice(arrived, arrived + min(most, len(index) - arrived))
            noise = Noise(self.settings.seed, index[now])
            x, offsets[now] = self._placed(noise, now.start)
            arrived = now.stop
            return x, noise

        parts: dict[int, list[Json]] = {}
        for found in self.flow.solve(arrivals, self.settings.batch_size):
            for point in _points(found, index, offsets):
                parts.setdefault(point["image"], []).append(point)
            whole = [image for image, points in parts.items() if len(points) == k_points]
            if whole:
                yield [self._joined(parts.pop(image)) for image in whole]

    def _placed(self, noise: Noise, first: int) -> tuple[Tensor, Tensor]:
        """The points of some data at time t, and their offsets in nats."""
        batch, denoiser = self.test[noise.index], self.flow.denoiser
        deq, k_points = self.settings.dequantizer, self.settings.samples
        if deq is None:
            return batch.double(), batch.new_zeros(len(batch), dtype=torch.float64)
        if k_points == 1:
            return deq.place(denoiser, self.model.sde, batch, noise)
        draws = (torch.arange(len(batch), device=batch.device) + first) % k_points
        x = torch.empty_like(batch, dtype=torch.float64)
        offset = x.new_empty(len(batch))
        for draw in range(k_points):
            own = (draws == draw).nonzero()[:, 0]
            placed = deq.place(denoiser, self.model.sde, batch[own], noise.rows(own), draw)
            x[own], offset[own] = placed
        return x, offset

    def _joined(self, points: list[Json]) -> Json:
        """The row of a datum from its K points: log of the mean of their probabilities."""
        nats = torch.tensor([p["nats"] for p in points], dtype=torch.float64)
        if len(points) > 1:
            nats = (nats.logsumexp(0) - math.log(len(points)))[None]
        finite = bool(nats.isfinite().all())
        status = max((p["status"] for p in points), key=lambda s: s != "done")
        if status == "done" and not finite:  # the flow was solved, and the prior has no density
            status = Status.NOT_FINITE.name.lower()
        value = float(nats.mean()) * -self.per_nat
        solver_error = sum(p["solver_error"] for p in points) / len(points)
        image = points[0]["image"]
        return {
            "image": image,
            **({"name": self.names[image]} if image < len(self.names) else {}),
            self.unit: value if math.isfinite(value) else None,
            "nats": nats.flatten().tolist() if finite else None,
            "evaluations": sum(p["evaluations"] for p in points),
            "solver_error": solver_error if math.isfinite(solver_error) else None,
            "status": status,
        }


class _Mean:
    """The mean of values that come one after the other, and its standard error (Welford 1962)."""

    def __init__(self, values: Iterable[float]) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self.add(values)

    def add(self, values: Iterable[float]) -> None:
        """Some more of them."""
        for value in values:
            self._count += 1
            away = value - self._mean
            self._mean += away / self._count
            self._squares += away * (value - self._mean)

    def __str__(self) -> str:
        n = self._count
        if n < 2:
            return f"{self._mean:.4f}" if n else ""
        return f"{self._mean:.4f} +- {math.sqrt(self._squares / (n - 1) / n):.4f}"


def _points(found: LogLikelihood, index: Tensor, offsets: Tensor) -> Iterator[Json]:
    nats = found.log_prob + offsets[found.row][:, None]
    columns = (index[found.row], nats, found.evaluations, found.solver_error, found.status)
    for image, each, evaluations, error, status in zip(
        *(column.tolist() for column in moved(columns, "cpu")), strict=True
    ):
        yield {
            "image": image,
            "nats": each,
            "evaluations": evaluations,
            "solver_error": error,
            "status": Status(status).name.lower(),
        }


def _result(
    model: ScoreModel,
    data: Data,
    likelihood: DatasetLikelihood,
    found: list[Json],
    values: Tensor,
    check: _Check,
) -> dict[str, Any]:
    deq, solver = likelihood.settings.dequantizer, likelihood.settings.solver
    budget = budget_of(
        values,
        probes=solver.probes,
        sign_set=likelihood.flow.sign_set,
        local=[row["solver_error"] for row in found],
        finer=check.finer,
        per_nat=likelihood.per_nat,
        truncation_at_most=None if deq is None else at_most_bits(deq, model.sde),
        prior_at_most=None if deq is None else prior_cost(model.posed) / math.log(2),
        nodes=solver.method == "nodes",
        repeated=check.repeated,
    )
    result: dict[str, Any] = {
        "value": float(values.mean()),
        "standard_error": budget.total,
        "unit": "nats" if deq is None else "bits/dim",
        "num_images": len(values),
        "dequantization": "none" if deq is None else deq.name,
        "samples": likelihood.settings.samples,
        "num_levels": data.num_levels,
        "t_min": likelihood.t,
        "error_budget": asdict(budget),
        "nfe": sum(row["evaluations"] for row in found) / len(found),
    }
    if model.posed.num_steps < model.sde.num_steps:
        result["t_max"] = model.posed.num_steps
    if deq is not None:
        result["bits_per_dim"] = result["value"]
        result["warning"] = warning(deq, model.sde, model.t_min, model.asking.integer_times)
    if rough := _rough(found, solver, likelihood.test[0].numel()):
        result["warning"] = "\n".join(filter(None, (result.get("warning"), rough)))
    return result


def _rough(found: list[Json], solver: Solver, dims: int) -> str:
    """A line for rows that more steps of the trajectory did not help, or ""."""
    if solver.method != "nodes":
        return ""
    errors = [(row["solver_error"] or 0.0) / math.sqrt(dims) for row in found]
    above = [error for error in errors if error > solver.trajectory_tolerance * (1 + 1e-9)]
    if not above:
        return ""
    return (
        f"{len(above)} of {len(found)} trajectories are rough: more steps no longer lower their "
        f"estimated error, {sum(above) / len(above):.2g} of the noise, to "
        f"likelihood.trajectory_tolerance = {solver.trajectory_tolerance:g}; the part of the "
        "solver has what that costs"
    )


def _extremes(values: Tensor, names: tuple[str, ...]) -> dict[str, list[Json]]:
    """The data with the lowest and the highest value, with their names where they have any.

    Args:
        values: bits/dim or nats, (n,).
        names: of the data, or none.
    """
    order = values.argsort(stable=True).tolist()
    count = min(EXTREMES, len(order) // 2)

    def row(k: int) -> Json:
        named = {"name": names[k]} if k < len(names) else {}
        return {"image": k, **named, "value": float(values[k])}

    parts = {"lowest": order[:count], "highest": order[: -count - 1 : -1]}
    return {side: [row(k) for k in found] for side, found in parts.items() if count}


def _refuse_unfinished(found: list[Json], solver: Solver) -> None:
    bad = [row for row in found if row["status"] != "done"]
    if bad:
        why = bad[0]["status"].replace("_", " ")
        tolerance = "trajectory_tolerance" if solver.method == "nodes" else "tolerance"
        other = ", or take --config.likelihood.method=dopri5" if solver.method == "nodes" else ""
        if why == "not finite":  # more evaluations would not help
            raise RunError(
                f"{len(bad)} of {len(found)} images have no likelihood, the first being test "
                f"image {bad[0]['image']}: the flow carries them beyond the float32 that the "
                "network takes, so far off are its estimates. Train for more steps "
                "(--mode train with a greater --config.training.num_steps), or in a new run with "
                "--config.model.prediction=v; the others are kept"
            )
        raise RunError(
            f"{len(bad)} of {len(found)} images were not solved within {solver.max_evaluations} "
            f"evaluations, the first being test image {bad[0]['image']} ({why}): raise "
            f"likelihood.max_evaluations or likelihood.{tolerance}{other}; the others are kept"
        )


def _against(truth: Distribution, test: Tensor, nats: Tensor) -> dict[str, float | None]:
    """What the true density has, and how far the model is from it on the same points."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    true_nats = -truth.log_prob(test.double().cpu(), one, zero)
    gap = nats - true_nats
    return {
        "true_nats": float(true_nats.mean()),
        "gap": float(gap.mean()),
        "gap_error": standard_error(gap),
    }


def line(result: dict[str, Any]) -> str:
    """A result in a line, with its budget."""
    text = f"likelihood {result['value']:.4f} {Budget(**result['error_budget'])}"
    kind = "vectors" if result["unit"] == "nats" else "images"
    text += f" {result['unit']}; {result['num_images']} test {kind}, "
    text += f"{result['nfe']:.0f} evaluations each"
    if "true_nats" in result:
        text += f"; the true density has {result['true_nats']:.4f} (gap {result['gap']:.4f})"
    if "t_max" in result:
        text += f"; flow to t = {result['t_max']} only: above it an estimate of eps is ill-posed"
    return f"{text}\n{result['warning']}" if result.get("warning") else text
