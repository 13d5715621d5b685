"""Features against hooks of the test's own, closed forms, and other batches."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from scoreflow.data.levels import centres
from scoreflow.errors import RequestError, RunError
from scoreflow.evaluation.representations.activations import (
    Asked,
    activations,
    bytes_of,
    log_snr,
    pooled,
    pooled_shape,
    spaced_times,
)
from scoreflow.evaluation.representations.layers import captured, layers_of
from scoreflow.models.mlp import MLP
from scoreflow.models.residual.pixel_law import PixelLaw
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.runtime.distributed import Shard
from scoreflow.sde import VESDE, VPSDE, RectifiedSDE
from scoreflow.sde.noise import Noise, Stream

CPU = torch.device("cpu")
LEVELS = 17
SDE = VPSDE.log_linear(1000)


def shaken(network, seed=0):
    """A network whose layers all do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet():
    sizes = {"image_size": 8, "in_channels": 1, "out_channels": 1, "channels": 8}
    more = {"multipliers": (1, 2), "blocks": 2, "attention_sizes": (4,), "num_groups": 4}
    return shaken(UNet(**sizes, **more))


@pytest.fixture(scope="module")
def images():
    return torch.randint(LEVELS, (10, 1, 8, 8), generator=torch.Generator().manual_seed(1))


def input_of(images, sde, t, seed=0, draw=0):
    """x_t / r and the index, by the definitions, and the same noise."""
    time = torch.tensor(t, dtype=torch.float64)
    eps = Noise.of(seed, 0, len(images)).at(draw).normal(Stream.PRIOR, (1, 8, 8))
    x = sde.alpha(time) * centres(images, LEVELS) + sde.sigma(time) * eps
    r = (sde.alpha(time) ** 2 + sde.sigma(time) ** 2).sqrt()
    return (x / r).float() if float(r) != 1 else x.float(), torch.full((len(x),), t - 1.0)


def seen(network, path, *given):
    """What a hook of the test's own sees."""
    outputs = []
    handle = network.get_submodule(path).register_forward_hook(lambda *e: outputs.append(e[2]))
    network(*given)
    handle.remove()
    (output,) = outputs
    return output


@pytest.mark.parametrize("path", ["stem", "down.0.blocks.1", "middle.0", "up.1.blocks.2", "head"])
@pytest.mark.parametrize("t", [1.0, 300.0])
def test_features_are_what_a_hook_sees_to_the_bit(unet, images, path, t):
    whole = activations(Asked(ScoreModel(unet, SDE, "v"), LEVELS, pool="none"), images, t, [path])
    own = seen(unet, path, *input_of(images, SDE, t))
    assert torch.equal(whole[path], own)


def test_the_scale_of_another_process_reaches_the_network(unet, images):
    """Where r is not 1 the network sees x_t / r, of the same noise; two roundings apart."""
    sde = VESDE(1000, 0.01, 20.0)
    asked = Asked(ScoreModel(unet, sde, "eps"), LEVELS, pool="none")
    found = activations(asked, images, 500.0, ["middle.1"])["middle.1"]
    own = seen(unet, "middle.1", *input_of(images, sde, 500.0))
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)


def test_a_network_of_the_residual_sees_what_pixels_tell(images):
    """Its 4 C channels: x_t and the three of its histograms, as a hook on it alone would get."""
    sizes = {"image_size": 8, "in_channels": 4, "out_channels": 1, "channels": 8}
    network = shaken(UNet(**sizes, multipliers=(1,), blocks=1, attention_sizes=(), num_groups=4))
    network.pixels = PixelLaw((1, 8, 8), LEVELS)
    network.pixels.fit(images)
    model, t = ScoreModel(network, SDE, "residual"), 300.0
    found = activations(Asked(model, LEVELS, pool="none"), images, t, ["middle.1"])["middle.1"]
    assert layers_of(model, (1, 8, 8), CPU).shapes["stem"] == (8, 8, 8)
    time = torch.tensor(t, dtype=torch.float64)
    eps = Noise.of(0, 0, len(images)).normal(Stream.PRIOR, (1, 8, 8))
    x_t = SDE.alpha(time) * centres(images, LEVELS) + SDE.sigma(time) * eps
    known = network.pixels(x_t, SDE.alpha(time), SDE.sigma(time))
    given = torch.cat((x_t, known.datum, known.noise, known.spread), 1).float()
    assert torch.equal(found, seen(network, "middle.1", given, torch.full((10,), t - 1)))


def test_pools_are_means_and_maxima_of_the_whole(unet, images):
    model, path = ScoreModel(unet, SDE, "v"), "down.0.blocks.0"
    found = {
        pool: activations(Asked(model, LEVELS, pool=pool), images, 50.0, [path])[path]
        for pool in ("mean", "max", "quarters", "none")
    }
    whole = found["none"]
    assert whole.shape == (10, 8, 8, 8)
    torch.testing.assert_close(found["mean"], whole.mean((2, 3)))
    assert torch.equal(found["max"], whole.amax((2, 3)))
    quarters = [whole[:, :, i : i + 4, k : k + 4].mean((2, 3)) for i in (0, 4) for k in (0, 4)]
    torch.testing.assert_close(found["quarters"].view(10, 8, 4), torch.stack(quarters, 2))
    for pool, of_it in found.items():
        assert pooled_shape((8, 8, 8), pool) == tuple(of_it.shape[1:])
        assert bytes_of([(8, 8, 8)], pool, 10) == 4 * of_it.numel()


def test_vectors_have_no_places_to_pool():
    h = torch.arange(6.0).view(2, 3)
    for how in ("mean", "max", "quarters", "none"):
        assert torch.equal(pooled(h, how), h)


def test_noise_is_paired_between_layers_times_and_batches(unet, images):
    """One hook on the stem sees x_t; the noise in it is the same at all times, in all batches."""
    identity = nn.Identity()
    model = ScoreModel(_Behind(identity, unet), SDE, "v")
    eps = []
    for t, size in ((20.0, 10), (20.0, 3), (400.0, 4)):
        asked = Asked(model, LEVELS, pool="none", seed=3, batch_size=size)
        x = activations(asked, images, t, ["first", "second.middle.0"])["first"].double()
        time = torch.tensor(t, dtype=torch.float64)
        eps.append((x - SDE.alpha(time) * centres(images, LEVELS)) / SDE.sigma(time))
    own = Noise.of(3, 0, 10).normal(Stream.PRIOR, (1, 8, 8))
    for each in eps:  # x_t is rounded to float32: 6e-8 of at most 5, over sigma of 0.007 or more
        torch.testing.assert_close(each, own, rtol=0, atol=1e-4)
    asked = Asked(model, LEVELS, pool="none", seed=4)
    other = activations(asked, images, 20.0, ["first"])["first"].double()
    assert float((other - eps[0]).abs().mean()) > 0.01


class _Behind(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, index):
        return self.second(self.first(x), index)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_split_into_batches_changes_roundings_alone(unet, images, size):
    """float32 sums in another order: 1e-6 a layer, of numbers of order 1, over some 30 layers."""
    model = ScoreModel(unet, SDE, "v")
    paths = ["stem", "middle.1", "up.1.blocks.2"]
    whole = activations(Asked(model, LEVELS), images, 100.0, paths)
    parts = activations(Asked(model, LEVELS, batch_size=size), images, 100.0, paths)
    for path in paths:
        torch.testing.assert_close(parts[path], whole[path], rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("world", [2, 5])
def test_processes_share_whole_batches_to_the_bit(unet, images, world):
    """Each evaluates its batches alone; the last has all in the end, also where it has none."""
    asked, paths = Asked(ScoreModel(unet, SDE, "v"), LEVELS, batch_size=3), ["middle.1", "x_0"]
    alone = activations(asked, images, 100.0, paths)
    posted = {}
    for rank in range(world):
        seen, shard = [], _Posted(rank, world, posted)
        found = activations(asked, images, 100.0, paths, seen.append, shard)
        assert seen == [len(images[3 * k : 3 * k + 3]) for k in range(rank, 4, world)]
    assert sorted(posted) == [0, 3, 6, 9]
    assert all(torch.equal(found[path], alone[path]) for path in paths)


@dataclass(frozen=True)
class _Posted(Shard):
    """A process that finds what those before it have posted."""

    posted: dict[int, object] = field(default_factory=dict)

    def gathered(self, own):
        self.posted.update(own)
        return self.posted


def test_draws_are_averaged_and_none_is_no_noise(unet, images):
    model, path = ScoreModel(unet, SDE, "v"), "middle.0"
    three = activations(Asked(model, LEVELS, draws=3, pool="none"), images, 200.0, [path])[path]
    each = [seen(unet, path, *input_of(images, SDE, 200.0, draw=k)) for k in range(3)]
    torch.testing.assert_close(three, torch.stack(each).double().mean(0).float())
    calls = []
    asked = Asked(model, LEVELS, draws=0, pool="none", batch_size=4)
    none = activations(asked, images, 200.0, [path], calls.append)[path]
    alpha = SDE.alpha(torch.tensor(200.0, dtype=torch.float64))
    x = (alpha * centres(images, LEVELS)).float()
    for start in (0, 4, 8):
        rows = slice(start, start + 4)
        few = x[rows]
        own = seen(unet, path, few, torch.full((len(few),), 199.0))
        assert torch.equal(none[rows], own)
    assert calls == [4, 4, 2]


class _GaussianPixels(nn.Module):
    """The exact x_0 estimate of N(0.3, 0.25) pixels at one time."""

    def __init__(self, sde, t):
        super().__init__()
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = sde.alpha(time), sde.sigma(time)
        self.alpha, self.gain = float(alpha), float(alpha * 0.25 / (alpha**2 * 0.25 + sigma**2))

    def forward(self, x, _index):
        return 0.3 + self.gain * (x - self.alpha * 0.3)


def test_the_estimate_is_that_of_the_exact_denoiser(images):
    """E[x_0 | x_t] is affine in x_t, so its mean over draws is that at the mean of the noises."""
    t = 350.0
    network = _GaussianPixels(SDE, t)
    asked = Asked(ScoreModel(network, SDE, "x_0", precision="float64"), LEVELS, draws=4)
    found = activations(asked, images, t, ["x_0", "pixels"])
    eps = torch.stack([Noise.of(0, 0, 10).at(k).normal(Stream.PRIOR, (1, 8, 8)) for k in range(4)])
    sigma, x_0 = SDE.sigma(torch.tensor(t, dtype=torch.float64)), centres(images, LEVELS)
    x_t = network.alpha * x_0 + sigma * eps.mean(0)
    truth = 0.3 + network.gain * (x_t - network.alpha * 0.3)
    torch.testing.assert_close(found["x_0"].double(), truth, rtol=1e-6, atol=1e-6)
    assert torch.equal(found["pixels"], x_0.float())


def test_what_is_not_finite_is_refused(images):
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x, _index):
            return self.layer(x / 0).nan_to_num()

    model = ScoreModel(Overflowing(), SDE, "v")
    with pytest.raises(RunError, match="features of layer at t = 3 are not finite"):
        activations(Asked(model, LEVELS), images, 3.0, ["layer"])


# ---- layers -------------------------------------------------------------------------------------


def test_the_blocks_of_a_unet_by_path_and_in_short(unet):
    layers = layers_of(ScoreModel(unet, SDE, "v"), (1, 8, 8), CPU)
    own = {}
    x, index = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    for path in layers.blocks:
        own[path] = tuple(seen(unet, path, x, index).shape[1:])
    assert {path: layers.shapes[path] for path in layers.blocks} == own
    assert [layers.short(path) for path in layers.blocks] == [
        *("down.0.0", "down.0.1", "down.1.0", "down.1.1", "middle.0", "middle.1"),
        *(f"up.{level}.{block}" for level in (0, 1) for block in range(3)),
    ]
    assert layers.path("up.1.0") == layers.path("up.1.blocks.0") == "up.1.blocks.0"
    assert layers.path("middle") == "middle.1"
    assert layers.path("down.0.blocks.0.residual.conv_1") == "down.0.blocks.0.residual.conv_1"
    assert not any(unet.get_submodule(path)._forward_hooks for path in layers.shapes)
    with pytest.raises(RequestError) as refused:
        layers.path("midle")
    assert "no layer 'midle'; did you mean 'middle'? its blocks are down.0.0" in str(refused.value)
    for name in ("down", "embedding.nothing", "", "head.0"):  # no module that is called
        with pytest.raises(RequestError, match="this network has no layer"):
            layers.path(name)


def test_a_network_of_vectors_and_one_of_the_users_own():
    layers = layers_of(ScoreModel(shaken(MLP(3, 8)), SDE, "v"), (3,), CPU)
    assert layers.blocks == ("stem", "layers.0", "layers.1", "layers.2", "head")
    assert layers.shapes["layers.1"] == (8,)
    assert "embedding" in layers.shapes
    wrapped = layers_of(ScoreModel(_Wrapper(shaken(MLP(3, 8))), SDE, "v"), (3,), CPU)
    assert wrapped.blocks == tuple(f"net.{path}" for path in layers.blocks)


class _Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.act = nn.SiLU()  # called twice: no layer

    def forward(self, x, index):
        return self.net(self.act(self.act(x)), index)


def test_a_layer_that_is_called_twice_is_none():
    network = _Wrapper(shaken(MLP(3, 8)))
    assert "act" not in layers_of(ScoreModel(network, SDE, "v"), (3,), CPU).shapes
    with (
        pytest.raises(RequestError, match=r"features\.layer = act must be .* got called twice"),
        captured(network, ["act"]),
    ):
        network(torch.zeros(2, 3), torch.zeros(2))
    assert not network.act._forward_hooks  # also after a failure


# ---- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sde", [SDE, VPSDE.cosine(1000), RectifiedSDE(1000), VESDE(1000, 0.01, 20.0)]
)
def test_times_are_evenly_spaced_in_log_snr(sde):
    times = spaced_times(sde, 1.0, whole=False)
    assert len(times) == 8
    assert times[0] == 1
    assert times[-1] <= 1000
    found = torch.tensor([log_snr(sde, t) for t in times])
    steps = -found.diff()
    assert float(steps.max() / steps.min()) < 1.05  # to four digits of t
    assert found[-1] == pytest.approx(max(-5.0, log_snr(sde, 1000.0)), abs=0.05)
    whole = spaced_times(sde, 1.0, whole=True)
    assert all(t == round(t) for t in whole)
    assert len(set(whole)) == len(whole)
