"""From the times of a grid to the numbers of a multistep sampler: which predictions it looks back on, and how far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.samplers.linear_multistep import StepWeights
from atlas_solvers_builtin.samplers.safeguard import amplification_limit, highest_order, mended

Rule = Callable[[Sequence[float], float, float], tuple[float, ...]]
"""(λ of the predictions looked back on, latest first; λ_s and λ_t of the step) -> their shares c_j, Σ c_j = 1."""
RelativeRule = Callable[[Sequence[float], float], tuple[float, ...]]
"""The same of a rule that only knows distances: (u_j = λ_t − λ_j; the step's h)."""


@lru_cache(maxsize=32)  # one rule, one object: plans are kept by it
def relative(rule: RelativeRule) -> Rule:
    """Turn a rule on distances from the end of a step into one on λ."""
    return lambda known, now, after: rule([after - one for one in known], after - now)


def half_log_snr(process: Process, times: Tensor) -> list[float]:
    """λ = ½ ln(α²/σ²) at times (n,); infinite where α or σ is 0."""
    return [float(value) / 2 for value in process.log_snr(times).tolist()]


def step_shares(
    lambdas: Sequence[float], *, order: int, rule: Rule, reach: float = math.inf, ramp_down: bool = False
) -> list[tuple[float, ...]]:
    """Return the shares c_j of each step between (n + 1,) λ, latest prediction first.

    The order rises as predictions come in, falls towards σ = 0 with `ramp_down`, and is what `reach` permits. No
    polynomial reaches infinite λ: steps from pure noise or to σ = 0 are of first order, and none looks back on noise.
    """
    shares = []
    for index, (now, after) in enumerate(pairwise(lambdas)):
        known = _known(lambdas, index, order, ramp_down)
        shares.append(_shares(rule, known, now, after, reach) if known else (1.0,))
    return shares


def corrected_shares(
    lambdas: Sequence[float], *, order: int, rule: Rule, reach: float = math.inf, ramp_down: bool = False
) -> list[tuple[float, ...]]:
    """Return the shares of each step with the prediction at its end, which comes first; () where there is none."""
    shares = []
    for index, (now, after) in enumerate(pairwise(lambdas)):
        known = _known(lambdas, index, order, ramp_down)
        shares.append(mended(_shares(rule, [after, *known], now, after, reach, 2), now, after, reach) if known else ())
    return shares


def multistep_plan(
    process: Process,
    times: Tensor,
    *,
    order: int,
    rule: Rule,
    corrector: bool = False,
    reach: float = math.inf,
    ramp_down: bool = False,
) -> list[StepWeights]:
    """Return the n steps along times (n + 1,) of x_t = keep · x_s + pull · Σ c_j x̂₀_j with up to `order` predictions.

    With `corrector` each step is taken again once the prediction at its end is known.
    """
    lambdas = tuple(half_log_snr(process, times))
    steps = tuple(zip(*(c.tolist() for c in process.ode_step(times[:-1], times[1:])), strict=True))
    return list(_plan(lambdas, steps, order=order, rule=rule, corrector=corrector, reach=reach, ramp_down=ramp_down))


@lru_cache(maxsize=64)  # of numbers alone, so nothing that changes can make it stale; batches have one grid
def _plan(
    lambdas: tuple[float, ...],
    steps: tuple[tuple[float, float], ...],
    *,
    order: int,
    rule: Rule,
    corrector: bool,
    reach: float,
    ramp_down: bool,
) -> tuple[StepWeights, ...]:
    def weights(shares: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
        return [(keep, *(pull * c for c in of)) if of else () for (keep, pull), of in zip(steps, shares, strict=True)]

    predict = weights(step_shares(lambdas, order=order, rule=rule, reach=reach, ramp_down=ramp_down))
    if not corrector:
        return tuple(StepWeights(of) for of in predict)
    correct = weights(corrected_shares(lambdas, order=order, rule=rule, reach=reach, ramp_down=ramp_down))
    return tuple(StepWeights(of, before) for of, before in zip(predict, [(), *correct[:-1]], strict=True))


def _shares(
    rule: Rule, known: Sequence[float], now: float, after: float, reach: float, least: int = 1
) -> tuple[float, ...]:
    limit = amplification_limit(now, after, reach)
    return highest_order(limit, known, lambda part: rule(part, now, after) if len(part) > 1 else (1.0,), least)


def _known(lambdas: Sequence[float], index: int, order: int, ramp_down: bool) -> list[float]:
    """Return the finite λ of the predictions that step `index` may look back on; none if it ends at infinite λ."""
    ends_in_data = not math.isfinite(lambdas[-1])
    depth = min(order, len(lambdas) - 1 - index) if ramp_down and ends_in_data else order
    known: list[float] = []
    if not math.isfinite(lambdas[index + 1]):
        return known
    for one in reversed(lambdas[max(0, index + 1 - depth) : index + 1]):
        if not math.isfinite(one):
            break
        known.append(one)
    return known
