"""The page of a transport: `report.html`, self-contained, made again at any time from the files beside it."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from atlas_core.engine.scores import Evaluation
from atlas_core.errors import RunError
from atlas_core.report.page import score_lines
from atlas_core.runs.atomic import write_atomically
from atlas_core.runs.folder import RunFolder

SOLUTION, EVALUATION = "solution.json", "evaluation.json"
ALLOWED = 0.01
"""A larger marginal error of a plan that converged is meant, as in unbalanced transport."""
NO_WORD = "the solver does not say whether it converged"


def is_transport_run(run: RunFolder) -> bool:
    """True for the folder of a transport that was solved."""
    return (run.path / SOLUTION).is_file()


def write_transport_report(run: RunFolder) -> Path:
    """Write `report.html` of a transport from the files in its folder, and return its path.

    Raises RunError where solution.json cannot be read or the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    summary = _read(run.path / SOLUTION)
    evaluation = _read(run.path / EVALUATION) if (run.path / EVALUATION).is_file() else None
    lock = _read(run.lock_json) if run.lock_json.is_file() else {}
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("transport.html.j2").render(
        name=run.name,
        summary=summary,
        verdict=verdict(summary["solution"]),
        facts=list(_facts(summary)),
        numbers=list(numbers(summary["solution"])),
        pictures=[(each, _uri(run.path / each["file"])) for each in summary["pictures"]],
        scores=score_lines(Evaluation.from_json(evaluation)) if evaluation else None,
        lock=lock,
        files=_files(run),
        timings=[(what, _seconds(value)) for what, value in summary["timings"].items()],
        config_text=run.config_toml.read_text(encoding="utf-8") if run.config_toml.is_file() else "",
        again=f"atlas-core run {shlex.quote(str(run.path / 'config.toml'))}",
        page_again=f"atlas-core report {shlex.quote(str(run.path))}",
    )
    write_atomically(run.report_html, page)
    return run.report_html


def verdict(solution: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return (level, word, sentence): whether the numbers below can be believed."""
    error = solution.get("marginal_error")
    measured = f"the plan misses its marginals by {_number(error)} of the mass (L1)" if error is not None else ""
    if solution.get("converged") is False:
        why = solution.get("status", "it did not converge")
        said = f"The solver stopped without an answer ({why}): {measured or 'its numbers are not finite'}. "
        return "far", "not converged", said + "Do not rely on the numbers and the map; the warning names what to try."
    if solution.get("cost") is None:
        return "far", "not finite", "The cost of the plan is not a finite number: nothing below can be relied on."
    if solution.get("converged") is None:
        return "none", "measured", f"{NO_WORD[0].upper()}{NO_WORD[1:]}; measured on the plan itself, {measured}."
    if error is not None and error > ALLOWED:
        free = f"its plan moves {_number(solution['mass'])} of mass, and differs from the given marginals by"
        return "close", "converged", f"The solver leaves the marginals free: {free} {_number(error)} (L1)."
    return "close", "converged", f"Measured on the plan itself, {measured}."


def numbers(solution: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (what, value, what it means) of everything that was measured."""
    if solution.get("kernel"):
        kernel = solution["kernel"]
        given = {
            name: f"{value:.6g}" if isinstance(value, float) else value for name, value in kernel["settings"].items()
        }
        settings = ", ".join(f"{name} {value}" for name, value in given.items())
        words = "C = −log k of this kernel; all costs are in its units"
        yield "cost C", f"{kernel['class']} ({settings})" if settings else kernel["class"], words
    yield "transport cost ⟨P, C⟩", _number(solution["cost"]), "mean cost of moving a unit of mass, as the plan does it"
    if solution.get("mean_cost") is not None:
        words = "what it would cost to couple every point with every other"
        yield "mean cost ⟨a ⊗ b, C⟩", _number(solution["mean_cost"]), words
    if "value" in solution:
        yield (
            "value",
            _number(solution["value"]),
            "what the solver minimises: the cost and, if it has one, the entropy's price",
        )
    if solution.get("epsilon") is not None:
        relative = _relative(solution)
        share = f" = {_number(relative)} × the mean cost" if relative is not None else ""
        yield (
            "ε",
            _number(solution["epsilon"]) + share,
            "weight of the entropy, in units of the cost; less is sharper and slower",
        )
    for name, error in zip(("source", "target"), solution["marginal_errors"], strict=True):
        yield f"marginal error, {name}", _number(error), f"L1 distance of the plan's {name} masses from the given ones"
    if solution.get("mass") is not None and abs(solution["mass"] - 1) > 1e-3:
        yield "mass moved", _number(solution["mass"]), "total mass of the plan"
    if "duality_gap" in solution:
        yield "duality gap", _number(solution["duality_gap"]), "how far the value can be from the best possible"
    if "status" in solution:
        yield "status", solution["status"], ""
    if "iterations" in solution:
        products = f", {solution['matvecs']} products with the kernel" if "matvecs" in solution else ""
        yield "iterations", f"{solution['iterations']}{products}", ""
    yield "time", _seconds(solution["seconds"]), f"of the solver alone, in {solution['dtype']} on {solution['device']}"
    if solution.get("peak_bytes") is not None:
        yield "memory", _bytes(solution["peak_bytes"]), "the most that the solver took on top of what was there before"


def _facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for side in ("source", "target"):
        each = summary[side]
        weighted = ", weighted" if each["weighted"] else ""
        yield side, f"{each['label']}: {_count(each['n'])}{weighted}"
    yield "a point", _shape(summary["source"])
    yield "solver", summary["solver"].rpartition(":")[2]


def _shape(side: Mapping[str, Any]) -> str:
    shape, names = side["shape"], side["coordinates"]
    if len(shape) == 1 and 0 < len(names) <= 4:
        return ", ".join(names)
    return " × ".join(str(length) for length in shape) + (" numbers" if len(shape) == 1 else "")


def _relative(solution: Mapping[str, Any]) -> float | None:
    mean = solution.get("mean_cost")
    return solution["epsilon"] / mean if mean else None


def _files(run: RunFolder) -> list[tuple[str, str]]:
    summary = _read(run.path / SOLUTION)
    kept = summary["kept"]
    mapped = summary["files"]["mapped"]
    return [
        (mapped, "the mapped points, row by row those of the source" if "." in mapped else "the mapped images"),
        ("coupling.safetensors", f"points and weights of both sides, the mapped points; of the plan, {kept}"),
        (SOLUTION, "every number of this page"),
        ("config.toml, lock.json", "settings, and versions of all parts"),
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="Run the transport again.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is no JSON object", hint="Run the transport again.")
    return content


def _uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _count(n: int) -> str:
    return f"{n:,} point{'s' if n != 1 else ''}".replace(",", "\u202f")


def _seconds(seconds: float) -> str:
    if seconds >= 60:
        return f"{int(seconds // 60)} min {seconds % 60:.0f} s"
    return f"{seconds:.3g} s" if seconds >= 0.001 else "under 1 ms"


def _bytes(count: int) -> str:
    if count < 2**20:
        return "under 1 MiB"
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
