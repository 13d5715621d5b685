"""The published clock of discrete networks: that of the networks trained in continuous time."""

import torch

from scoreflow.interop.score_sde.clock import published


def test_it_is_how_a_continuous_network_is_asked(golden_of, fixtures):
    """One file read both ways: by the published clock, a discrete network is a continuous one."""
    path = fixtures / "score_sde" / "vp_ddpm_continuous" / "checkpoint_25.pth"
    told = {"sde": "vp", "size": 8, "norm_groups": 4}
    discrete, continuous = (
        golden_of(path, "score_sde", told | {"continuous": kind}).model("float64")
        for kind in (False, True)
    )
    found = published(discrete, 0.1, 20.0)
    assert found.t_min == continuous.t_min == 0.01
    t = torch.tensor([0.01, 0.7, 12.3, 500.0, 1000.0], dtype=torch.float64)
    for one, other in ((found.sde.alpha(t), continuous.sde.alpha(t)),
                       (found.sde.sigma(t), continuous.sde.sigma(t))):  # fmt: skip
        torch.testing.assert_close(one, other)
    x_t = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(found(x_t, t).eps, continuous(x_t, t).eps)
    own = discrete(x_t[3:], t[3:]).eps
    assert (own - found(x_t[3:], t[3:]).eps).abs().max() > 1e-4  # a label off by one half
