"""Grids fitted to a network, kept with its checkpoint and used wherever that is sampled."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.config.plan import PipelinePlan
from atlas_core.errors import CheckpointError, UsageError
from atlas_core.runs.atomic import write_atomically

if TYPE_CHECKING:
    from atlas_core.contracts import FittedGrid
    from atlas_core.pipeline import Pipeline
    from atlas_core.plugins.registry import Registry

FILE = "grids.json"
DEFAULT = "atlas-solvers-builtin:fitted"
OFFERED, SEEDS_FROM = 256, 2**40
"""Start states that a grid may look at, and their seeds: none that anyone samples with."""


@attrs.frozen
class FittedSteps:
    """What fitting one number of steps has come to."""

    steps: int
    nfe: int
    before: float
    """Root mean square distance from a fine solution, a value of a sample, on the pipeline's own grid."""
    after: float
    calls: int
    samples: int


def fit_grids(
    pipeline: Pipeline,
    steps: Sequence[int],
    *,
    grid: str | Mapping[str, Any] = DEFAULT,
    on_fit: Callable[[FittedSteps], None] = lambda fitted: None,
) -> list[FittedSteps]:
    """Fit a grid for each number of `steps` of the pipeline's sampler and guidance, and keep it with its checkpoint.

    Steps that were fitted before, for the same sampler and guidance, are kept beside them; `on_fit` hears of each one
    when it is kept. Raises UsageError for a pipeline without a checkpoint, for a grid that cannot be fitted, and for a
    sampler that a grid cannot be fitted to.
    """
    import torch

    from atlas_core.contracts import FittedGrid
    from atlas_core.engine.noise import CounterNoise
    from atlas_core.engine.sampling import bind, sampling_times

    if pipeline.checkpoint is None:
        raise UsageError("a fitted grid is kept with a checkpoint, and this pipeline was not opened from one")
    plan, network = pipeline.plan, pipeline.network
    table, fitted = _begin(pipeline, grid)
    if not isinstance(fitted, FittedGrid):
        raise UsageError(f"the grid {table['use']} cannot be fitted", hint=f"Try {DEFAULT}.")
    sampler = plan.sampler.build()
    classes = len(plan.facts.spec.classes) if plan.facts.spec is not None else 0
    labels = [i % classes for i in range(OFFERED)] if network.conditioner is not None and classes else None
    times = sampling_times(plan.sampling.grid, network.process, network.parametrization, 1)
    noise = CounterNoise.from_seeds(range(SEEDS_FROM, SEEDS_FROM + OFFERED))
    x = noise.normal("prior", 0, torch.empty((OFFERED, *pipeline.spec.shape))).to(pipeline.device)
    denoiser = bind(network, OFFERED, labels, plan.sampling.guidance, pipeline.weak_network())
    rows = []
    with torch.no_grad():
        start = network.process.prior(x, float(times[0]))
        for count in dict.fromkeys(steps):
            try:
                fit = fitted.fit(denoiser, sampler, start, float(times[0]), count)
            except ValueError as error:
                raise UsageError(str(error), hint="atlas-core list-plugins --kind sampler") from error
            table = _changed(table, fitted, fit.grid)
            fitted = fit.grid
            _keep(pipeline, table)
            nfe = sampler.nfe(count) or 0
            rows.append(FittedSteps(count, nfe, fit.before, fit.after, fit.calls, fit.samples))
            on_fit(rows[-1])
    return rows


def planned(
    table: Mapping[str, Any], checkpoint: Path, overrides: Sequence[str], registry: Registry | None = None
) -> PipelinePlan:
    """Resolve the config of a checkpoint, with the grid that was fitted for its sampler and guidance, if there is one.

    A grid that `overrides` name has precedence. Raises ConfigError, CheckpointError for fits that cannot be read.
    """
    plan = PipelinePlan.from_table(table, registry, overrides=overrides)
    if any(text.partition("=")[0].strip() in ("sampling", "sampling.grid", "sampling.grid.use") for text in overrides):
        return plan
    found = next((fit for fit in read(checkpoint) if _is_for(fit, plan)), None)
    if found is None:
        return plan
    changed = copy.deepcopy(dict(table))
    changed["sampling"] = {**changed.get("sampling", {}), "grid": found["grid"]}
    return PipelinePlan.from_table(changed, registry, overrides=overrides)


def read(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the fits of a checkpoint: sampler, guidance, grid as tables. Raises CheckpointError for a broken file."""
    path = checkpoint / FILE
    if not path.exists():
        return []
    try:
        fits: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["fits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint=f"Delete it and fit again: {path}") from error
    own = fingerprint(checkpoint)
    if any(fit.get("network") != own for fit in fits):
        raise CheckpointError(
            f"{path} was fitted to another network",
            hint=f"Delete it, and fit this one: atlas-core fit-grid {checkpoint}",
        )
    return fits


def fingerprint(checkpoint: Path) -> str:
    """Return what tells the weights of a checkpoint from all others."""
    from atlas_core.engine.checkpoint import open_checkpoint

    return str(open_checkpoint(checkpoint).files["ema.safetensors"]["sha256"])


def _is_for(fit: Mapping[str, Any], plan: PipelinePlan) -> bool:
    return fit.get("sampler") == plan.sampler.table and fit.get("guidance") == plan.guidance.table


def _begin(pipeline: Pipeline, grid: str | Mapping[str, Any]) -> tuple[dict[str, Any], FittedGrid]:
    """Return the table of the grid to fit, and the grid: with what was fitted before, unless it is another one."""
    from atlas_core.config.structure import structure

    assert pipeline.checkpoint is not None
    given = {"use": grid} if isinstance(grid, str) else dict(grid)
    before = next((fit["grid"] for fit in read(pipeline.checkpoint) if _is_for(fit, pipeline.plan)), None)
    resolved = structure("grid", given, facts={}, registry=pipeline.plan.registry, where="$.sampling.grid")
    if before is not None and before["use"] == resolved.id:
        resolved = structure("grid", {**before, **given}, facts={}, registry=pipeline.plan.registry)
    return resolved.table, resolved.build()


def _changed(table: Mapping[str, Any], before: Any, after: Any) -> dict[str, Any]:
    """Return the table with the settings in which two grids differ; tables of nested components are as they were."""
    new = dict(table)
    for field in attrs.fields(type(after)):
        value = getattr(after, field.name)
        if value is not getattr(before, field.name):
            new[field.name] = json.loads(json.dumps(value))  # tuples as the lists of TOML
    return new


def _keep(pipeline: Pipeline, grid: Mapping[str, Any]) -> None:
    plan, checkpoint = pipeline.plan, pipeline.checkpoint
    assert checkpoint is not None
    others = [fit for fit in read(checkpoint) if not _is_for(fit, plan)]
    mine = {
        "network": fingerprint(checkpoint),
        "sampler": plan.sampler.table,
        "guidance": plan.guidance.table,
        "grid": dict(grid),
    }
    write_atomically(checkpoint / FILE, json.dumps({"schema": 1, "fits": [*others, mine]}, indent=1))
