"""Any kernel on a regular grid: an image, a volume, a histogram. Products without the matrix of all pairs."""

from __future__ import annotations

import math
from typing import Self

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin.exact.checks import check_epsilon
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.grids.fft import StationaryOperator
from atlas_kernels_builtin.grids.separable import SeparableOperator
from atlas_kernels_builtin.kernels.wrapping import SamePairs

PROBES = 64
"""Random pairs of points on which the structure of a kernel is looked at."""
AGREEMENT = 1e-10
"""How closely a kernel has to have the structure, relative to its largest log on the probes."""
LARGEST_AXIS = 8192
"""Points of an axis whose matrix, of their square, is still stored."""


@attrs.frozen
class Grid(SamePairs):
    """Compare the points of a regular grid of 1, 2 or 3 dimensions, with products that cost O(N s) or O(N log N).

    The points are the centres of the cells of a box, in row-major order: an image `a` (*batch, h, w) is the weights
    `a.flatten(-2)`. What the wrapped kernel allows is measured on random pairs, not declared, so any plugin has it:

    - a cost that is a sum over the axes (squared distance, l1 norm, products of such): one small matrix an axis
      (`SeparableOperator`);
    - else one that depends on x − y alone (Matérn, Cauchy, the l2 norm, the signed energy): FFT (`StationaryOperator`).

    An image needs no points:

    >>> grid = build("kernel", "grid", shape=(64, 64), kernel=build("kernel", "gaussian", bandwidth=0.5))
    >>> operator = grid.operator(like=image, epsilon=0.01)
    >>> build("solver", "sinkhorn").solve_operator(operator, a=image.flatten(), b=other.flatten())

    and `grid.points()` gives them, for `solver.solve(points, points, a=…, b=…)` and for `barycentric_map`. The solver
    `sinkhorn-grid` takes images as they are.
    """

    item_ndim = 1
    paper = "Solomon et al. 2015, sec. 4"

    shape: tuple[int, ...] = attrs.field(metadata={"help": "Points along each axis, 1 to 3 of them: (height, width)."})
    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel of two points of the grid."
    )
    extent: tuple[float, ...] | None = attrs.field(
        default=None,
        kw_only=True,
        metadata={"help": "Length of each side of the box; unset: square cells, and the longest side is 1."},
    )

    @shape.validator
    def _check_shape(self, attribute: object, value: tuple[int, ...]) -> None:
        if not 1 <= len(value) <= 3 or any(not isinstance(size, int) or size < 1 for size in value):
            raise ValueError(f"shape must be 1 to 3 positive whole numbers, not {value!r}")

    @extent.validator
    def _check_extent(self, attribute: object, value: tuple[float, ...] | None) -> None:
        if value is not None and (len(value) != len(self.shape) or not all(0 < side < math.inf for side in value)):
            raise ValueError(f"extent must be one positive length for each axis of {self.shape}, not {value!r}")

    @property
    def axes(self) -> tuple[Tensor, ...]:
        """The coordinates of the cells' centres along each axis, float64."""
        sides = self.extent or [size / max(self.shape) for size in self.shape]
        return tuple(
            (torch.arange(size, dtype=torch.float64) + 0.5) * (side / size)
            for size, side in zip(self.shape, sides, strict=True)
        )

    def points(self) -> Tensor:
        """The centres of all cells, (N, d), float64, in row-major order."""
        return torch.cartesian_prod(*self.axes).reshape(-1, len(self.shape))

    def fitted(
        self, x: Tensor | None = None, y: Tensor | None = None, a: Tensor | None = None, b: Tensor | None = None
    ) -> Self:
        """The grid with every setting of its kernel that depends on the points replaced by its number.

        x and y are the grid's own points where None; a and b their weights, (N,).
        """
        points = self.points()
        return super().fitted(points if x is None else x, points if y is None else y, a, b)

    def operator(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        *,
        epsilon: float | Tensor = 1.0,
        like: Tensor | None = None,
    ) -> KernelOperator:
        """The operator of the grid with itself, K_ij = k(x_i, x_j)^(1/ε), (N, N).

        dtype, device and batch are those of `like`, an image (*batch, *shape); without one, of x, or float64. x and y,
        if they are given, must be the grid's points; one of the two may be other points, as in maps out of sample:
        that operator is streamed. Raises ValueError for points that are not the grid's, and for a kernel that is
        neither a sum over axes nor a function of x − y.
        """
        given = [points for points in (x, y) if points is not None]
        own = [self._owns(points) for points in given]
        if given and not all(own):
            return self._off_grid(given, own, epsilon)
        example = like if like is not None else given[0] if given else torch.empty(0, dtype=torch.float64)
        if like is not None and like.shape[-len(self.shape) :] != self.shape:
            raise ValueError(
                f"an image on this grid is (*batch, {', '.join(map(str, self.shape))}), not {tuple(like.shape)}"
            )
        if not example.is_floating_point():
            raise ValueError(f"images and points must be floating point, not {example.dtype}: convert them")
        batch = tuple(like.shape[: -len(self.shape)]) if like is not None else tuple(example.shape[:-2])
        flat = check_epsilon(self.kernel, epsilon, batch, torch.empty(0, dtype=torch.float64, device=example.device))
        epsilon = flat.reshape(batch) if isinstance(flat, Tensor) else flat
        fitted = self.fitted()
        logs = fitted._axis_logs()
        if logs is not None:
            moved = tuple(log.to(example.device) for log in logs)
            return SeparableOperator(moved, epsilon, example.dtype, batch)
        return fitted._stationary(epsilon, example, batch)

    def _owns(self, points: Tensor) -> bool:
        own = self.points()
        if points.shape[-2:] != own.shape:
            return False
        tolerance = 1e3 * torch.finfo(points.dtype).eps * float(own.max())
        return bool(((points.detach().double() - own.to(points.device)).abs() <= tolerance).all())

    def _off_grid(self, given: list[Tensor], own: list[bool], epsilon: float | Tensor) -> KernelOperator:
        if len(given) != 2 or not any(own):
            shapes = ", ".join(str(tuple(points.shape)) for points in given)
            raise ValueError(
                f"grid: points {shapes} are not those of the grid of shape {self.shape}. Pass grid.points(), or none "
                "at all and the images as weights; for other points use the kernel itself"
            )
        return stream(self.fitted().kernel, given[0], given[1], epsilon=epsilon)

    def _axis_logs(self) -> tuple[Tensor, ...] | None:
        """log k of each axis, if their sum is log k on random pairs of points; None if it is not."""
        if not self.has_log or max(self.shape) > LARGEST_AXIS:
            return None
        axes, corner = self.axes, self.points()[:1]
        at_corner = self.kernel.log_kernel(corner, corner)
        logs = []
        for index, axis in enumerate(axes):
            line = corner.repeat(len(axis), 1)
            line[:, index] = axis
            # Every axis but one leaves out what they all share.
            logs.append(self.kernel.log_kernel(line, line) - (at_corner if index else 0.0))
        first, second = self._random_pairs()
        pairs = [log[i, j] for log, i, j in zip(logs, first, second, strict=True)]
        truth = self._values_of_pairs(first, second)
        return tuple(logs) if _agree(torch.stack(pairs).sum(0), truth) else None

    def _stationary(self, epsilon: float | Tensor, example: Tensor, batch: tuple[int, ...]) -> StationaryOperator:
        first, second = self._random_pairs()
        sizes = torch.tensor(self.shape)[:, None]
        # Both points of a pair moved by the same step, as far as the grid allows.
        step = sizes - 1 - torch.maximum(first, second)
        if not _agree(self._values_of_pairs(first + step, second + step), self._values_of_pairs(first, second)):
            raise ValueError(
                f"grid: log k of {type(self.kernel).__name__} is neither a sum over the axes nor a function of x − y, "
                "so there is no fast product. Use the kernel itself, which is streamed exactly"
            )
        steps = [axis[1] - axis[0] if len(axis) > 1 else axis[0] for axis in self.axes]
        offsets = [torch.arange(1 - size, size) * step for size, step in zip(self.shape, steps, strict=True)]
        points = torch.cartesian_prod(*offsets).reshape(-1, len(self.shape)).to(example.device)
        values = self._values(points, torch.zeros_like(points[:1]))
        own = self.points().to(example.device)
        exact = stream(self.kernel, own.expand(*batch, *own.shape), own, epsilon=epsilon)
        return StationaryOperator(values.reshape([2 * size - 1 for size in self.shape]), exact, example.dtype)

    def _random_pairs(self) -> tuple[Tensor, Tensor]:
        """Indices of points, one row an axis: (d, 64) each."""
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(size, (2, PROBES), generator=generator) for size in self.shape]
        both = torch.stack(rows, dim=1)
        return both[0], both[1]

    def _values_of_pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """log k, or k of a signed kernel, of pairs of points."""
        x, y = (
            torch.stack([axis[index] for axis, index in zip(self.axes, side, strict=True)], dim=-1)
            for side in (first, second)
        )
        return self._values(x, y).diagonal()

    def _values(self, x: Tensor, y: Tensor) -> Tensor:
        return self.kernel.log_kernel(x, y) if self.has_log else self.block(x, y)


def _agree(got: Tensor, truth: Tensor) -> bool:
    return bool(((got - truth).abs() <= AGREEMENT * truth.abs().max().clamp(min=1.0)).all())
