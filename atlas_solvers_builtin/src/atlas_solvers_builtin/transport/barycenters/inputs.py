"""What a barycenter is asked to average, checked: clouds of one size, with one weight a point."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from atlas_solvers_builtin.transport.problem import check_points, equal_masses, mass_slack


def stacked(clouds: Sequence[Tensor], weights: Sequence[Tensor] | None, support: Tensor) -> tuple[Tensor, Tensor]:
    """Return clouds (m_k, d) and weights (m_k,), uniform where None, filled up to one size: (k, m, d), (k, m).

    What fills up repeats a point of its cloud, with weight 0. Raises ValueError for input that cannot be meant.
    """
    check_points(support=support, **{f"points[{k}]": cloud for k, cloud in enumerate(clouds)})
    if not clouds or any(cloud.ndim != 2 or cloud.shape[1:] != support.shape[1:] or not len(cloud) for cloud in clouds):
        raise ValueError(
            f"solve_many needs clouds (m, d) of the support's dimension {tuple(support.shape[1:])}, at least one and "
            f"none empty, not {[tuple(cloud.shape) for cloud in clouds]}"
        )
    if others := [f"points[{k}] is {cloud.dtype}" for k, cloud in enumerate(clouds) if cloud.dtype != support.dtype]:
        raise ValueError(f"support is {support.dtype}, {', '.join(others)}: convert one of them")
    if weights is None:
        weights = [cloud.new_full((len(cloud),), 1 / len(cloud)) for cloud in clouds]
    if len(weights) != len(clouds) or any(
        not isinstance(own, Tensor) or own.shape != cloud.shape[:1] for own, cloud in zip(weights, clouds, strict=True)
    ):
        raise ValueError("solve_many needs one weight a point of every cloud, a tensor (m_k,) each")
    common = functools.reduce(torch.promote_types, (own.dtype for own in weights))
    size = max(map(len, clouds))
    # No cost there that is not among the others.
    y = torch.stack([torch.cat([cloud, cloud[:1].expand(size - len(cloud), -1)]) for cloud in clouds])
    b = torch.stack([torch.cat([own, own.new_zeros(size - len(own))]).to(common) for own in weights])
    return y, b


def alike(b: Tensor, dtype: torch.dtype, own: torch.dtype | None = None) -> Tensor:
    """Weights b (k, m), of one mass each but for rounding in `own`, by default theirs, in `dtype` and of one mass.

    Raises ValueError where the masses differ by more.
    """
    own, b = own or b.dtype, b.to(dtype)
    mass = b.detach().sum(-1, keepdim=True)
    slack = mass_slack(dtype, [own])
    if ((mass - mass[:1]).abs() > slack * mass[:1]).any():
        raise ValueError(f"the inputs have masses {mass.flatten().tolist()}: divide each by its sum")
    return b * (mass[:1] / mass) if slack > mass_slack(dtype) else b


def of_one_mass(a: Tensor, b: Tensor, own: Sequence[torch.dtype | None]) -> Tensor:
    """Weights a (n,) of a free support in the dtype of b (k, m), and of its mass; b may be points
    y (k, m, d) of uniform weights. `own` are the dtypes that weights came in.

    Raises ValueError as `equal_masses` does.
    """
    target = b[0] if b.ndim == 2 else b.new_full(b.shape[1:2], 1 / b.shape[1])
    coarsest = max((each for each in own if each is not None), key=lambda each: mass_slack(b.dtype, [each]))
    return equal_masses(a.to(b.dtype), target, [coarsest, None])[0]


def refuse_gradients(*inputs: Tensor | None) -> None:
    """Raise ValueError where one of them wants a gradient."""
    if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in inputs):
        raise ValueError(
            "a barycenter has no derivatives: detach its inputs, or minimise the `value` of `sinkhorn-divergence`, "
            "which has some"
        )
