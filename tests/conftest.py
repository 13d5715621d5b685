"""Shapes are checked in every test, and what the rooms' tests share."""

import gc
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# The hook rewrites modules as they are imported, so none may have been before.
early = [name for name in ("scoreflow.sde", "scoreflow.samplers") if name in sys.modules]
assert not early, f"{early} imported before the shape checks were installed"
if importlib.util.find_spec("scoreflow") is None:  # neither installed nor on the path
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import plots  # noqa: E402
from tests.processes.forking import Forks  # noqa: E402
from tests.shape_checks import install  # noqa: E402

install(["scoreflow.sde", "scoreflow.samplers"])

import scipy.special  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from scoreflow.sde.analytic import GaussianMixture  # noqa: E402
from scoreflow.sde.base import SDE, Rescaled, broadcast  # noqa: E402
from scoreflow.sde.noise import Noise, Stream  # noqa: E402
from scoreflow.sde.prediction import Denoiser, Prediction, predict  # noqa: E402
from scoreflow.sde.processes.edm import EDMSDE  # noqa: E402
from scoreflow.sde.processes.rectified import RectifiedSDE  # noqa: E402
from scoreflow.sde.processes.subvp import SubVPSDE  # noqa: E402
from scoreflow.sde.processes.ve import VESDE  # noqa: E402
from scoreflow.sde.processes.vp import VPSDE  # noqa: E402

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it runs in the background, and every process that a test starts and
    # interrupts would inherit it, and run on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # so nohup starts what it runs


class ScaledSDE(SDE):
    """alpha = exp(-rate u), sigma = 2 u with u = t / N: a process whose scale r is not 1.

    rate = 0 is a variance-exploding one. Everything about it is a closed form.
    """

    def __init__(self, num_steps: int, rate: float) -> None:
        self.num_steps, self.rate = num_steps, rate

    def log_alpha(self, t: Tensor) -> Tensor:
        return -self.rate * t / self.num_steps

    def variance(self, t: Tensor) -> Tensor:
        return (2 * t / self.num_steps) ** 2

    def time(self, angle: Tensor) -> Tensor:
        y = angle.tan() / 2  # = u exp(rate u)
        if self.rate:
            w = scipy.special.lambertw(self.rate * y.numpy()).real
            y = torch.as_tensor(w, dtype=torch.float64) / self.rate
        return y * self.num_steps


PROCESSES = {
    "linear": lambda: VPSDE.linear(200),
    "cosine": lambda: VPSDE.cosine(200),
    "log_linear": lambda: VPSDE.log_linear(200),
    "subvp": lambda: SubVPSDE.linear(200),
    "ve": lambda: VESDE(200, 0.01, 20.0),
    "rectified": lambda: RectifiedSDE(200),
    "edm": lambda: EDMSDE(200, 0.01, 20.0),
    "exploding": lambda: ScaledSDE(200, 0.0),
    "scaled": lambda: ScaledSDE(200, 0.3),
    "rescaled": lambda: Rescaled(VPSDE.cosine(200), 0.8),
}


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest) -> SDE:
    """Every schedule and process, and two more that do not preserve the variance."""
    return PROCESSES[request.param]()


@pytest.fixture
def mixture() -> GaussianMixture:
    """Three full-covariance components in the plane, far enough apart to count."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [1.0, -1.5]], dtype=torch.float64)
    spread = [[0.10, 0.05, 0.08], [0.05, -0.03, 0.09], [0.04, 0.0, 0.04]]
    covariances = torch.tensor([[[a, b], [b, c]] for a, b, c in spread], dtype=torch.float64)
    return GaussianMixture(weights, means, covariances)


@dataclass(frozen=True)
class Injected(Noise):
    """Noise whose normals are given, by (stream, draw), and zero where they are not."""

    normals: dict[tuple[Stream, int], Tensor] = field(default_factory=dict)

    def normal(self, stream: Stream, shape: tuple[int, ...] = (), draw: int = 0) -> Tensor:
        zero = torch.zeros(len(self.index), *shape, dtype=torch.float64)
        return self.normals.get((stream, draw), zero)


@pytest.fixture
def inject() -> Callable[[int, dict[tuple[Stream, int], Tensor]], Noise]:
    """(batch size, normals by (stream, draw)) -> Noise."""
    return lambda size, normals: Injected(0, torch.arange(size), 0, normals)


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """(number of processes, script, *arguments) -> what torchrun printed and returned.

    The launcher keeps the port that its processes meet at open from the beginning, so two tests
    that run at a time cannot take it from each other.
    """

    def run(world: int, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world}"]
        launch += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", str(script), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=400)

    return run


@pytest.fixture(scope="session")
def forked() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """As `torchrun`, without the imports: for what processes do, not for how they are started."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def elementwise() -> Callable[[SDE], Denoiser]:
    """SDE -> exact Denoiser of N(0.3, 0.25) pixels, by +, -, *, / only.

    So each row is computed on its own, to the bit, and what depends on its mates is the sampler's
    doing.
    """

    def build(sde: SDE) -> Denoiser:
        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            alpha, sigma = broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t)
            gain = alpha * 0.25 / (alpha * alpha * 0.25 + sigma * sigma)
            return predict(sde, x_t, t, "x_0", 0.3 + gain * (x_t - alpha * 0.3))

        return denoise

    return build


def pytest_collection_finish() -> None:
    """Half a million objects are there for good: no collection of garbage need go through them.

    torch, its compilers and thousands of tests; that was a twentieth of the tests' time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def plots_once_a_kind() -> None:
    """Plots of pages are drawn once a kind."""
    plots.install()
