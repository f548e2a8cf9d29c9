"""Entropic transport by its libraries, each as its documentation advises: raw points in, potentials out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from peers.problems import Answer, Array, Problem

Peer = Callable[[Problem, np.dtype[Any]], Answer]
COMPILE: dict[Peer, Callable[[Problem, np.dtype[Any]], Any]] = {}
"""How those that compile for one shape do it beforehand: compilation is not what is compared."""


def _double(values: Any) -> Array:
    return np.asarray(values, dtype=np.float64)


def _atlas(**options: Any) -> Peer:
    def solve(problem: Problem, dtype: np.dtype[Any]) -> Answer:
        from atlas_core import build

        kernel = {"use": "squared-euclidean", "scale": "mean", "half": False}
        solver = build(
            "solver", "sinkhorn", kernel=kernel, epsilon=problem.epsilon, tolerance=problem.tolerance, **options
        )
        x, y = (torch.from_numpy(z.astype(dtype)) for z in (problem.x, problem.y))
        solution = solver.solve(x, y)
        return Answer(_double(solution.f), _double(solution.g), solution.matvecs // 2, ", ".join(solution.status))

    return solve


def _pot(method: str, *, in_torch: bool = False) -> Peer:
    def solve(problem: Problem, dtype: np.dtype[Any]) -> Answer:
        import ot

        points: list[Any] = [z.astype(dtype) for z in (problem.x, problem.y, *problem.weights)]
        x, y, a, b = (torch.from_numpy(z) for z in points) if in_torch else points
        cost = ot.dist(x, y) / problem.scale
        # POT stops on the l2 norm of the error: this threshold makes its L1 norm small enough.
        stop = problem.tolerance / math.sqrt(len(a))
        _, log = ot.sinkhorn(
            a, b, cost, problem.epsilon, method=method, numItermax=10**8, stopThr=stop, log=True, warn=False
        )
        names = {"sinkhorn": ("u", "v"), "sinkhorn_log": ("log_u", "log_v"), "sinkhorn_stabilized": ("logu", "logv")}
        left, right = (_double(log[name]) for name in names[method])
        if method == "sinkhorn":
            left, right = np.log(left), np.log(right)
        f, g = (problem.epsilon * (u - np.log(w)) for u, w in zip((left, right), problem.weights, strict=True))
        return Answer(f, g, int(log.get("niter", log.get("n_iter", -1))))

    return solve


def _ott(options: Callable[[], dict[str, Any]] = dict) -> Peer:
    compiled: dict[str, Any] = {}

    def prepared(problem: Problem, dtype: np.dtype[Any]) -> tuple[Callable[..., Any], list[Any]]:
        import jax

        jax.config.update("jax_enable_x64", dtype == np.float64)
        import jax.numpy as jnp
        from ott.geometry import pointcloud
        from ott.problems.linear import linear_problem
        from ott.solvers.linear import sinkhorn

        def run(x: Any, y: Any, a: Any, b: Any) -> Any:
            geometry = pointcloud.PointCloud(x, y, epsilon=problem.epsilon, scale_cost=problem.scale)
            solver = sinkhorn.Sinkhorn(threshold=problem.tolerance, max_iterations=2_000_000, **options())
            return solver(linear_problem.LinearProblem(geometry, a, b))

        arrays = [jnp.asarray(z.astype(dtype)) for z in (problem.x, problem.y, *problem.weights)]
        if problem.name not in compiled:
            compiled[problem.name] = jax.jit(run).lower(*arrays).compile()
        return compiled[problem.name], arrays

    def solve(problem: Problem, dtype: np.dtype[Any]) -> Answer:
        run, arrays = prepared(problem, dtype)
        out = run(*arrays)
        f, g = (_double(z) - problem.epsilon * np.log(w) for z, w in zip((out.f, out.g), problem.weights, strict=True))
        return Answer(f, g, int(out.n_iters))

    COMPILE[solve] = prepared
    return solve


def _anderson() -> dict[str, Any]:
    from ott.solvers.linear import acceleration

    return {"anderson": acceleration.AndersonAcceleration(memory=5, refresh_every=5)}


def _momentum() -> dict[str, Any]:
    from ott.solvers.linear import acceleration

    return {"momentum": acceleration.Momentum(start=300, error_threshold=1e-2), "inner_iterations": 10}


def _geomloss(scaling: float) -> Peer:
    def solve(problem: Problem, dtype: np.dtype[Any]) -> Answer:
        from geomloss import SamplesLoss

        blur = math.sqrt(problem.epsilon * problem.scale / 2)
        loss = SamplesLoss(
            "sinkhorn", p=2, blur=blur, scaling=scaling, debias=False, potentials=True, backend="tensorized"
        )
        x, y, a, b = (torch.from_numpy(z.astype(dtype)) for z in (problem.x, problem.y, *problem.weights))
        f, g = loss(a, x, b, y)
        return Answer(_double(f).ravel() * 2 / problem.scale, _double(g).ravel() * 2 / problem.scale, -1)

    return solve


PEERS: dict[str, Peer] = {
    "atlas": _atlas(),
    "atlas-sinkhorn": _atlas(method="sinkhorn"),
    "pot-knopp": _pot("sinkhorn"),
    "pot-knopp-torch": _pot("sinkhorn", in_torch=True),
    "pot-stabilized": _pot("sinkhorn_stabilized"),
    "pot-log": _pot("sinkhorn_log"),
    "pot-log-torch": _pot("sinkhorn_log", in_torch=True),
    "ott-lse": _ott(),
    "ott-anderson": _ott(_anderson),
    "ott-momentum": _ott(_momentum),
    "geomloss": _geomloss(0.9),
}
