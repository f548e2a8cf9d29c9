"""Do the parts of a pipeline fit each other? Asked before anything is trained, answered from what the parts declare.

Every check yields findings; it asks nothing of a part that is missing, since the reason is on the list of problems.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from atlas_core.config.facts import Facts
from atlas_core.config.nearest import did_you_mean
from atlas_core.config.resolved import Resolved, Section
from atlas_core.errors import PluginError, UsageError

if TYPE_CHECKING:
    from atlas_core.plugins.registry import Registry


JUMPS = frozenset({"flow-map", "endpoint"})
"""What a network is that is told where a step ends: anywhere, or at the data alone."""


class Finding(NamedTuple):
    """Something that does not fit: a path, why, and what to do."""

    where: str
    message: str
    hint: str = ""


@attrs.frozen(eq=False)
class Parts:
    """What is there to negotiate about; None where a part is missing or has problems of its own."""

    registry: Registry
    facts: Facts
    process: Resolved | None = None
    parametrization: Resolved | None = None
    model: Resolved | None = None
    conditioner: Resolved | None = None
    objective: Resolved | None = None
    sampler: Resolved | None = None
    sampling: Section | None = None
    evaluate: Section | None = None
    splits: Sequence[str] | None = None
    dropout: float | None = None
    """Of the conditioner; None without one."""

    def sections(self) -> Iterator[Section]:
        for field in attrs.fields(Parts):
            if isinstance(part := getattr(self, field.name), Section):
                yield part


def inspect(resolved: Resolved) -> Any:
    """Return the component, to be looked at and not to be used. Random numbers are as they were."""
    if resolved.cls is resolved.target:
        return resolved.config
    with _kept_random_state():
        return resolved.build()


def findings(parts: Parts) -> Iterator[Finding]:
    """Run every check."""
    for check in _CHECKS:
        yield from check(parts)


def trained(objective: Any) -> frozenset[str]:
    """Return what a network can be to a sampler once the objective has trained it."""
    usual = {"denoiser"} if "denoiser" in objective.networks else {"dynamics"}
    return frozenset(getattr(objective, "trains", usual))


def _sampler_takes_what_is_trained(parts: Parts) -> Iterator[Finding]:
    if parts.sampler is None or parts.objective is None:
        return
    made, accepts = trained(inspect(parts.objective)), inspect(parts.sampler).accepts
    if not made & accepts:
        message = f"sampler {parts.sampler.id} integrates {_listed(accepts)}; {parts.objective.id} trains a "
        yield Finding(
            "$.sampler.use", f"{message}{_listed(made)}", "`atlas-core list-plugins --kind sampler` lists others."
        )


def _model_is_told_where_steps_end(parts: Parts) -> Iterator[Finding]:
    if parts.model is None or not parts.facts.jumps:
        return
    for field in attrs.fields(parts.model.cls):
        if field.metadata.get("fact") == "objective.jumps" and not parts.model.settings[field.alias]:
            message = f"model {parts.model.id} is not told where a step ends, and the objective trains a flow map"
            yield Finding(f"$.model.{field.alias}", message, f"Leave {field.alias} out: it is derived.")


def _guidance_has_its_reference(parts: Parts) -> Iterator[Finding]:
    guidance = _guidance(parts)
    if guidance is None:
        return
    needs, where = frozenset(inspect(guidance).needs), f"{guidance.where}.use"
    if "unconditional" in needs and parts.conditioner is None:
        message = f"{guidance.id} compares with the unconditional network, but there is no conditioner"
        yield Finding(
            where, message, "Add `[conditioner]`, as in conditioner.use=class-label, or sampling.guidance.use=none."
        )
    elif "unconditional" in needs and parts.dropout == 0:
        message = f"{guidance.id} compares with the unconditional network, which is never trained: dropout = 0"
        yield Finding(where, message, "Set conditioner.dropout=0.1, or sampling.guidance.use=none.")
    if "weak-model" in needs and not hasattr(inspect(guidance), "weak_model"):
        message = f"{guidance.id} needs weak-model, and names none"
        yield Finding(where, message, "Set sampling.guidance.use=cfg or none.")
    if other := needs - {"unconditional", "weak-model"}:
        message = f"{guidance.id} needs {_listed(other)}, which this pipeline does not have"
        yield Finding(where, message, "Set sampling.guidance.use=cfg or none.")


def _guidance_state_survives_the_sampler(parts: Parts) -> Iterator[Finding]:
    guidance = _guidance(parts)
    if guidance is None or parts.sampler is None:
        return
    if inspect(guidance).stateful and inspect(parts.sampler).nfe(1) is None:
        message = f"{guidance.id} carries a state from step to step; {parts.sampler.id} is adaptive and rejects steps"
        yield Finding(
            f"{guidance.where}.use", message, "Take a sampler with a fixed number of steps, as sampler.use=multistep."
        )


def _one_budget(parts: Parts) -> Iterator[Finding]:
    if parts.sampling is None:
        return
    nfe, steps = parts.sampling.settings["nfe"], parts.sampling.settings["steps"]
    if nfe is not None and steps is not None:
        yield Finding("$.sampling.steps", f"sampling.nfe = {nfe} is given, too; one of them decides", "Leave one out.")
    elif nfe is not None and parts.sampler is not None:
        least = inspect(parts.sampler).nfe(1)
        if least is not None and least > nfe:
            message = f"{nfe} is too few for {parts.sampler.id}: one step takes {least} calls"
            yield Finding("$.sampling.nfe", message, f"Set sampling.nfe={least} or more.")


def _grid_gives_times(parts: Parts) -> Iterator[Finding]:
    """Once, with the number of steps that the config asks for: else a bad grid shows only after the training."""
    if parts.sampler is None or parts.process is None or parts.parametrization is None or parts.sampling is None:
        return
    from atlas_core.engine.sampling import sampling_times, steps_for

    grid, sampler = parts.sampling.settings["grid"], inspect(parts.sampler)
    nfe, steps = parts.sampling.settings["nfe"], parts.sampling.settings["steps"]
    if steps is None and sampler.nfe(1) is None:
        message = f"{parts.sampler.id} chooses its own steps, so no number of calls says how many times the grid has"
        yield Finding("$.sampling.steps", message, "Set sampling.steps, as in sampling.steps=20.")
        return
    if not isinstance(grid, Resolved) or (steps is not None and nfe is not None):
        return
    try:
        count = steps_for(sampler, nfe=nfe, steps=steps)
        sampling_times(inspect(grid), inspect(parts.process), inspect(parts.parametrization), count)
    except UsageError:
        return  # too few calls for one step, which is on the list
    except PluginError as error:
        yield Finding(grid.where, f"{grid.id}: {error.message}", error.hint)
    except Exception as error:  # noqa: BLE001 - what a grid raises now, it would raise after the training
        message = f"{grid.id} gives no {count} steps on {parts.process.id}: {type(error).__name__}: {error}"
        yield Finding(grid.where, message, "`atlas-core list-plugins --kind grid` lists others.")


def _model_takes_the_condition(parts: Parts) -> Iterator[Finding]:
    if parts.model is None or parts.facts.widths is None:
        return
    fields = {field.metadata.get("fact"): field.alias for field in attrs.fields(parts.model.cls) if field.init}
    for part in ("vector", "tokens", "image"):
        made, field = parts.facts.widths.get(part, 0), fields.get(f"condition.{part}")
        taken = parts.model.settings[field] if field else 0
        if made == taken:
            continue
        maker = parts.conditioner.id if parts.conditioner else "a pipeline without a conditioner"
        message = f"model {parts.model.id} takes a condition {part} of width {taken}, {maker} makes one of width {made}"
        if not field:
            message = f"model {parts.model.id} takes no condition {part}, but {maker} makes one of width {made}"
        hint = f"Leave {field} out: it is derived." if field else "Take another model, or leave [conditioner] out."
        yield Finding(f"$.model.{field}" if field else "$.model.use", message, hint)


def _classes_for_the_conditioner(parts: Parts) -> Iterator[Finding]:
    if parts.conditioner is None or parts.facts.spec is None or parts.facts.spec.classes:
        return
    for field in attrs.fields(parts.conditioner.cls):
        if field.metadata.get("fact") == "data.classes" and parts.conditioner.settings[field.alias] == 0:
            message = f"conditioner {parts.conditioner.id} wants classes, and the data has none"
            yield Finding("$.conditioner.use", message, "Leave [conditioner] out, or take data with classes.")


def _parametrization_is_defined_on_the_process(parts: Parts) -> Iterator[Finding]:
    if parts.process is None or parts.parametrization is None:
        return
    refusal = undefined(inspect(parts.parametrization), inspect(parts.process))
    if not refusal:
        return
    legal = sorted(_legal_partners(parts, "parametrization", parts.process))
    others = sorted(_legal_partners(parts, "process", parts.parametrization))
    ours = parts.parametrization.entry.name
    hint = f"On {parts.process.entry.name}: {_listed(legal)}. For {ours}: {_listed(others)}."
    message = f"parametrization {parts.parametrization.id} is not defined on process {parts.process.id}: {refusal}"
    yield Finding("$.parametrization.use", message, hint)


def _objective_is_defined_there(parts: Parts) -> Iterator[Finding]:
    if parts.objective is None or parts.process is None or parts.parametrization is None:
        return
    check = getattr(inspect(parts.objective), "check", None)
    try:
        if check is not None:
            check(inspect(parts.process), inspect(parts.parametrization))
    except ValueError as error:
        yield Finding("$.objective", str(error))


def _evaluation_split_exists(parts: Parts) -> Iterator[Finding]:
    if parts.evaluate is None or parts.splits is None or not parts.evaluate.settings["metrics"]:
        return
    split = parts.evaluate.settings["split"]
    if split not in parts.splits:
        message = f'the data has no split "{split}"; it has {_listed(parts.splits)}'
        yield Finding("$.evaluate.split", message, did_you_mean(split, parts.splits))


def _kernels_give_a_cost(parts: Parts) -> Iterator[Finding]:
    for section in parts.sections():
        yield from kernel_findings(section)


def _coupling_gives_pairs(parts: Parts) -> Iterator[Finding]:
    """Once, on a few points of the data's shape: else a solver that cannot pair them shows only in training."""
    if parts.objective is None or parts.facts.spec is None or any(kernel_findings(parts.objective)):
        return
    solvers = [each for each in parts.objective.components() if each.kind == "solver"]
    if not solvers:
        return
    from atlas_core.config.trial import pairing_refused

    if why := pairing_refused(inspect(parts.objective), parts.facts.spec.shape):
        message = f"{solvers[0].id} cannot pair the batches of {parts.objective.id}: {why}"
        yield Finding(f"{solvers[0].where}.use", message, "It was tried on four random points of the data's shape.")


_CHECKS: tuple[Callable[[Parts], Iterator[Finding]], ...] = (
    _sampler_takes_what_is_trained,
    _model_is_told_where_steps_end,
    _guidance_has_its_reference,
    _guidance_state_survives_the_sampler,
    _one_budget,
    _grid_gives_times,
    _model_takes_the_condition,
    _classes_for_the_conditioner,
    _parametrization_is_defined_on_the_process,
    _objective_is_defined_there,
    _evaluation_split_exists,
    _kernels_give_a_cost,
    _coupling_gives_pairs,
)


def kernel_findings(section: Section) -> Iterator[Finding]:
    """Refuse a signed kernel below a solver: without log k there is no transport cost −log k."""
    for solver in section.components():
        for kernel in solver.children() if solver.kind == "solver" else ():
            if kernel.kind == "kernel" and not inspect(kernel).has_log:
                message = (
                    f"kernel {kernel.id} is signed, so it has no logarithm and gives {solver.id} no transport cost"
                )
                yield Finding(f"{kernel.where}.use", message, "Take a positive kernel, as gaussian.")


def undefined(parametrization: Any, process: Any) -> str:
    """Return why the parametrization is not defined on the process; empty where it is."""
    import torch

    latest = min(process.t_max, parametrization.t_max(process) if hasattr(parametrization, "t_max") else process.t_max)
    times = torch.linspace(process.t_min, latest, 17, dtype=torch.float64)
    try:
        coefficients = parametrization.coefficients(process, times)
    except ValueError as error:
        return str(error)
    names = ("c_in", "c_skip", "c_out", "c_noise")
    infinite = [name for name, values in zip(names, coefficients, strict=True) if not bool(values.isfinite().all())]
    return f"{_listed(infinite)} not finite on [{process.t_min}, {latest}]" if infinite else ""


def _legal_partners(parts: Parts, kind: str, fixed: Resolved) -> Iterator[str]:
    from atlas_core.config.structure import Reader  # which needs this module's Parts nowhere, but document needs both

    for entry in parts.registry.entries(kind):
        reader = Reader(parts.registry, facts=parts.facts.values())
        other = reader.component(kind, entry.id, f"$.{kind}")
        if other is None:
            continue  # broken or in need of settings: nothing to propose
        pair = (inspect(other), inspect(fixed)) if kind == "parametrization" else (inspect(fixed), inspect(other))
        if not undefined(*pair):
            yield entry.name


def _guidance(parts: Parts) -> Resolved | None:
    guidance = parts.sampling.settings["guidance"] if parts.sampling else None
    return guidance if isinstance(guidance, Resolved) else None


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) if isinstance(names, (set, frozenset)) else ", ".join(names) or "nothing"


def _kept_random_state() -> Any:
    torch = sys.modules.get("torch")
    return torch.random.fork_rng(devices=[]) if torch else nullcontext()
