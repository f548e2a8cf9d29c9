"""The MLP reaches the exact denoiser of a Gaussian, and each of its fields does something."""

from __future__ import annotations

import pytest
import torch
from atlas_models_builtin.mlp import MLP, MLPBlock, MLPConfig

from atlas_core.contracts import Condition


def test_it_learns_the_exact_denoiser_of_a_gaussian():
    """x₀ ~ N(m, S), x = x₀ + σ z: E[x₀ | x] = m + S (S + σ²)⁻¹ (x − m); network input x / √(1 + σ²), c = −ln σ / 2."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.5, -1.0])
    root = torch.tensor([[0.8, 0.0], [0.6, 0.3]])
    covariance = root @ root.T
    net = MLP(MLPConfig(shape=(2,), width=32, blocks=2, embedding=32))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    steps = 300
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def draw(n):
        x0 = mean + torch.randn(n, 2, generator=generator) @ root.T
        sigma = torch.exp(torch.empty(n, 1).uniform_(-2, 2, generator=generator))
        return x0, x0 + sigma * torch.randn(n, 2, generator=generator), sigma

    def predict(x, sigma):
        return net(x / (1 + sigma**2).sqrt(), -sigma[:, 0].log() / 2)

    for _ in range(steps):
        x0, x, sigma = draw(512)
        loss = (predict(x, sigma) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()

    x0, x, sigma = draw(4096)
    gain = covariance @ torch.linalg.inv(covariance + sigma[:, :, None] ** 2 * torch.eye(2))
    exact = mean + (gain @ (x - mean)[:, :, None])[:, :, 0]
    spread = covariance.trace().div(2).sqrt()
    error = (predict(x, sigma) - exact).square().mean().sqrt() / spread
    # Measured: 0.02 for three seeds. The best map that does not see σ is off by 0.30.
    assert error < 0.04, f"{error:.3f} of the data's standard deviation"


def test_images_are_read_as_points(awake):
    torch.manual_seed(0)
    image = awake(MLP(MLPConfig(shape=(2, 3, 4), width=16, blocks=1)))
    torch.manual_seed(0)
    points = awake(MLP(MLPConfig(shape=(24,), width=16, blocks=1)))
    x, c_noise = torch.randn(5, 2, 3, 4), torch.randn(5)
    assert torch.equal(image(x, c_noise).flatten(1), points(x.flatten(1), c_noise))


def test_a_new_block_is_the_identity():
    x = torch.randn(3, 8)
    assert torch.equal(MLPBlock(8, embedding=5, dropout=0.0)(x, torch.randn(3, 5)), x)


def test_the_number_of_parameters_is_the_one_counted_by_hand():
    net = MLP(MLPConfig(shape=(2,), condition_width=7, width=64, blocks=3, embedding=32))
    d, w, e = 2, 64, 32
    block = (e * 2 * w + 2 * w) + 2 * (w * w + w)
    expected = (64 * e + e) + (e * e + e) + (7 * e + e) + (d * w + w) + 3 * block + (e * 2 * w + 2 * w) + (w * d + d)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected == 45_570


BASE = {"shape": (2,), "condition_width": 3, "width": 16, "blocks": 2, "embedding": 8}


@pytest.mark.parametrize(
    "changes",
    [{"shape": (3,)}, {"condition_width": 0}, {"width": 32}, {"blocks": 3}, {"embedding": 16}, {"dropout": 0.5}],
    ids=str,
)
def test_every_field_changes_the_network(changes, awake):
    def outcome(config):
        torch.manual_seed(0)
        net = awake(MLP(config))
        torch.manual_seed(0)
        condition = Condition(vector=torch.ones(4, 3)) if config.condition_width else None
        return net(torch.ones(4, *config.shape), torch.linspace(-1, 1, 4), condition)

    before, after = outcome(MLPConfig(**BASE)), outcome(MLPConfig(**{**BASE, **changes}))
    assert before.shape != after.shape or not torch.allclose(before, after, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"), [("shape", ()), ("width", 0), ("blocks", 0), ("embedding", 0), ("dropout", -0.1)]
)
def test_a_size_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        MLPConfig(**{**BASE, field: value})
