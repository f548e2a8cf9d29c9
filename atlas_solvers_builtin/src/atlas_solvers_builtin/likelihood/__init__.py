"""How probable data are under a denoiser: exact log-likelihoods along the probability-flow ODE."""

from atlas_solvers_builtin.likelihood.log_likelihood import LogLikelihood, log_likelihood

__all__ = ["LogLikelihood", "log_likelihood"]
