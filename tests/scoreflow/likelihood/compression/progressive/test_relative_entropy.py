"""Samples sent as indices: they follow q, cost what theory allows, and can be drawn alone."""

import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import kstest, norm
from torch.distributions import Normal, kl_divergence

from scoreflow.likelihood.compression.progressive import relative_entropy
from scoreflow.likelihood.compression.progressive.relative_entropy import (
    BEYOND,
    Pair,
    Shared,
    choose,
)

F64 = torch.float64


def pair_of(ratio, shift, count=1):
    """Images with the same laws."""
    rows = (torch.tensor([each], dtype=F64).repeat(count, 1) for each in (ratio, shift))
    return Pair(*rows)


def random_pair(dims, nats, count, seed=0):
    """Laws of so many nats as a model expects: e^2 = rho - 1 on average."""
    ratio = math.exp(2 * nats / dims)
    noise = torch.randn(count, dims, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return Pair(torch.full((count, dims), ratio, dtype=F64), noise * math.sqrt(ratio - 1))


def sampled(pair, draws, monkeypatch, seed=77):
    """(z - m_q) / sqrt(v_q), (draws, d), and indices, (draws,), of independent candidates."""
    monkeypatch.setattr(relative_entropy, "FIRST", 64)  # candidates are few here
    generator = torch.Generator().manual_seed(seed)
    dims, found, indices = pair.ratio.shape[1], [], []
    for _ in range(draws):
        normals = torch.empty(0, dims, dtype=F64)

        def candidates(start, stop):
            nonlocal normals
            assert start == len(normals)
            fresh = torch.randn(stop - start, dims, dtype=F64, generator=generator)
            normals = torch.cat([normals, fresh])
            return fresh

        def gaps(start, stop):
            return torch.empty(stop - start, dtype=F64).exponential_(generator=generator)

        chosen = choose(pair, candidates, gaps)
        assert chosen.cut == 0
        indices.append(int(chosen.index))
        found.append(pair.ratio[0].sqrt() * normals[indices[-1]] - pair.shift[0])
    return torch.stack(found), torch.tensor(indices)


def test_divergences_and_weights_are_those_of_torchs_normals():
    generator = torch.Generator().manual_seed(2)
    mean, other, std, n = (torch.randn(3, 5, dtype=F64, generator=generator) for _ in range(4))
    std = 0.7 + std.exp()
    pair = Pair.of(mean, std, other, 0.7)
    p, q = Normal(mean, std), Normal(other, torch.tensor(0.7, dtype=F64))
    assert torch.allclose(pair.divergence(), kl_divergence(q, p), rtol=1e-12)
    log_w = relative_entropy._Weights.of(pair).at(n, torch.arange(3))
    for k, row in enumerate(n):
        z = mean + std * row
        assert torch.allclose(log_w[k], (q.log_prob(z) - p.log_prob(z)).sum(1), rtol=1e-9)


def test_the_bound_is_the_greatest_weight_or_a_point_that_is_seldom_passed():
    narrow = pair_of([3.0, 2.0], [0.4, -0.3])

    def negative(n):
        rows = torch.tensor(n, dtype=F64)[None]
        return -float(relative_entropy._Weights.of(narrow).at(rows, torch.arange(1)))

    greatest = -minimize(negative, [0.0, 0.0]).fun
    assert float(narrow.most_log_weight()) == pytest.approx(greatest, abs=1e-6)

    wide = random_pair(60, 3.0, 1)
    draws = torch.randn(40000, 60, dtype=F64, generator=torch.Generator().manual_seed(4))
    n = (wide.shift + draws) / wide.ratio.sqrt()  # under q
    passed = relative_entropy._Weights.of(wide).at(n, torch.arange(1))[:, 0]
    share = float((passed > wide.most_log_weight()).double().mean())
    assert 0.3 * BEYOND < share < 1.7 * BEYOND
    equal = Pair(torch.ones(1, 2, dtype=F64), torch.tensor([[0.0, 1.0]], dtype=F64))
    assert math.isfinite(float(equal.most_log_weight()))
    rounded = Pair.of(*torch.tensor([[[0.0]], [[1 - 1e-15]], [[0.5]]], dtype=F64), 1.0)
    assert 0.125 < float(rounded.most_log_weight()) < 2  # of deviations that are one


@pytest.mark.parametrize(
    ("ratio", "shift"), [([4.0], [1.5]), ([2.0], [0.9]), ([2.5, 3.0], [-1.0, 0.7])], ids=str
)
def test_samples_follow_q(ratio, shift, monkeypatch):
    pair = pair_of(ratio, shift)
    bound = (0.5 * pair.ratio.log() + pair.shift**2 / (2 * (pair.ratio - 1))).sum()
    assert float(pair.most_log_weight()) == pytest.approx(float(bound), abs=1e-6)  # exact, then
    found, _ = sampled(pair, 400, monkeypatch)
    for k in range(len(ratio)):
        assert kstest(found[:, k].numpy(), norm.cdf).pvalue > 1e-3
        p_law = (found[:, k] + pair.shift[0, k]) / pair.ratio[0, k].sqrt()
        assert kstest(p_law.numpy(), norm.cdf).pvalue < 1e-6  # it would tell p from q


def test_the_times_of_the_process_are_what_makes_it_exact(monkeypatch):
    """With i in their place samples lie too near one another: their variance would be 0.80."""
    found, _ = sampled(pair_of([4.0], [1.5]), 1000, monkeypatch)
    assert abs(float(found.mean())) < 3.5 / math.sqrt(1000)
    assert float(found.var()) == pytest.approx(1, abs=3.5 * math.sqrt(2 / 1000))


def test_the_sender_has_the_gaps_of_a_poisson_process():
    gaps = Shared(3, 1).gaps(5)
    drawn = gaps(0, 3000)
    assert kstest(drawn.numpy(), "expon").pvalue > 1e-3
    assert torch.equal(gaps(100, 140), drawn[100:140])
    assert not torch.equal(Shared(3, 1).gaps(6)(0, 9), drawn[:9])
    assert not torch.equal(Shared(3, 2).gaps(5)(0, 9), drawn[:9])


@pytest.mark.parametrize("nats", [0.2, 1.0, 2.0])
def test_indices_cost_no_more_than_a_zipf_law_may(nats, monkeypatch):
    """Li and El Gamal's: the law of exponent 1 + 1 / (D + log2(e) / e + 1), D in bits."""
    pair = random_pair(24, nats, 1)
    _, indices = sampled(pair, 200, monkeypatch)
    bits, number = float(pair.divergence().sum()) / math.log(2), indices.double() + 1
    exponent = 1 + 1 / (bits + math.log2(math.e) / math.e + 1)
    whole = sum(k**-exponent for k in range(1, 2000)) + 2000 ** (1 - exponent) / (exponent - 1)
    cost = exponent * number.log2() + math.log2(whole)
    error = float(cost.std()) / math.sqrt(len(cost))
    assert float(cost.mean()) < bits + math.log2(bits + 1) + 4 + 3 * error
    logs = number.log2()
    spread = float(logs.std()) / math.sqrt(len(logs))
    assert float(logs.mean()) < bits + math.log2(math.e) / math.e + 1 + 3 * spread


def test_a_candidate_is_the_same_alone_and_among_others():
    shared = Shared(5, 7)
    rows = shared.candidates(3, 9)(100, 140)
    index = torch.tensor([139, 100, 117])
    assert torch.equal(shared.at(index, 3, 9), rows[index - 100])
    for other in (Shared(6, 7), Shared(5, 8)):
        assert not torch.equal(other.at(index, 3, 9), rows[index - 100])
    assert not torch.equal(shared.at(index, 4, 9), rows[index - 100])


def test_what_is_looked_at_at_once_does_not_matter(monkeypatch):
    pair, shared = random_pair(16, 1.5, 20), Shared(1, 1)
    first = choose(pair, shared.candidates(0, 16), shared.gaps(0))
    monkeypatch.setattr(relative_entropy, "FIRST", 37)
    monkeypatch.setattr(relative_entropy, "AT_ONCE", 999)
    again = choose(pair, shared.candidates(0, 16), shared.gaps(0))
    assert torch.equal(first.index, again.index)
    alone = choose(pair.rows(torch.tensor([3])), shared.candidates(0, 16), shared.gaps(0))
    assert int(alone.index) == int(first.index[3])


def test_what_is_left_out_is_never_chosen():
    pair, shared = random_pair(60, 0.7, 500), Shared(1, 3)
    found = choose(pair, shared.candidates(0, 60), shared.gaps(0))
    assert found.cut == 0
    drawn = shared.candidates(0, 60)(0, int(found.index.max()) + 1)[found.index]
    log_w = relative_entropy._Weights.of(pair).at(drawn, torch.arange(500)).diagonal()
    assert (log_w <= pair.most_log_weight()).all()
    # nor is less: log w is about normal, and one of ten lies above this, one of a hundred less
    variance = 0.5 * (1 - 1 / pair.ratio) ** 2 + (pair.shift / pair.ratio) ** 2
    high = pair.divergence().sum(1) + norm.ppf(0.9) * variance.sum(1).sqrt()
    assert 10 < int((log_w > high).sum()) < 100


def test_the_search_ends_where_it_is_told_to():
    pair, shared = random_pair(16, 6.0, 5), Shared(1, 2)
    found = choose(pair, shared.candidates(0, 16), shared.gaps(0), most=300)
    assert (found.seen, found.cut) == (300, 5)
    assert int(found.index.max()) < 300
