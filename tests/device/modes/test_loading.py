"""Weights and optimisers come to a GPU in one copy for each of their dtypes, as they were."""

import copy

import pytest
import torch
from torch import nn

from scoreflow.factory.model import build_network
from scoreflow.imported_run import load as load_imported
from scoreflow.interop.arrival_check import errors_of
from scoreflow.runtime.gpu.transfer import load_weights, move_network, moved
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.training.ema import EMA
from scoreflow.training.initial import InitialWeights
from scoreflow.training.initial import load as load_initial
from scoreflow.training.trainer import adam
from tests.device.modes import small

CPU = torch.device("cpu")


class Network(nn.Module):
    """Weights in two memory formats, and buffers of two more dtypes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.dense = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)  # with a count, int64, and a version in its state
        self.register_buffer("grid", torch.rand(5, dtype=torch.float64))


def copies(seen):
    """Waits for a copy to the device."""
    return [wait for wait in seen.waits if "cpu -> " in wait]


def test_a_state_is_moved_by_one_copy_a_dtype(device, seen):
    state = Network(0).state_dict()
    seen.waits.clear()
    there = moved({"deep": [state, (1, "two", None)], "step": 7}, device)
    assert len(seen.waits) == 3, "float32, float64 and int64"
    assert there["step"] == 7
    assert there["deep"][1] == (1, "two", None)
    found = there["deep"][0]
    assert found._metadata == state._metadata
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].device == device
        assert found[name].dtype == value.dtype
        assert found[name].stride() == value.stride()
        assert torch.equal(found[name].cpu(), value)
    assert all(value.is_cpu for value in state.values()), "the old one is as it was"


def test_a_network_is_built_on_it_by_one_copy(experiment_of, device, seen):
    data, config = (getattr(experiment_of("digits", CPU), name) for name in ("data", "config"))
    here = build_network(config, data, CPU)
    seen.waits.clear()
    there = build_network(config, data, device)
    assert [wait.partition(":")[0] for wait in seen.waits] == ["scoreflow/runtime/gpu/transfer.py"]
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        assert other.device == device
        assert other.requires_grad
        assert other.stride() == one.stride()
        assert torch.equal(other.cpu(), one)


def test_a_network_moves_with_all_that_it_has(device, seen):
    network, expected = Network(0), Network(0)
    network.register_buffer("unsaved", torch.arange(3.0), persistent=False)
    network.dense.weight.requires_grad_(False)
    seen.waits.clear()
    found = move_network(network, device)
    assert found is network
    assert len(seen.waits) == 3, "float32, float64 and int64"
    assert network.unsaved.tolist() == [0.0, 1.0, 2.0]
    assert not network.dense.weight.requires_grad
    assert isinstance(network.conv.weight, nn.Parameter)
    for (name, one), (_, other) in zip(
        expected.state_dict().items(), network.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other.cpu()), name
        assert one.stride() == other.stride()
        assert other.storage_offset() == 0, "a memory of its own: a file has no more than it"


def test_what_is_there_already_is_not_copied(device, seen):
    state = Network(0).state_dict()
    assert moved(state, CPU) is state
    there = moved(state, device)
    seen.waits.clear()
    assert moved(there, device) is there
    assert seen.waits == []


def test_views_and_empty_tensors_are_moved_too(device, seen):
    table = torch.arange(12.0).view(3, 4)
    parts = [table[:, 1], table.T, table[0, 0].expand(3), torch.empty(0, 2), torch.tensor(4.0)]
    for there, part in zip(moved(parts, device), parts, strict=True):
        assert torch.equal(there.cpu(), part)


def test_tensors_apart_have_a_memory_each(device, seen):
    state = [torch.ones(3), torch.ones(2)]
    first, second = moved(state, device, apart=True)
    assert first._is_view() is second._is_view() is False
    first.add_(1)
    assert second.cpu().tolist() == [1.0, 1.0]


LOADERS = {
    "of a checkpoint": load_weights,
    "of an average": lambda network, weights: EMA(network).load_state_dict(weights),
    "of a training before": lambda network, weights: load_initial(
        network, InitialWeights("a file", 1, dict(weights), "", {})
    ),
    "of an import": lambda network, weights: load_imported(network, weights, "a file"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_weights_wait_once_a_dtype(name, device, seen):
    network, weights = Network(0).to(device), Network(1).state_dict()
    seen.waits.clear()
    LOADERS[name](network, weights)
    assert len(copies(seen)) == len(seen.waits) == 3
    if name != "of an average":
        for key, value in network.state_dict().items():
            assert torch.equal(value.cpu(), weights[key])


def test_a_name_too_many_is_refused_there_as_here(device, seen):
    weights = {**Network(1).state_dict(), "more": torch.ones(1)}
    with pytest.raises(RuntimeError, match="more"):
        load_weights(Network(0).to(device), weights)


def test_adam_goes_on_from_a_state_as_on_the_cpu(device, seen):
    """Its counts and moments are there in one copy, and its next steps wait for nothing."""
    network = nn.Linear(3, 2)
    optimizer = adam(network, 0.1)

    def steps(network, optimizer, count):
        x = torch.ones(4, 3, device=next(network.parameters()).device)
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            network(x).square().sum().backward()
            optimizer.step()

    steps(network, optimizer, 2)
    state = copy.deepcopy(optimizer.state_dict())
    there = copy.deepcopy(network).to(device)
    resumed = adam(there, 0.1)
    seen.waits.clear()
    resumed.load_state_dict(moved(state, device, apart=True))
    assert len(seen.waits) == 1
    steps(there, resumed, 2)
    assert len(seen.waits) == 1
    steps(network, optimizer, 2)
    for mine, its in zip(there.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine.detach().cpu(), its.detach(), rtol=1e-6, atol=1e-6)


def test_a_fingerprint_is_the_cpus_and_waits_once_a_dtype(device, seen):
    network = Network(0)
    expected = fingerprint(network)
    there = network.to(device)
    seen.waits.clear()
    assert fingerprint(there) == expected
    assert len(seen.waits) == 3


def test_the_check_on_arrival_waits_once_a_batch(device, seen):
    def found(where):
        model, x_0 = small.model(where), small.levels(where, 4).double() / 9 - 1
        times = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
        seen.waits.clear()
        return errors_of(model, times, x_0, batch_size=2)

    expected, mine = found(CPU), found(device)
    assert torch.equal(mine.each, expected.each)
    assert len(seen.waits) == 2 + 1, "batches, and the variance of the data"
