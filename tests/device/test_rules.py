"""The pretended device refuses, waits and counts as CUDA does, and leaves nothing behind."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import optimizer
from torch.utils.checkpoint import checkpoint

from tests.device import rules
from tests.device.pretend import MODULE, NAME, Pretended, pretending
from tests.device.watch import Refused, watching

VECTOR, NUMBER = torch.arange(3.0), torch.tensor(2.0)
MASK = torch.tensor([True, False, True])

REFUSED = {
    "clamp by CPU numbers": lambda x: x.clamp(NUMBER, NUMBER),
    "addition of a CPU vector": lambda x: x + VECTOR,
    "a CPU vector plus it": lambda x: VECTOR + x,
    "a CPU vector in place": lambda x: VECTOR.clone().add_(x),
    "a CPU number in place": lambda x: NUMBER.clone().add_(x[0]),
    "into a CPU number": lambda x: torch.add(x[0], 1, out=NUMBER.clone()),
    "a CPU vector by its indices": lambda x: VECTOR[x.long()],
    "cat": lambda x: torch.cat([x, VECTOR]),
    "cat with a number": lambda x: torch.stack([x[0], NUMBER]),
    "where by a CPU mask": lambda x: torch.where(MASK, x, 0.0),
    "product of matrices": lambda x: x[None] @ VECTOR[:, None],
    "linear": lambda x: functional.linear(x[None], VECTOR[None]),
    "bucketize": lambda x: torch.bucketize(x, VECTOR),
    "lists": lambda x: torch.stack([x, VECTOR]).sum(0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name, device, seen):
    with pytest.raises(Refused, match=r"test_rules|outside"):
        REFUSED[name](VECTOR.to(device))


def assigned(x, where, value):
    x[where] = value
    return x


TAKEN = {
    "a CPU number": lambda x: x * NUMBER + NUMBER,
    "a CPU number first": lambda x: NUMBER.double().sqrt() - x,
    "maximum of a CPU number": lambda x: x.maximum(NUMBER),
    "clamp by Python's numbers": lambda x: x.clamp(0, 1),
    "pow": lambda x: x**NUMBER,
    "masked_fill": lambda x: x.masked_fill(x > 1, NUMBER),
    "where of Python's numbers": lambda x: torch.where(x > 1, x, 0.0),
    "full": lambda x: x + x.new_full((), 3.0),
    "a small copy": lambda x: x + VECTOR.to(x.device, non_blocking=True),
    "index by indices": lambda x: x[(x > 1).long()],
    "a masked fill by index": lambda x: x.clone().index_put_((x > 1,), NUMBER),
    "assigned a number by a mask": lambda x: assigned(x.clone(), x > 1, 2.0),
    "random numbers of its own": lambda x: x + torch.zeros(3, device=x.device).fill_(2),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_cuda_takes_is_taken_without_a_wait_and_has_the_cpus_numbers(name, device, seen):
    x = VECTOR.to(device)
    seen.clear()
    found = TAKEN[name](x)
    assert not seen.waits
    assert found.device.type == NAME
    assert torch.equal(found.cpu(), TAKEN[name](VECTOR))


WAITING = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 1).all()),
    "float": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to the CPU, non_blocking": lambda x: x.to("cpu", non_blocking=True),
    "from the CPU": lambda x: VECTOR.to(x.device),
    "a large one, non_blocking": lambda x: torch.zeros(2**17).to(x.device, non_blocking=True),
    "a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "copy_": lambda x: x.copy_(VECTOR),
    "by a mask": lambda x: x[x > 1],
    "by a CPU mask": lambda x: x[MASK],
    "by a list": lambda x: x[[0, 2]],
    "assigned by a mask": lambda x: x.index_put_((x > 0,), x[1:].clone()),
    "a masked fill by index, of its own": lambda x: x.index_put_((x > 1,), x.new_zeros(())),
    "assigned its own number by a mask": lambda x: assigned(x, x > 1, x.sum()),
    "a number added by a mask": lambda x: x.index_put_((x > 1,), NUMBER, accumulate=True),
    "assigned a number by indices": lambda x: assigned(x, (x > 1).long(), 2.0),
    "masked_fill of its own number": lambda x: x.masked_fill(x > 1, x[0]),
    "masked_fill_ of its own number": lambda x: x.masked_fill_(x > 1, x.sum()),
    "allclose": lambda x: torch.allclose(x, x),
    "a solution, checked": lambda x: torch.linalg.solve(x.new_ones(1, 1), x.new_ones(1, 1)),
    "nonzero": lambda x: x.nonzero(),
    "format": lambda x: f"{x[0]:.2f}",
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "where a CPU number": lambda x: torch.where(x > 1, x, NUMBER),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_for_cuda_is_seen(name, device, seen):
    x = VECTOR.to(device)
    seen.clear()
    WAITING[name](x)
    assert len(seen.waits) >= 1
    x = VECTOR.to("cpu")
    seen.clear()
    WAITING[name](x)
    assert not seen.waits, "and on a CPU nothing waits"


def test_a_number_is_formatted_as_the_cpus(device):
    assert f"{NUMBER.to(device):.2f}" == f"{NUMBER:.2f}" == "2.00"


def test_numpy_is_refused(device):
    with pytest.raises(TypeError, match="to numpy"):
        VECTOR.to(device).numpy()


def counted(seen, *sources):
    found = seen.of(*sources)
    return found.kernels, found.moved


def test_kernels_and_bytes_of_known_calls(device, seen):
    x = torch.zeros(2, 8, 4, 4, device=device)
    last = x.contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 8, 3, 3, device=device)
    size, of_weight = 4 * 256, 4 * 8 * 8 * 9

    def after(call):
        seen.clear()
        call()
        return counted(seen)

    assert after(lambda: x + 1) == (1, 2 * size)
    assert after(lambda: x.mul_(2)) == (1, 2 * size)
    assert after(lambda: x.view(16, 16).t()[3:]) == (0, 0)
    assert after(lambda: x.expand(5, 2, 8, 4, 4).sum()) == (1, size + 4)
    assert after(lambda: torch.empty_like(x)) == (0, 0)
    assert after(lambda: x.cpu()) == (0, 0)
    assert after(lambda: functional.silu(x)) == (1, 2 * size)
    assert after(lambda: functional.conv2d(x, weight, padding=1)) == (1, 2 * size + of_weight)
    # channels last: the weight is copied into that format first
    found = after(lambda: functional.conv2d(last, weight, padding=1))
    assert found == (2, 2 * size + 3 * of_weight)
    assert counted(seen, "layout copies") == (1, 2 * of_weight)
    # a norm over groups reads twice, and has no kernel for channels last
    assert after(lambda: functional.group_norm(x, 2)) == (3, 3 * size)
    assert after(lambda: functional.group_norm(last, 2)) == (4, 5 * size)
    attended = after(lambda: functional.scaled_dot_product_attention(x, x, x))
    assert attended[0] == 1


def test_autocast_is_cudas(device, seen):
    layer = nn.Linear(8, 8).to(device)
    x = torch.zeros(2, 8, device=device)
    seen.clear()
    with torch.autocast(NAME, torch.bfloat16):
        once = layer(x)
        twice = layer(once)
        assert (once.dtype, twice.dtype) == (torch.bfloat16, torch.bfloat16)
        assert functional.group_norm(once, 2).dtype == torch.float32
        assert once.sum().dtype == torch.float32
        assert (once.double() @ layer.weight.double()).dtype == torch.float64
    # weight, bias and x once each; the norm's input; double twice
    assert seen.by_call["copies and casts", "_to_copy"] == 6
    with torch.autocast(NAME, torch.bfloat16):
        layer(x)
    assert seen.by_call["copies and casts", "_to_copy"] == 9, "cast again in another autocast"


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3))


def gradients(network, x):
    network(x).square().sum().backward()
    return [p.grad.cpu() for p in network.parameters()]


def test_a_step_of_adam_is_the_cpus_to_the_bit(device, seen):
    here, there = small_network(), small_network().to(device)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for network, values in ((here, x), (there, x.to(device))):
        adam = torch.optim.Adam(network.parameters(), fused=True)
        network(values).square().sum().backward()
        seen.clear()
        adam.step()
    assert seen.by_call["optimiser", "_fused_adam_"] == 1
    assert not seen.waits
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(one, other.cpu())
    copied = copy.deepcopy(there)
    assert torch.equal(next(copied.parameters()).cpu(), next(here.parameters()))
    assert next(copied.parameters()) is not next(there.parameters())


def test_the_way_back_is_counted_for_what_the_way_forth_was(device, seen):
    network = small_network().to(device)
    x = torch.randn(2, 3, 8, 8).to(device)
    seen.clear()
    network(x).square().sum().backward()
    one_way = {"norms": 3 + 5, "activations": 1 + 1}
    for source, kernels in one_way.items():
        assert seen.of(source).kernels == kernels
    seen.clear()
    checkpoint(network, x, use_reentrant=False).sum().backward()
    assert seen.by_source["norms again"].kernels == 3
    assert seen.of("norms").kernels == 3 + 3 + 5


def test_a_shape_alone_is_counted_like_numbers(needs_python_device):
    x, found = torch.zeros(2, 3, 8, 8), []
    for bare in (False, True):
        with pretending(bare) as device, watching() as seen:
            network = small_network().to(device)
            values = x.to(device)
            assert values.inner.is_meta == bare
            seen.clear()
            network(values).square().mean().backward()
            found.append((counted(seen), seen.by_call))
    assert found[0] == found[1]
    with pretending(bare=True) as device, pytest.raises(RuntimeError, match="no numbers"):
        torch.zeros(2, device=device).cpu()


def test_an_op_of_our_own_must_be_stated(device, seen, monkeypatch):
    library = torch.library.Library("scoreflow", "FRAGMENT")
    library.define("of_the_test(Tensor x) -> Tensor")
    library.impl("of_the_test", lambda x: x * 2, "CPU")
    x = torch.ones(3, device=device)
    with pytest.raises(AssertionError, match="OWN does not say how many kernels"):
        torch.ops.scoreflow.of_the_test(x)
    monkeypatch.setitem(rules.OWN, "scoreflow::of_the_test", rules.Own("noise", 2))
    seen.clear()
    assert torch.ops.scoreflow.of_the_test(x).tolist() == [2.0, 2.0, 2.0]
    assert counted(seen, "noise") == (2, 24)


def test_lists_of_other_forms_are_gone_through_one_by_one(device, seen):
    """As a lerp by shares without dimensions is; by tensors alike, or a number, it is a launch."""
    ones, others = (list(torch.rand(2, 6, 4, device=device).unbind(1)) for _ in range(2))
    share = torch.tensor(0.5, device=device)
    for asked, launches in (
        (lambda: torch._foreach_lerp_(ones, others, 0.5), 1),
        (lambda: torch._foreach_lerp_(ones, others, others), 1),
        (lambda: torch._foreach_lerp_(ones, others, [share] * 6), 6),
        (lambda: torch._foreach_mul_(ones, share), 1),
    ):
        seen.clear()
        asked()
        assert seen.of().kernels == launches


def test_nothing_is_left_behind(needs_python_device):
    def state():
        return (
            torch._C._only_lift_cpu_tensors(),
            torch.__future__.get_overwrite_module_params_on_conversion(),
            torch.autograd.is_multithreading_enabled(),
            optimizer._foreach_supported_types,
            torch.clear_autocast_cache,
            MODULE.is_available(),
            torch.accelerator.is_available(),
            torch._C._len_torch_dispatch_stack(),
        )

    before = state()
    with pretending() as device, watching():
        assert isinstance(torch.zeros(2, device=device), Pretended)
        assert state() != before
    assert state() == before
    with pytest.raises(ZeroDivisionError), pretending(), watching():
        raise ZeroDivisionError
    assert state() == before
