"""The network for vectors against its formula in NumPy, and against a score known exactly."""

import numpy as np
import pytest
import torch

from scoreflow.models.mlp import MLP


def silu(x):
    return x / (1 + np.exp(-x))


def test_equals_its_formula_written_in_numpy():
    torch.manual_seed(0)
    network = MLP(3, width=16, depth=2, embedding=8).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x, index = torch.randn(5, 3).double(), torch.tensor([0.0, 1.0, 2.5, 7.25, 11.0])

    def apply(name, h):
        weights = {k: v.numpy() for k, v in network.state_dict().items()}
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    angles = index.numpy()[:, None] * 10000.0 ** (-np.arange(4) / 3)
    embedding = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    embedding = silu(apply("embedding.outer", silu(apply("embedding.inner", embedding))))
    h = apply("stem", x.numpy())
    for layer in ("layers.0", "layers.1"):
        branch = apply(f"{layer}.inner", h) + apply(f"{layer}.index", embedding)
        h = h + apply(f"{layer}.outer", silu(branch))
    expected = apply("head", silu(h))
    # The sinusoids are float32 by intent.
    np.testing.assert_allclose(network(x, index).detach().numpy(), expected, atol=1e-4)


def test_answers_nearly_zero_at_the_start_yet_every_weight_has_a_gradient():
    torch.manual_seed(0)
    network = MLP(2)
    answer = network(torch.randn(64, 2), torch.rand(64) * 999)
    assert answer.abs().max() < 1e-3
    (answer - 1).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.any(), name


def test_learns_the_exact_noise_of_a_gaussian():
    """eps(x_t) = sigma (x_t - alpha m) / (alpha^2 s^2 + sigma^2) for x_0 ~ N(m, s^2)."""
    torch.manual_seed(0)
    network = MLP(2, width=64, depth=2)
    mean, std = torch.tensor([0.5, -0.3]), torch.tensor([0.4, 1.5])

    def batch(size):
        index = torch.rand(size) * 999
        phi = (0.02 + index / 999)[:, None] * (np.pi / 2 / 1.05)
        alpha, sigma = phi.cos(), phi.sin()
        spread = (alpha * std) ** 2 + sigma**2
        x = alpha * mean + spread.sqrt() * torch.randn(size, 2)
        return x, index, sigma * (x - alpha * mean) / spread

    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 500)
    for _ in range(500):
        x, index, eps = batch(256)
        optimiser.zero_grad()
        (network(x, index) - eps).square().mean().backward()
        optimiser.step()
        schedule.step()
    x, index, eps = batch(4096)
    with torch.no_grad():
        error = (network(x, index) - eps).square().mean() / eps.square().mean()
    assert error.sqrt() < 0.05


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        MLP(2, depth=0)
    with pytest.raises(ValueError, match="even number of sinusoids, at least 4, got 5"):
        MLP(2, embedding=5)
    with pytest.raises(ValueError, match=r"x must be \(B, 2\) and index \(B,\), got \(4, 3\)"):
        MLP(2)(torch.zeros(4, 3), torch.zeros(4))
