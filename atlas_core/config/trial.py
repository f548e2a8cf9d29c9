"""Try a part on a handful of points before anything is trained: what it refuses now, it would refuse in the loop."""

from __future__ import annotations

import warnings
from typing import Any

ROWS = 4
"""Points on either side of a trial."""


def pairing_refused(objective: Any, shape: tuple[int, ...]) -> str:
    """Return why an objective cannot pair items of this shape with their other ends; empty where it can, or need not.

    One that couples its rows without the methods of `CoupledObjective` is not tried.
    """
    import torch

    from atlas_core.contracts import Batch
    from atlas_core.engine.noise import CounterNoise
    from atlas_core.engine.training.coupling import couples, paired

    coupled = couples(objective)
    if coupled is None:
        return ""
    generator = torch.Generator().manual_seed(0)
    # Small, so that no setting is refused that the data itself, which is not at hand here, could carry.
    x, source = (0.1 * torch.randn(ROWS, *shape, generator=generator) for _end in range(2))
    index = torch.arange(ROWS)
    batch = Batch(x=x, condition=[0] * ROWS, index=index, step=0, source=source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of noise that is paired with noise, nobody wants to know how well
        try:
            paired(coupled, batch, CounterNoise.for_training(0, index))
        except Exception as error:  # noqa: BLE001 - whatever it raises, it would raise in training
            return f"{type(error).__name__}: {error}"
    return ""
