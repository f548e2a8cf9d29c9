"""How probable data are under a denoiser or a pipeline: log-likelihoods along the probability-flow ODE."""

from atlas_solvers_builtin.likelihood.log_likelihood import LogLikelihood, log_likelihood
from atlas_solvers_builtin.likelihood.of_pipeline import pipeline_log_likelihood

__all__ = ["LogLikelihood", "log_likelihood", "pipeline_log_likelihood"]
