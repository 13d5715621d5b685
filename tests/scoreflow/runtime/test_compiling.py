"""Compiled networks: one graph a use whatever the batches, and the plain network's numbers."""

import shutil
from itertools import cycle

import pytest
import torch

from scoreflow.data.dataset import Data
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import Dequantizer
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.runtime import compiling
from scoreflow.runtime.compiling import Compiled, Compiler, fixed_shapes, worth_compiling
from scoreflow.samplers import ProbabilityFlow, sample
from scoreflow.sde import VPSDE
from scoreflow.sde.noise import Noise

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CIFAR10 = (3, 32, 32)
SAME = {"rtol": 0, "atol": 2e-5}  # float32, another order of sums
COMPILER = pytest.mark.skipif(shutil.which("c++") is None, reason="compiling needs a C++ compiler")


@pytest.fixture(autouse=True)
def from_the_beginning():
    """What is compiled in a test is compiled there, and forgotten; torch's settings as before."""
    import torch._functorch.config as functorch

    before = functorch.donated_buffer
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    functorch.donated_buffer = before


@pytest.fixture
def graphs(monkeypatch):
    """A list with an entry for every graph that is compiled; they run as they were traced."""
    found = []

    def backend(graph, _inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return found


def small_unet(channels=3, classes=0, last=True, dropout=0.0):
    """A network of 8 x 8 images whose outputs are not near 0."""
    torch.manual_seed(0)
    network = UNet(
        image_size=8, in_channels=channels, out_channels=channels, channels=8, multipliers=(1,),
        blocks=1, num_groups=4, attention_sizes=(8,), num_classes=classes, dropout=dropout,
    )  # fmt: skip
    for weight in network.parameters():
        weight.data.add_(0.05 * torch.randn_like(weight))
    return network.to(memory_format=torch.channels_last) if last else network


class Pixels(torch.nn.Module):
    """A small network of images of 4 x 4."""

    num_classes = 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, index):
        return torch.tanh(self.body(x)) * (1 + index / 100)[:, None, None, None]


def frozen(network):
    return network.eval().requires_grad_(False)


def asked(model, x, t, vjp):
    """What a sampler, or a likelihood with two probes, asks of a model."""
    if not vjp:
        with torch.no_grad():
            return [model(x, t).v]
    x = x.clone().requires_grad_()
    v = model(x, t).v
    probes = torch.ones_like(v), v.detach().sign()
    products = [torch.autograd.grad(v, x, probe, retain_graph=True)[0] for probe in probes]
    return [v.detach(), *products]


@pytest.mark.parametrize("use", ["eval", "vjp"])
@pytest.mark.parametrize(("channels", "classes", "last"), [(1, 0, True), (3, 4, True)])
def test_any_batch_label_and_dtype_are_one_graph(graphs, use, channels, classes, last):
    network = frozen(small_unet(channels, classes, last))
    plain = ScoreModel(network, VPSDE.linear(100), "eps", channels_last=last)
    model = plain.with_network(Compiled(network, use))
    labels = [None, 2, "rows"] if classes else [None, None]
    for count, dtype in ((5, torch.float64), (1, torch.float64), (3, torch.float32)):
        x = torch.randn(count, channels, 8, 8, dtype=dtype)
        times = (
            torch.linspace(1, 100, count, dtype=torch.float64),
            torch.tensor(50.0, dtype=torch.float64),
        )
        for label, t in zip(labels, cycle(times)):
            own = torch.arange(count) % classes - 1 if label == "rows" else label
            for vjp in (False, True):  # one of them goes to the network as it is
                ours = asked(model.labelled(own), x, t, vjp)
                theirs = asked(plain.labelled(own), x, t, vjp)
                torch.testing.assert_close(ours, theirs, **SAME)
    assert len(graphs) == 1


def test_a_batch_that_is_not_known_would_be_a_graph_each_time(graphs):
    """The count can fail: torch's own way has a graph for a lone row, and one for a gradient."""
    network = frozen(Pixels())
    model = ScoreModel(torch.compile(network, backend=compiling.BACKEND), VPSDE.linear(100), "eps")
    for count in (5, 3, 1):
        x, t = torch.randn(count, 1, 4, 4), torch.tensor(50.0, dtype=torch.float64)
        asked(model, x, t, vjp=False)
    assert len(graphs) > 2


def test_a_training_in_uneven_parts_is_one_graph(graphs):
    network = small_unet(classes=4).train()
    called = Compiled(network, "train", varying=True)
    for count in (5, 4, 4, 5):
        x, index = torch.randn(count, 3, 8, 8), torch.arange(count).float()
        called(x, index, torch.arange(count) % 4 - 1).square().mean().backward()
    assert len(graphs) == 1
    assert all(weight.grad is not None for weight in network.parameters())


def images(count):
    levels = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    levels = levels.to(torch.uint8)
    return Data("random", levels, levels, 256, None, None)


def likelihood_of(model, count=3, batch_size=2):
    solver = Solver(probes=2, tolerance=1e-2, tolerance_bits=1e-2)
    deq = Dequantizer("uniform", 256, 1.0, "uniform")
    settings = LikelihoodSettings(solver, dequantizer=deq, batch_size=batch_size, checked=0)
    return measure(model, images(count), 0, settings).values


@pytest.mark.parametrize(
    "backend", ["count", "aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, COMPILER])]
)
def test_a_likelihood_is_one_graph_and_the_same(graphs, monkeypatch, backend):
    """The solver's rows go one by one, and products are taken twice of one evaluation."""
    network = frozen(Pixels())
    plain = ScoreModel(network, VPSDE.linear(50), "eps")
    if backend != "count":
        monkeypatch.setattr(compiling, "BACKEND", backend)
    found = likelihood_of(plain.with_network(Compiled(network, "vjp")))
    torch.testing.assert_close(found, likelihood_of(plain), rtol=1e-6, atol=0)
    assert len(graphs) == (backend == "count")


@pytest.mark.slow
@COMPILER
def test_a_unet_compiled_by_inductor_is_the_same():
    network = frozen(small_unet(classes=4))
    plain = ScoreModel(network, VPSDE.linear(100), "eps", channels_last=True).labelled(1)
    for use, vjp in (("eval", False), ("vjp", True)):
        model = plain.with_network(Compiled(network, use))
        for count in (5, 1, 3):
            x, t = (
                torch.randn(count, 3, 8, 8, dtype=torch.float64),
                torch.tensor(50.0, dtype=torch.float64),
            )
            torch.testing.assert_close(asked(model, x, t, vjp), asked(plain, x, t, vjp), **SAME)


def test_an_adaptive_sampler_is_one_graph(graphs):
    torch.manual_seed(0)
    network = frozen(MLP(2, 8, 1, 8))
    for weight in network.parameters():
        weight.add_(0.3 * torch.randn_like(weight))
    plain, rows = ScoreModel(network, VPSDE.linear(50), "v"), []
    counted = Compiled(network, "eval")
    counted.register_forward_pre_hook(lambda _module, given: rows.append(len(given[0])))
    flow, noise = ProbabilityFlow(1.0, 1e-3), Noise.of(0, 0, 12, CPU)
    args = flow.times(50), noise, (2,)
    found = sample(flow, plain.with_network(counted), plain.sde, *args)
    torch.testing.assert_close(found, sample(flow, plain, plain.sde, *args), rtol=1e-4, atol=1e-4)
    assert len(set(rows)) > 2, "they are to arrive one after another"
    assert len(graphs) == 1


def test_it_tells_what_the_network_tells_and_holds_its_weights_once():
    network = small_unet(classes=4)
    called = Compiled(network, "train")
    assert called.num_classes == 4
    assert called.dropout_places == network.dropout_places
    assert not hasattr(called, "module")
    assert len(called.state_dict()) == len(network.state_dict())
    assert [id(p) for p in called.parameters()] == [id(p) for p in network.parameters()]
    called.eval()
    assert not network.training


def test_the_first_step_is_told_when_the_second_comes(graphs):
    said, network = [], frozen(MLP(2, 8, 1, 8))
    called = Compiled(network, "eval", say=said.append)
    with torch.no_grad():
        for expected in (0, 1, 1):
            called(torch.randn(3, 2), torch.zeros(3))
            assert len(said) == expected
    assert said[0].startswith("compiled: the first step took ")


def test_modes_with_cuda_graphs_are_a_trainings(monkeypatch):
    modes = []
    monkeypatch.setattr(
        torch, "compile", lambda module, **how: modes.append(how["mode"]) or module
    )
    network = MLP(2, 8, 1, 8)
    for use in ("train", "eval"):
        for mode in ("default", "reduce-overhead", "max-autotune"):
            Compiled(network, use, mode)
    whole = ["default", "reduce-overhead", "max-autotune"]
    assert modes == [*whole, "default", "default", "max-autotune-no-cudagraphs"]
    Compiled(network, "train", "reduce-overhead").without_graphs()
    assert modes[-1] == "default"


# ---- where it is worth it -----------------------------------------------------------------------


def test_what_is_worth_the_minutes():
    for_likelihood = 3 * compiling.solver_evaluations(1e-4)
    assert worth_compiling(for_likelihood, 10_000, CIFAR10)
    assert worth_compiling(50, 50_000, CIFAR10)  # what FID is measured on
    assert worth_compiling(3 * 800_000, 128, CIFAR10)
    assert not worth_compiling(50, 64, CIFAR10)  # a picture by DDIM
    assert not worth_compiling(1000, 64, CIFAR10)
    assert not worth_compiling(for_likelihood, 360, (1, 8, 8))  # all test digits


def test_a_compiler_compiles_once_and_only_what_it_is_wanted_for():
    said, network, other = [], MLP(2, 8, 1, 8), MLP(2, 8, 1, 8)
    compiler = Compiler(wanted=True, say=said.append)
    few, many = (1.0, 64, (2,)), (1e6, 10_000, (2,))
    assert compiler.network(network, "eval", *few) is network
    assert not compiler.has(network, "eval")
    assert said == []
    found = compiler.network(network, "eval", *many)
    assert isinstance(found, Compiled)
    assert len(said) == 1
    assert "1.0e+10 evaluations" in said[0]
    assert "--config.training.compile=false" in said[0]
    assert compiler.network(network, "eval", *few) is found
    assert compiler.has(network, "eval")
    assert compiler.network(network, "eval", *many, "tf32") is network  # a graph more
    assert not compiler.has(network, "eval", "tf32")
    assert compiler.network(network, "vjp", *few) is network
    assert compiler.network(other, "eval", *few) is other
    assert Compiler(wanted=False).network(network, "eval", *many) is network


# ---- what a device is asked for -----------------------------------------------------------------


def test_the_precision_that_a_device_has(monkeypatch):
    of = compiling.precision_on
    for asked in ("auto", "tf32"):
        assert of(asked, CPU) == of(asked, torch.device("mps")) == "float32"
        assert of(asked, CUDA) == "tf32"
    assert of("float32", CUDA) == "float32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, expected in (((7, 5), "float32"), ((8, 0), "tf32"), ((9, 0), "tf32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert of("auto", CUDA) == of("tf32", CUDA) == expected


def test_the_fastest_kernels_are_looked_for_on_cuda_alone_and_no_longer():
    before = torch.backends.cudnn.benchmark
    with fixed_shapes(CPU):
        assert torch.backends.cudnn.benchmark == before
    seen = []
    with pytest.raises(IndexError), fixed_shapes(CUDA):
        seen[len(seen) + torch.backends.cudnn.benchmark]
    with fixed_shapes(CUDA):
        seen.append(torch.backends.cudnn.benchmark)
    assert seen == [True]
    assert torch.backends.cudnn.benchmark == before
