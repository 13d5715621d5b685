"""The U-Net against the published architecture: diffusers' UNet2DModel with the same weights."""

import pytest
import torch
from torch import nn

from scoreflow.models import unet_blocks
from scoreflow.models.layers import Doubling
from scoreflow.models.unet import UNet
from scoreflow.models.unet_blocks import Attention, ResidualBlock, Style

CIFAR10 = {"image_size": 32, "in_channels": 3, "out_channels": 3}
TINY = {
    "image_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "channels": 32,
    "multipliers": (1, 2),
    "attention_sizes": (4,),
    "num_groups": 8,
}


def randomise(network, seed=0):
    """Weights that keep the signal's size, so that each layer matters, also the zero-ish ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.data.normal_(1.0, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, module.weight[0].numel() ** -0.5, generator=generator)
        else:
            continue
        module.bias.data.normal_(0, 0.1, generator=generator)
    return network


# --- The published network -----------------------------------------------------------------------


def diffusers_network(image_size, channels, widths, attends, in_channels, groups, classes=None):
    from diffusers import UNet2DModel

    down = tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends)
    up = tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends))
    return UNet2DModel(
        sample_size=image_size,
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=down,
        up_block_types=up,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=groups,
        attention_head_dim=None,
        center_input_sample=False,
        num_class_embeds=classes,
    ).eval()


def relative_error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (CIFAR10, (32, 128, (128, 256, 256, 256), (False, True, False, False), 3, 32)),
        (TINY, (8, 32, (32, 64), (False, True), 1, 8)),
        (TINY | {"attention_sizes": (8, 4)}, (8, 32, (32, 64), (True, True), 1, 8)),
    ],
    ids=["cifar10", "tiny", "tiny-attention-everywhere"],
)
def test_equals_diffusers_in_value_and_gradient(config, theirs, from_diffusers):
    reference = randomise(diffusers_network(*theirs))
    network = UNet(**config).eval()
    network.load_state_dict(from_diffusers(reference.state_dict()))
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(
        2, 2, config["in_channels"], *2 * [config["image_size"]], generator=generator
    )
    index = torch.tensor([731.0, 412.37])
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, expected = network(x_ours, index), reference(x_theirs, index).sample
    assert expected.std() > 0.1
    assert relative_error(ours, expected) < 1e-5

    (ours * weight).sum().backward()
    (expected * weight).sum().backward()
    assert relative_error(x_ours.grad, x_theirs.grad) < 1e-5
    gradients = from_diffusers({k: p.grad for k, p in reference.named_parameters()})
    for name, parameter in network.named_parameters():
        # Rounding adds up over the whole way back; a wrong term would show at order one.
        assert (parameter.grad - gradients[name]).abs().max() < 1e-4 * gradients[name].abs().max()


def test_equals_diffusers_told_of_classes(from_diffusers):
    """Their class embedding, with no class as the first of one class more."""
    reference = randomise(diffusers_network(8, 32, (32, 64), (False, True), 1, 8, classes=4))
    network = UNet(**TINY, num_classes=3).eval()
    network.load_state_dict(from_diffusers(reference.state_dict()))
    x, index = torch.randn(4, 1, 8, 8), torch.tensor([0.0, 12.5, 731.0, 412.37])
    label = torch.tensor([2, 0, -1, 1])
    expected = reference(x, index, class_labels=label + 1).sample
    with torch.no_grad():
        assert relative_error(network(x, index, label), expected) < 1e-5
        none = reference(x, index, class_labels=torch.zeros(4).long()).sample
        assert relative_error(network(x, index), none) < 1e-5
        assert relative_error(network(x, index, torch.full((4,), -1)), none) < 1e-5
        assert relative_error(network(x, index, label), none) > 0.01


def test_without_classes_it_takes_no_label_and_knows_no_other():
    x, index = torch.zeros(1, 1, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match="takes no label"):
        UNet(**TINY)(x, index, torch.zeros(1).long())
    for wrong in (3, -2):
        with pytest.raises(IndexError):
            UNet(**TINY, num_classes=3)(x, index, torch.full((1,), wrong))


def test_cifar10_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = UNet(**CIFAR10)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


# --- The start of training -----------------------------------------------------------------------


def test_zero_ish_layers_are_those_of_ddpm_and_all_others_have_fan_avg_variance():
    torch.manual_seed(0)
    network = UNet(**TINY)
    zero_ish = {network.head[2]}
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            zero_ish.add(module.conv_2)
        if isinstance(module, Attention):
            zero_ish.add(module.proj)
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert not module.bias.any(), name
        # q, k and v are three layers in one tensor.
        for weight in module.weight.chunk(3 if name.endswith("qkv") else 1):
            pixels = weight[0, 0].numel()
            fan_avg = pixels * (weight.shape[0] + weight.shape[1]) / 2
            variance = (1e-10 if module in zero_ish else 1.0) / fan_avg
            tolerance = 5 * (0.8 / weight.numel()) ** 0.5
            assert weight.square().mean().item() == pytest.approx(variance, rel=tolerance), name


def test_answers_nearly_zero_at_the_start_yet_every_weight_has_a_gradient():
    torch.manual_seed(0)
    network = UNet(**TINY)
    answer = network(torch.randn(4, 1, 8, 8), torch.tensor([0.0, 10.0, 500.0, 999.0]))
    assert answer.abs().max() < 1e-3
    (answer - 1).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.any(), name


def test_dropout_acts_in_training_only():
    x, index = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    network = randomise(UNet(**TINY, dropout=0.3))
    without = randomise(UNet(**TINY, dropout=0.0))
    assert not torch.allclose(network(x, index), network(x, index))
    assert torch.equal(without(x, index), without(x, index))
    assert torch.equal(network.eval()(x, index), without(x, index))


def test_dropout_is_a_function_of_its_words():
    """Image by image: a batch's part, in another order, drops what it drops in the batch."""
    x, index = torch.randn(4, 1, 8, 8), torch.tensor([3.0, 700.0, 0.0, 90.0])
    network = randomise(UNet(**TINY, dropout=0.3)).double()
    x, index = x.double(), index.double()
    words = torch.randint(2**32, (4, network.dropout_places, 2))
    whole = network(x, index, words=words)
    rows = [3, 1]
    part = network(x[rows], index[rows], words=words[rows])
    torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(network(x, index, words=words.flip(1)), whole)
    with pytest.raises(ValueError, match="words must be"):
        network(x, index, words=words[:, 1:])


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_doubling_is_repeating_and_then_a_convolution(size):
    """And so are its gradients, those of the weights included."""
    layer = randomise(Doubling(6)).double()
    x = torch.randn(3, 6, size, size, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(3, 6, 2 * size, 2 * size, dtype=torch.float64)
    found = []
    for answer in (layer(x), nn.Sequential.forward(layer, x)):
        found.append([answer, *torch.autograd.grad(answer, (x, *layer.parameters()), cotangent)])
    for ours, defined in zip(*found, strict=True):
        torch.testing.assert_close(ours, defined, rtol=1e-11, atol=1e-11)


# --- How it runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return randomise(UNet(**TINY)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0.0, 0.5, 500.0, 999.0])


def test_an_answer_does_not_depend_on_its_batch_mates(tiny, inputs):
    together = tiny(*inputs)
    alone = torch.cat([tiny(x[None], i[None]) for x, i in zip(*inputs, strict=True)])
    assert relative_error(together, alone) < 1e-5


def test_channels_last_gives_the_same_answer_and_is_kept_throughout(inputs):
    x, index = inputs
    network = randomise(UNet(**TINY)).eval()
    expected = network(x, index)
    network = network.to(memory_format=torch.channels_last)
    formats = {}

    def note(name):
        def hook(module, args, answer):
            formats[name] = answer.is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear | nn.ModuleList) and "embedding" not in name:
            module.register_forward_hook(note(name))
    answer = network(x.contiguous(memory_format=torch.channels_last), index)
    assert relative_error(answer, expected) < 1e-5
    assert len(formats) > 50
    assert all(formats.values()), [name for name, kept in formats.items() if not kept]


def test_bfloat16_autocast_and_float64_agree_with_float32(tiny, inputs):
    x, index = inputs
    expected = tiny(x, index)
    with torch.autocast("cpu", torch.bfloat16):
        answer = tiny(x, index)
    assert answer.dtype == torch.bfloat16
    assert relative_error(answer.float(), expected) < 0.05
    exact = randomise(UNet(**TINY)).eval().double()(x.double(), index)
    assert relative_error(expected, exact.float()) < 1e-5


def test_is_one_graph_that_never_looks_at_a_value(tiny, inputs):
    # The tracer has shapes and no values: `.item()`, a branch on data or a host sync raises.
    exported = torch.export.export(tiny, inputs, strict=False).module()
    x, index = inputs
    assert torch.allclose(exported(-x, index + 7), tiny(-x, index + 7), atol=1e-6)
    told, label = randomise(UNet(**TINY, num_classes=3)).eval(), torch.tensor([0, -1, 2, 1])
    exported = torch.export.export(told, (*inputs, label), strict=False).module()
    assert torch.allclose(exported(x, index, label - 1 * (label > 0)),
                          told(x, index, label - 1 * (label > 0)), atol=1e-6)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 36}, "channels must be a multiple of num_groups, got 36 and 8"),
        ({"image_size": 9}, r"image_size must be a multiple of 2\^\(levels - 1\) = 2.* got 9"),
        ({"image_size": 0}, "image_size must be a multiple"),
        ({"attention_sizes": (16, 4)}, r"attention_sizes .* \[8, 4\], got \[16\]"),
        ({"multipliers": (1, 0)}, r"multipliers must be whole numbers >= 1, got \[1, 0\]"),
        ({"multipliers": ()}, r"multipliers .* got \[\]"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"channels": 7, "num_groups": 7}, "even number of sinusoids"),
    ],
)
def test_impossible_shapes_are_refused_before_any_work(change, message):
    with pytest.raises(ValueError, match=message):
        UNet(**TINY | change)


@pytest.mark.parametrize("multipliers", [(1, 2, 4), (3, 1, 2), (1,), (5, 3)])
def test_one_multiple_of_num_groups_suffices_for_every_concatenation(multipliers):
    config = TINY | {"channels": 12, "num_groups": 6, "multipliers": multipliers, "blocks": 1}
    network = UNet(**config | {"attention_sizes": ()}).eval()
    assert network(torch.zeros(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


def test_an_image_of_another_size_is_refused(tiny):
    with pytest.raises(ValueError, match=r"x must be \(B, 1, 8, 8\) and index \(B,\), got"):
        tiny(torch.zeros(2, 1, 16, 16), torch.zeros(2))


def gradients(monkeypatch, recompute, spare=True):
    """Of all weights, and how many bytes autograd kept for them; dropout drawn alike."""
    kept, counted = {}, []

    def pack(saved):
        kept[saved.data_ptr()] = saved.numel() * saved.element_size()
        return saved

    torch.manual_seed(0)
    network = UNet(
        image_size=8, in_channels=1, out_channels=1, channels=16, multipliers=(1, 2),
        attention_sizes=(4,), num_groups=4, dropout=0.5, recompute=recompute,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.sparing = spare and not recompute
    again = unet_blocks.again

    def counting(part, *given):
        counted.append(part)
        return again(part, *given)

    monkeypatch.setattr(unet_blocks, "again", counting)
    monkeypatch.setattr("scoreflow.models.unet.again", counting)
    x, index = torch.randn(4, 1, 8, 8), torch.tensor([0.0, 3.0, 50.0, 999.0])
    torch.manual_seed(1)
    # checkpoints see what is saved inside them first; what they keep is seen here as their input
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        loss = network(x, index).square().sum()
    loss.backward()
    monkeypatch.undo()
    return [p.grad for p in network.parameters()], sum(kept.values()), len(counted)


def test_recomputing_changes_no_gradient(monkeypatch):
    """Neither a block's norms and activations, nor whole blocks; and each keeps less."""
    plain, most, never = gradients(monkeypatch, recompute=False, spare=False)
    spared, less, halves = gradients(monkeypatch, recompute=False)
    again, least, whole = gradients(monkeypatch, recompute=True)
    assert all(a.equal(b) and a.equal(c) for a, b, c in zip(plain, spared, again, strict=True))
    assert (never, halves, whole) == (0, 2 * 12, 12)
    assert less < 0.75 * most
    assert least < most / 2


@pytest.mark.parametrize(("channels", "recompute", "spared"), [(32, 0, 0), (64, 0, 1), (64, 1, 0)])
def test_wide_networks_compute_their_norms_again(channels, recompute, spared):
    network = UNet(**TINY | {"channels": channels}, recompute=bool(recompute))
    found = [m.sparing for m in network.modules() if isinstance(m, ResidualBlock)]
    assert found == [bool(spared)] * 12


def test_no_convolution_is_computed_again():
    """Recomputing stops when what the way back asks for is there."""
    block = ResidualBlock(8, 8, embedding=4, dropout=0.5, style=Style(4), sparing=True)
    returned = []
    second = block.conv_2.register_forward_hook(lambda *_: returned.append(1))
    h = torch.randn(2, 8, 4, 4, requires_grad=True)
    block(h, torch.randn(2, 4), torch.randint(2**32, (2, 2))).sum().backward()
    second.remove()
    assert h.grad is not None
    assert len(returned) == 1  # asked twice, but only once did it get as far as an answer


def test_nothing_is_recomputed_in_evaluation(monkeypatch):
    network = UNet(
        image_size=8, in_channels=1, out_channels=1, channels=8, multipliers=(1,),
        attention_sizes=(), num_groups=4, recompute=True,
    ).eval()  # fmt: skip
    monkeypatch.setattr("scoreflow.models.unet_blocks.checkpoint", None)  # would be called in vain
    network(torch.zeros(1, 1, 8, 8, requires_grad=True), torch.zeros(1))
