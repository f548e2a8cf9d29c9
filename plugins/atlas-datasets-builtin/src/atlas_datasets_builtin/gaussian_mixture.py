"""Points whose score is known at every noise level: what samplers and losses are checked with."""

from __future__ import annotations

from functools import cached_property

import attrs
import numpy as np
import torch
from torch import Tensor

from atlas_core.contracts import DataSpec, Process
from atlas_datasets_builtin.splits import TensorSplit, pick, std_of


@attrs.frozen
class GaussianMixture:
    """Points of a Gaussian mixture, with the exact score and denoiser of any process at any time.

    x₀ ~ (1/k) Σ_k N(μ_k, w² I), with means μ_k ~ N(0, spread² I) drawn once from the seed. Then
    x_t ~ (1/k) Σ_k N(α μ_k, (α² w² + σ²) I), whose score and posterior mean are written out below.
    Items are (dims,), unbounded; conditions are the components.
    """

    splits = ("train", "test")

    dims: int = attrs.field(default=2, validator=attrs.validators.gt(0), metadata={"help": "Length of a point."})
    components: int = attrs.field(
        default=8, validator=attrs.validators.gt(0), metadata={"help": "Number of Gaussians, equally likely."}
    )
    spread: float = attrs.field(
        default=1.0, validator=attrs.validators.ge(0), metadata={"help": "Standard deviation of the Gaussians' means."}
    )
    width: float = attrs.field(
        default=0.1, validator=attrs.validators.gt(0), metadata={"help": "Standard deviation of each Gaussian."}
    )
    train: int = attrs.field(
        default=8000, validator=attrs.validators.gt(0), metadata={"help": "Points of the training split."}
    )
    test: int = attrs.field(
        default=2000, validator=attrs.validators.gt(0), metadata={"help": "Points of the test split."}
    )
    seed: int = attrs.field(
        default=0, validator=attrs.validators.ge(0), metadata={"help": "Seed of the means and of both splits."}
    )

    @cached_property
    def means(self) -> Tensor:
        """(components, dims), float64."""
        rng = np.random.default_rng([self.seed, 0])
        return torch.from_numpy(self.spread * rng.normal(size=(self.components, self.dims)))

    @cached_property
    def _splits(self) -> dict[str, TensorSplit]:
        return {"train": self._draw(self.train, stream=1), "test": self._draw(self.test, stream=2)}

    def _draw(self, count: int, *, stream: int) -> TensorSplit:
        rng = np.random.default_rng([self.seed, stream])
        labels = torch.from_numpy(rng.integers(self.components, size=count))
        points = self.means[labels] + self.width * torch.from_numpy(rng.normal(size=(count, self.dims)))
        return TensorSplit(points.float(), labels)

    @cached_property
    def spec(self) -> DataSpec:
        names = tuple(str(component) for component in range(self.components))
        return DataSpec(shape=(self.dims,), value_range=None, classes=names, std=std_of(self._splits["train"]))

    def split(self, name: str) -> TensorSplit:
        return pick(self._splits, name)

    def score(self, x: Tensor, t: Tensor, process: Process) -> Tensor:
        """∇ log p_t(x), exact: x (b, dims), t 0-d or (b,) float64 -> (b, dims); computed in float64, returned as x."""
        point, alpha, variance = self._at(x, t, process)
        pull = (self._responsibilities(point, alpha, variance) @ self.means) * alpha
        return ((pull - point) / variance).to(x)

    def denoise(self, x: Tensor, t: Tensor, process: Process) -> Tensor:
        """E[x₀ | x_t = x], exact, with the arguments of `score`; finite also at σ = 0 and at α = 0."""
        point, alpha, variance = self._at(x, t, process)
        mean = self._responsibilities(point, alpha, variance) @ self.means
        gain = alpha * self.width**2 / variance
        return (mean + gain * (point - alpha * mean)).to(x)

    def _at(self, x: Tensor, t: Tensor, process: Process) -> tuple[Tensor, Tensor, Tensor]:
        """x, α and the variance of one component at t, on the CPU: (b, dims), () or (b, 1), () or (b, 1)."""
        if x.ndim != 2 or x.shape[1] != self.dims:
            raise ValueError(f"points of shape (b, {self.dims}) are needed, not {tuple(x.shape)}")
        alpha, sigma = process.alpha(t), process.sigma(t)
        if alpha.ndim == 1:
            alpha, sigma = alpha[:, None], sigma[:, None]
        return x.detach().cpu().double(), alpha, alpha**2 * self.width**2 + sigma**2

    def _responsibilities(self, point: Tensor, alpha: Tensor, variance: Tensor) -> Tensor:
        """p(component | x_t): (b, components)."""
        square = (point[:, None] - alpha[..., None] * self.means).square().sum(-1)
        return torch.softmax(-square / (2 * variance), dim=-1)
