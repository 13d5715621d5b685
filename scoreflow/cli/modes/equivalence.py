"""--mode equivalence: the certificate that noise prediction, score matching and SDEs are one."""

import time

from torch import Tensor

from scoreflow.certificate import certificate
from scoreflow.certificate.trained_sampler_laws import Amount
from scoreflow.cli.command_line import command_of
from scoreflow.cli.console import recorded, say
from scoreflow.errors import RequestError, RunError
from scoreflow.factory.assembly import Experiment
from scoreflow.factory.training import choose_precision
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.models.score_model import ScoreModel
from scoreflow.report.page import write_report
from scoreflow.runtime.compiling import precision_on
from scoreflow.runtime.environment import environment
from scoreflow.schema.request import Request
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import Denoiser
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.fingerprint import fingerprint
from scoreflow.storage.run_folder import RunDir
from scoreflow.trained_run import open_run
from scoreflow.training_run import fresh_run


def run(request: Request, argv: list[str]) -> None:
    """The certificate, on the run's network, or on a fresh one where there is none."""
    if request.device.startswith("mps"):
        raise RequestError(
            f"--mode equivalence computes networks in float64, which {request.device} has not: "
            "add --device cpu"
        )
    if request.workdir is None:
        with fresh_run(request, command_of(argv)) as (experiment, folder):
            experiment.network.eval()
            certify(experiment, folder, experiment.model, 0)
        return
    trained = open_run(request, say)
    about = trained.measured_on
    certify(trained.experiment, trained.folder, trained.model, trained.step, about)


def _log_density(
    denoiser: Denoiser,
    sde: SDE,
    x: Tensor,
    t: float,
    noise: Noise,
    probes: int,
    tolerance: float,
) -> Tensor:
    """By the flow, as --mode likelihood has it: nats (B, P)."""
    solver = Solver(probes, tolerance, tolerance)
    return log_likelihood(denoiser, sde, x, t, noise, solver).log_prob


def _rank(result: Json) -> dict[str, float]:
    """What makes a certificate the headline: newest weights, most images, most steps."""
    c = result["settings"]
    return {
        "of newer weights": result["step"],
        "of more data": c["num_images"],
        "of more steps": c["steps"],
    }


def certify(
    experiment: Experiment, folder: RunDir, model: ScoreModel, step: int, more: Json | None = None
) -> None:
    """Check every identity on a network; step 0 is an untrained one.

    Args:
        experiment: its config and data.
        folder: for the result.
        model: the network.
        step: of its checkpoint.
        more: what the result says besides.

    Raises:
        RunError: an identity failed; the results have been written.
    """
    start, c = time.monotonic(), experiment.config.equivalence
    rounded = precision_on(choose_precision(experiment.config), experiment.device)
    model = model.in_precision(rounded)
    if remark := model.solver_remark(experiment.device):
        say(remark)
    model = model.labelled(0) if model.needs_class else model
    subject = certificate.Subject(model, experiment.data, step > 0, _log_density)
    drawn = Amount(c.num_images, experiment.config.sampling.batch_size, c.steps)
    effort = certificate.Effort(drawn, c.batch_size, c.train_steps)
    rows = certificate.run(subject, effort, say)
    result = certificate.as_result(rows, time.monotonic() - start)
    where = environment(str(experiment.device))
    sde = experiment.config.sde.name
    of_network = {"sde": sde, "precision": model.precision, "trained": step > 0}
    settings = {**recorded(c, experiment.device), **of_network}
    about = {"step": step, "settings": settings, "environment": where, **(more or {})}
    about["weights"] = fingerprint(model.network)
    asked = {"settings": settings, "step": step, "weights": about["weights"]}
    folder.keep_result("equivalence", {**result, **about}, asked, _rank)
    failed = [identity.name for _, identity in rows if not identity.passed]
    page = write_report(folder)
    say(f"{len(rows) - len(failed)} of {len(rows)} identities hold; look at {page}")
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} identities failed: {'; '.join(failed)}")
