"""From a denoiser, a sampler and seeds to samples: the loop around the samplers' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atlas_core.contracts import starting_at
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.task import PLAIN, Task
from atlas_core.errors import PluginError, RunError, UsageError

if TYPE_CHECKING:
    from atlas_core.contracts import (
        Condition,
        Denoiser,
        Grid,
        Guidance,
        NoiseSource,
        Parametrization,
        Process,
        Sampler,
        Step,
    )
    from atlas_core.engine.network import Network

DEFAULT_NFE = 20
OF_A_NETWORK = frozenset({"denoiser", "flow-map", "endpoint"})
"""What a trained network can be to a sampler, if its objective has trained it as that."""


def steps_for(sampler: Sampler, *, nfe: int | None = None, steps: int | None = None) -> int:
    """Return the number of steps: `steps` as it is, or the most whose calls fit into `nfe` (20 if neither is given).

    Raises UsageError if both are given, if not one step fits, or if the sampler chooses its own steps.
    """
    if steps is not None and nfe is not None:
        raise UsageError("sampling.nfe and sampling.steps are two ways to say one thing: give one of them")
    if steps is not None:
        if steps < 1:
            raise UsageError(f"sampling.steps is at least 1, not {steps}")
        return steps
    budget = DEFAULT_NFE if nfe is None else nfe
    name, cost = type(sampler).__name__, sampler.nfe(1)
    if cost is None:
        raise UsageError(f"{name} chooses its own steps: set its tolerance instead of sampling.nfe")
    if cost > budget:
        raise UsageError(f"one step of {name} takes {cost} calls of the denoiser: sampling.nfe={budget} is too few")
    fits, too_many = 1, budget + 1
    while too_many - fits > 1:  # a step costs a call or more, and cost grows with steps
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if (sampler.nfe(middle) or 0) <= budget else (fits, middle)
    return fits


def start_time(process: Process, parametrization: Parametrization | None = None) -> float:
    """Return the latest time at which both the process and the parametrization are finite."""
    latest: Callable[[Process], float] | None = getattr(parametrization, "t_max", None)
    return float(process.t_max) if latest is None else min(float(process.t_max), float(latest(process)))


def sampling_times(
    grid: Grid, process: Process, parametrization: Parametrization | None, steps: int, *, latest: float | None = None
) -> Tensor:
    """Return the (steps + 1,) times of `grid`, from where the parametrization is finite, `latest` at the latest.

    Raises PluginError, naming the grid, if they are not what its contract promises.
    """
    start = start_time(process, parametrization)
    start = start if latest is None else min(start, latest)
    times = grid.times(starting_at(process, start), steps)
    wrong = _fault(times, steps, start)
    if wrong:
        raise PluginError(
            f"the grid {type(grid).__name__} returned {wrong}",
            hint="a grid returns (steps + 1,) float64 times on the CPU, decreasing from t_max or later to exactly 0",
        )
    return times


def _fault(times: Any, steps: int, start: float) -> str:
    if not isinstance(times, Tensor):
        return f"a {type(times).__name__}, no tensor of times"
    if times.shape != (steps + 1,):
        return f"times of shape {tuple(times.shape)} for {steps} steps"
    if times.dtype != torch.float64 or times.device.type != "cpu":
        return f"times in {times.dtype} on {times.device}"
    if not bool((times[1:] < times[:-1]).all()):  # also false for NaN
        return "times that do not strictly decrease"
    if float(times[0]) > start:
        return f"times that start at {float(times[0]):g}, beyond t_max = {start:g}"
    if float(times[-1]) != 0:
        return f"times that end at {float(times[-1]):g}"
    return ""


@torch.no_grad()
def sample_steps(
    sampler: Sampler,
    denoiser: Denoiser,
    times: Tensor,
    noise: NoiseSource,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    task: Task = PLAIN,
    rows: slice = slice(None),
) -> Iterator[Step]:
    """Draw the start and yield every step: one sample of shape `shape` for each row of `noise`, the `rows` of a task.

    Raises UsageError for a sampler that does not integrate a denoiser, and for an adaptive one, which takes steps back,
    where guidance keeps a state.
    """
    if not sampler.accepts & OF_A_NETWORK:
        raise UsageError(
            f"{type(sampler).__name__} integrates {', '.join(sorted(sampler.accepts))}, not a denoiser",
            hint="atlas-core list-plugins --kind sampler",
        )
    if sampler.nfe(1) is None and getattr(denoiser, "stateful", False):
        raise UsageError(
            f"{type(sampler).__name__} takes steps back, and guidance keeps a state that cannot be",
            hint="choose a guidance without a state, as apg with momentum=0, or a sampler with a number of steps",
        )
    like = torch.empty((noise.rows, *shape), dtype=dtype, device=device)
    prepare = getattr(denoiser, "prepare", None)
    if prepare is not None:
        prepare(times[:-1])  # nothing is predicted at t = 0
    x = task.start(denoiser.process, noise, like, float(times[0]), rows)
    yield from task.walk(sampler, task.wrap(denoiser, rows), x, times, noise)


def drain(steps: Iterable[Step]) -> Tensor:
    """Run all steps and return the last state. Raises ValueError if there are none."""
    last: Step | None = None
    for last in steps:  # noqa: B007
        pass
    if last is None:
        raise ValueError("a sampler that yields no step leaves no sample")
    return last.x


def draw(
    network: Network,
    sampler: Sampler,
    times: Tensor,
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    inputs: Sequence[Any] | None = None,
    guidance: Guidance | None = None,
    batch: int = 250,
    device: torch.device | str = "cpu",
    on_step: Callable[[Step, slice], None] | None = None,
    task: Task = PLAIN,
    weak: Network | None = None,
) -> Tensor:
    """Draw one float32 sample a seed -> (len(seeds), *shape) on the CPU, `batch` at a time; `batch` changes no sample.

    `inputs`: what the network's conditioner encodes, one a seed; the `weak` network that guidance leads away from
    encodes them by its own. `on_step` sees every step and the rows it concerns.
    The network is put into evaluation mode for as long as it takes.
    """
    if inputs is not None and len(inputs) != len(seeds):
        raise UsageError(f"{len(inputs)} conditions for {len(seeds)} samples: give one each")
    if inputs is not None and network.conditioner is None:
        raise UsageError("a condition was given, but this network was trained without a conditioner")
    out = torch.empty((len(seeds), *shape))
    was_training = network.training
    network.eval()
    try:
        for start in range(0, len(seeds), batch):
            rows = slice(start, min(start + batch, len(seeds)))
            denoiser = bind(network, rows.stop - rows.start, None if inputs is None else inputs[rows], guidance, weak)
            noise = CounterNoise.from_seeds(seeds[rows])
            steps = sample_steps(sampler, denoiser, times, noise, shape, torch.float32, device, task=task, rows=rows)
            steps = _finite(steps, seeds[rows], len(times) - 1)
            out[rows] = drain(steps if on_step is None else _told(steps, on_step, rows))
    finally:
        network.train(was_training)
    return out


def _finite(steps: Iterable[Step], seeds: Sequence[int], count: int) -> Iterator[Step]:
    """Raise RunError, naming the first step and sample that is not finite; on a GPU at the end, so as not to wait."""
    for number, step in enumerate(steps, 1):
        if (step.x.device.type == "cpu" or number == count) and not bool(torch.isfinite(step.x.sum())):
            broken = ~step.x.flatten(1).isfinite().all(1)
            if bool(broken.any()):
                seed = seeds[int(broken.nonzero()[0])]
                raise RunError(
                    f"the sample with seed {seed} is not finite after step {number} of {count}, at t = {step.t:.4g}",
                    hint="Did the training diverge? Another sampler, grid or guidance tells whether the network is it.",
                )
        yield step


def _told(steps: Iterable[Step], on_step: Callable[[Step, slice], None], rows: slice) -> Iterator[Step]:
    for step in steps:
        on_step(step, rows)
        yield step


@torch.no_grad()
def bind(
    network: Network, rows: int, inputs: Sequence[Any] | None, guidance: Guidance | None, weak: Network | None
) -> NetworkDenoiser:
    """Return the denoiser of `rows` samples, told what their `inputs` say. Raises UsageError for inputs it cannot."""
    reference = None if weak is None else NetworkDenoiser(weak, _encoded(weak, rows, inputs))
    return NetworkDenoiser(network, _encoded(network, rows, inputs), guidance, weak=reference)


def _encoded(network: Network, rows: int, inputs: Sequence[Any] | None) -> Condition | None:
    """Return what the network is told of each row; None for one without a conditioner, as a weak model may be."""
    if network.conditioner is None:
        return None
    # Without inputs the network is told that there is none, as in training, rather than told nothing.
    try:
        return network.conditioner.null(rows) if inputs is None else network.conditioner.encode(inputs)
    except ValueError as error:  # the contract's word for an input that it does not know
        raise UsageError(f"the condition cannot be used: {error}") from error
