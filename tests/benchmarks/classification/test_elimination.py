"""Elimination replayed on recorded terms is elimination as it is measured."""

import math

import torch

from benchmarks.classification.elimination import recorded, rounds_of, rows
from scoreflow.likelihood.classification import times
from scoreflow.likelihood.classification.bayes import Prior, log_posterior
from scoreflow.likelihood.classification.bound_by_class import BoundByClass
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.vp import VPSDE


def test_a_replay_is_what_would_be_measured(mixture):
    sde = VPSDE.log_linear(200, sigma_min=0.01)
    each = [mixture.component(k).denoiser(sde) for k in range(3)]

    def of(labels):
        def denoise(x_t, t):
            x_0 = torch.stack([d(x_t, t).x_0 for d in each], 1)
            return predict(sde, x_t, t, "x_0", x_0[torch.arange(len(x_t)), labels])

        return denoise

    prior, law = Prior(torch.arange(3), mixture.weights.log()), times.even_law(sde, 1.0)
    bound = BoundByClass(
        of, law, prior.classes, prior.log, None, "uniform", 0, rounds_of(32), 2.0, 4096
    )
    x = mixture.sample(Noise.of(1, 0, 20)) / 2
    own = torch.zeros(20, dtype=torch.int64)
    found = rows(recorded(bound), x, own, prior, 8, (2.0,))
    assert [(row["times"], row["z"]) for row in found] == [
        (8, None), (16, None), (16, 2.0), (32, None), (32, 2.0),
    ]  # fmt: skip
    parts = [bound.of(x[each], each) for each in torch.arange(20).split(8)]
    evaluations = torch.cat([part.evaluations for part in parts])
    classes = log_posterior(torch.cat([part.nats for part in parts]), prior.log).argmax(1)
    assert found[-1]["evaluations"] == float(evaluations.sum()) / 20
    assert found[-1]["accuracy"] == float((classes == 0).double().mean())
    assert found[-2]["evaluations"] == 3 * 33
    assert math.isclose(found[-1]["saved"], 1 - found[-1]["evaluations"] / 99)
