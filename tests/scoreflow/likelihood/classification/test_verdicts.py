"""Calibration, temperature, intervals and pairs against hand, scipy, sklearn and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logit
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss

from scoreflow.likelihood.classification import (
    agreement,
    baselines,
    elimination,
    times,
    verdicts,
)
from scoreflow.likelihood.classification.bayes import Prior, log_posterior
from scoreflow.likelihood.classification.bound_by_class import LogLikelihoods
from scoreflow.likelihood.classification.calibration import (
    calibration,
    expected_calibration_error,
    fit_temperature,
    tempered,
)


def test_the_calibration_error_by_hand():
    # bins of 1/15: 0.95 and 0.97 share the last, 0.62 lies in (9/15, 10/15], 0.6 in (8/15, 9/15]
    confidence = np.array([0.95, 0.97, 0.62, 0.6])
    right = np.array([1.0, 0.0, 1.0, 0.0])
    expected = (abs(1.0 - 1.92) + abs(1 - 0.62) + abs(0 - 0.6)) / 4
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def by_loop(probs, own):
    """ECE in the words of its definition, with right ends of bins inside."""
    total = 0.0
    for m in range(15):
        rows = [k for k in range(len(own)) if m / 15 < probs[k].max() <= (m + 1) / 15]
        if rows:
            accuracy = np.mean([probs[k].argmax() == own[k] for k in rows])
            total += len(rows) * abs(accuracy - np.mean([probs[k].max() for k in rows]))
    return total / len(own)


def stated(n=400, k=4, sharpness=2.0):
    random = np.random.default_rng(5)
    logits = torch.from_numpy(random.normal(size=(n, k)) * sharpness)
    probs = logits.softmax(1).numpy()
    own = np.array([random.choice(k, p=row) for row in probs])
    return logits.log_softmax(1), torch.from_numpy(own)


def test_scores_equal_independent_ones():
    log_probs, own = stated()
    found = calibration(log_probs, own)
    probs = log_probs.exp().numpy()
    assert found.ece == pytest.approx(by_loop(probs, own.numpy()))
    assert found.nll == pytest.approx(log_loss(own.numpy(), probs))
    assert found.brier == pytest.approx(np.mean(((probs - np.eye(4)[own]) ** 2).sum(1)))
    assert sum(each.count for each in found.bins) == 400
    # labels are drawn with the probabilities stated: only their number is to blame
    assert abs(found.ece - found.ece_if_calibrated) < 4 * found.ece_error
    sure = calibration((3 * log_probs).log_softmax(1), own)
    assert sure.ece > sure.ece_if_calibrated + 4 * sure.ece_error
    assert sure.nll > found.nll


def test_a_temperature_in_closed_form():
    # all margins are m, a share p is right: at the optimum sigmoid(m / T) = p
    margin, right, n = 12.0, 40, 50
    nats = torch.zeros(n, 2, dtype=torch.float64)
    nats[:, 0] = margin
    own = torch.tensor([0] * right + [1] * (n - right))
    flat = torch.full((2,), math.log(0.5), dtype=torch.float64)
    expected = margin / logit(right / n)
    assert fit_temperature(nats, flat, own) == pytest.approx(expected, rel=1e-4)


def test_a_datum_has_no_part_in_its_temperature():
    log_probs, own = stated(200)
    flat = torch.full((4,), -math.log(4), dtype=torch.float64)
    cooled, temperatures = tempered(5 * log_probs, flat, own)
    fold = torch.arange(200) % 10
    expected = fit_temperature(5 * log_probs[fold != 3], flat, own[fold != 3])
    assert temperatures[3] == pytest.approx(expected)
    assert all(3 < each < 8 for each in temperatures)
    of_fold = log_posterior(5 * log_probs[fold == 3], flat, expected)
    torch.testing.assert_close(cooled[fold == 3], of_fold)
    other = own.clone()
    other[0] = (own[0] + 1) % 4
    again, _ = tempered(5 * log_probs, flat, other)
    assert torch.equal(cooled[fold == 0], again[fold == 0])
    assert not torch.equal(cooled[fold == 1], again[fold == 1])


def test_where_all_are_right_there_is_no_temperature():
    nats = 30 * torch.eye(3, dtype=torch.float64).repeat(10, 1)
    own, flat = torch.arange(3).repeat(10), torch.full((3,), -math.log(3), dtype=torch.float64)
    assert tempered(nats, flat, own) is None
    found = LogLikelihoods(nats, None, torch.ones(30, 3, dtype=torch.int64))
    prior = Prior(torch.arange(3), flat)
    names = [each.name for each in verdicts.by_likelihood("flow", found, prior, own)]
    assert names == ["flow"]


def test_intervals_and_pairs():
    low, high = agreement.wilson(351, 360)
    told = binomtest(351, 360).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((told.low, told.high))
    assert agreement.wilson(7, 7)[1] == 1
    first = torch.tensor([True] * 10 + [False] * 10)
    second = torch.tensor([True] * 9 + [False] + [True] * 9 + [False])
    pair = agreement.mcnemar(first, second)
    assert (pair.first_only, pair.second_only) == (1, 9)
    assert pair.p_value == pytest.approx(2 * (1 + 10) / 2**10)  # two tails of ten coins
    apart = first.double() - second.double()
    assert pair.difference == pytest.approx(float(apart.mean()))
    assert pair.standard_error == pytest.approx(float(apart.std(correction=0)) / math.sqrt(20))
    assert agreement.mcnemar(first, first).p_value == 1


def test_rounds_double():
    assert elimination.rounds(64, True) == (8, 8, 16, 32)
    assert elimination.rounds(50, True) == (8, 8, 16, 18)
    assert elimination.rounds(20, True) == (8, 12)
    assert elimination.rounds(12, True) == (12,)
    assert elimination.rounds(64, False) == (64,)
    for count in range(8, 400):
        found = elimination.rounds(count, True)
        assert sum(found) == count
        assert min(found) >= elimination.FIRST


def test_the_worse_half_goes_and_of_it_what_is_out_of_reach():
    nats = torch.tensor([[0.0, 1.0, 5.0, 9.0, 8.0]], dtype=torch.float64)
    error = torch.tensor([[0.0, 0.1, 1.0, 3.0, 1.0]], dtype=torch.float64)
    found = elimination.Differences(nats, torch.tensor([0]), nats, error)
    every = torch.ones(1, 5, dtype=torch.bool)
    # three of five stay whatever their errors; the fourth is not told from the best, at z = 4
    assert elimination.dropped(found, every, 4.0).tolist() == [[False, False, False, False, True]]
    assert elimination.dropped(found, every, 2.5).tolist() == [[False, False, False, True, True]]
    assert not elimination.dropped(found, every, math.inf).any()
    few = torch.tensor([[True, True, False, False, False]])
    assert elimination.dropped(found, few, 4.0).tolist() == [[False, True, False, False, False]]


def test_the_prior_has_a_part_in_who_is_best():
    terms = [torch.tensor([[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]], dtype=torch.float64)]
    zero, every = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    log_prior = torch.tensor([0.1, 0.8, 0.1], dtype=torch.float64).log()
    found = elimination.differences(terms, zero, log_prior, every)
    assert found.best.tolist() == [1]
    expected = torch.tensor([[-1 + math.log(8), 0, 7 + math.log(8)]], dtype=torch.float64)
    torch.testing.assert_close(found.nats, expected)
    assert found.total.tolist() == [[1, 2, 9]]
    only = torch.tensor([[True, False, True]])
    assert elimination.differences(terms, zero, log_prior, only).best.tolist() == [0]


def test_the_error_of_a_stratified_mean():
    # a steep trend and small noise: strata remove the trend, and the error must not have it
    random = torch.Generator().manual_seed(0)
    trend = torch.linspace(0, 10, 32, dtype=torch.float64)
    noise = 0.5 * torch.randn(2000, 1, 32, generator=random, dtype=torch.float64)
    terms = torch.cat([torch.zeros_like(noise), trend + noise + 50], 1)
    flat, zero = torch.zeros(2, dtype=torch.float64), torch.zeros(2000, 2, dtype=torch.float64)
    every = torch.ones(2000, 2, dtype=torch.bool)
    found = elimination.differences([terms], zero, flat, every)
    assert (found.best == 0).all()
    stated = found.error[:, 1].square().mean().sqrt()
    # sd / sqrt(n), and half the squared step of the trend that strata of this width have
    step = 10 / 31
    expected = math.sqrt((0.25 + step**2 / 2) / 32)
    assert float(stated) == pytest.approx(expected, rel=0.03)


def test_the_result_of_methods():
    own = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    nats = torch.zeros(10, 3, dtype=torch.float64)
    nats[torch.arange(10), own] = 4.0
    nats[9] = torch.tensor([0.0, 9.0, 0.0])
    nats[8] = torch.tensor([1.0, 0.0, 0.0])
    prior = Prior(torch.tensor([3, 5, 8]), torch.full((3,), -math.log(3), dtype=torch.float64))
    found = LogLikelihoods(nats, None, torch.full((10, 3), 7))
    methods = verdicts.by_likelihood("flow", found, prior, own)
    methods.append(verdicts.Method("other", torch.cat([own[:8], torch.tensor([-1, -1])])))
    result = verdicts.as_result(methods, own, prior)
    assert result["value"] == 0.8
    assert [row["name"] for row in result["methods"]] == ["flow", "flow, tempered", "other"]
    row = result["methods"][0]
    expected = confusion_matrix(own.numpy(), nats.argmax(1).numpy())
    assert row["confusion"] == expected.tolist()
    assert row["evaluations"] == 21
    assert result["pairs"][0]["difference"] == 0
    assert len(result["pairs"]) == 1
    miss = result["misses"][0]
    assert (miss["image"], miss["own"], miss["found"]) == (9, 3, 5)
    assert miss["stated"] == pytest.approx(math.exp(9) / (math.exp(9) + 2))
    text = verdicts.table(result)
    assert "flow - other: +0.0000" in text
    assert "inf" not in text
    assert "nan" not in text


def test_what_is_held_beside(monkeypatch):
    random = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0]])
    labels = torch.arange(60) % 2 + 3
    train = centres[labels - 3] + torch.randn(60, 2, generator=random)
    test = torch.tensor([[0.2, 0.1], [7.0, 1.0]])
    assert baselines.nearest_neighbours(train, labels, test).tolist() == [3, 4]
    known, log_probs = baselines.logistic_regression(train, labels, test)
    assert known.tolist() == [3, 4]
    assert log_probs.argmax(1).tolist() == [0, 1]
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(2, dtype=torch.float64))
    # of a large set sorted by class both classes are still there, and those alone that it has
    monkeypatch.setattr(baselines, "MOST_IMAGES", 20)
    order = labels.argsort(stable=True)
    assert baselines.nearest_neighbours(train[order], labels[order], test).tolist() == [3, 4]
    known, log_probs = baselines.logistic_regression(train[order], labels[order], test)
    assert known.tolist() == [3, 4]
    assert log_probs.argmax(1).tolist() == [0, 1]
    known, log_probs = baselines.logistic_regression(train, torch.full((60,), 4), test)
    assert known.tolist() == [4]
    assert log_probs.tolist() == [[0.0], [0.0]]


def test_some_are_the_same_some_and_of_the_whole_set():
    chosen = times.some(1000, 100)
    assert torch.equal(chosen, times.some(1000, 100))
    assert (chosen.diff() > 0).all()
    assert 0 <= int(chosen[0]) < 100
    assert 900 < int(chosen[-1]) < 1000
    assert len((chosen % 10).unique()) == 10
    assert torch.equal(times.some(7, 100), torch.arange(7))


def test_how_many_stand_to_the_end():
    # of the second image one class was left after 8 of 16 times
    evaluations = torch.tensor([[17, 17, 9], [9, 9, 9]])
    nats = torch.zeros(2, 3, dtype=torch.float64)
    saved = verdicts.saving(LogLikelihoods(nats, None, evaluations), 17)
    assert saved["standing"] == 1.5
    assert saved["saved"] == pytest.approx(1 - 70 / 102)


def test_of_one_image_no_error_is_told():
    prior = Prior(torch.tensor([0, 1]), torch.full((2,), -math.log(2), dtype=torch.float64))
    method = verdicts.Method.stating("bound", torch.tensor([[0.9, 0.1]]).double().log())
    text = verdicts.table(verdicts.as_result([method], torch.tensor([0]), prior))
    nll = text.splitlines()[1].split("0.105")[1]
    assert not nll.startswith(" +-")
