"""Solvers couple what a stranger's kernel compares, images too, and what cannot be coupled is named before all else."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn

import atlas_core

SQUARED = {"use": "squared-euclidean"}
F64 = torch.float64


@attrs.frozen
class Images:
    """A stranger's kernel of images, a few lines: half the squared distance of all pixels as a cost."""

    has_log = True
    item_ndim = 3

    def log_kernel(self, x, y):
        return -(x[:, None] - y[None]).square().sum((-1, -2, -3)) / 2


@pytest.mark.parametrize("name", ["sinkhorn", "sinkhorn-unbalanced", "sinkhorn-divergence", "exact", "low-rank"])
def test_images_are_coupled_and_mapped_as_their_pixels_are(name):
    generator = torch.Generator().manual_seed(0)
    x, y, z = (torch.randn(n, 1, 2, 3, generator=generator, dtype=F64) for n in (8, 8, 3))
    flat = atlas_core.build("solver", name, kernel={"use": "gaussian"})
    of_images = attrs.evolve(flat, kernel=Images())
    wanted, got = flat.solve(x.flatten(1), y.flatten(1)), of_images.solve(x, y)
    torch.testing.assert_close(
        got.value if name == "sinkhorn-divergence" else got.cost,
        getattr(wanted, "value" if name == "sinkhorn-divergence" else "cost"),
        rtol=1e-5,
        atol=1e-7,
    )
    if name != "sinkhorn-divergence":
        torch.testing.assert_close(
            got.barycentric_map(), wanted.barycentric_map().view(8, 1, 2, 3), rtol=1e-3, atol=1e-3
        )
        new = wanted.barycentric_map(z.flatten(1)).view(3, 1, 2, 3)
        torch.testing.assert_close(got.barycentric_map(z), new, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["sinkhorn", "sinkhorn-unbalanced", "sinkhorn-divergence", "exact", "low-rank"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(4, dtype=F64)}, "a must hold one weight a point"),
        ({"a": torch.zeros(5, dtype=F64)}, "a is all zero"),
        ({"b": torch.full((6,), math.nan, dtype=F64)}, "b holds a weight"),
        ({"a": torch.ones(5, dtype=F64, device="meta")}, "a is on meta"),
        ({"a": [0.2] * 5}, "a must be a tensor"),
        ({"y": torch.ones(6, 3, dtype=F64)}, "different shapes"),
        ({"x": torch.ones(5, dtype=F64)}, "non-empty"),
        ({"x": torch.ones(0, 2, dtype=F64)}, "non-empty"),
        ({"x": torch.ones(5, 2, dtype=torch.float16), "y": torch.ones(6, 2, dtype=torch.float16)}, "float16"),
    ],
)
def test_a_kernel_that_is_fitted_first_hides_no_mistake(name, change, message):
    given = {"x": torch.randn(5, 2, dtype=F64), "y": torch.randn(6, 2, dtype=F64)} | change
    with pytest.raises(ValueError, match=message):
        atlas_core.build("solver", name, kernel=SQUARED).solve(given.pop("x"), given.pop("y"), **given)


@pytest.mark.parametrize("init", [torch.zeros(5, dtype=F64), [torch.zeros(5, dtype=F64)], "cold"])
@pytest.mark.parametrize("name", ["sinkhorn", "sinkhorn-unbalanced"])
def test_a_start_that_is_no_pair_of_potentials_is_named(name, init):
    x, y = torch.randn(5, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
    with pytest.raises(ValueError, match="init must be a solution"):
        atlas_core.build("solver", name, kernel=SQUARED).solve(x, y, init=init)


@pytest.mark.parametrize(("setting", "value"), [("storage", "float32"), ("scaling", 8.0)])
def test_a_setting_without_effect_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting} has no effect"):
        Sinkhorn(method="log", **{setting: value})


def test_few_iterations_are_few_and_leave_a_plan_that_is_measured():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(300, 2, generator=generator, dtype=F64) + shift for shift in (0, 1))
    counts = []
    for limit in (1, 10, 100):
        solver = atlas_core.build(
            "solver", "sinkhorn", kernel=SQUARED, epsilon=1e-3, max_iterations=limit, tolerance=1e-9
        )
        with pytest.warns(RuntimeWarning, match="max-iterations"):
            solution = solver.solve(x, y)
        assert solution.status == ("max-iterations",)
        plan = solution.plan()
        worst = max(float((plan.sum(dim) - 1 / 300).abs().sum()) for dim in (0, 1))
        assert float(solution.marginal_error) == pytest.approx(worst, rel=1e-6)
        counts.append(solution.iterations)
    assert counts[0] <= 12
    assert counts[1] <= 21
    assert counts[2] <= 111


def test_one_side_of_an_unbalanced_problem_may_be_balanced_in_a_config():
    x, y = torch.randn(5, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
    solver = atlas_core.build("solver", "sinkhorn-unbalanced", kernel=SQUARED, rho_a=math.inf, rho_b=0.5)
    rows, columns = solver.solve(x, y).marginals
    torch.testing.assert_close(rows, torch.full((5,), 0.2, dtype=F64), rtol=0, atol=1e-4)
    assert (columns - 1 / 6).abs().sum() > 1e-2
