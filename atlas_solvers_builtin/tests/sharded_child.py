"""One rank of `test_transport_sharded.py`: what it finds goes to a file, for the test to compare."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from atlas_kernels_builtin.ranks.sharded import Sharded
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.exact.exact import Exact
from atlas_solvers_builtin.transport.low_rank.low_rank import LowRank
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced

from atlas_kernels_builtin import Gaussian, SquaredEuclidean, operator_of

N, M, EPSILON = 61, 47, 0.3


def cloud(n, seed, dtype=torch.float64, batch=()):
    return torch.randn(*batch, n, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def products(kernel, batch):
    """Every method of the operator, on a batch or a single problem."""
    x, y = cloud(N, 0, batch=batch), cloud(M, 1, batch=batch) + 0.3
    operator = operator_of(kernel, x, y, epsilon=0.3)
    u, v = cloud(N, 2, batch=batch), cloud(M, 3, batch=batch)
    scaled = operator.scaled(u[..., 0], v[..., 0])
    rows, columns = scaled.sums()
    switched_off = torch.where(u[..., 1] > 0, u[..., 0], -torch.inf)
    return {
        "matvec": operator.matvec(v[..., 0]),
        "matvec, several": operator.matvec(v),
        "rmatvec": operator.rmatvec(u[..., 0]),
        "rmatvec, several": scaled.rmatvec(u),
        "log_matvec": operator.log_matvec(900 * v[..., 0]),
        "log_rmatvec": operator.log_rmatvec(900 * u[..., 0]),
        "log_rmatvec, rows off": operator.log_rmatvec(switched_off),
        "log_rmatvec, all off": operator.log_rmatvec(torch.full_like(switched_off, -torch.inf)),
        "row sums": rows,
        "column sums": columns,
        "log_rows": operator.log_rows(torch.tensor([60, 0, 31, 31, 2])),
        "cost_inner": operator.cost_inner(u[..., 0], v[..., 0]),
        "dense": scaled.dense(),
    }


def solution(kernel):
    """Potentials, marginals and gradients of the solver, which is not told that there are ranks."""
    x, y = cloud(N, 4).requires_grad_(), (cloud(M, 5) * 1.3 + 0.5).requires_grad_()
    weights = torch.rand(M, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    weights[3] = 0
    solver = Sinkhorn(kernel=kernel, epsilon=EPSILON, tolerance=1e-12, storage="float64")
    found = solver.solve(x, y, b=weights / weights.sum())
    gradients = torch.autograd.grad(found.value, (x, y))
    named = dict(zip(("gradient of x", "gradient of y"), gradients, strict=True))
    return {
        "f": found.f,
        "g": found.g,
        "rows": found.marginals[0],
        "columns": found.marginals[1],
        "value": found.value.detach(),
        "cost": found.cost,
        "map": found.barycentric_map(),
        "iterations": torch.tensor(found.iterations),
        **named,
    }


def gradients(value, inputs):
    """The gradients of a value by each input, by their names."""
    found = torch.autograd.grad(value, tuple(inputs.values()))
    return {f"gradient of {name}": each for name, each in zip(inputs, found, strict=True)}


def inputs(batch=()):
    """Points and weights that want a gradient, one of weight 0, and ε, one a problem."""
    x, y = cloud(N, 4, batch=batch), cloud(M, 5, batch=batch) * 1.3 + 0.5
    generator = torch.Generator().manual_seed(6)
    a, b = (torch.rand(*batch, size, generator=generator, dtype=torch.float64) + 0.1 for size in (N, M))
    a[..., 40] = 0
    epsilon = torch.full(batch, EPSILON, dtype=torch.float64)
    named = {"x": x, "y": y, "a": a / a.sum(-1, keepdim=True), "b": b / b.sum(-1, keepdim=True), "epsilon": epsilon}
    return {name: value.requires_grad_() for name, value in named.items()}


def potentials(kernel):
    """What implicit differentiation gives, for a batch, balanced and not."""
    found = {}
    for name, solver in (
        ("balanced", Sinkhorn(tolerance=1e-12, storage="float64")),
        ("unbalanced", SinkhornUnbalanced(rho=0.8, tolerance=1e-12)),
    ):
        given = inputs((2,))
        x, y, a, b, epsilon = given.values()
        solution = solver.solve_operator(operator_of(kernel, x, y, epsilon=epsilon), a=a, b=b, y=y)
        f, g = solution.potentials()
        image = solution.barycentric_map(differentiable=True)
        total = (f * cloud(N, 7)[:, 0]).sum() + (g * cloud(M, 8)[:, 0]).sum() + (image * cloud(N, 9)).sum()
        for what, value in gradients(total, given).items():
            # Off the simplex a balanced problem is not defined: weights are compared along it.
            flat = what in ("gradient of a", "gradient of b") and name == "balanced"
            found[f"{name}: {what}"] = value - value.mean(-1, keepdim=True) if flat else value
        found[f"{name}: map"] = image.detach()
    return found


def others(kernel):
    """The solvers beside `sinkhorn`: values, plans and gradients."""
    found = {}
    for name, solver in (
        ("kl", SinkhornUnbalanced(kernel=kernel, epsilon=EPSILON, rho=0.8, tolerance=1e-12)),
        ("divergence", SinkhornDivergence(kernel=kernel, tolerance=1e-11)),
        ("divergence-kl", SinkhornDivergence(kernel=kernel, epsilon=EPSILON, rho=0.8, tolerance=1e-12)),
        ("exact", Exact(kernel=kernel)),
        ("low-rank", LowRank(kernel=kernel, rank=3, max_iterations=2, tolerance=1e-30)),
    ):
        given = inputs()
        del given["epsilon"]  # which these solvers take from their config
        wanted = given
        if name == "low-rank":  # which has no derivative by the weights
            wanted = {"x": given["x"], "y": given["y"]}
            given |= {side: given[side].detach() for side in "ab"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # low-rank was told to give up
            solution = solver.solve(given["x"], given["y"], a=given["a"], b=given["b"])
        found |= {f"{name}: {what}": value for what, value in gradients(solution.value, wanted).items()}
        found |= {f"{name}: value": solution.value.detach(), f"{name}: cost": solution.cost.detach()}
        found |= {f"{name}: rows": solution.marginals[0], f"{name}: map": solution.barycentric_map()}
        found[f"{name}: products"] = solution.rmatvec(cloud(N, 2))
    return found


def units(sharded):
    """Gradients where the unit of the cost is the mean over all points, of whatever rank."""
    kernel = Sharded(kernel=SquaredEuclidean()) if sharded else SquaredEuclidean()
    found = {}
    for solver in (Sinkhorn(kernel=kernel, tolerance=1e-12), SinkhornUnbalanced(kernel=kernel, tolerance=1e-12)):
        given = inputs()
        del given["epsilon"]
        value = solver.solve(given["x"], given["y"], a=given["a"], b=given["b"]).value
        found |= {f"{type(solver).__name__}: {what}": each for what, each in gradients(value, given).items()}
    return found


def refusals():
    """What a rank says if the ranks do not agree, or are too many."""
    rank = dist.get_rank()
    messages = []
    for kernel, x in ((Gaussian(), cloud(9, rank)), (Gaussian(1.0 + rank), cloud(9, 0)), (Gaussian(), cloud(1, 0))):
        try:
            operator_of(Sharded(kernel=kernel), x, x)
        except ValueError as error:
            messages.append(str(error))
    return messages


def main():
    torch.set_num_threads(1)
    sharded = Sharded(kernel=Gaussian(0.8))
    try:
        operator_of(sharded, cloud(5, 0), cloud(5, 0))
    except ValueError as error:
        too_early = str(error)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    single = operator_of(sharded, cloud(N, 0, torch.float32), cloud(M, 1, torch.float32))
    found = {
        "single": products(sharded, ()),
        "batch": products(sharded, (2,)),
        "solution": solution(sharded),
        "potentials": potentials(sharded),
        "others": others(sharded),
        "units": units(True),
        "estimate": single.error_estimate(40, seed=3),
        "own rows": single.local.shape[0],
        "refusals": [too_early, *refusals()],
    }
    torch.save(found, Path(sys.argv[1]) / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
