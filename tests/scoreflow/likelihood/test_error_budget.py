"""Parts of an error budget that add up, and errors that cover at their rate."""

import math

import pytest
import scipy.stats
import torch

from scoreflow.likelihood.error_budget import Budget, budget_of

SIGNS = 1 << 20
"""Probes drawn from so many are as good as independent."""


def budget(values):
    return budget_of(
        values,
        probes=values.shape[1],
        sign_set=SIGNS,
        local=[None] * len(values),
        finer={},
        per_nat=1.0,
        truncation_at_most=None,
    )


def replicates(count, images, probes, of_images, of_probes, seed=0):
    """Values around 0 with known standard deviations of images and of probes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return of_images * normal(count, images, 1) + of_probes * normal(count, images, probes)


@pytest.mark.parametrize(
    ("images", "probes", "of_images", "of_probes"),
    [(40, 2, 1.0, 0.5), (40, 2, 0.1, 1.0), (8, 4, 1.0, 1.0)],
)
def test_two_standard_errors_cover_the_truth_at_their_rate(images, probes, of_images, of_probes):
    """Of 1000 measurements; Student's t, and no fewer where the probes' error raises the total."""
    inside = 0
    for values in replicates(1000, images, probes, of_images, of_probes):
        found = budget(values)
        inside += abs(float(values.mean())) <= 2 * found.total
    rate = 1 - 2 * scipy.stats.t.sf(2, images - 1)
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 1000, rate)
    assert low <= inside
    if of_images > of_probes:
        assert inside <= high


@pytest.mark.parametrize(("of_images", "of_probes"), [(1.0, 0.2), (0.3, 0.3), (0.0, 1.0)])
def test_the_parts_never_exceed_the_total(of_images, of_probes):
    for images in (2, 3, 8, 100):
        for values in replicates(50, images, 2, of_images, of_probes, seed=images):
            found = budget(values)
            assert found.total >= found.probes
            if found.too_few is None:
                assert math.hypot(found.images, found.probes) == pytest.approx(found.total)
            else:
                assert found.images is None
                assert found.too_few == images


def test_known_parts_are_found():
    """Variances of means of 60 images: 1 / 60 by the images, 0.36 / (3 * 60) by the probes."""
    each = [budget(values) for values in replicates(300, 60, 3, 1.0, 0.6)]
    assert all(found.too_few is None for found in each)
    for name, truth in (("images", 1 / 60), ("probes", 0.12 / 60), ("total", 1.12 / 60)):
        squares = torch.tensor([getattr(found, name) ** 2 for found in each])
        error = float(squares.std()) / math.sqrt(300)
        assert float(squares.mean()) == pytest.approx(truth, abs=4 * error)


def test_few_images_under_noisy_probes_are_not_told_apart():
    """The reported case: of 8 images the spread was less than the probes alone would give."""
    values = torch.tensor([[2.0, 2.3], [2.3, 2.0], [2.1, 2.2], [2.2, 2.1]], dtype=torch.float64)
    values = values.repeat(2, 1)  # every mean is 2.15
    found = budget(values)
    by_probes = math.sqrt(float(values.var(1).mean()) / 2 / 8)
    assert found.probes == found.total == pytest.approx(by_probes)
    assert found.images is None
    text = str(found)
    assert f"+- {by_probes:.4f} (images and probes: 8 images are too few" in text
    assert "(images)" not in text
    assert "(probes)" not in text


def test_exact_divergences_leave_all_to_the_images():
    values = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    found = budget_of(
        values, probes=0, sign_set=1, local=[], finer={}, per_nat=1.0, truncation_at_most=None
    )
    assert found.images == found.total == pytest.approx(float(values.std()) / math.sqrt(3))
    assert found.probes == 0


def test_one_image_or_one_probe_knows_no_spread():
    one_image = budget(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert (one_image.images, one_image.total) == (None, None)
    assert one_image.probes > 0
    one_probe = budget(torch.tensor([[1.0], [2.0]], dtype=torch.float64))
    assert one_probe.probes is None
    assert one_probe.images == one_probe.total > 0


def test_the_guess_of_a_solver_is_called_one():
    values = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    settings = {"probes": 0, "sign_set": 1, "per_nat": 1.0, "truncation_at_most": None}
    guess = budget_of(values, local=[0.25, 0.75], finer={}, **settings)
    assert "+- 0.5000 (solver, its own estimate)" in str(guess)
    again = budget_of(values, local=[0.25, 0.75], finer={0: 1.5}, **settings)
    assert "+- 0.5000 (solver)" in str(again)


def test_a_budget_older_than_the_total_is_read():
    old = {"images": 0.1, "probes": 0.2, "solver": None, "truncation_at_most": 0.01}
    assert str(Budget(**old)) == "+- 0.1000 (images) +- 0.2000 (probes), truncation <= 0.0100"


def test_the_parts_by_hand():
    """Nine images, probes drawn from four: within an image the variance is cut by 1 - 2 / 4."""
    means = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]  # of variance 7.5
    values = torch.tensor([[mean - 1, mean + 1] for mean in means], dtype=torch.float64)
    question = {"local": [], "finer": {}, "per_nat": 1.0, "truncation_at_most": None}
    found = budget_of(values, probes=2, sign_set=4, **question)
    probes = 2.0 / 2 * (1 - 2 / 4) / 9  # 2 is the variance of -1 and 1
    assert found.probes == pytest.approx(math.sqrt(probes))
    assert found.total == pytest.approx(math.sqrt(7.5 / 9))
    assert found.images == pytest.approx(math.sqrt(7.5 / 9 - probes))


def test_all_signs_together_leave_no_error():
    """Probes without replacement: the last of the set makes the trace exact."""
    values = torch.tensor([[1.0, 2.0], [5.0, 3.0]], dtype=torch.float64)
    question = {"local": [], "finer": {}, "per_nat": 1.0, "truncation_at_most": None}
    whole = budget_of(values, probes=2, sign_set=2, **question)
    assert whole.probes == 0
    assert whole.images == whole.total
    part = budget_of(values, probes=2, sign_set=1 << 20, **question)
    assert part.probes == pytest.approx(math.sqrt((0.5 + 2.0) / 2 / 2 / 2), rel=1e-5)
