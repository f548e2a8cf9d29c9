"""Entropic transport beside POT, OTT-JAX and GeomLoss: seconds from raw points to potentials of true error ≤ 1e-6.

    python benchmarks/transport.py
    python benchmarks/transport.py --problems d2-n4000-e0.01,d64-n4000-e0.01 --peers atlas,pot-knopp,ott-lse --cap 120

A problem is `[family-]dD-nN-eE`: N points on each side in D dimensions, squared-Euclidean cost divided by its mean, ε
in units of that mean. Each method runs in a fresh process, imports and compilation apart; both marginals are measured
again in float64 from the potentials it returns. `ratio` is the time of the best peer that is right over the time of
the row. A method is stopped after `--cap` seconds, and when it has taken twice as long as the best peer so far: it is
not the best one. The peers: `python -m pip install -r requirements-bench.txt`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: waiting threads must not spin
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch
from peers.problems import problem, true_error
from peers.transport import COMPILE, PEERS
from table import arguments, report

PROBLEMS = ",".join(
    [
        *(f"d{dimension}-n4000-e{epsilon}" for dimension in (2, 16, 64, 784) for epsilon in ("1", "0.1", "0.01")),
        *("d2-n4000-e0.001", "d64-n4000-e0.001", "d2-n10000-e0.1", "d2-n10000-e0.01"),
    ]
)
HOPELESS = 2.0
"""A method that has taken so many times as long as the best peer so far is stopped."""
READY = "ready"
SLACK = 1.5
"""An answer counts as right up to this multiple of the tolerance."""


def measure(name: str, peer: str, options: Any) -> dict[str, Any]:
    """Solve in this process; the median of the repetitions."""
    import resource

    torch.set_num_threads(options.threads)
    task, dtype = problem(name, seed=options.seed, tolerance=options.tolerance), np.dtype(options.dtype)
    PEERS[peer](problem("d2-n50-e1", tolerance=1e-3), dtype)  # imports are not what is compared
    if PEERS[peer] in COMPILE:
        COMPILE[PEERS[peer]](task, dtype)
    print(READY, flush=True)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    while len(seconds) < options.reps and sum(seconds) < options.cap / 2:
        start = time.perf_counter()
        answer = PEERS[peer](task, dtype)
        seconds.append(time.perf_counter() - start)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "seconds": statistics.median(seconds),
        "true_l1": true_error(task, answer),
        "iterations": answer.iterations,
        "extra_mb": memory,
        "note": answer.note,
    }


def in_a_fresh_process(name: str, peer: str, cap: float, options: Any) -> dict[str, Any]:
    """Return the row of one method on one problem, also where there is no answer within `cap` seconds."""
    settings = ("threads", "seed", "tolerance", "dtype", "reps")
    flags = [part for key in settings for part in (f"--{key}", str(getattr(options, key)))]
    command = [sys.executable, __file__, "--problems", name, "--peers", peer, "--one", "--cap", str(cap), *flags]
    row = {"problem": name, "method": peer, "seconds": None, "true_l1": None, "iterations": None, "extra_mb": None}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # ready: imports and compilation have no cap
        said, complaint = child.communicate(timeout=1.5 * cap + 5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {**row, "note": f"no answer in {cap:.3g} s"}
    if child.returncode:
        last = (complaint.strip().splitlines() or ["no message"])[-1]
        hint = " (pip install -r requirements-bench.txt)" if "No module named" in last else ""
        return {**row, "note": last + hint}
    return {**row, **json.loads(said.splitlines()[-1])}


def beside_each_other(name: str, peers: list[str], options: Any) -> list[dict[str, Any]]:
    """Return the rows of one problem, one a method."""
    rows: list[dict[str, Any]] = []
    for peer in peers:
        right = [r["seconds"] for r in rows if is_right(r, options) and not r["method"].startswith("atlas")]
        hopeless = [] if peer.startswith("atlas") else [max(HOPELESS * seconds, 1.0) for seconds in right]
        cap = min([options.cap, *hopeless])
        print(f"{name}: {peer} …", file=sys.stderr, flush=True)  # a run takes minutes
        rows.append(in_a_fresh_process(name, peer, cap, options))
    return with_ratios(rows, options)


def is_right(row: dict[str, Any], options: Any) -> bool:
    return row["true_l1"] is not None and row["true_l1"] <= SLACK * options.tolerance


def with_ratios(rows: list[dict[str, Any]], options: Any) -> list[dict[str, Any]]:
    """Add what the best right peer took, divided by what the row took; and whether the row is right."""
    for row in rows:
        row["right"] = is_right(row, options)
    peers = [r["seconds"] for r in rows if r["right"] and not r["method"].startswith("atlas")]
    for row in rows:
        row["ratio"] = min(peers) / row["seconds"] if peers and row["right"] else None
        if not peers and len(rows) > 1 and row["right"]:
            row["ratio"], row["note"] = options.cap / row["seconds"], f"no peer was right within {options.cap:g} s"
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--problems", default=PROBLEMS, help="names, separated by commas")
    parser.add_argument("--peers", default="all", help=f"of {', '.join(PEERS)}; or all")
    parser.add_argument("--cap", type=float, default=60.0, help="seconds that a method may take for one problem")
    parser.add_argument("--reps", type=int, default=3, help="repetitions, of which the median counts")
    parser.add_argument("--seed", type=int, default=0, help="seed of the points")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="L1 error of the marginals")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--one", action="store_true", help="one method on one problem, in this process, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.problems, options.peers, options)))
        return
    names = list(PEERS) if options.peers == "all" else options.peers.split(",")
    problems = options.problems.split(",")
    for name in problems:
        problem(name)  # a mistyped name is said before anything runs
    rows = [row for name in problems for row in beside_each_other(name, names, options)]
    report("transport", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
