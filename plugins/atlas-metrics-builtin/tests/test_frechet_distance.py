"""The Fréchet distance against its closed form, scipy's matrix square root, and itself in another form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from atlas_metrics_builtin import features
from atlas_metrics_builtin.frechet_distance import FrechetDistance, frechet, frechet_of_samples


def covariance(d, seed, rank=None):
    a = np.random.default_rng(seed).normal(size=(d, rank or d + 3))
    return a @ a.T / a.shape[1]


def test_diagonal_gaussians_have_the_closed_form():
    # W2² = |m − m'|² + Σ (s_i − s'_i)² where both covariances are diagonal.
    m, n = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 4.0, 0.5])
    s, r = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([2.0, 0.25, 3.0])
    expected = float((m - n).square().sum() + (s - r).square().sum())
    assert float(frechet(m, s.square().diag(), n, r.square().diag())) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [None, 7], ids=["full", "singular"])
def test_equals_the_usual_formula_with_scipys_sqrtm(rank):
    d = 20
    a, b = covariance(d, 0, rank), covariance(d, 1)
    m, n = np.arange(d) / d, np.ones(d)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((m - n) ** 2).sum() + np.trace(a + b - 2 * root)
    got = frechet(*(torch.tensor(v) for v in (m, a, n, b)))
    # sqrtm of a singular product loses half of the digits; the eigenvalues of the symmetric one do not.
    assert float(got) == pytest.approx(expected, rel=1e-10 if rank is None else 1e-5)


def test_both_forms_agree_and_the_covariance_is_unbiased():
    x, y = torch.randn(12, 40).double(), torch.randn(9, 40).double() + 0.3
    few_rows = frechet_of_samples(x, y)[0]
    formed = frechet(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
    torch.testing.assert_close(few_rows, formed, rtol=1e-6, atol=0)
    tall, wide = x.T[:, :5], y.T[:, :5]
    formed = frechet(tall.mean(0), torch.cov(tall.T), wide.mean(0), torch.cov(wide.T))
    torch.testing.assert_close(frechet_of_samples(tall, wide)[0], formed, rtol=1e-10, atol=0)


def test_converges_to_the_distance_of_the_distributions(as_batch, normal):
    # N(0, I) and N(1, 4 I) in two dimensions: 2 · 1² + 2 · (2 − 1)² = 4. Standard error at n = 50k below 0.03.
    metric = FrechetDistance()
    metric.update(as_batch(normal(50_000)), as_batch(2 * normal(50_000, seed=1) + 1))
    result = metric.compute()
    assert result.value == pytest.approx(4, abs=0.1)
    assert (result.n, result.features, result.details["n_real"]) == (50_000, "pixels", 50_000)
    assert result.details["from_means"] == pytest.approx(2, abs=0.08)


def test_classifier_features_are_seeded_leave_the_global_generator_alone_and_see_a_class_go_missing(
    labelled, monkeypatch
):
    monkeypatch.setattr(features, "STEPS", 60)
    train, spec = labelled
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    values = []
    for _ in range(2):
        metric = FrechetDistance(features="classifier")
        metric.fit(train, spec)
        metric.classifier.fit(train.x, train.condition, 3)  # again, past the memory of what was trained before
        metric.update(train, train)
        values.append(metric.compute().value)
    assert torch.equal(torch.rand(3), expected)
    assert values[0] == values[1] == pytest.approx(0, abs=1e-3)
    metric.load_state(FrechetDistance().state())
    two = train.condition < 2
    metric.update(type(train)(train.x[two], train.condition[two]), train)
    assert metric.compute().value > 1
    accuracy = (metric.classifier.predict(train.x) == train.condition).double().mean()
    assert accuracy > 0.95


def test_classifier_features_need_classes_and_a_fit(as_batch, plane, normal):
    metric = FrechetDistance(features="classifier")
    with pytest.raises(ValueError, match="data with classes"):
        metric.fit(as_batch(normal(10)), plane)
    with pytest.raises(ValueError, match="fit"):
        metric.update(as_batch(normal(10)))
    with pytest.raises(ValueError, match="features"):
        FrechetDistance(features="inception")
