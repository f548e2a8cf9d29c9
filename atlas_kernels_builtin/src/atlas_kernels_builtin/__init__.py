"""Kernels, and the operator that streams any of them in blocks. See README.md."""

from atlas_kernels_builtin.cauchy import Cauchy, InverseMultiquadric
from atlas_kernels_builtin.energy import Energy
from atlas_kernels_builtin.gaussian import Gaussian
from atlas_kernels_builtin.laplacian import Laplacian
from atlas_kernels_builtin.matern import Matern
from atlas_kernels_builtin.products import Product, Scaled
from atlas_kernels_builtin.squared_euclidean import SquaredEuclidean
from atlas_kernels_builtin.streaming import StreamingOperator, operator_of
from atlas_kernels_builtin.sums import Mixture, Sum

__all__ = [
    "Cauchy",
    "Energy",
    "Gaussian",
    "InverseMultiquadric",
    "Laplacian",
    "Matern",
    "Mixture",
    "Product",
    "Scaled",
    "SquaredEuclidean",
    "StreamingOperator",
    "Sum",
    "operator_of",
]
