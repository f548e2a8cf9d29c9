"""Deterministic samplers of diffusers and k-diffusion, as their documentation advises, from unit noise to data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peers.mixtures import F64

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
Run = Callable[[Any, Tensor, int], tuple[Tensor, Tensor, float]]
"""(denoiser with `at(x₀ + σ z, σ)`, unit noise, calls) -> samples, where they started, at which σ."""


def karras(steps: int) -> Tensor:
    """The ρ-grid with ρ = 7, (steps + 1,)."""
    ends = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return torch.cat([torch.linspace(*ends, steps, dtype=F64) ** 7, torch.zeros(1, dtype=F64)])


def k_diffusion(name: str, cost: int = 1, **options: Any) -> Run:
    """`sample_{name}` on the ρ-grid; `cost` calls a step and one in the last."""

    def run(denoiser: Any, unit: Tensor, calls: int) -> tuple[Tensor, Tensor, float]:
        from peers.k_diffusion import sampling

        sigmas, start = karras((calls + cost - 1) // cost), unit * SIGMA_MAX
        # dpm_fast makes its own grid between two levels.
        where = (float(sigmas[-2]), SIGMA_MAX, calls) if name == "dpm_fast" else (sigmas,)
        sample = getattr(sampling(), f"sample_{name}")
        return (
            sample(lambda x, s, **_: denoiser.at(x, float(s[0])), start, *where, disable=True, **options),
            start,
            SIGMA_MAX,
        )

    return run


def diffusers(name: str, frame: str, *, beta: str = "karras", **options: Any) -> Run:
    """A scheduler whose state is x/√(1 + σ²) (`vp`) or x/(1 + σ) (`flow`).

    `beta`: on the ρ-grid of the others (`karras`), on the schedule of DDPM (`default`), or `own`.
    """

    def run(denoiser: Any, unit: Tensor, calls: int) -> tuple[Tensor, Tensor, float]:
        scheduler = _scheduler(name, frame, beta, calls, options)
        x, start, first = unit, unit, SIGMA_MAX
        for index, t in enumerate(scheduler.timesteps):
            sigma = own = float(scheduler.sigmas[index])
            if frame == "flow":
                sigma = own / max(1 - own, 1e-6)
            scale = (1 + sigma**2) ** -0.5 if frame == "vp" else 1 / (1 + sigma)
            if index == 0:
                start, first = (unit * SIGMA_MAX, SIGMA_MAX) if beta == "karras" else (unit / scale, sigma)
                x = start * scale
            data = denoiser.at(x / scale, sigma)
            output = (x - data) / own if frame == "flow" else (x / scale - data) / sigma
            x = scheduler.step(output, t, x).prev_sample
        return x, start, first

    return run


def _scheduler(name: str, frame: str, beta: str, calls: int, options: dict[str, Any]) -> Any:
    import diffusers
    import numpy as np
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of every setting that it changes
    made = getattr(diffusers, name)
    if frame == "flow":
        scheduler = made(**options)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / calls, calls))
        return scheduler
    if beta == "karras":
        alpha_bar = 1 / (1 + np.geomspace(SIGMA_MIN, SIGMA_MAX, 1000) ** 2)
        betas = np.concatenate([[1 - alpha_bar[0]], 1 - alpha_bar[1:] / alpha_bar[:-1]])
        scheduler = made(trained_betas=betas, use_karras_sigmas=True, **options)
    else:
        scheduler = made(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", num_train_timesteps=1000, **options)
    scheduler.set_timesteps(calls)
    return scheduler


_MULTISTEP, _UNIPC, _DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
LIBRARIES: dict[str, Run] = {
    "k-diffusion euler": k_diffusion("euler"),
    "k-diffusion heun": k_diffusion("heun", 2),
    "k-diffusion dpm_2": k_diffusion("dpm_2", 2),
    "k-diffusion lms": k_diffusion("lms"),
    "k-diffusion dpmpp_2m": k_diffusion("dpmpp_2m"),
    "k-diffusion dpmpp_2s": k_diffusion("dpmpp_2s_ancestral", 2, eta=0.0),
    "k-diffusion dpmpp_3m": k_diffusion("dpmpp_3m_sde", eta=0.0, noise_sampler=lambda a, b: 0.0),
    "k-diffusion dpm_fast": k_diffusion("dpm_fast"),
    "diffusers DPM++2M": diffusers(_MULTISTEP, "vp", solver_order=2),
    "diffusers DPM++3M": diffusers(_MULTISTEP, "vp", solver_order=3),
    "diffusers DPM++2S": diffusers("DPMSolverSinglestepScheduler", "vp", solver_order=2),
    "diffusers DPM++3S": diffusers("DPMSolverSinglestepScheduler", "vp", solver_order=3),
    "diffusers UniPC2": diffusers(_UNIPC, "vp", solver_order=2, final_sigmas_type="zero"),
    "diffusers UniPC3": diffusers(_UNIPC, "vp", solver_order=3, final_sigmas_type="zero"),
    "diffusers DEIS2": diffusers(_DEIS, "vp", solver_order=2),
    "diffusers DEIS3": diffusers(_DEIS, "vp", solver_order=3),
    "diffusers DPM++2M, VP": diffusers(_MULTISTEP, "vp", beta="default"),
    "diffusers DPM++2M, VP, Lu's λ": diffusers(_MULTISTEP, "vp", beta="default", use_lu_lambdas=True),
    "diffusers DPM++2M, VP, Karras σ": diffusers(_MULTISTEP, "vp", beta="default", use_karras_sigmas=True),
    "diffusers UniPC, VP": diffusers(_UNIPC, "vp", beta="default"),
    "diffusers DEIS, VP": diffusers(_DEIS, "vp", beta="default"),
    "diffusers FlowMatchEuler": diffusers("FlowMatchEulerDiscreteScheduler", "flow", beta="own"),
    "diffusers FlowMatchEuler, shift 3": diffusers("FlowMatchEulerDiscreteScheduler", "flow", beta="own", shift=3.0),
}
