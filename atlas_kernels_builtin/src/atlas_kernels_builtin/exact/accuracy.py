"""How accurate entries need to be, and what that lets them be computed in."""

from __future__ import annotations

import torch

FLOAT32_ACCURACY = 1e-6
"""Relative error of entries that are computed in float32 throughout."""
ROUNDED = 1e-4
"""The same of entries of products that are rounded to a narrower `storage` than the points have."""


def coarse_dtype(accuracy: float | None) -> torch.dtype | None:
    """float32 for entries that may be as wrong as that; None: in the dtype of the points."""
    return torch.float32 if accuracy is not None and accuracy >= FLOAT32_ACCURACY else None
