"""A step that could be one CUDA graph: the same training, and nothing of the host's inside."""

import io
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scoreflow.cli.main import main
from scoreflow.cli.modes import train
from scoreflow.configs import digits, toy
from scoreflow.data.stored.images import StoredImages
from scoreflow.factory.assembly import experiment
from scoreflow.training.graphed.whole_step import WARM_UP, Graphed, obstacle, without_graphs
from scoreflow.training.trainer import Trainer, check_state
from scoreflow.training_run import trainer_of

STEPS = 4
RATE = 2.0**-10  # which float32 has, as a dial does


def config_of(**changes):
    config = (toy if "data__name" in changes else digits).get_config()
    config.model.update(channels=8, num_groups=4, multipliers=(1,), attention_sizes=(8,))
    config.model.dropout = 0.2
    config.training.update(
        num_steps=20, batch_size=6, warmup_steps=0, decay="constant", learning_rate=RATE
    )
    config.seed = changes.pop("seed", 0)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        config[section].update({name: value})
    return config


def training(device="cpu", **changes) -> Trainer:
    return trainer_of(experiment(config_of(**changes), torch.device(device)))


def through_bytes(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def same_bits(one, other, where="") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same_bits(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        for k, pair in enumerate(zip(one, other, strict=True)):
            same_bits(*pair, f"{where}[{k}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


KINDS = {
    "plain": {},
    "micro-batches": {"training__micro_batches": 2},
    "conditional": {
        "model__conditional": True,
        "training__label_dropout": 0.3,
        "training__flip": True,
    },
    "importance": {
        "training__times": "importance",
        "training__objective": "likelihood",
        "training__low_discrepancy": True,
    },
    "flow": {
        "sde__name": "rectified",
        "model__prediction": "u",
        "training__objective": "flow_matching",
        "training__times": "log_normal",
        "training__shift": 2.0,
    },
    "bfloat16": {"training__precision": "bfloat16", "training__channels_last": True},
    "learned": {
        "model__learned_variance": True,
        "training__objective": "hybrid",
        "training__clip_norm": 0.0,
    },
    "vectors": {"data__name": "toy"},
    "two averages": {"training__ema": "power"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_from_tensors_trains_the_same(kind):
    """Losses, weights, averages, the optimiser's state and what is saved of it: to the bit."""
    plain, dialled = training(**KINDS[kind]), training(**KINDS[kind])
    dialled.in_one_graph()
    assert torch.equal(dialled.advance(STEPS), plain.advance(STEPS))
    same_bits(through_bytes(dialled.state()), plain.state())
    more = len(plain.averages) - 1
    check_state(plain.network, STEPS, {**dialled.state(), "trained_with": {}}, False, more)


def test_a_resumed_training_reads_its_own_state():
    through, half, rest = training(), training(), training(seed=5)
    expected = through.advance(2 * STEPS)
    half.in_one_graph()
    assert torch.equal(half.advance(STEPS), expected[:STEPS])
    rest.seed, rest.batches = half.seed, half.batches
    rest.in_one_graph()
    rest.advance(1)
    rest.load_state(through_bytes(half.state()))
    assert torch.equal(rest.advance(STEPS), expected[STEPS:])
    same_bits(rest.state(), through.state())


def test_a_rate_is_rounded_to_float32_and_no_more():
    changes = {"training__warmup_steps": 3, "training__decay": "cosine"}
    plain, dialled = training(**changes), training(**changes)
    dialled.in_one_graph()
    torch.testing.assert_close(dialled.advance(STEPS), plain.advance(STEPS), rtol=1e-5, atol=0)


def test_a_training_that_is_over_keeps_no_gradient_and_no_graph():
    through, paused = training(), training()
    expected = through.advance(2 * STEPS)
    paused.in_one_graph()
    paused.advance(STEPS)
    recorded = weakref.ref(paused._graphed)
    paused.release()
    assert all(weight.grad is None for weight in paused.network.parameters())
    assert recorded() is None
    assert torch.equal(paused.advance(STEPS), expected[STEPS:])  # and may go on


def test_samples_are_drawn_when_the_training_has_given_its_memory_back(monkeypatch, tmp_path):
    seen = []

    def drawn(trained, name):
        seen.append([weight.grad for weight in trained.experiment.network.parameters()])

    monkeypatch.setattr(train, "draw_into", drawn)
    monkeypatch.setattr(train, "measure_test_set", lambda trained: drawn(trained, ""))
    keys = {"model.width": 8, "model.depth": 1, "training.num_steps": 2, "training.log_every": 1}
    keys["training.checkpoint_every"] = 1
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    command = ["run.py", "--mode=train", f"--config={toy.__file__}", "--device=cpu", *flags]
    assert main([*command, f"--workdir={tmp_path / 'run'}"]) in (0, None)
    assert len(seen) > 1
    assert all(grad is None for each in seen for grad in each)


def on_a_gpu_that_does_not_record(monkeypatch):
    """As far as torch's optimisers ask, in its older versions and its newer ones."""
    found, stream = torch.device("cuda"), SimpleNamespace(is_capturing=lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: found)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda *_: stream)


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.filterwarnings("error:This instance was constructed with capturable")
def test_steps_that_are_not_recorded_yet_are_no_cause_of_a_warning(monkeypatch, resumed):
    dialled = training()
    if resumed:
        dialled.load_state(through_bytes(dialled.state()))
    dialled.in_one_graph()
    on_a_gpu_that_does_not_record(monkeypatch)
    dialled.advance(WARM_UP)
    dialled.optimizer._warned_capturable_if_run_uncaptured = False  # so the test can fail
    with pytest.raises(UserWarning, match="capturable=True can impair performance"):
        dialled.optimizer.step()


# ---- recording, on a GPU that only counts


class Recorder:
    """Stands in for torch.cuda: what is recorded is Python's, and a replay runs it."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.replays, self.recorded, self.streams = refuses, 0, 0, 0

    def Stream(self, device):
        return SimpleNamespace(wait_stream=lambda other: None, device=device)

    def current_stream(self, device):
        return self.Stream(device)

    @contextmanager
    def stream(self, stream):
        self.streams += 1
        yield

    def CUDAGraph(self):
        def replay():
            self.replays += 1
            self.played()

        return SimpleNamespace(replay=replay)

    @contextmanager
    def graph(self, graph, stream):
        self.recorded += 1
        yield
        if self.refuses:
            raise RuntimeError(self.refuses)


def graphed(monkeypatch, refuses=""):
    recorder, lines = Recorder(refuses), []
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(recorder, name))
    total, out = torch.zeros(()), torch.zeros(2)

    def work():
        total.add_(1)
        return out.copy_(total.expand(2))

    recorder.played = work
    return recorder, lines, Graphed(work, torch.device("cuda"), lines.append)


def test_some_steps_run_aside_then_one_is_recorded_and_replayed(monkeypatch):
    recorder, lines, step = graphed(monkeypatch)
    rows = [step() for _ in range(WARM_UP)]
    assert (recorder.streams, recorder.recorded, recorder.replays) == (WARM_UP, 0, 0)
    rows = [step() for _ in range(4)]
    assert (recorder.streams, recorder.recorded, recorder.replays) == (WARM_UP, 1, 4)
    values = [row.tolist() for row in rows]
    assert len({value[0] for value in values}) == 4  # a row is not overwritten by the next step
    assert lines == ["a training step is one CUDA graph from now on"]


def test_what_cannot_be_recorded_goes_on_as_it_is(monkeypatch):
    recorder, lines, step = graphed(monkeypatch, "operation not permitted\nand more")
    for _ in range(WARM_UP + 3):
        step()
    assert (recorder.recorded, recorder.replays) == (1, 0)
    assert len(lines) == 1
    assert "cannot be one CUDA graph (operation not permitted): it goes on without" in lines[0]


def test_work_on_a_cpu_is_never_recorded():
    step = Graphed(lambda: torch.ones(2), torch.device("cpu"), pytest.fail)
    assert [step().tolist() for _ in range(WARM_UP + 2)] == [[1.0, 1.0]] * (WARM_UP + 2)


# ---- which trainings


def test_obstacles():
    there = torch.zeros(3)
    assert obstacle(1, "bfloat16", there) is None
    assert "several processes" in obstacle(2, "bfloat16", there)
    assert "float16" in obstacle(1, "float16", there)
    on_disk = object.__new__(StoredImages)
    assert "images on the disk" in obstacle(1, "float32", on_disk)


@pytest.mark.parametrize(
    ("mode", "device", "compiled", "world", "expected", "lines"),
    [
        ("reduce-overhead", "cuda", True, 1, True, 0),
        ("reduce-overhead", "cuda", True, 2, False, 1),
        ("reduce-overhead", "cuda", False, 1, False, 0),
        ("reduce-overhead", "cpu", True, 1, False, 0),
        ("default", "cuda", True, 1, False, 0),
    ],
)
def test_a_compiled_training_on_cuda_takes_a_graph(mode, device, compiled, world, expected, lines):
    network, said = nn.Linear(1, 1), []
    model = SimpleNamespace(network=nn.Identity() if compiled else network)
    data = SimpleNamespace(train=SimpleNamespace(device=torch.device(device)))
    settings = SimpleNamespace(compile_mode=mode, precision="float32")
    trainer = SimpleNamespace(shard=SimpleNamespace(world=world), _say=said.append)
    assert Trainer._takes_a_graph(trainer, model, network, data, settings) == expected
    assert len(said) == lines


def test_its_network_is_compiled_without_graphs_of_its_own(monkeypatch):
    modes = []
    monkeypatch.setattr(
        torch, "compile", lambda network, **kwargs: modes.append(kwargs) or network
    )
    network = nn.Linear(1, 1)
    assert without_graphs(nn.Identity(), network) is network
    assert modes == [{}]
    knows = SimpleNamespace(without_graphs=lambda: "its own")
    assert without_graphs(knows, network) == "its own"
