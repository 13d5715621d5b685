"""What a network is asked, in which numbers, and what is made of its answer."""

import math
import shutil

import pytest
import torch
from torch import nn

from scoreflow.errors import RequestError
from scoreflow.models.score_model import ScoreModel, arithmetic
from scoreflow.models.unet import UNet
from scoreflow.samplers import Ancestral, Clipped, grid, sample
from scoreflow.sde import VESDE, VPSDE, Noise, Stream, SubVPSDE
from scoreflow.sde.base import broadcast

SDE = VPSDE.linear(1000)


class Recorder(nn.Module):
    """Answers x / 2 and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.x, self.index = [], []

    def forward(self, x, index):
        self.x.append(x.detach().clone())
        self.index.append(index.detach().clone())
        return x / 2


def small_unet(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    network = UNet(
        image_size=8,
        in_channels=1,
        out_channels=1,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_sizes=(4,),
        num_groups=4,
        dropout=dropout,
    )
    nn.init.normal_(network.head[-1].weight, std=0.05)  # not the silent start
    return network


@pytest.fixture
def x():
    return Noise.of(3, 0, 6).normal(Stream.DATA, (1, 8, 8))


def test_the_index_is_exactly_t_minus_one():
    network = Recorder()
    t = torch.arange(1, 1001, dtype=torch.float64)
    ScoreModel(network, SDE)(torch.zeros(1000, 3, dtype=torch.float64), t)
    assert network.index[0].dtype == torch.float32
    assert torch.equal(network.index[0], torch.arange(1000, dtype=torch.float32))


def test_one_time_for_the_batch_reaches_every_row():
    network = Recorder()
    t = torch.tensor(17.0, dtype=torch.float64)
    ScoreModel(network, SDE)(torch.zeros(5, 3, dtype=torch.float64), t)
    assert network.index[0].tolist() == [16.0] * 5


def test_a_chain_asks_only_what_was_trained():
    network, sde = Recorder(), VPSDE.cosine(20)
    noise = Noise.of(0, 0, 2)
    model = ScoreModel(network, sde)
    sample(Ancestral(), model, sde, grid("uniform", sde, 20), noise, (3,))
    assert [int(index[0]) for index in network.index] == list(range(19, -1, -1))
    network.index.clear()
    sample(Ancestral(), model, sde, grid("uniform", sde, 7), noise, (3,))
    assert all(bool((index == index.round()).all()) for index in network.index)


@pytest.mark.parametrize("t", [0.999, 0.0, -1.0, 1000.01, math.nan])
def test_times_outside_those_trained_are_refused(t):
    model = ScoreModel(Recorder(), SDE)
    with pytest.raises(RequestError, match=r"t must lie in \[1.0, 1000\]"):
        model(torch.zeros(2, 3, dtype=torch.float64), torch.tensor([5.0, t], dtype=torch.float64))


def test_real_times_may_go_down_to_t_min():
    model = ScoreModel(Recorder(), SDE, t_min=0.05)
    x = torch.zeros(1, 3, dtype=torch.float64)
    model(x, torch.tensor(0.05, dtype=torch.float64))
    model(x, torch.tensor(0.05 - 1e-12, dtype=torch.float64))  # rounding of the clock
    with pytest.raises(RequestError, match=r"\[0.05"):
        model(x, torch.tensor(0.0499, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["eps", "x_0", "v", "score"])
def test_the_answer_is_read_as_its_kind(kind, x):
    t = torch.tensor([1.0, 2.0, 50.0, 400.0, 999.0, 1000.0], dtype=torch.float64)
    prediction = ScoreModel(Recorder(), SDE, kind)(x, t)
    value = (x.float() / 2).double()
    alpha, sigma = broadcast(SDE.alpha(t), x), broadcast(SDE.sigma(t), x)
    eps = {
        "eps": value,
        "x_0": (x - alpha * value) / sigma,
        "v": sigma * x + alpha * value,
        "score": -value,  # of unit scale
    }[kind]
    if kind != "score":
        torch.testing.assert_close(getattr(prediction, kind), value, rtol=0, atol=0)
    torch.testing.assert_close(prediction.eps, eps)
    torch.testing.assert_close(alpha * prediction.x_0 + sigma * prediction.eps, x)
    torch.testing.assert_close(prediction.v, alpha * prediction.eps - sigma * prediction.x_0)
    torch.testing.assert_close(prediction.score, -prediction.eps / sigma)


@pytest.mark.parametrize(
    "sde", [SubVPSDE.linear(1000), VESDE(1000, 0.01, 50.0)], ids=["subvp", "ve"]
)
def test_a_score_is_divided_by_the_noise_scale_alone(sde, x):
    """Where r is not 1, as it is under a VP: the output is sigma times the score, so -eps."""
    t = torch.tensor([1.0, 2.0, 50.0, 400.0, 999.0, 1000.0], dtype=torch.float64)
    assert ((sde.scale(t) - 1).abs() > 1e-3).any()
    prediction = ScoreModel(Recorder(), sde, "score")(x, t)
    value = ((x / broadcast(sde.scale(t), x)).float() / 2).double()
    torch.testing.assert_close(prediction.score, value / broadcast(sde.sigma(t), x))
    torch.testing.assert_close(prediction.eps, -value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_state_keeps_its_precision(dtype, precision, x):
    network = Recorder()
    model = ScoreModel(network, SDE, precision=precision)
    prediction = model(x.to(dtype), torch.tensor(3.0, dtype=torch.float64))
    assert network.x[0].dtype == torch.float32
    assert prediction.eps.dtype == prediction.x_0.dtype == prediction.v.dtype == dtype
    drawn = sample(Ancestral(), model, SDE, grid("uniform", SDE, 3), Noise.of(0, 0, 2), (3,))
    assert drawn.dtype == torch.float64


def test_bfloat16_changes_the_network_alone(x):
    network, t = small_unet(), torch.tensor(300.0, dtype=torch.float64)
    kinds = {}
    network.stem.register_forward_hook(lambda _m, _i, out: kinds.update(stem=out.dtype))
    exact = ScoreModel(network, SDE)(x, t)
    assert kinds.pop("stem") == torch.float32
    rough = ScoreModel(network, SDE, precision="bfloat16")(x, t)
    assert kinds["stem"] == torch.bfloat16
    assert not torch.equal(exact.eps, rough.eps)
    torch.testing.assert_close(rough.eps, exact.eps, rtol=0, atol=0.05)
    assert torch.equal(exact.alpha, rough.alpha)
    assert not torch.is_autocast_enabled("cpu")


def test_channels_last_gives_the_same(x):
    network, t = small_unet(), torch.tensor(300.0, dtype=torch.float64)
    plain = ScoreModel(network, SDE)(x, t).eps
    network = small_unet().to(memory_format=torch.channels_last)
    other = ScoreModel(network, SDE, channels_last=True)(x, t).eps
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_gives_the_same(x):
    t = torch.tensor(300.0, dtype=torch.float64)
    plain = ScoreModel(small_unet(), SDE)(x, t).eps
    compiled = ScoreModel(torch.compile(small_unet()), SDE)(x, t).eps
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 8])
def test_image_k_of_a_seed_is_the_same_in_any_batch(size):
    sde = VPSDE.linear(1000)
    model, times = Clipped(ScoreModel(small_unet(), sde)), grid("uniform", sde, 8)

    def images(first, last):
        return sample(Ancestral(), model, sde, times, Noise.of(7, first, last), (1, 8, 8))

    together = images(0, 64)
    for first in range(0, 64, size) if size > 1 else (0, 13, 63):
        part = images(first, first + size)
        torch.testing.assert_close(part, together[first : first + size], rtol=0, atol=1e-5)


class Told(Recorder):
    """Answers the class that it is told, -5 where it is not asked with one."""

    num_classes = 3

    def forward(self, x, index, label=None):
        super().forward(x, index)
        told = torch.full((len(x),), -5) if label is None else label
        return told.float()[:, None].expand_as(x)


def test_a_class_reaches_the_network_and_without_it_there_is_none():
    x, t = torch.zeros(2, 3, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    model = ScoreModel(Told(), SDE)
    assert model.num_classes == 3
    assert model(x, t).eps[:, 0].tolist() == [-5, -5]
    of_class = model.labelled(2)
    assert of_class(x, t).eps[:, 0].tolist() == [2, 2]
    assert of_class(x[:1], t).eps[:, 0].tolist() == [2]  # a solver dropped a row
    assert model.labelled(torch.tensor([1, -1]))(x, t).eps[:, 0].tolist() == [1, -1]
    assert of_class.with_network(Told()).in_precision("float64")(x, t).eps[:, 0].tolist() == [2, 2]
    assert of_class.labelled(None)(x, t).eps[:, 0].tolist() == [-5, -5]
    assert model(x, t).eps[:, 0].tolist() == [-5, -5]  # it stays what it was


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_that_the_network_does_not_know_is_refused(label):
    with pytest.raises(RequestError, match=rf"must lie in 0\.\.2, got {label}"):
        ScoreModel(Told(), SDE).labelled(label)


def test_a_network_without_classes_takes_none():
    with pytest.raises(RequestError, match=r"trained without model\.conditional"):
        ScoreModel(Recorder(), SDE).labelled(0)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_shared_time_reaches_the_network_as_a_number(precision):
    seen = []

    class Network(nn.Module):
        def forward(self, x, index):
            seen.append(index)
            return x

    sde = VPSDE.linear(1000)
    model = ScoreModel(Network(), sde, "v", t_min=1e-3, precision=precision)
    x = torch.zeros(3, 2, dtype=torch.float64)
    for t in (1.0, 0.3, 617.123456789, 1000.0):
        shared = torch.tensor(t, dtype=torch.float64)
        model(x, shared)
        model(x, shared.expand(3))
        one, each = seen[-2:]
        assert one.dtype == each.dtype == getattr(torch, precision)
        assert torch.equal(one, each)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_tf32_is_on_inside_and_off_again(precision):
    """What a GPU would be told; on a CPU the flags change nothing."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    told = []

    class Network(torch.nn.Module):
        def forward(self, x, index):
            told.append([backend.allow_tf32 for backend in backends])
            return x

    model = ScoreModel(Network(), VPSDE.linear(100), precision=precision)
    with arithmetic("float32"):
        model(torch.zeros(1, 2, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64))
        assert told == [[precision == "tf32"] * 2]
        assert not any(backend.allow_tf32 for backend in backends)
    assert [backend.allow_tf32 for backend in backends] == before
