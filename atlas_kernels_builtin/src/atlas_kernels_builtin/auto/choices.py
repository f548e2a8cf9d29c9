"""What an operator can be made as, how long each is predicted to take, and how large each has to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.approximate.at_landmarks import cut
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.approximate.positive_rff import PositiveRff
from atlas_kernels_builtin.approximate.rff import Rff
from atlas_kernels_builtin.auto import time_model as machine
from atlas_kernels_builtin.auto.pilot import STORED, Pilot, pool_size, run_pilot
from atlas_kernels_builtin.auto.probe import Probe
from atlas_kernels_builtin.exact.exact_operator import SHARE_OF_MEMORY, free_memory

CALL = 3e-5
"""Seconds of a product that does nothing: the calls themselves."""
WIDER = 4.0
"""Times the seconds of an entry in the dtype of the points, that one in float64 takes."""
FIRST_RANK = 32
GROWTH = 4
"""From one pilot to the next at most; the last of them costs most of it all."""
PILOT_SHARE = 0.5
"""Of the best prediction so far, what pilots may cost together."""


@attrs.frozen
class Choice:
    """One way to make the operator, and what is expected of it."""

    name: str
    """Of the component."""
    size: int | None
    """Landmarks or features; None for exact ones."""
    seconds: float
    """Predicted: building, and all products."""
    error: Estimate | None
    """Measured by the pilot; None for exact ones."""

    def __str__(self) -> str:
        unit = "landmarks" if self.name == "nystroem" else "features"
        return self.name if self.size is None else f"{self.name}({unit}={self.size})"


@attrs.frozen
class Task:
    """The problem as a pilot sees it, and what the operator is for."""

    probe: Probe
    problems: int
    """In the batch; all are taken to be like the first."""
    matvecs: int
    tolerance: float
    seed: int
    first_rank: int = FIRST_RANK
    odds: Tensor | None = None
    """How often each point of x and then y is looked at as a landmark, (n + m,), beside those with equal odds."""

    @property
    def points(self) -> int:
        return len(self.probe.x) + len(self.probe.y)

    @property
    def pairs(self) -> int:
        return len(self.probe.x) * len(self.probe.y)

    @property
    def pair_seconds(self) -> float:
        """Of one entry of an exact block."""
        return self.probe.pass_seconds / self.pairs

    @property
    def dtype(self) -> torch.dtype:
        return self.probe.x.dtype

    @property
    def device(self) -> torch.device:
        return self.probe.x.device

    @property
    def most_columns(self) -> int:
        """Columns of two factors that memory allows."""
        room = SHARE_OF_MEMORY * free_memory(self.device)
        return int(room / (self.problems * self.points * self.dtype.itemsize))

    def low_rank_seconds(self, rank: int) -> float:
        """Writing the factors once, all products."""
        entry = machine.read_seconds(self.device, self.dtype)
        write = machine.write_seconds(self.device) * self.dtype.itemsize
        products = self.matvecs * (CALL + self.points * rank * entry)
        return self.problems * (self.points * rank * write + products + self.probe.setup_seconds)

    def nystroem_seconds(self, rank: int) -> float:
        """Kernels of all points with the landmarks, the inverse of the landmarks' own, and its part in products.

        Where the dtype is too narrow for what the inverse makes of its rounding, blocks are multiplied in float64.
        """
        double = machine.multiply_seconds(self.device, torch.float64)
        inverse = 2 * rank**3 * double + 2 * rank**2 * self.pair_seconds
        middle = 2 * self.matvecs * (CALL + rank**2 * machine.read_seconds(self.device, torch.float64))
        blocks = self.points * rank * self.pair_seconds
        if torch.finfo(self.dtype).eps * cut(self.rounding, rank) ** -0.5 >= self.rounding:
            inverse += rank**3 * machine.eigen_seconds(self.device)
            blocks = self.points * rank * (WIDER * self.pair_seconds + rank * double)
            middle = 0.0
        return self.low_rank_seconds(rank) + self.problems * (inverse + middle + blocks)

    @property
    def rounding(self) -> float:
        """Of entries, in units of the largest: what less than matters for the tolerance."""
        return 0.1 * self.tolerance * self.probe.typical


def exact_choices(task: Task) -> Iterator[Choice]:
    """Streamed, and stored where memory allows."""
    probe, matvecs = task.probe, task.matvecs
    yield Choice("streaming", None, task.problems * (probe.setup_seconds + matvecs * probe.pass_seconds), None)
    size = task.problems * task.pairs * task.dtype.itemsize
    if size < SHARE_OF_MEMORY * free_memory(task.device):
        products = matvecs * (CALL + task.pairs * machine.read_seconds(task.device, task.dtype))
        building = probe.setup_seconds + probe.pass_seconds
        write = size * machine.write_seconds(task.device)
        yield Choice("dense", None, task.problems * (building + products) + write, None)


@attrs.frozen(eq=False)
class Found:
    """A choice that meets the tolerance in the pilot, and how it is built; or the reason why there is none."""

    why: str
    choice: Choice | None = None
    landmarks: Tensor | None = None
    rounding: float = 0.0
    """Of entries: see `Task`."""


def search_nystroem(task: Task, limit: float) -> Found:
    """Return the smallest rank that meets the tolerance; give up where it would take longer than `limit` seconds.

    Ranks grow from pilot to pilot, each on a sample of points: so many landmarks, picked as `nystroem` picks them,
    predict the probed entries. One Cholesky factor gives the error of every smaller rank.
    """
    generator = torch.Generator().manual_seed(task.seed)
    spent, largest = 0.0, max(1, min(task.points // 4, task.most_columns))
    rank = needed = min(task.first_rank, largest)
    while True:
        spent += _pilot_seconds(task, rank)
        if spent > PILOT_SHARE * limit or spent + task.nystroem_seconds(needed) > limit:
            return Found(_too_slow(needed, task))
        pilot = run_pilot(task.probe, rank, generator, task.odds)
        if isinstance(pilot, str):
            return Found(pilot)
        best = pilot.error(len(pilot.landmarks))
        if best.high <= task.tolerance:
            size, error = pilot.smallest(task.tolerance)
            choice = Choice("nystroem", size, task.nystroem_seconds(size), error)
            return Found(f"nystroem needs {size} landmarks", choice, pilot.landmarks[:size], task.rounding)
        if rank == largest:
            return Found(f"nystroem stays at an error of {best.value:.1e}")
        # Fewer than asked for say all of their sample: a larger one has points that are unlike them.
        exhausted = len(pilot.landmarks) < rank
        needed = rank + 1 if exhausted else max(rank + 1, _extrapolated(pilot, best.high, task.tolerance))
        rank = min(largest, GROWTH * rank, max(math.ceil(1.5 * rank), int(1.3 * needed)))


def _too_slow(needed: int, task: Task) -> str:
    if needed <= task.first_rank:
        return "nystroem would be slower"
    return f"nystroem would need {f'about {needed}' if needed < task.points else 'too many'} landmarks"


def _extrapolated(pilot: Pilot, error: float, tolerance: float) -> int:
    """The rank that would do if the error went on falling as it did from a half to all of the landmarks, or faster."""
    half = len(pilot.landmarks) // 2
    fall = max(0.05, math.log2(pilot.error(half).high / error))
    return int(min(2.0**40, len(pilot.landmarks) * (error / tolerance) ** (0.5 / fall)))


def _pilot_seconds(task: Task, rank: int) -> float:
    pool, double = pool_size(rank), machine.multiply_seconds(task.device, torch.float64)
    entries = pool * (pool if pool <= STORED else 2 * rank) + rank * (rank + sum(task.probe.entries.shape))
    return 5e-3 + 1e-4 * rank + WIDER * entries * task.pair_seconds + rank**2 * (2 * pool + rank) * double


FEATURES = 256
"""Of the pilot: the error of features falls as 1/√features, which needs no search."""


def search_features(task: Task, limit: float, *, positive: bool) -> Found:
    """Return how many random features meet the tolerance, from the error of 256."""
    component: Callable[..., Rff | PositiveRff] = PositiveRff if positive else Rff
    name = "positive-rff" if positive else "rff"
    probe = task.probe
    if task.low_rank_seconds(int(min(2.0**40, _fewest_features(task)))) > limit:
        return Found(f"{name} would be slower")
    points = (probe.x[probe.rows], probe.y[probe.columns])

    def measure(features: int) -> tuple[Estimate, int, float]:
        """The error of so many, how many would do, and the seconds of one feature of one point."""
        made: list[LowRankOperator] = []
        kernel = component(kernel=probe.kernel, features=features, seed=task.seed)
        seconds = machine.seconds(
            lambda: made.append(kernel.operator(*points, epsilon=probe.epsilon)), task.device, repeats=1
        )
        error = probe.error(*made[0].factors)
        size = 2 * math.ceil(min(2.0**40, 0.5 * features * (error.high / task.tolerance) ** 2) + 1)
        return error, size, seconds / (features * sum(len(side) for side in points))

    try:
        error, size, each = measure(FEATURES)
        if size < FEATURES:
            # Blocks of orthogonal frequencies do better than 1/√features, and a part of one does not.
            size = min(FEATURES, max(size, measure(size)[1]))
    except ValueError as problem:
        return Found(f"{name} cannot be used: {problem}")
    if size > task.most_columns:
        return Found(f"{name} needs {size:.3g} features, more than memory allows")
    choice = Choice(name, size, task.low_rank_seconds(size) + task.problems * each * size * task.points, error)
    return Found(f"{name} needs {size:.3g} features", choice)


def _fewest_features(task: Task) -> float:
    """A tenth of what rff needs if its entries k vary as those of a Gaussian kernel, by (1 − k²)² / features.

    The probed entries themselves are put in. It saves the pilot where there is no hope.
    """
    entries, roots = task.probe.entries, task.probe.roots
    unit = entries / entries.abs().max().clamp(min=1e-300)
    variance = ((1 - unit.square()) * roots).square().sum()
    return 0.1 * float(variance / (unit * roots).square().sum().clamp(min=1e-300)) / task.tolerance**2
