"""The metric `frechet-distance`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import MetricResult
from atlas_metrics_builtin.features import FeatureSets


def frechet(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians: (d,), (d, d), (d,), (d, d) -> (), float64.

    |m_x − m_y|² + tr(C_x + C_y − 2 (C_x^½ C_y C_x^½)^½)   (Dowson & Landau 1982)

    The product C_x C_y of the usual formula is not symmetric; C_x^½ C_y C_x^½ is, has the same eigenvalues, and its
    trace of the root is a sum of real, non-negative square roots whatever the rank.
    """
    values, vectors = torch.linalg.eigh(cov_x.double())
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ cov_y.double() @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    spread = cov_x.double().trace() + cov_y.double().trace() - 2 * overlap
    means = (mean_x.double() - mean_y.double()).square().sum()
    return torch.as_tensor(means + spread)


def frechet_of_samples(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared Fréchet distance of the Gaussians of x (n, d) and y (m, d), and its part from the means.

    With fewer rows than dimensions the covariances are never formed: tr(C_x^½ C_y C_x^½)^½ is the sum of singular
    values of X_c Y_cᵀ / √((n − 1)(m − 1)), an n × m matrix.
    """
    x, y = x.double(), y.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x_c, y_c = (x - mean_x) / (len(x) - 1) ** 0.5, (y - mean_y) / (len(y) - 1) ** 0.5
    means = (mean_x - mean_y).square().sum()
    if x.shape[1] > max(len(x), len(y)):
        overlap = torch.linalg.svdvals(x_c @ y_c.T).sum()
        return means + x_c.square().sum() + y_c.square().sum() - 2 * overlap, means
    return frechet(mean_x, x_c.T @ x_c, mean_y, y_c.T @ y_c), means


@attrs.define
class FrechetDistance(FeatureSets):
    """Tell how far the mean and covariance of generated data are from those of real data; lower is better.

    Squared 2-Wasserstein distance of the two Gaussians with the samples' means and (unbiased) covariances, in pixels or
    in the features of a classifier of the real training split. It depends on the features and on both sample sizes (few
    samples make it larger): compare it with the floor and with nothing from elsewhere. A generator that is Gaussian
    itself can be near the floor.
    """

    better = "lower"
    paper = "Heusel et al. 2017, eq. 6"

    def compute(self) -> MetricResult:
        """Raises ValueError with fewer than 2 samples on either side."""
        generated, real = self.both(at_least=2)
        value, means = frechet_of_samples(generated, real)
        details = {"n_real": len(real), "dimensions": generated.shape[1], "from_means": float(means)}
        return MetricResult(float(value), len(generated), self.features, details=details)
