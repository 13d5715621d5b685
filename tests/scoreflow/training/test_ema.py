"""The average against its closed form, and what it must never do to the weights."""

import copy
import io

import pytest
import torch
from torch import nn

from scoreflow.certificate import noise_vs_score_loss
from scoreflow.runtime.compiling import Compiled
from scoreflow.training.ema import EMA


class Wrapper(nn.Module):
    """What torch.compile returns, as far as names are concerned."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def forward(self, x):
        return self._orig_mod(x)


@pytest.mark.parametrize("wrapped", [Wrapper, lambda m: Compiled(m, "train")])
def test_names_are_those_of_the_network_itself(model, wrapped):
    ema = EMA(wrapped(model), 0.5)
    assert ema.state_dict().keys() == model.state_dict().keys()
    move(model)
    ema.update(wrapped(model), 10**6)
    assert not torch.equal(ema.module[0].weight, model[0].weight)
    copied = noise_vs_score_loss.copied(wrapped(model))
    assert copied.state_dict().keys() == ema.state_dict().keys()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_bits(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def move(model):
    for parameter in model.parameters():
        parameter.data.normal_()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("first", [0, 5000])
def test_average_is_the_geometric_sum(model, decay, first):
    model.double()
    ema = EMA(model, decay)
    history = [snapshot(model)]
    for step in range(first, first + 20):
        move(model)
        history.append(snapshot(model))
        ema.update(model, step)

    # average = sum_k w_k (1 - d_k) prod_{j > k} d_j, where the first weights have 1 - d = 1
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(first, first + 20)]
    shares = [1.0] + [1 - d for d in decays]
    for k in range(len(shares)):
        for d in decays[k:]:
            shares[k] *= d
    assert sum(shares) == pytest.approx(1)
    for name, average in ema.module.named_parameters():
        expected = sum(share * past[name] for share, past in zip(shares, history, strict=True))
        torch.testing.assert_close(average.data, expected, rtol=1e-12, atol=1e-14)


def test_first_update_keeps_a_tenth_of_the_random_start(model):
    ema, start = EMA(model), model[0].weight.detach().clone()
    move(model)
    ema.update(model, 0)
    torch.testing.assert_close(ema.module[0].weight, 0.1 * start + 0.9 * model[0].weight.detach())


def test_buffers_are_copied(model):
    ema = EMA(model)
    model(torch.randn(8, 3))
    ema.update(model, 0)
    assert ema.module[1].num_batches_tracked == 1
    assert torch.equal(ema.module[1].running_mean, model[1].running_mean)
    model(torch.randn(8, 3))
    assert not torch.equal(ema.module[1].running_mean, model[1].running_mean)


def test_update_leaves_the_weights_and_their_gradients_alone(model):
    model(torch.randn(8, 3)).sum().backward()
    ema = EMA(model)
    before = snapshot(model)
    gradients = [p.grad.clone() for p in model.parameters()]
    ema.update(model, 3)
    assert same_bits(before, model.state_dict())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_an_evaluation_that_raises_leaves_weights_and_average_alone(model):
    ema = EMA(model)
    move(model)
    ema.update(model, 0)
    weights, average = snapshot(model), snapshot(ema.module)
    with pytest.raises(RuntimeError):
        ema.module(torch.randn(8, 5))  # a wrong shape, after the evaluation began
    assert same_bits(weights, model.state_dict())
    assert same_bits(average, ema.module.state_dict())
    assert model.training


def test_module_is_a_separate_network_in_eval_mode_without_gradients(model):
    ema = EMA(model)
    assert same_bits(snapshot(model), ema.module.state_dict())
    pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert pointers.isdisjoint(tensor.data_ptr() for tensor in ema.module.state_dict().values())
    assert not any(module.training for module in ema.module.modules())
    x = torch.randn(8, 3)
    assert torch.equal(ema.module(x), ema.module(x))  # no dropout
    assert not ema.module(x).requires_grad


@pytest.mark.parametrize("compiled", [Wrapper, torch.compile])
def test_a_compiled_model_is_followed_under_its_own_names(model, compiled):
    plain, wrapped = EMA(model, 0.5), EMA(compiled(model), 0.5)
    for step in range(3):
        move(model)
        plain.update(model, step)
        wrapped.update(compiled(model), step)
    assert wrapped.state_dict().keys() == model.state_dict().keys()
    assert same_bits(plain.state_dict(), wrapped.state_dict())


def test_state_survives_a_file_and_the_average_goes_on_from_it(model):
    ema = EMA(model, 0.9)
    move(model)
    ema.update(model, 0)
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    other = EMA(copy.deepcopy(model), 0.9)
    other.load_state_dict(torch.load(file, weights_only=True))
    move(model)
    for average in (ema, other):
        average.update(model, 1)
    assert same_bits(ema.state_dict(), other.state_dict())


def test_bad_requests_are_refused(model):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got 1.0"):
        EMA(model, 1.0)
    state = EMA(model).state_dict()
    state.pop("0.bias")
    with pytest.raises(RuntimeError, match="Missing key"):
        EMA(model).load_state_dict(state)
