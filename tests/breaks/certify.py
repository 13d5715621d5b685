"""The certificate of packages that lie elsewhere: a line of JSON in, a line of JSON out.

In: [folder of a package, group, first words of a row]. Out: the names of that group's rows that
fail there, of a certificate of an untrained network under a VP. Each package is imported in a
child of this process, which has imported all that is not a part of it.
"""

import json
import os
import sys
import traceback

import jinja2  # noqa: F401
import matplotlib  # noqa: F401
import ml_collections  # noqa: F401
import numpy  # noqa: F401
import scipy.stats  # noqa: F401
import torch
import torch._dynamo  # an optimiser imports it
import torchdiffeq  # noqa: F401


def failing(root: str, group: int, words: str) -> list[str]:
    """Names of rows; of the group on samplers, of the one that the words begin with."""
    sys.path.insert(0, root)
    from scoreflow.certificate import certificate
    from scoreflow.certificate.closed_forms import sampler_steps
    from scoreflow.certificate.trained_sampler_laws import Amount
    from scoreflow.cli.modes.equivalence import _log_density
    from scoreflow.data import toy
    from scoreflow.models.mlp import MLP
    from scoreflow.models.score_model import ScoreModel
    from scoreflow.sde import VPSDE

    assert certificate.__file__.startswith(root), certificate.__file__
    named = [each for each in sampler_steps.VARIANTS if words.startswith(f"{each.of}:")]
    sampler_steps.VARIANTS[:] = named or sampler_steps.VARIANTS
    every = certificate.parts
    certificate.parts = lambda *given: [part for part in every(*given) if part[0] == group]
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, 16, 1), VPSDE.linear(100), "v")
    subject = certificate.Subject(model, toy.load(), False, _log_density)
    rows = certificate.certify(subject, certificate.Effort(Amount(64, 64, 8), 4, 3))
    return [row.name for _, row in rows if not row.passed]


def serve() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))  # its first call imports much
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                answer = json.dumps(failing(*json.loads(line)))
            except Exception:
                answer = json.dumps(traceback.format_exc())
            print(answer, flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(json.dumps("it was killed"), flush=True)


if __name__ == "__main__":
    serve()
