"""A network on a device without float64 (Apple's MPS), and its states on the CPU.

No such device is needed: a kind of tensor stands for those that lie there. It refuses to meet a
float64 tensor, as MPS does, and comes about and goes by `to` alone.
"""

import pytest
import torch
from torch import Tensor

from scoreflow.cli import command_line
from scoreflow.cli.main import main
from scoreflow.errors import RequestError
from scoreflow.factory.assembly import experiment
from scoreflow.factory.training import build_training, check_precision, computes_in, remark
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.models import score_model
from scoreflow.runtime.device import build_device, states_of
from scoreflow.samplers import ProbabilityFlow, sample
from scoreflow.samplers.ancestral import Ancestral
from scoreflow.schema import resolve
from scoreflow.sde.noise import Noise
from scoreflow.training_run import trainer_of

CPU = torch.device("cpu")


class Place:
    """The device that is not there; the network's arithmetic is the CPU's."""

    type = "cpu"


PLACE = Place()


class There(Tensor):
    """A tensor on the device."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            kinds = {value.dtype for value in _tensors([args, kwargs or {}]) if value.ndim}
        if torch.float64 in kinds:  # a number goes along with any device
            raise RuntimeError("the device has no float64")
        return super().__torch_function__(function, types, args, kwargs or {})


def _tensors(values):
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _tensors(value)


class Moves:
    """How often tensors went to the device, and came back."""

    def __init__(self):
        self.went = self.came = 0

    def by(self, to):
        """`Tensor.to` that knows the device."""

        def moved(tensor, *given, **named):
            if given and given[0] is PLACE:
                if tensor.dtype == torch.float64:
                    raise RuntimeError("the device has no float64")
                self.went += 1
                return tensor.as_subclass(There)
            if isinstance(tensor, There) and given and isinstance(given[0], torch.device):
                self.came += 1
                return tensor.as_subclass(Tensor)
            return to(tensor, *given, **named)

        return moved


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes the networks of models that are made from then on lie on the device."""

    def begin():
        moves = Moves()
        monkeypatch.setattr(score_model, "place_of", lambda _network: PLACE)
        monkeypatch.setattr(Tensor, "to", moves.by(Tensor.to))
        return moves

    return begin


def of_toy(**changes):
    return made("toy", {"model.width": 16, "model.depth": 2, **changes})


def of_digits(**changes):
    flags = {"model.channels": 8, "model.num_groups": 4, "model.dropout": 0.2}
    return made("digits", {**flags, **changes})


def made(name, changes):
    changes = {"training.batch_size": 8, "training.num_steps": 4, **changes}
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    command = ["run.py", "--mode=train", f"--config={name}", *flags]
    return experiment(resolve.training_config(command_line.parse(command)), CPU)


def strict(network):
    """The network, which looks at what it is handed."""

    def look(_module, given, named):
        for value in (*given, *named.values()):
            assert isinstance(value, There), "it does not lie where the network does"

    network.register_forward_pre_hook(look, with_kwargs=True)


@pytest.mark.parametrize(
    "build",
    [
        of_toy,
        of_digits,
        lambda: of_digits(**{"model.conditional": True, "training.label_dropout": 0.3}),
        lambda: of_digits(**{"training.objective": "likelihood", "training.times": "real"}),
    ],
    ids=["mlp", "unet", "classes", "likelihood"],
)
def test_a_training_is_that_of_the_cpu(build, elsewhere):
    expected = trainer_of(build()).advance(2)
    moves, here = elsewhere(), build()
    strict(here.network)
    moves.went = moves.came = 0  # a loss was asked for before
    rows = trainer_of(here).advance(2)
    assert torch.equal(rows, expected)
    assert moves.came == 2
    assert moves.went >= 4  # images and labels, at least


def test_samples_and_likelihoods_are_those_of_the_cpu(elsewhere):
    def found():
        here = of_toy()
        model = here.model
        if model.place is not None:
            strict(here.network)
        here.network.eval()
        sde, noise = model.sde, Noise.of(0, 0, 5)
        times = torch.linspace(sde.num_steps, 0, 5, dtype=torch.float64)
        solver = Solver(probes=0, tolerance=1e-3, tolerance_bits=1e-3)
        with torch.no_grad():
            drawn = sample(Ancestral(), model, sde, times, noise, (2,))
            flown = ProbabilityFlow(model.t_min, 1e-3).encode(model, sde, drawn)
        exact = log_likelihood(model, sde, drawn, model.t_min, noise, solver)
        return drawn, flown, exact.log_prob

    plain, moves = found(), elsewhere()
    there = found()
    assert moves.came > 4
    for one, other in zip(plain, there, strict=True):
        assert type(other) is Tensor
        assert other.dtype == torch.float64
        assert torch.equal(one, other)


def test_the_stand_in_would_find_float64(elsewhere):
    elsewhere()
    with pytest.raises(RuntimeError, match="no float64"):
        torch.zeros(2, dtype=torch.float64).to(PLACE)
    with pytest.raises(RuntimeError, match="no float64"):
        torch.zeros(2).to(PLACE) + torch.zeros(2, dtype=torch.float64)
    model = of_toy().model.in_precision("float64")
    with pytest.raises(RuntimeError, match="no float64"):
        model(torch.zeros(3, 2, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64))


def test_where_the_states_lie_and_what_is_said(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mps = build_device("mps")
    assert (mps.type, build_device("mps:0")) == ("mps", mps)
    assert states_of(mps) == CPU
    assert states_of(torch.device("cuda", 1)) == torch.device("cuda", 1)
    settings = build_training(of_toy().config)
    assert remark(settings, mps) == (
        "mps has no float64: the network is there, in float32; data, states and solvers are on "
        "the CPU"
    )
    half = build_training(of_toy(**{"training.precision": "float16"}).config)
    assert not computes_in("bfloat16", mps)
    with pytest.raises(RequestError, match=r"add --config\.training\.precision=float32"):
        check_precision(half, mps)


def test_the_certificate_needs_float64(capfd):
    assert main(["run.py", "--mode=equivalence", "--device=mps"]) == 2
    assert "computes networks in float64, which mps has not" in capfd.readouterr().err
