"""What samples are worth: noise is worth nothing, and samples that go astray are counted."""

import json
import math

import pytest
import torch

from scoreflow.data.loading import load_digits
from scoreflow.data.toy import load
from scoreflow.evaluation.sample_summary import CLIPS, NEW_RUN, _remedy, draw, value_metrics
from scoreflow.generation.generate import outside
from scoreflow.generation.plan import SamplingPlan
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Clipped, Counted, grid
from scoreflow.samplers.denoisers.guidance import Guided
from scoreflow.sde import VPSDE

DIGITS = load_digits()
SDE = VPSDE.cosine(20)
N = 300


def noise():
    """What a flow that went astray leaves: every pixel black or white."""
    drawn = torch.randint(2, (N, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return (16 * drawn).to(torch.uint8)


def nearly_digits():
    """Held-out digits whose pixels are brighter by up to 4 levels: a poor network's samples."""
    off = torch.randint(5, (N, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    return (DIGITS.test[:N] + off.to(torch.uint8)).clamp(max=16)


def of_one_class():
    return DIGITS.test[DIGITS.test_labels == 0]


def value(samples):
    return value_metrics(samples, DIGITS)["value"]


def test_noise_and_one_grey_have_the_worst_value():
    black = torch.zeros(N, 1, 8, 8, dtype=torch.uint8)
    saturated = value_metrics(noise(), DIGITS)
    assert saturated["value"] == value(black) == 0.5
    assert saturated["precision_recall"]["precision"] == 0


def test_noise_loses_to_all_that_looks_like_the_data():
    held_out, near, class_0 = value(DIGITS.test[:N]), value(nearly_digits()), value(of_one_class())
    assert held_out < near < 0.5
    assert held_out < class_0 < 0.5
    assert held_out < 0.1


def test_copies_of_the_data_are_no_better_than_noise_and_are_named():
    found = value_metrics(DIGITS.train[:N], DIGITS)
    assert found["value"] == 0.5
    assert found["copies"] == N
    assert value_metrics(noise(), DIGITS)["copies"] == 0


def test_held_out_data_stand_beside():
    found = value_metrics(nearly_digits(), DIGITS)
    real = value_metrics(DIGITS.test[:N], DIGITS)
    assert found["two_sample_of_test_data"] == real["two_sample"]
    assert found["precision_recall_of_test_data"] == real["precision_recall"]
    assert found["metric"] == "told_apart"
    sides = found["two_sample"]
    worse = max(abs(sides[key] - 0.5) for key in ("samples_recognised", "real_recognised"))
    assert found["value"] == worse
    assert found["standard_error"] == sides["told_apart_error"] > 0


# ---- out of range


class Drawing:
    """Ends where it is told to, whatever it starts from."""

    def __init__(self, ends):
        self.ends = ends

    def step(self, x_t, step):
        return self.ends.to(x_t.dtype)


def drawn(ends, data=DIGITS):
    plan = SamplingPlan(Drawing(ends), grid("uniform", SDE, 1), lambda x_t, t: None)
    return draw(plan, "some", SDE, data, 0, len(ends), len(ends))


def test_samples_that_leave_the_range_are_counted():
    x = torch.zeros(200, 1, 8, 8, dtype=torch.float64)
    x[0, 0, 0, 0], x[1, 0, 7, 7], x[2, 0, 3, 3] = 1.51, -2000.0, 1.49
    assert outside(x, 17) == 2
    assert outside(x, None) is None
    x[3, 0, 0, 0] = math.nan
    assert outside(x, 17) == 3


@pytest.mark.parametrize(("count", "loud"), [(0, False), (2, False), (3, True)])
def test_more_than_a_hundredth_of_them_is_said(count, loud):
    x = torch.zeros(200, 1, 8, 8, dtype=torch.float64)
    x[:count] = 3.0
    found = drawn(x)
    assert found.result["outside"] == {"count": count, "more_than": 0.5}
    said = f"{count} of 200 samples (2%) leave [-1, 1] by more than 0.5"
    assert found.line.startswith(said) == loud
    assert ("predict v in a new run (--config.model.prediction=v)" in found.line) == loud
    assert json.dumps(found.result)


def test_vectors_have_no_range():
    x = torch.full((20, 2), 5.0, dtype=torch.float64)
    assert drawn(x, load()).result["outside"] is None


@pytest.mark.parametrize(
    ("output", "around", "said"),
    [
        ("eps", None, f"{CLIPS}train longer{NEW_RUN}"),
        ("v", None, f"{CLIPS}train longer"),
        ("u", None, f"{CLIPS}train longer"),
        ("x_0", None, f"{CLIPS}train longer"),
        ("score", None, f"{CLIPS}train longer{NEW_RUN}"),
        ("v", Clipped, "Train longer"),
        ("eps", Clipped, f"Train longer{NEW_RUN}"),
    ],
)
def test_the_remedy_is_of_the_network_and_the_sampler(output, around, said):
    """Whatever is around the network: a count, a guide."""
    model = ScoreModel(torch.nn.Identity(), SDE, output)
    inside = Guided(Counted(model), model, 2.0)
    found = _remedy(around(inside) if around else inside)
    assert found == said
    assert "in a new run" in NEW_RUN
