"""One rank of `test_transport_sharded.py`: what it finds goes to a file, for the test to compare."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from atlas_kernels_builtin.ranks.sharded import Sharded
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn

from atlas_kernels_builtin import Gaussian, operator_of

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
        "estimate": single.error_estimate(40, seed=3),
        "own rows": single.local.shape[0],
        "refusals": [too_early, *refusals()],
    }
    torch.save(found, Path(sys.argv[1]) / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
