"""Norm, SiLU and dropout as one operation: what it computes, when, and what a network keeps."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from scoreflow.models.kernels import fused, kept, plain
from scoreflow.models.kernels.fused import norm_act_drop
from scoreflow.models.unet import UNet
from scoreflow.models.unet_blocks import ResidualBlock
from scoreflow.sde.noise import kernels

HERE = Path(__file__).parent
LAST = torch.channels_last
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")


def in_own_process(*command, tmp_path, interpret):
    """Triton reads TRITON_INTERPRET when it is imported."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    env["TRITON_INTERPRET"] = str(interpret)
    subprocess.run([sys.executable, *command], check=True, env=env, cwd=HERE.parents[3])


@needs_triton
def test_the_kernels_compute_what_torch_does(tmp_path):
    """By Triton's interpreter: answers, gradients, dropout's bits, and a network's training."""
    script = str(HERE / "interpreted_norms.py")
    pytest_of = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest")
    in_own_process(*pytest_of, script, tmp_path=tmp_path, interpret=1)


@needs_triton
def test_the_kernels_are_built_for_a_gpu(tmp_path):
    script = str(HERE / "built_norms.py")
    in_own_process(script, str(tmp_path), tmp_path=tmp_path, interpret=0)


@needs_triton
@pytest.mark.slow
def test_every_kernel_of_cifar10_is_built_for_a_gpu(tmp_path):
    script = str(HERE / "built_norms.py")
    in_own_process(script, "all", str(tmp_path), tmp_path=tmp_path, interpret=0)


# --- The operation -------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """Operations by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().removesuffix(".default"))
        return func(*args, **(kwargs or {}))

    def ours(self):
        return [name for name in self.names if name.startswith("scoreflow::")]


@pytest.fixture
def on_cpu(monkeypatch):
    """A CPU as the device that has kernels."""
    monkeypatch.setattr(kernels, "FUSED", {"cpu"})


class Layer:
    """A norm, and what it is given."""

    def __init__(self, told):
        torch.manual_seed(told)
        self.norm = nn.GroupNorm(4, 8)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.h = torch.randn(3, 8, 4, 4).contiguous(memory_format=LAST).requires_grad_()
        self.told = torch.randn(3, 8 * told, requires_grad=True) if told else None
        self.words = torch.randint(2**32, (3, 2))
        self.dy = torch.randn(3, 8, 4, 4)

    @property
    def given(self):
        return self.h, self.norm.weight, self.norm.bias, self.told, self.words

    @property
    def asked(self):
        return self.norm.num_groups, self.norm.eps, True, 0.3

    @property
    def floats(self):
        return [each for each in self.given[:4] if each is not None]

    def fused(self, h=None):
        h = self.h if h is None else h
        return norm_act_drop(self.norm, h, self.told, self.words, 0.3)

    def plain(self):
        return plain.norm_act_drop(*self.given, *self.asked)


@pytest.mark.parametrize("told", [0, 1, 2])
def test_what_is_normed_may_have_gaps(told):
    layer = Layer(told)
    wide = torch.zeros(3, 8, 4, 8)
    wide[..., ::2] = layer.h.detach()
    found, expected = (
        plain.forward(h, *layer.given[1:], *layer.asked, torch.float32)
        for h in (wide[..., ::2], layer.h)
    )
    torch.testing.assert_close(found, expected)
    given = [layer.dy, layer.h, *layer.given[1:], expected[1], *layer.asked]
    by_dense = plain.backward(*given)
    given[1] = wide[..., ::2]
    torch.testing.assert_close(plain.backward(*given), by_dense)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("told", [0, 1, 2])
class TestOneOperation:
    def test_it_is_one_call_each_way_with_the_plain_numbers(self, told):
        layer = Layer(told)
        expected = layer.plain()
        by_plain = torch.autograd.grad(expected, layer.floats, layer.dy)
        with Calls() as calls:
            y = layer.fused()
            found = torch.autograd.grad(y, layer.floats, layer.dy)
        names = ["scoreflow::norm_act_drop", "scoreflow::norm_act_drop_backward"]
        assert calls.ours() == names
        assert y.equal(expected)
        with Calls() as calls, torch.no_grad():
            assert layer.fused().equal(expected)
        assert calls.ours() == names[:1]
        for grad, other in zip(found, by_plain, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-5, atol=1e-6)

    def test_its_gradients_can_be_differentiated(self, told):
        layer = Layer(told)

        def second(y):
            first = torch.autograd.grad(y, layer.floats, layer.dy, create_graph=True)
            return torch.autograd.grad(sum(g.square().sum() for g in first), layer.floats)

        for found, other in zip(second(layer.fused()), second(layer.plain()), strict=True):
            torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4)

    def test_it_can_be_transformed(self, told):
        """By vjp, jvp, vmap, duals, and gradients in a batch: by torch's own operations."""
        layer = Layer(told)
        h, v = layer.h.detach().contiguous(), torch.randn(2, 3, 8, 4, 4)
        expected, pull = torch.func.vjp(layer.fused, h)
        _, pushed = torch.func.jvp(layer.fused, (h,), (v[0],))
        assert torch.func.vmap(layer.fused)(torch.stack((h, h)))[1].allclose(expected, atol=1e-6)
        with forward_ad.dual_level():
            dual = layer.fused(forward_ad.make_dual(h, v[0]))
            assert forward_ad.unpack_dual(dual).tangent.allclose(pushed, atol=1e-6)
        torch.testing.assert_close((pushed * v[1]).sum(), (v[0] * pull(v[1])[0]).sum())
        batched = torch.autograd.grad(layer.fused(), layer.h, v, is_grads_batched=True)[0]
        assert batched[1].allclose(pull(v[1])[0], atol=1e-5)

    def test_its_schema_and_shapes_are_what_it_returns(self, told):
        layer = Layer(told)
        given = [each if each is None else each.detach() for each in layer.given]
        checks = ("test_schema", "test_faketensor")
        for dtype in (torch.float32, torch.bfloat16):
            arguments = (*given, *layer.asked, dtype)
            torch.library.opcheck(fused.FORWARD, arguments, test_utils=checks)
            _, moments = fused.FORWARD(*arguments)
        back = (layer.dy.contiguous(memory_format=LAST), *given, moments, *layer.asked)
        torch.library.opcheck(fused.BACKWARD, back, test_utils=checks)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_is_rounded_once(self, told, dtype):
        """To the dtype of autocast, which what follows would round it to."""
        layer = Layer(told)
        exact = layer.plain()
        with torch.autocast("cpu", dtype):
            y = layer.fused()
        assert y.dtype == dtype
        assert y.equal(exact.to(dtype))
        y.sum().backward()
        assert all(each.grad.dtype == torch.float32 for each in layer.floats)


def test_a_cpu_calls_torch_itself():
    layer = Layer(1)
    with Calls() as calls:
        layer.fused().sum().backward()
    assert calls.ours() == []


@pytest.mark.usefixtures("on_cpu")
def test_what_the_kernels_are_not_made_for():
    """Float64, all dropped, and no images: torch's own operations."""
    layer = Layer(0)
    double = nn.GroupNorm(4, 8).double()
    with Calls() as calls:
        assert norm_act_drop(double, layer.h.double()).dtype == torch.float64
        assert not norm_act_drop(layer.norm, layer.h, None, layer.words, 1.0).any()
        assert norm_act_drop(layer.norm, layer.h[:0]).shape == (0, 8, 4, 4)
    assert calls.ours() == []


# --- In a network --------------------------------------------------------------------------------

SMALL = {
    "image_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "channels": 16,
    "multipliers": (1, 2),
    "attention_sizes": (4,),
    "num_groups": 4,
    "dropout": 0.3,
}
ADM = {"scale_shift": True, "resample": "residual", "heads": 2}


def given(network, batch=2):
    channels, *size = network.x_shape
    x = torch.randn(batch, channels, *size).contiguous(memory_format=LAST)
    words = torch.randint(2**32, (batch, network.dropout_places, 2))
    return x, torch.arange(float(batch)), None, words


@pytest.mark.parametrize("style", [{}, ADM], ids=["ddpm", "adm"])
def test_every_norm_of_a_training_step_is_one_call_each_way(style, monkeypatch):
    network = UNet(**SMALL, **style).to(memory_format=LAST)
    asked = given(network)

    def step():
        network.zero_grad()
        y = network(*asked)
        y.square().sum().backward()
        return [y, *(p.grad for p in network.parameters())]

    expected = step()
    monkeypatch.setattr(kernels, "FUSED", {"cpu"})
    with Calls() as calls:
        found = step()
    norms = sum(isinstance(module, nn.GroupNorm) for module in network.modules())
    assert calls.names.count("scoreflow::norm_act_drop") == norms
    assert calls.names.count("scoreflow::norm_act_drop_backward") == norms
    assert {"aten::native_group_norm", "aten::bitwise_right_shift_.Scalar"}.isdisjoint(calls.names)
    assert calls.names.count("aten::silu_backward") == 2  # the embedding's own
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("style", [{}, ADM], ids=["ddpm", "adm"])
def test_what_is_kept_is_what_was_estimated(style, precision):
    """Bytes an image, by what autograd saves: the difference between two sizes of batch."""
    network = UNet(**SMALL | {"channels": 64}, **style).to(memory_format=LAST)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def bytes_kept(batch):
        saved = {}

        def pack(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        half = torch.autocast("cpu", precision, enabled=precision != torch.float32)
        with half, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(*given(network, batch))
        return sum(t.untyped_storage().nbytes() for at, t in saved.items() if at not in own)

    found = (bytes_kept(8) - bytes_kept(4)) / 4
    assert network.numbers_kept * precision.itemsize == pytest.approx(found, rel=0.1)


def test_norms_are_computed_again_where_memory_asks_for_it(monkeypatch):
    """On a GPU; elsewhere as before; and never of a network that is not wide."""
    network = UNet(**SMALL | {"channels": 64}).to(memory_format=LAST)
    asked = given(network)
    need = network.numbers_kept * 4 * len(asked[0])

    def spared(memory, fused_on=("cpu",)):
        monkeypatch.setattr(kernels, "FUSED", set(fused_on))
        monkeypatch.setattr(kept, "total_memory", lambda device: memory)
        network(*asked)
        return {m.sparing for m in network.modules() if isinstance(m, ResidualBlock)}

    assert spared(2 * need) == {False}
    assert spared(2 * need - 1) == {True}
    assert spared(2 * need) == {False}
    assert spared(2 * need, fused_on=()) == {True}
    network = UNet(**SMALL).to(memory_format=LAST)
    assert spared(1) == {False}
