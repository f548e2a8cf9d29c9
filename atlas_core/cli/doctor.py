"""`atlas-core doctor`: whether this machine, this Python and every plugin on it are fit to run Atlas."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import distributions
from typing import Any

import click

import atlas_core
from atlas_core.plugins.scan import normalised


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Examine Python, torch, devices and every plugin. Exits with 1 if something is broken.

    Each plugin is imported in a process of its own, as `list-plugins --check` does.
    """
    from atlas_core.plugins.check import check
    from atlas_core.plugins.registry import Registry

    registry = Registry()
    rows = check(registry)
    report: dict[str, Any] = {
        "schema": 1,
        "python": {"version": platform.python_version(), "executable": sys.executable, "platform": platform.platform()},
        "atlas_core": {"version": atlas_core.__version__, "file": atlas_core.__file__},
        "torch": _torch(),
        "plugins": [row._asdict() for row in rows],
        "problems": _installation_problems(),
        "notes": list(registry.verdicts.notes),
    }
    if "error" in report["torch"]:
        report["problems"].append(f"torch cannot be used: {report['torch']['error']}")
    for row in rows:
        if row.status in ("broken", "incompatible"):
            report["problems"].append(f"{row.kind} {row.id} is {row.status}: {row.reason}")
        elif row.status in ("ambiguous", "shadowed", "slow"):
            report["notes"].append(f"{row.kind} {row.id} is {row.status}: {row.reason}")
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _show(report)
    if report["problems"]:
        raise SystemExit(1)


def _installation_problems() -> list[str]:
    """Find an atlas-core that is not ours: old strangers have the name on the public index."""
    problems = []
    if atlas_core.__file__ is None:
        problems.append(
            f"atlas_core is an empty namespace package in {', '.join(atlas_core.__path__)}: it is not installed"
        )
    for distribution in distributions():
        if (distribution.read_text("METADATA") or "").find("\nName: atlas") < 0:
            continue
        name, version = normalised(distribution.name), distribution.version
        where = distribution.locate_file("")
        if name == "atlas-core" and not (distribution.read_text("entry_points.txt") or "").count("atlas_core.cli:main"):
            problems.append(
                f"atlas-core {version} in {where} is another project of that name: pip uninstall atlas-core"
            )
        elif name == "atlas-core" and version != atlas_core.__version__:
            problems.append(
                f"atlas-core {version} is installed in {where}, but Python imports {atlas_core.__version__}, "
                f"{atlas_core.__file__}"
            )
        elif name == "atlas-models":
            problems.append(f"atlas-models {version} in {where} is no project of ours: pip uninstall atlas-models")
    return problems


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken install raises OSError and more; it is reported
        return {"error": f"{type(error).__name__}: {error}"}
    devices: list[dict[str, Any]] = [
        {"name": "cpu", "model": platform.processor() or platform.machine(), "precisions": ["float32", "bf16"]}
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        precisions = ["float32", "fp16"]
        if properties.major >= 8:  # Ampere: the first with both in hardware
            precisions += ["bf16", "tf32"]
        devices.append(
            {
                "name": f"cuda:{index}",
                "model": properties.name,
                "precisions": precisions,
                "memory_gib": round(properties.total_memory / 2**30, 1),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "model": "Apple", "precisions": ["float32", "fp16"]})
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "devices": devices,
    }


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    python, core, torch = report["python"], report["atlas_core"], report["torch"]
    console.print(f"[bold]Python[/bold]      {python['version']}  {escape(python['executable'])}  {python['platform']}")
    console.print(f"[bold]atlas-core[/bold]  {core['version']}  {escape(str(core['file']))}")
    if "error" not in torch:
        threads = f"{torch['threads']} threads on {torch['cpus']} CPUs"
        console.print(f"[bold]torch[/bold]       {torch['version']}  {threads}")
        for device in torch["devices"]:
            memory = f"  {device['memory_gib']} GiB" if "memory_gib" in device else ""
            console.print(f"  {device['name']}  {escape(device['model'])}{memory}  {', '.join(device['precisions'])}")
    counts: dict[str, int] = {}
    for row in report["plugins"]:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    console.print(
        f"[bold]plugins[/bold]     {', '.join(f'{n} {status}' for status, n in sorted(counts.items())) or 'none'}"
    )
    for note in report["notes"]:
        console.print(f"[yellow]note[/yellow]     {escape(note)}")
    for problem in report["problems"]:
        console.print(f"[red]problem[/red]  {escape(problem)}")
    if not report["problems"]:
        console.print("[green]Nothing is broken.[/green]")
