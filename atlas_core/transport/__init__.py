"""A transport pipeline: couple two bodies of data with a solver, map one onto the other, and report what came of it."""

from __future__ import annotations

from atlas_core.transport.pipeline import run_transport

__all__ = ["run_transport"]
