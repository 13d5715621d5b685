"""What is made of the variables that torchrun, or a cluster, sets."""

import socket
from datetime import timedelta

import pytest
import torch

from scoreflow.cli.main import main
from scoreflow.errors import RequestError
from scoreflow.runtime import distributed
from scoreflow.runtime.device import build_device
from scoreflow.runtime.distributed import Shard

NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("CUDA_VISIBLE_DEVICES", "TORCHELASTIC_RUN_ID"),
)
MEETING = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    """Sets exactly these variables of the environment."""

    def put(**values):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "where", "told"),
    [
        ({}, Shard(), None),
        ({"RANK": "0"}, Shard(), None),
        (
            {"RANK": "1"},
            Shard(),
            "RANK = 1 without WORLD_SIZE is ignored: this process works alone",
        ),
        ({"RANK": "1", "WORLD_SIZE": ""}, Shard(), "RANK = 1 without WORLD_SIZE is ignored: this "
         "process works alone"),
        ({"RANK": "", "WORLD_SIZE": " "}, Shard(), None),
        ({"RANK": "none"}, Shard(), "RANK = none without WORLD_SIZE is ignored: this process "
         "works alone"),
        ({"WORLD_SIZE": "1"}, Shard(), None),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, Shard(), None),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", **MEETING}, Shard(3, 4), None),
        (
            {"WORLD_SIZE": "4", "RANK": "0", **MEETING},
            Shard(0, 4),
            "LOCAL_RANK is not set: a process takes the GPU of its RANK",
        ),
        ({"WORLD_SIZE": "4", "RANK": "2", **MEETING}, Shard(2, 4), None),
    ],
)  # fmt: skip
def test_the_place_of_a_process(values, where, told, variables):
    variables(**values)
    assert distributed.placement() == where
    assert distributed.is_main_process() == (where.rank == 0)
    assert distributed.remark() == told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE must be a whole number from 1, got 'abc'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number from 1, got '0'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be a whole number from 1, got '-2'"),
        ({"WORLD_SIZE": "4", **MEETING}, "RANK must be a whole number in 0..3, below WORLD_SIZE, "
         "got ''"),
        ({"WORLD_SIZE": "4", "RANK": "4", **MEETING}, "RANK must be a whole number in 0..3"),
        ({"WORLD_SIZE": "4", "RANK": "x", **MEETING}, "RANK must be a whole number in 0..3"),
        ({"WORLD_SIZE": "4", "RANK": "0"}, "WORLD_SIZE = 4 processes meet at an address, and "
         "MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "a"}, "WORLD_SIZE = 4 processes meet at "
         "an address, and MASTER_PORT is not set"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_is_refused_with_the_remedy(values, message, variables):
    variables(**values)
    for ask in (distributed.placement, distributed.is_main_process, distributed.shard):
        with pytest.raises(RequestError) as refused:
            ask()
        assert str(refused.value).startswith(message)
        assert "unset WORLD_SIZE to work in one process" in str(refused.value)


@pytest.mark.parametrize(
    ("address", "port", "rank", "why"),
    [
        ("localhost", "nine", "1", "MASTER_PORT must be a whole number in 1..65535, got 'nine'"),
        ("localhost", "0", "0", "MASTER_PORT must be a whole number in 1..65535, got '0'"),
        ("localhost", "65536", "0", "MASTER_PORT must be a whole number in 1..65535, got '65536'"),
        ("localhost", "9", "1", "did not all come to localhost:9 within 0 seconds"),
        ("no.such.host.invalid", "9", "0", "did not all come to no.such.host.invalid:9 within 0"),
        ("localhost", "", "0", "did not all come to localhost"),  # rank 0 listens, nobody comes
    ],
)
def test_processes_that_cannot_meet_are_told_in_a_line(
    address, port, rank, why, variables, monkeypatch
):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        some_port = str(free.getsockname()[1])
    variables(WORLD_SIZE="2", RANK=rank, MASTER_ADDR=address, MASTER_PORT=port or some_port)
    monkeypatch.setattr(distributed, "MEETING", timedelta(seconds=0.1))
    with pytest.raises(RequestError) as refused:
        distributed.shard()
    assert why in str(refused.value)
    assert str(refused.value).endswith("or start all of them by torchrun")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({}, None),
        ({"LOCAL_RANK": "1"}, None),  # of somebody else: there are no other processes
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", **MEETING}, 1),
        ({"WORLD_SIZE": "4", "RANK": "3", **MEETING}, 3),
    ],
)
def test_the_gpu_of_a_process(values, place, variables, monkeypatch):
    variables(**values)
    assert distributed.local_rank() == place
    chosen = gpus(monkeypatch, 2)
    expected = torch.device("cuda") if place is None else torch.device("cuda", place % 2)
    for name in ("", "cuda"):
        assert build_device(name) == expected
        assert chosen == ([] if place is None else [expected])
        chosen.clear()


def gpus(monkeypatch, count):
    """A machine with so many GPUs, on which a number computes as on the CPU; those chosen."""
    chosen, zeros = [], torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, **more: zeros(*shape, **more))
    return chosen


OF_TORCHRUN = {"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none", **MEETING}


@pytest.mark.parametrize("name", ["", "cuda"])
def test_each_process_of_a_machine_has_a_gpu_of_its_own(name, variables, monkeypatch):
    gpus(monkeypatch, 4)
    found = set()
    for rank in "0123":
        variables(**OF_TORCHRUN, RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="4")
        found.add(build_device(name).index)
    assert found == {0, 1, 2, 3}


@pytest.mark.parametrize("name", ["", "cuda"])
@pytest.mark.parametrize("beside", [{"LOCAL_WORLD_SIZE": "4"}, {}])
def test_two_processes_on_a_gpu_are_refused(name, beside, variables, monkeypatch):
    gpus(monkeypatch, 2)
    variables(**OF_TORCHRUN, RANK="3", LOCAL_RANK="3", **beside)
    told = r"4 processes of this machine would share 2 GPUs: start 2 .*, or use --device cpu$"
    with pytest.raises(RequestError, match=told):
        build_device(name)
    assert build_device("cpu").type == "cpu"  # where they are welcome


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_gpu_that_several_processes_name_is_refused(rank, variables, monkeypatch):
    gpus(monkeypatch, 4)
    variables(**OF_TORCHRUN, RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2")
    with pytest.raises(RequestError, match="--device cuda:1 would be shared by the 2 processes"):
        build_device("cuda:1")
    variables(WORLD_SIZE="2", RANK=rank, LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", **MEETING)
    assert build_device("cuda:1") == torch.device("cuda", 1)  # one on each of two machines


@pytest.mark.parametrize("rank", ["0", "3"])
def test_they_are_refused_before_the_others_are_waited_for(rank, variables, monkeypatch, capsys):
    gpus(monkeypatch, 2)
    variables(**OF_TORCHRUN, RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="4")
    monkeypatch.setattr(distributed, "shard", lambda: pytest.fail("it waits for the others"))
    assert main(["run.py", "--mode=train", "--device=cuda"]) == 2
    assert "4 processes of this machine would share 2 GPUs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("launcher", "own"),
    [
        ({"CUDA_VISIBLE_DEVICES": "3", "LOCAL_RANK": "3"}, True),  # a cluster's
        ({**OF_TORCHRUN, "CUDA_VISIBLE_DEVICES": "GPU-17", "LOCAL_RANK": "0"}, True),  # virtual
        ({**OF_TORCHRUN, "CUDA_VISIBLE_DEVICES": "0", "LOCAL_RANK": "3"}, False),  # the user's
        ({"LOCAL_RANK": "3"}, False),  # a machine with one
    ],
)
def test_a_launcher_may_show_each_process_one_gpu(launcher, own, variables, monkeypatch):
    gpus(monkeypatch, 1)
    variables(**{"WORLD_SIZE": "4", "RANK": "3", "LOCAL_WORLD_SIZE": "4", **MEETING, **launcher})
    if own:
        assert build_device("cuda") == torch.device("cuda")
    else:
        with pytest.raises(RequestError, match="4 processes of this machine would share 1 GPU:"):
            build_device("cuda")


def test_a_local_rank_that_is_none_is_refused(variables):
    variables(WORLD_SIZE="2", RANK="0", LOCAL_RANK="x", **MEETING)
    with pytest.raises(RequestError, match="LOCAL_RANK must be a whole number from 0, got 'x'"):
        build_device("")
