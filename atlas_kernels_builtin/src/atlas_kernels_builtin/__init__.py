"""Kernels, and the operator that streams any of them in blocks. See README.md."""

from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.approximate.nystroem import Nystroem
from atlas_kernels_builtin.approximate.positive_rff import PositiveRff
from atlas_kernels_builtin.approximate.rff import Rff
from atlas_kernels_builtin.exact.streaming import StreamingOperator
from atlas_kernels_builtin.kernels.cauchy import Cauchy, InverseMultiquadric
from atlas_kernels_builtin.kernels.energy import Energy
from atlas_kernels_builtin.kernels.gaussian import Gaussian
from atlas_kernels_builtin.kernels.laplacian import Laplacian
from atlas_kernels_builtin.kernels.matern import Matern
from atlas_kernels_builtin.kernels.products import Product, Scaled
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_kernels_builtin.kernels.sums import Mixture, Sum
from atlas_kernels_builtin.operators import operator_of

__all__ = [
    "Cauchy",
    "Energy",
    "Gaussian",
    "InverseMultiquadric",
    "Laplacian",
    "LowRankOperator",
    "Matern",
    "Mixture",
    "Nystroem",
    "PositiveRff",
    "Product",
    "Rff",
    "Scaled",
    "SquaredEuclidean",
    "StreamingOperator",
    "Sum",
    "operator_of",
]
