"""Kernels, and the operator that streams any of them in blocks. See README.md."""

from atlas_kernels_builtin.cauchy import Cauchy, InverseMultiquadric
from atlas_kernels_builtin.energy import Energy
from atlas_kernels_builtin.gaussian import Gaussian
from atlas_kernels_builtin.laplacian import Laplacian
from atlas_kernels_builtin.low_rank import LowRankOperator
from atlas_kernels_builtin.matern import Matern
from atlas_kernels_builtin.nystroem import Nystroem
from atlas_kernels_builtin.positive_rff import PositiveRff
from atlas_kernels_builtin.products import Product, Scaled
from atlas_kernels_builtin.rff import Rff
from atlas_kernels_builtin.squared_euclidean import SquaredEuclidean
from atlas_kernels_builtin.streaming import StreamingOperator, operator_of
from atlas_kernels_builtin.sums import Mixture, Sum

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
