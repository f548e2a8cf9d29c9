"""What each kind of component promises: one short file per kind, none of which imports torch.

A component satisfies its contract by shape alone: no base class, no registration call.
"""

from atlas_core.contracts.condition import Condition
from atlas_core.contracts.conditioner import Conditioner
from atlas_core.contracts.dataset import Batch, Dataset, DataSpec, Example, Split
from atlas_core.contracts.denoiser import Denoiser, Dynamics, FlowMap
from atlas_core.contracts.grid import FittedGrid, Grid, GridFit
from atlas_core.contracts.guidance import Guidance, GuidanceContext, WeakModel
from atlas_core.contracts.kernel import Estimate, Kernel, KernelOperator, RadialKernel, SpectralKernel
from atlas_core.contracts.metric import Baseline, Metric, MetricResult
from atlas_core.contracts.model import Model
from atlas_core.contracts.noise import NoiseSource
from atlas_core.contracts.objective import CoupledObjective, LossOutput, Network, Objective
from atlas_core.contracts.parametrization import Parametrization
from atlas_core.contracts.process import Process, starting_at
from atlas_core.contracts.sampler import Sampler, Step
from atlas_core.contracts.solver import Coupling, EntropicSolution, Solver

__all__ = [
    "Baseline",
    "Batch",
    "Condition",
    "Conditioner",
    "CoupledObjective",
    "Coupling",
    "DataSpec",
    "Dataset",
    "Denoiser",
    "Dynamics",
    "EntropicSolution",
    "Estimate",
    "Example",
    "FittedGrid",
    "FlowMap",
    "Grid",
    "GridFit",
    "Guidance",
    "GuidanceContext",
    "Kernel",
    "KernelOperator",
    "LossOutput",
    "Metric",
    "MetricResult",
    "Model",
    "Network",
    "NoiseSource",
    "Objective",
    "Parametrization",
    "Process",
    "RadialKernel",
    "Sampler",
    "Solver",
    "SpectralKernel",
    "Split",
    "Step",
    "WeakModel",
    "starting_at",
]
