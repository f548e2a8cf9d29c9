"""A transport pipeline: couple two bodies of data with a solver, and leave the solution in a run's folder."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from atlas_core.config.writing import to_toml
from atlas_core.engine.evaluation import whole
from atlas_core.errors import DataError
from atlas_core.runs.atomic import write_atomically

if TYPE_CHECKING:
    from atlas_core.config.plan import TransportPlan
    from atlas_core.runs.folder import RunFolder


def run_transport(plan: TransportPlan, run: RunFolder) -> dict[str, Any]:
    """Solve for the training splits of source and target, and return what `solution.json` holds.

    Leaves config.toml, lock.json, solution.json and coupling.safetensors: the points, their weights' potentials, and
    where each source point goes on average. A metric is computed of those against the target's `evaluate.split`.
    Raises DataError for data that cannot be coupled.
    """
    from safetensors.torch import save

    from atlas_core.contracts import Batch

    write_atomically(run.config_toml, to_toml(plan.table))
    write_atomically(run.lock_json, json.dumps(plan.lock(), indent=2))
    source, target = (whole(dataset, "train").x.flatten(1) for dataset in plan.datasets)
    solver, began = plan.solver.build(), time.perf_counter()
    try:
        coupling = solver.solve(source, target)
    except ValueError as error:
        raise DataError(f"{plan.solver.id} cannot couple {plan.source.id} and {plan.target.id}: {error}") from error
    solution: dict[str, Any] = {"seconds": round(time.perf_counter() - began, 3), "cost": float(coupling.cost)}
    for name in ("value", "marginal_error", "iterations", "matvecs"):
        if hasattr(coupling, name):
            solution[name] = float(getattr(coupling, name))
    if hasattr(coupling, "status"):
        solution["status"] = ", ".join(coupling.status)
    mapped = coupling.barycentric_map()
    tensors = {"source": source, "target": target, "mapped": mapped}
    tensors |= {name: getattr(coupling, name) for name in ("f", "g") if hasattr(coupling, name)}
    write_atomically(
        run.path / "coupling.safetensors", save({name: t.detach().contiguous() for name, t in tensors.items()})
    )
    metrics = {}
    for resolved in plan.metrics:
        metric, spec = resolved.build(), plan.datasets[1].spec
        if hasattr(metric, "fit"):
            metric.fit(whole(plan.datasets[1], "train"), spec)
        held_out = whole(plan.datasets[1], plan.evaluate.split)
        metric.update(generated=Batch(mapped.view(-1, *spec.shape)), real=held_out)
        result = metric.compute()
        metrics[resolved.entry.name] = {"value": result.value, "n": result.n, "features": result.features}
    summary = {"schema": 1, "run": str(run.path), "solution": solution, "metrics": metrics}
    write_atomically(run.path / "solution.json", json.dumps(summary, indent=1))
    return summary
