"""Run by `test_fused.py` in a process of its own, where Triton interprets its kernels on a CPU.

Against torch's own operations in float64.
"""

import pytest
import torch
from torch import nn

from scoreflow.models.dropout import dropout
from scoreflow.models.kernels import fused, launch, plain
from scoreflow.models.unet import UNet
from scoreflow.sde.noise import kernels

LAST, FIRST = torch.channels_last, torch.contiguous_format
EPS = 1e-6


class Layer:
    """A norm and what it is given, drawn from a seed."""

    def __init__(
        self, shape, groups, told=0, drops=None, active=True, dtype=torch.float32, memory=LAST
    ):
        draw = torch.Generator().manual_seed(0)
        batch, channels = shape[:2]
        h = torch.randn(*shape, generator=draw) * 2 + 3
        self.h = h.to(dtype).contiguous(memory_format=memory)
        self.weight, self.bias = torch.randn(2, channels, generator=draw)
        self.told = self.words = None
        if told:
            self.told = torch.randn(batch, told * channels, generator=draw).to(dtype)
        if drops is not None:  # as a network has them: places of one tensor
            self.words = torch.randint(2**32, (batch, 3, 2), generator=draw)[:, 1]
        self.asked = (groups, EPS, active, drops or 0.0)
        self.dy = torch.randn(*shape, generator=draw).to(dtype)

    @property
    def given(self):
        return self.h, self.weight, self.bias, self.told, self.words

    def exactly(self):
        """Answer and gradients by torch's own operations in float64."""
        *floats, words = self.given
        floats = [each if each is None else each.double().requires_grad_() for each in floats]
        y = plain.norm_act_drop(*floats, words, *self.asked)
        by = [each for each in floats if each is not None]
        return y.detach(), torch.autograd.grad(y, by, self.dy.double())


def apart(of_h, affine, of_told):
    """Gradients by h, weight, bias, and what was told."""
    return of_h, *affine, of_told


CASES = {
    "plain": {},
    "no SiLU": {"active": False},
    "embedding added": {"told": 1},
    "scale and shift": {"shape": (2, 8, 3, 5), "groups": 2, "told": 2},
    "dropout": {"drops": 0.3},
    "12 channels a group": {"shape": (1, 48, 9, 8), "groups": 4, "told": 1, "drops": 0.1},
    "pixels adjacent": {"shape": (2, 24, 3, 5), "groups": 2, "told": 1, "memory": FIRST},
    "many of them": {
        "shape": (1, 4, 24, 24),
        "groups": 2,
        "told": 2,
        "drops": 0.1,
        "memory": FIRST,
    },
    "one group": {"shape": (1, 6, 2, 1), "groups": 1, "told": 1},
    "one channel a group": {"shape": (3, 4, 1, 3), "told": 2},
    "bfloat16": {"shape": (2, 24, 4, 4), "told": 1, "drops": 0.1, "dtype": torch.bfloat16},
    "float16": {"shape": (2, 24, 4, 4), "told": 2, "drops": 0.1, "dtype": torch.float16},
}


def layer_of(shape=(2, 8, 4, 4), groups=4, **switches):
    return Layer(shape, groups, **switches)


def close(found, exact, dtype):
    # the interpreter cuts bfloat16 off instead of rounding it, which doubles its error
    relative = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    assert (found.double() - exact).abs().max() <= relative * exact.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_answer_and_gradients_are_those_of_float64(case):
    layer = layer_of(**CASES[case])
    dtype = layer.h.dtype
    exact, by = layer.exactly()
    y, moments = launch.forward(*layer.given, *layer.asked, dtype)
    assert y.stride() == layer.h.stride()
    close(y, exact, dtype)
    _, own = plain.forward(*layer.given, *layer.asked, dtype)
    torch.testing.assert_close(moments, own, rtol=1e-5, atol=1e-5)
    for memory in (LAST, FIRST):
        dy = layer.dy.contiguous(memory_format=memory)
        found = launch.backward(dy, *layer.given, moments, *layer.asked)
        for each, expected in zip(apart(*found), by, strict=layer.told is not None):
            close(each, expected, dtype)


def test_gradients_that_are_one_number_in_memory():
    """As the mean over the pixels hands them back."""
    layer = layer_of()
    layer.dy = torch.randn(2, 8, 1, 1).expand(2, 8, 4, 4)
    _, moments = launch.forward(*layer.given, *layer.asked, torch.float32)
    found = launch.backward(layer.dy, *layer.given, moments, *layer.asked)
    close(found[0], layer.exactly()[1][0], torch.float32)


def test_images_that_lie_apart():
    layer = layer_of((2, 8, 4, 4), told=1)
    layer.h = torch.cat((layer.h, layer.h), dim=3)[..., :4]
    layer.told = torch.randn(8, 2).T
    exact, by = layer.exactly()
    y, moments = launch.forward(*layer.given, *layer.asked, torch.float32)
    close(y, exact, torch.float32)
    dy = torch.cat((layer.dy, layer.dy), dim=3)[..., :4]
    found = launch.backward(dy, *layer.given, moments, *layer.asked)
    for each, expected in zip(apart(*found), by, strict=True):
        close(each, expected, torch.float32)


@pytest.mark.parametrize("memory", [LAST, FIRST], ids=["channels last", "contiguous"])
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.999])
def test_the_same_units_drop_as_on_a_cpu(probability, memory):
    """To the bit: a norm of weight 0 and bias 1 shows the factors."""
    layer = Layer((4, 24, 5, 7), 2, drops=probability, active=False, memory=memory)
    words = torch.tensor([[0, 0], [2**32 - 1, 2**31], [2**31 - 1, 2**32 - 1], [77, 3]])
    zeros, ones = torch.zeros(24), torch.ones(24)
    y, *_ = launch.forward(layer.h, zeros, ones, None, words, *layer.asked, torch.float32)
    assert y.equal(dropout(torch.ones_like(layer.h), words, probability))


def test_a_mean_far_from_zero_costs_no_digits():
    layer = layer_of((1, 8, 12, 12), active=False)
    layer.h = 1000 + layer.h / 16
    y, *_ = launch.forward(*layer.given, *layer.asked, torch.float32)
    # the last bit of the mean, 2^-24 of it, in deviations of 1 / 8; the mean of squares has 30
    assert (y - layer.exactly()[0]).abs().max() < 3 * 1000 * 8 * 2.0**-24


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what a GPU does silently
@pytest.mark.parametrize("what", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_comes_out_where_it_does_on_a_cpu(what):
    """In all of its group, dropped units too, and nowhere else; on the way back likewise."""
    layer = layer_of(drops=0.5)
    layer.h[1, 5, 2, 3] = what
    y, moments = launch.forward(*layer.given, *layer.asked, torch.float32)
    own, own_moments = plain.forward(*layer.given, *layer.asked, torch.float32)
    assert y.isnan().equal(own.isnan())
    assert y.isnan().sum() == 2 * 16
    found = launch.backward(layer.dy, *layer.given, moments, *layer.asked)
    expected = plain.backward(layer.dy, *layer.given, own_moments, *layer.asked)
    for each, other in zip(found[:2], expected, strict=False):
        assert each.isnan().equal(other.isnan())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_overflows_where_the_exponential_does():
    layer = layer_of((1, 4, 2, 2), 1)
    layer.bias = torch.tensor([-200.0, 200.0, -80.0, 0.0])
    y, moments = launch.forward(*layer.given, *layer.asked, torch.float32)
    exact, by = layer.exactly()
    close(y, exact, torch.float32)
    found = launch.backward(layer.dy, *layer.given, moments, *layer.asked)
    close(found[0], by[0], torch.float32)


def test_a_network_trains_by_the_kernels(monkeypatch):
    """All that a network asks of them, in one step: answer and gradients as on a CPU."""
    torch.manual_seed(0)
    network = UNet(
        image_size=4, in_channels=1, out_channels=1, channels=8, multipliers=(1, 2), blocks=1,
        attention_sizes=(2,), num_groups=4, dropout=0.3,
    )  # fmt: skip
    x, index = torch.randn(2, 1, 4, 4).contiguous(memory_format=LAST), torch.arange(2.0)
    words = torch.randint(2**32, (2, network.dropout_places, 2))

    def step():
        network.zero_grad()
        y = network(x, index, None, words)
        y.square().sum().backward()
        return [y, *(p.grad for p in network.parameters())]

    expected, calls = step(), []
    monkeypatch.setattr(kernels, "FUSED", {"cpu"})
    monkeypatch.setattr(fused, "FORWARD", lambda *given: calls.append(1) or launch.forward(*given))
    monkeypatch.setattr(fused, "BACKWARD", launch.backward)
    for found, other in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
    assert len(calls) == sum(isinstance(m, nn.GroupNorm) for m in network.modules())
