"""model.name="package.module:factory": what it is given, what it may not be, and a whole run."""

import sys

import pytest
import torch
from torch import nn

import scoreflow as sf
from scoreflow.cli.main import main
from scoreflow.errors import RequestError
from scoreflow.factory.own_network import own_network

SOURCE = """
import torch
from torch import nn
from helper_of_mine import WIDTH

class Net(nn.Module):
    def __init__(self, shape, num_classes=0, width=WIDTH):
        super().__init__()
        self.shape, self.num_classes = tuple(shape), num_classes
        self.inner = nn.Conv2d(shape[0], shape[0], 3, padding=1)
        self.classes = nn.Embedding(num_classes + 1, 1)

    def forward(self, x, label, classes=None):
        assert bool((label > 0).all()) and bool((label < 1).all()), "the label is t / 1001"
        h = self.inner(x) + label.view(-1, 1, 1, 1)
        return h if classes is None else h + self.classes(classes + 1).view(-1, 1, 1, 1)

def plain():
    return nn.Linear(2, 2)

def anything(**given):
    assert given == {"shape": (1, 8, 8), "num_classes": 0}, given
    return nn.Identity()

def by_position(shape, /, num_classes=3):
    return nn.Identity()

def needs(shape, width, depth):
    return nn.Identity()

def a_number():
    return 3

def fails():
    raise ZeroDivisionError("mine")

instance = nn.Identity()
text = "net"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with a package of one's own in it."""
    package = tmp_path / "nets_of_mine"
    package.mkdir()
    (package / "small.py").write_text(SOURCE)
    (package / "broken.py").write_text("import a_package_that_there_is_not\n")
    (tmp_path / "helper_of_mine.py").write_text("WIDTH = 4\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in list(sys.modules):
        if name.startswith(("nets_of_mine", "helper_of_mine")):
            del sys.modules[name]


def test_the_factory_gets_what_it_has_parameters_for(here):
    before = list(sys.path)
    network = own_network("nets_of_mine.small:Net", (3, 4, 4), 5)
    assert network.shape == (3, 4, 4)
    assert network.num_classes == 5
    assert isinstance(own_network("nets_of_mine.small:plain", (2,), 0), nn.Linear)
    assert isinstance(own_network("nets_of_mine.small:anything", (1, 8, 8), 0), nn.Identity)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nets_of_mine.none:Net", "No module named 'nets_of_mine.none'; modules are looked for"),
        ("nets_of_mine.broken:Net", "No module named 'a_package_that_there_is_not'"),
        ("nets_of_mine.small:Nett", "small has no Nett; did you mean 'Net'"),
        ("nets_of_mine.small:", r"must be package\.module:factory, got 'nets_of_mine\.small:'"),
        (":Net", "must be package"),
        ("nets_of_mine.small:needs", "and needs width, depth: give these a default"),
        ("nets_of_mine.small:by_position", "needs shape"),
        ("nets_of_mine.small:a_number", r"must return a torch\.nn\.Module, got int"),
        ("nets_of_mine.small:instance", "may need two; it is a Identity"),
        ("nets_of_mine.small:text", "must name a function or class"),
    ],
)
def test_what_cannot_be_a_network_is_refused_in_one_line(here, name, reason):
    with pytest.raises(RequestError, match=reason) as refused:
        own_network(name, (1, 8, 8), 0)
    assert "\n" not in str(refused.value)


def test_a_network_of_other_classes_is_refused(here):
    with pytest.raises(RequestError, match=r"whose num_classes is 5, as model\.cond"):
        own_network("nets_of_mine.small:plain", (1, 8, 8), 5)


def test_an_error_of_its_own_keeps_its_traceback(here):
    with pytest.raises(ZeroDivisionError, match="mine"):
        own_network("nets_of_mine.small:fails", (1, 8, 8), 0)


OVERRIDES = {
    "model.name": "nets_of_mine.small:Net",
    "model.conditional": True,
    "model.prediction": "v",
    "model.label_scale": 1 / 1001,
    "model.label_offset": 0.0,
    "model.integer_times": True,
    "training.num_steps": 2,
    "training.batch_size": 4,
    "training.log_every": 1,
    "training.checkpoint_every": 1,
    "training.precision": "float32",
}


def test_a_run_of_ones_own_network_is_trained_sampled_and_measured(here, capsys):
    for _ in sf.train("digits", "run", OVERRIDES, device="cpu"):
        pass
    run = sf.load("run", "cpu")
    assert type(run.model.network).__name__ == "Net"
    assert run.model.num_classes == 10
    assert run.model.output == "v"
    drawn = run.sample(2, sampler="dpm", steps=4, label=3)
    assert drawn.shape == (2, 1, 8, 8)
    found = run.log_likelihood(run.data.test[:2], nodes=8)
    assert bool(torch.isfinite(found.bits_per_dim).all())
    command = ["run.py", "--mode", "sample", "--workdir", "run", "--device", "cpu"]
    few = ["--config.sampling.steps=3", "--config.sampling.num_images=2"]
    assert main([*command, "--sampler", "dpm", *few]) == 0
    capsys.readouterr()
    (here / "nets_of_mine" / "small.py").unlink()
    del sys.modules["nets_of_mine.small"]
    assert main([*command, "--sampler", "dpm", *few]) == 2
    said = capsys.readouterr().err
    assert "model.name = nets_of_mine.small:Net: No module named 'nets_of_mine.small'" in said
    assert len(said.splitlines()) == 1
