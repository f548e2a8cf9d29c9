"""The baselines draw what their names say, from keys alone."""

from __future__ import annotations

import pytest
import torch
from atlas_metrics_builtin.baselines import ClassGaussian, NoisyCopies, TrainingCopies

from atlas_core.contracts import Baseline, Batch
from atlas_core.engine.noise import CounterNoise


def test_copies_are_images_of_the_class_without_repeats(labelled):
    train, spec = labelled
    baseline = TrainingCopies()
    baseline.fit(train, spec)
    labels = torch.arange(120).flip(0) % 3
    drawn = baseline.sample(labels, CounterNoise.from_seeds(range(120)))
    match = (drawn[:, None] == train.x[None]).flatten(2).all(2)
    which = match.int().argmax(1)
    assert match.any(1).all()
    assert torch.equal(train.condition[which], labels)
    assert len(set(which.tolist())) == 120  # all 40 of each class, once
    assert not torch.equal(which.sort().values, which)
    more = baseline.sample(torch.zeros(50, dtype=torch.long), CounterNoise.from_seeds(range(50)))
    assert torch.equal(more[:10], more[40:])


def test_noisy_copies_are_copies_plus_noise_of_that_size(labelled):
    train, spec = labelled
    noise, labels = CounterNoise.from_seeds(range(120)), torch.arange(120) % 3
    clean, noisy = TrainingCopies(), NoisyCopies(std=0.25)
    clean.fit(train, spec)
    noisy.fit(train, spec)
    difference = noisy.sample(labels, noise) - clean.sample(labels, noise)
    # 4320 normal numbers: the standard error of their deviation is 0.25 / √8640 = 0.0027.
    assert difference.std().item() == pytest.approx(0.25, abs=0.008)
    with pytest.raises(ValueError, match="std"):
        NoisyCopies(std=-1)


def test_a_class_gaussian_has_the_mean_and_covariance_of_its_class(as_batch, plane):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator) @ torch.tensor([[2.0, 1.0], [0.0, 0.5]]) + 3
    baseline = ClassGaussian()
    baseline.fit(as_batch(x), plane)
    n = 40_000
    drawn = baseline.sample(None, CounterNoise.from_seeds(range(n)))
    cov = torch.cov(x.T)
    # Three Monte-Carlo standard errors: √(C_ii / n) for means, √((C_ij² + C_ii C_jj) / n) for covariances.
    d = cov.diagonal()
    assert bool(((drawn.mean(0) - x.mean(0)).abs() < 3 * (d / n).sqrt()).all())
    assert bool(((torch.cov(drawn.T) - cov).abs() < 3 * ((cov.square() + d[:, None] * d) / n).sqrt()).all())


def test_a_class_gaussian_keeps_constant_pixels_and_knows_its_classes(labelled):
    train, spec = labelled
    x = train.x.clone()
    x[..., 0] = 0.5
    baseline = ClassGaussian()
    baseline.fit(Batch(x, train.condition), spec)
    noise = CounterNoise.from_seeds(range(60))
    labels = torch.arange(60) % 3
    drawn = baseline.sample(labels, noise)
    assert bool((drawn[..., 0] - 0.5).abs().max() < 1e-6)
    for k in range(3):
        assert drawn[labels == k].mean(0)[0].argmax().item() // 6 // 2 == k
    torch.testing.assert_close(baseline.sample(labels[5:9], noise.select(torch.arange(5, 9))), drawn[5:9])
    with pytest.raises(ValueError, match="known classes"):
        baseline.sample(torch.tensor([9]), CounterNoise.from_seeds([0]))


@pytest.mark.parametrize("kind", [TrainingCopies, NoisyCopies, ClassGaussian])
def test_draws_follow_from_the_keys_and_need_a_fit(kind, labelled):
    baseline = kind()
    assert isinstance(baseline, Baseline)
    labels = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="fit"):
        baseline.sample(labels, CounterNoise.from_seeds(range(4)))
    baseline.fit(*labelled)
    first, again, other = (baseline.sample(labels, CounterNoise.from_seeds(range(s, s + 4))) for s in (0, 0, 100))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
