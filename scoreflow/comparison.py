"""What --mode compare does: every sampler at every budget, kept row by row."""

import math
from collections.abc import Callable

from ml_collections import ConfigDict

from scoreflow import build, compare, toy
from scoreflow.build import Experiment
from scoreflow.compare import Case
from scoreflow.drawings import drawing_of
from scoreflow.errors import RequestError
from scoreflow.files import write_atomic
from scoreflow.likelihoods import fingerprint
from scoreflow.model import ScoreModel
from scoreflow.run_dir import RunDir

Say = Callable[[str], None]
REFERENCE = (1e-3, 56.0)
"""A tolerance of the adaptive flow and the evaluations that it took on the digits; they grow with
the fifth root."""


def run(experiment: Experiment, folder: RunDir, model: ScoreModel, step: int, say: Say) -> str:
    """Measure what is not there yet; returns the section of the report."""
    c, data = experiment.config.compare, experiment.data
    count = min(c.num_images, len(data.test), len(data.train))
    if count < LEAST:
        raise RequestError(f"compare needs {LEAST} images of test and training data, got {count}")
    heading = {
        "seed": c.seed,
        "num_images": count,
        "step": step,
        "device": experiment.device.type,
        "weights": fingerprint(model),
        "sampling": experiment.config.sampling.to_dict(),
    }
    rows = folder.rows("compare", heading, key="case")
    truth = toy.distribution() if data.name == "toy" else None
    pictures, found = {}, []
    for name, budget in _wanted(experiment.config, model):
        case, path = f"{name}-{budget}", folder.sample_path(step, f"compare-{name}-{budget}")
        if case not in rows.done or not path.exists():
            config = _with_budget(experiment, name, budget)
            made = Case(name, budget, drawing_of(experiment, config, name, folder, model))
            batch = experiment.config.sampling.batch_size
            row, png, x = compare.measured(made, model.sde, data, c.seed, count, batch)
            folder.write_image(path, png)
            rows.append([{"case": case, **row, **compare.judged(x, data, truth)}])
        pictures[name, budget] = path.read_bytes()
        found.append(rows.done[case])
    settings = {**c.to_dict(), "device": str(experiment.device)}
    result = {"unit": "a row a sampler and budget", "step": step, "settings": settings}
    folder.write_result("compare", {**result, "rows": found})
    say(compare.table(found))
    page = compare.section(found, pictures, c.seed)
    write_atomic(folder.path / "results" / "compare.html", page.encode())
    return page


LEAST = 8


def _wanted(config: ConfigDict, model: ScoreModel) -> list[tuple[str, int]]:
    """Each sampler with each budget that it can use: a chain has no more steps than N."""
    c, whole = config.compare, config.sampling.grid == "least_cost"
    names = [build.choose("--samplers", name, build.SAMPLERS) for name in c.samplers]
    return [
        (name, budget)
        for name in names
        for budget in sorted(set(c.nfe))
        if (build.high_order(config, name) and not whole) or budget <= model.sde.num_steps
    ]


def _with_budget(experiment: Experiment, name: str, budget: int) -> ConfigDict:
    """The config under which a sampler's evaluations come to the budget, or near it."""
    config = ConfigDict(experiment.config.to_dict())
    c = config.sampling
    heun = "heun" in (name, c.predictor if name == "pc" else "")  # two a step, but in the last
    a_step = (2 if heun else 1) + (c.corrections if name == "pc" else 0)
    c.steps = max(1, (budget + heun) // a_step)
    tolerance, evaluations = REFERENCE
    wanted = tolerance * (evaluations / budget) ** 5
    c.tolerance = min(max(wanted, 1e-10), 1.0)
    assert math.isfinite(wanted), "budgets are whole numbers from 1"
    return config
