"""The sweep asks for each class at each weight, and tells fidelity from diversity."""

import pytest
import torch

from scoreflow.data.levels import dequantize
from scoreflow.data.loading import load_digits
from scoreflow.evaluation import guidance_sweep
from scoreflow.evaluation.nearest_neighbours import nearest_labels
from scoreflow.evaluation.sample_quality import SampleQuality
from scoreflow.generation.plan import SamplingPlan
from scoreflow.report.page import write_report
from scoreflow.samplers import DDIM, grid
from scoreflow.sde import VPSDE
from scoreflow.sde.prediction import predict
from scoreflow.storage.run_folder import RunDir

SDE = VPSDE.cosine(20)
DIGITS = load_digits()
HALF = torch.tensor(0.5, dtype=torch.float64)


def labels(values):
    return nearest_labels(values, DIGITS.train, DIGITS.train_labels)


JUDGE = SampleQuality(
    DIGITS, labels=labels, features=lambda values: values.double().flatten(1)[:, 18:22]
)


def drawing(weight, label):
    """At weight 0 any training image for each sample, at 1 one of the class, above 1 the first."""
    of_class = DIGITS.train[DIGITS.train_labels == label]
    pool = DIGITS.train if weight == 0 else of_class if weight == 1 else of_class[:1]

    def denoise(x_t, t):
        drawn = (x_t[:, 0, 0, 0].abs() * 1e6).long() % len(pool) if t == 20 else denoise.kept
        denoise.kept = drawn
        x_0 = dequantize(pool[drawn], HALF, 17)
        return predict(SDE, x_t, t, "x_0", x_0)

    return SamplingPlan(DDIM(), grid("uniform", SDE, 4), denoise)


def swept(weight, count=200):
    asked = guidance_sweep.SweepSettings(drawing, 0, count, 64)
    row, x, of = guidance_sweep.measured(weight, asked, SDE, DIGITS)
    return {**row, **guidance_sweep.judged(x, of, JUDGE)}, x, of


def test_every_class_is_asked_for_in_turn():
    row, x, of = swept(1.0, 23)
    assert of.tolist() == [k % 10 for k in range(23)]
    assert row["nfe"] == 4
    assert (row["accuracy"], row["by_classifier"]) == (1, 1)
    assert set(row["accuracy_by_class"].values()) == {1.0}
    assert row["copies"] == 23
    again = swept(1.0, 12)[1]
    assert torch.equal(again, x[:12])  # image i is the same among fewer


def test_the_weight_trades_diversity_for_fidelity():
    free, right, narrow = (swept(weight)[0] for weight in (0.0, 1.0, 4.0))
    assert free["accuracy"] == pytest.approx(0.1, abs=4 * free["accuracy_error"])
    assert right["accuracy"] == narrow["accuracy"] == 1
    assert narrow["recall"] < 0.2 < right["recall"]
    apart = (narrow[f"feature_distance{end}"] for end in ("", "_error"))
    value, error = apart
    assert value > right["feature_distance"] + 2 * error


def test_the_report_and_the_table_show_every_weight(tmp_path):
    rows = []
    case = {"sampler": "ddim", "budget": 4, "nfe": 4.0, "seconds": 1.0, "num_images": 20}
    case |= {"two_sample": 0.5, "two_sample_error": 0.1}
    with RunDir.create(tmp_path / "run", {}, {}) as run:
        for weight in (0.0, 1.0, 4.0):
            row, x, _ = swept(weight, 20)
            rows.append(row)
            path = run.sample_path(1, f"compare-guidance-{weight:g}")
            run.write_image(path, guidance_sweep.shown(x, DIGITS))
        result = {"rows": [case], "test_data": {}, "floors": {}, "guidance": rows}
        run.write_result("compare", {**result, "step": 1, "settings": {"seed": 0}})
        page = write_report(run).read_text()
    assert len(guidance_sweep.table(rows).splitlines()) == 4
    assert page.count("data:image/png") == 3
    assert page.count("<svg") == 2
    for row in rows:
        assert f">{row['accuracy']:.3f} ± {row['accuracy_error']:.3f}</td>" in page
        assert f"guidance {row['weight']:g}" in page
