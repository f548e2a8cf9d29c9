"""Kernels, and the operator that streams any of them in blocks. See README.md."""

from atlas_kernels_builtin.gaussian import Gaussian
from atlas_kernels_builtin.streaming import StreamingOperator, operator_of

__all__ = ["Gaussian", "StreamingOperator", "operator_of"]
