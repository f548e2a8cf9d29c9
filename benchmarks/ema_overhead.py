"""What averaging the weights costs beside a training step: forward, backward, clipping, AdamW.

Both are timed in every step, the average where a trainer updates it, after AdamW has pushed the weights out of the
cache. Target: the median update is below 2 % of the median step.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from table import arguments, report

from atlas_core import build
from atlas_core.engine.training.ema import MovingAverage

CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "unet 8 × 8": ("unet", 128, {"shape": (1, 8, 8), "channels": 32, "multipliers": (1, 2), "blocks": 1}),
    "unet 28 × 28": (
        "unet",
        16,
        {"shape": (1, 28, 28), "channels": 40, "multipliers": (1, 2), "blocks": 2, "middle": 0},
    ),
    "mlp 64": ("mlp", 512, {"shape": (64,), "width": 256, "blocks": 4}),
}


def measure(name: str, steps: int) -> dict[str, Any]:
    """Train on noise and return the share of the average."""
    model_name, batch, config = CASES[name]
    model = build("model", model_name, **config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    average = MovingAverage(model, 0.999)
    x, c_noise = torch.randn(batch, *config["shape"]), torch.randn(batch)
    step_seconds, update_seconds = [], []
    for _ in range(steps + 3):
        start = time.perf_counter()
        (model(x, c_noise) - x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        stepped = time.perf_counter()
        average.update()
        step_seconds.append(stepped - start)
        update_seconds.append(time.perf_counter() - stepped)
    step, update = statistics.median(step_seconds[3:]), statistics.median(update_seconds[3:])
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": batch,
        "step_ms": 1e3 * step,
        "ema_ms": 1e3 * update,
        "percent": 100 * update / step,
        "target": 2.0,
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=50, help="training steps of each network")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(name, options.steps) for name in CASES]
    report("ema_overhead", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
