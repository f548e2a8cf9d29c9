"""Says which `pip install` brings a component that is not installed: a table, for which nothing is imported."""

from __future__ import annotations

PROVIDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "atlas-kernels-builtin": {
        "kernel": (
            "gaussian",
            "squared-euclidean",
            "laplacian",
            "matern",
            "cauchy",
            "inverse-multiquadric",
            "energy",
            "sum",
            "mixture",
            "product",
            "scaled",
            "rff",
            "positive-rff",
            "nystroem",
            "dense",
            "streaming",
            "grid",
            "cached",
            "sharded",
            "auto",
        )
    },
    "atlas-solvers-builtin": {
        "solver": (
            "sinkhorn",
            "sinkhorn-unbalanced",
            "sinkhorn-divergence",
            "sinkhorn-grid",
            "low-rank",
            "exact",
            "barycenter",
        ),
        "process": ("vp-linear", "vp-cosine", "edm", "rectified-flow"),
        "parametrization": ("eps", "x0", "v", "velocity", "edm"),
        "grid": ("logistic-log-snr", "karras", "exponential", "uniform", "fitted"),
        "guidance": ("none", "cfg", "cfg-rescale", "cfg-interval", "apg", "autoguidance", "clip"),
        "sampler": (
            "multistep",
            "unipc",
            "dpmpp-2m",
            "dpmpp-3m",
            "deis",
            "dpm-2",
            "dpmpp-2s",
            "heun",
            "euler",
            "ddpm-ancestral",
            "euler-ancestral",
            "dpmpp-sde",
            "dpmpp-2m-sde",
            "sa-solver",
            "edm-stochastic",
            "dpm-adaptive",
            "flow-map",
        ),
        "objective": ("denoising", "flow-matching", "flow-map"),
    },
    "atlas-diffusers": {
        "sampler": ("diffusers",),
        "grid": ("diffusers",),
        "process": ("diffusers",),
        "parametrization": ("diffusers",),
        "model": ("diffusers-unet2d", "diffusers-dit"),
        "conditioner": ("class-index",),
    },
    "atlas-models-builtin": {"model": ("unet", "mlp")},
    "atlas-datasets-builtin": {"dataset": ("digits", "mnist-5k", "image-folder", "points-file", "gaussian-mixture")},
    "atlas-conditioners-builtin": {"conditioner": ("class-label",)},
    "atlas-metrics-builtin": {
        "metric": (
            "frechet-distance",
            "conditional-accuracy",
            "nearest-neighbour",
            "precision-recall",
            "two-sample",
            "sinkhorn-divergence",
            "mmd",
            "sliced-wasserstein",
        ),
        "baseline": ("training-copies", "noisy-copies", "class-gaussian"),
    },
    "atlas-example-kernel": {"kernel": ("example-cauchy",)},
}
"""Distribution -> kind -> names. A test holds it against the entry points that this repository declares."""


def names(kind: str) -> dict[str, str]:
    """Return the known names of a kind, each with the distribution that has it."""
    return {name: provider for provider, kinds in PROVIDERS.items() for name in kinds.get(kind, ())}
