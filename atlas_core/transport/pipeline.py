"""Read, couple, measure, map, keep, score, report: a transport from a plan to its folder."""

from __future__ import annotations

import contextlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor

from atlas_core.config.resolved import out_of_memory
from atlas_core.config.writing import to_toml
from atlas_core.engine.training.hardware import resolve_device
from atlas_core.errors import AtlasError, DataError, PluginError, RunError
from atlas_core.report.transport import EVALUATION, SOLUTION, write_transport_report
from atlas_core.report.transport_pictures import draw_pictures
from atlas_core.runs.atomic import write_atomically
from atlas_core.transport.keeping import keep_coupling, keep_mapped
from atlas_core.transport.measure import in_units, kernel_settings, mean_cost, measured
from atlas_core.transport.memory import available_memory, peak_memory
from atlas_core.transport.scoring import score
from atlas_core.transport.side import Side, alike, read_side

if TYPE_CHECKING:
    from atlas_core.config.plan import TransportPlan
    from atlas_core.runs.folder import RunFolder

SCHEMA = 1


def run_transport(
    plan: TransportPlan, run: RunFolder, *, say: Callable[[str], None] = lambda _text: None
) -> dict[str, Any]:
    """Couple source and target, and return what `solution.json` holds.

    Leaves config.toml, lock.json, solution.json, coupling.safetensors, the mapped points, pictures, report.html and,
    where the config names a metric, evaluation.json. `say` hears what is going on. A solver that did not converge is no
    error here: `solution.converged` is False, and report and commands say so. Raises DataError for data that cannot be
    coupled, RunError where memory or disk do not suffice, PluginError for a solver that breaks.
    """
    write_atomically(run.config_toml, to_toml(plan.table))
    write_atomically(run.lock_json, json.dumps(plan.lock(), indent=2))
    log = _Log(say)
    source, target = _read(plan, log)
    with _solvers_own(plan, source, target):
        coupling, solution = _coupled(plan, source, target, log)
        with log.timed("mapping"):
            mapped = coupling.barycentric_map().detach()
    log.notes += _lost(mapped)
    say("keeping, drawing and scoring")
    summary = {
        "schema": SCHEMA,
        "run": str(run.path),
        "report": str(run.report_html),
        "source": _about(source, plan.source.id),
        "target": _about(target, plan.target.id),
        "solver": plan.solver.id,
        "solution": solution,
        **_kept(plan, run, coupling, source, target, mapped, log),
        "metrics": _scored(plan, run, source, target, mapped, log) if plan.metrics else {},
        "notes": list(dict.fromkeys(log.notes)),
        "warnings": _once(log.warnings),
        "timings": log.timings,
    }
    write_atomically(run.path / SOLUTION, json.dumps(summary, indent=1))
    write_transport_report(run)
    return summary


@attrs.define
class _Log:
    """What a run has to say, and how long each part of it took."""

    say: Callable[[str], None]
    notes: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    timings: dict[str, float] = attrs.field(factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the block; what it warns of goes into the report, and on to whoever listens."""
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            yield
        self.timings[name] = round(time.perf_counter() - began, 4)
        for each in heard:
            if not issubclass(each.category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
                self.warnings.append(str(each.message))
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _read(plan: TransportPlan, log: _Log) -> tuple[Side, Side]:
    device = resolve_device(plan.transport.device)
    with log.timed("reading"):
        source, target = alike(
            read_side(plan.source, plan.datasets[0], device), read_side(plan.target, plan.datasets[1], device)
        )
    log.notes += [*plan.notes, *source.notes(), *target.notes(), *size_notes(source, target)]
    for note in log.notes:
        log.say(f"note: {note}")
    return source, target


def _coupled(plan: TransportPlan, source: Side, target: Side, log: _Log) -> tuple[Any, dict[str, Any]]:
    """The coupling, and the numbers of it."""
    n, d = source.points.shape
    log.say(f"coupling {n} × {len(target)} points of {d} coordinate{'s' if d > 1 else ''} with {plan.solver.id}")
    solver = in_units(plan.solver.build(), source, target)
    with log.timed("coupling"), peak_memory(source.points.device) as peak:
        coupling = solver.solve(source.points, target.points, a=source.weights, b=target.weights)
    with log.timed("measuring"):
        solution = measured(coupling, source, target)
        solution["mean_cost"] = mean_cost(solver, source, target)
        solution["kernel"] = kernel_settings(solver)
    # What the solver says of itself leaves out what Python loaded at its first call.
    own = {name: getattr(coupling, name, None) for name in ("seconds", "peak_bytes")}
    measured_here = {"seconds": log.timings["coupling"], "peak_bytes": peak.bytes}
    return coupling, solution | {name: measured_here[name] if own[name] is None else own[name] for name in own}


def _kept(
    plan: TransportPlan, run: RunFolder, coupling: Any, source: Side, target: Side, mapped: Tensor, log: _Log
) -> dict[str, Any]:
    """Write coupling, mapped points and pictures; say which files they are."""
    about = {"solver": plan.solver.table, "source": source.label, "target": target.label}
    with log.timed("keeping"), _solvers_own(plan, source, target):
        solver = in_units(plan.solver.build(), source, target)
        kept = keep_coupling(run.path / "coupling.safetensors", coupling, solver, source, target, mapped, about)
        name = keep_mapped(run.path, source, mapped)
    with log.timed("drawing"), _solvers_own(plan, source, target):
        pictures = draw_pictures(run.path, coupling, source, target, mapped)
    return {"kept": kept, "files": {"coupling": "coupling.safetensors", "mapped": name}, "pictures": pictures}


def _scored(
    plan: TransportPlan, run: RunFolder, source: Side, target: Side, mapped: Tensor, log: _Log
) -> dict[str, Any]:
    log.say("scoring")
    with log.timed("scoring"):
        table = score(plan, source, target, mapped)
    log.warnings += table.failures
    write_atomically(run.path / EVALUATION, json.dumps(table.to_json(), indent=1))
    floors = {column.name: column.floor for column in table.columns}
    return {
        name: {
            "value": cell.value,
            "floor": floors[name],
            "n": cell.n,
            "features": cell.features,
            **({"error": cell.error} if cell.error else {}),
        }
        for name, cell in table.rows[0].cells.items()
    }


@contextlib.contextmanager
def _solvers_own(plan: TransportPlan, source: Side, target: Side) -> Iterator[None]:
    """Say of an error in the solver's code whose it is: the data's, the machine's or the plugin's."""
    try:
        yield
    except (AtlasError, OSError):
        raise
    except ValueError as error:
        raise DataError(f"{plan.solver.id} cannot couple {source.label} and {target.label}: {error}") from error
    except Exception as error:
        if out_of_memory(error):
            raise RunError(
                f"{plan.solver.id} has not enough memory for {len(source)} × {len(target)} points: {error or 'full'}",
                hint="Fewer points need less, and so does a solver that streams its kernel.",
            ) from error
        raise PluginError(
            f"solver {plan.solver.id} {plan.solver.entry.version} failed: {type(error).__name__}: {error}",
            hint="`atlas-core list-plugins --check` shows what every plugin does.",
        ) from error


def _once(texts: list[str]) -> list[str]:
    """Each text once: one that differs in its numbers alone is the same."""
    return list({re.sub(r"[0-9.]+", "", text): text for text in texts}.values())


def size_notes(source: Side, target: Side) -> Iterator[str]:
    """Yield what has to be known of a matrix of all pairs that would not fit into memory."""
    taken = len(source) * len(target) * source.points.element_size()
    free = available_memory()
    if free is not None and taken > free / 2:
        sizes = f"{taken / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"
        yield (
            f"a matrix of {len(source)} × {len(target)} entries would take {sizes}: a solver that works on operators "
            "does not form it, but streams it in blocks"
        )


def _lost(mapped: Tensor) -> list[str]:
    lost = int((~mapped.isfinite().all(-1)).sum())
    return [f"{lost} of {len(mapped)} source points have no mass in the plan, and so no image"] if lost else []


def _about(side: Side, component: str) -> dict[str, Any]:
    return {
        "label": side.label,
        "component": component,
        "n": len(side),
        "shape": list(side.shape),
        "coordinates": list(side.names),
        "weighted": side.weights is not None,
    }
