"""Brownian paths of samples: their law at 100,000 paths, and that nothing but key, purpose and clock matters."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from atlas_core.engine import brownian
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64
ROWS, ITEM = 250, 400
PATHS = ROWS * ITEM
CLOCK = [0.0, 1e-14, 2e-4, 0.03, 0.3, 0.31, 0.5, 0.55, 0.9, 1.0, 1.7, 3.0, 3.001, 40.0, 2.5e5]
"""Within octaves, across many of them, on their borders, and below the lowest."""


def source(rows=ROWS, first=0):
    return CounterNoise.from_seeds(range(first, first + rows))


def increments(clock, purpose="path", rows=ROWS, item=ITEM):
    like = torch.empty(rows, item, dtype=F64)
    parts = [source(rows).brownian(purpose, a, b, like).flatten() for a, b in pairwise(clock)]
    return torch.stack(parts).numpy()


@pytest.fixture(scope="module")
def walk():
    """Increments between the times of CLOCK, in units of their standard deviations: (14, 100,000)."""
    return increments(CLOCK) / np.sqrt(np.diff(CLOCK))[:, None]


def test_increments_are_normal_with_the_variance_of_their_time(walk):
    assert walk.shape[1] >= 50_000
    mean, variance, fourth = walk.mean(1), (walk**2).mean(1), (walk**4).mean(1)
    assert np.abs(mean).max() <= 3 / math.sqrt(PATHS)
    assert np.abs(variance - 1).max() <= 3 * math.sqrt(2 / PATHS)
    assert np.abs(fourth - 3).max() <= 3 * math.sqrt(96 / PATHS)
    for part in walk:
        assert stats.kstest(part, stats.norm.cdf).pvalue > 1e-3


def test_disjoint_increments_are_independent(walk):
    correlation = walk @ walk.T / PATHS - np.diag((walk**2).mean(1))
    of_squares = (walk**2 - 1) @ (walk**2 - 1).T / PATHS
    np.fill_diagonal(of_squares, 0.0)
    assert len(walk) * (len(walk) - 1) / 2 == 91  # pairs: three standard errors hold for most, four for all
    assert np.abs(correlation).max() <= 4 / math.sqrt(PATHS)
    assert np.mean(np.abs(correlation) <= 3 / math.sqrt(PATHS)) >= 0.98
    assert np.abs(of_squares).max() <= 4 * 2 / math.sqrt(PATHS)


@pytest.mark.parametrize("ends", [(0.3, 0.31), (0.25, 0.5), (0.2, 1.9), (0.0, 0.7), (1.0, 300.0)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_in_between_it_is_a_brownian_bridge(ends, share):
    start, end = ends
    middle = start + share * (end - start)
    left, right = increments([start, middle, end], purpose=f"bridge {ends}")
    whole = left + right
    off = left - share * whole
    variance = share * (1 - share) * (end - start)
    assert abs(float((off**2).mean()) / variance - 1) <= 3 * math.sqrt(2 / PATHS)
    assert abs(float((off * whole).mean())) <= 3 * math.sqrt(variance * (end - start) / PATHS)


def test_just_above_the_finest_interval_it_is_still_a_brownian_path():
    # Neighbouring finest intervals, from inside one to inside the next and over three.
    finest = 2.0**-brownian.DEPTH
    times = [1.0 + finest * place for place in (100.3, 101.6, 104.2, 104.2 + 40)]
    steps = increments(times) / np.sqrt(np.diff(times))[:, None]
    assert np.abs((steps**2).mean(1) - 1).max() <= 3 * math.sqrt(2 / PATHS)
    assert abs((steps[0] * steps[2]).mean()) <= 3 / math.sqrt(PATHS)


clock_times = st.floats(0, 1e6) | st.floats(0, 1e-3) | st.sampled_from([0.0, 0.5, 1.0, 2.0**-40, 2.0**-41, 64.0])


@settings(max_examples=60, deadline=None)
@given(times=st.lists(clock_times, min_size=3, max_size=6, unique=True))
@example(times=[0.0, 5e-324, 1.0])
@example(times=[1.0, 1.0 + 2**-52, 1.5])
def test_increments_add_up_however_the_clock_is_cut(times):
    times = sorted(times)
    noise, like = source(3), torch.empty(3, 7, dtype=F64)
    whole = noise.brownian("path", times[0], times[-1], like)
    parts = sum(noise.brownian("path", a, b, like) for a, b in pairwise(times))
    scale = math.sqrt(times[-1]) or 1.0
    assert float((parts - whole).abs().max()) <= 1e-13 * scale
    back = noise.brownian("path", times[-1], times[0], like)
    assert float((back + whole).abs().max()) <= 1e-13 * scale


def test_it_starts_at_zero_and_is_continuous():
    noise, like = source(), torch.empty(ROWS, ITEM, dtype=F64)
    assert not noise.brownian("path", 0.7, 0.7, like).any()
    for border in (2.0**-40, 0.25, 0.75, 1.0, 8.0):  # of the lowest interval, of octaves, of halves
        around = noise.brownian("path", border * (1 - 1e-13), border * (1 + 1e-13), like)
        assert float(around.abs().max()) <= 1e-4 * math.sqrt(border)


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=9), size=st.integers(1, 70), data=st.data())
def test_a_row_is_the_same_in_every_batch(seeds, size, data):
    noise = CounterNoise.from_seeds(seeds)
    together = noise.brownian("path", 0.1, 3.3, torch.empty(len(seeds), size, dtype=F64))
    picked = data.draw(st.lists(st.integers(0, len(seeds) - 1), min_size=1, max_size=5))
    part = noise.select(torch.tensor(picked))
    assert torch.equal(part.brownian("path", 0.1, 3.3, torch.empty(len(picked), size, dtype=F64)), together[picked])


def test_a_row_is_the_same_in_tiles_and_in_longer_items():
    whole = source(300).brownian("path", 0.1, 3.3, torch.empty(300, 3, 1000))
    alone = CounterNoise.from_seeds([271]).brownian("path", 0.1, 3.3, torch.empty(1, 3, 1000))
    assert torch.equal(whole[271:272], alone)
    long = CounterNoise.from_seeds([271]).brownian("path", 0.1, 3.3, torch.empty(1, 300_000))
    assert torch.equal(long[0, :3000], alone.flatten())


def test_rows_purposes_and_neighbours_have_paths_of_their_own():
    like = torch.empty(40, 4000, dtype=F64)
    everything = np.concatenate(
        [
            noise.brownian(purpose, 0.2, 0.7, like).numpy()
            for noise, purpose in ((source(40), "a"), (source(40), "b"), (source(40, first=40), "a"))
        ]
        + [source(40).normal("a", 0, like).numpy()]
    )
    correlation = np.corrcoef(everything) - np.eye(160)
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)  # 12,720 pairs
    unit = everything[:40] / math.sqrt(0.5)
    for lag in (1, 2, 3, 4, 5):  # within a word, and across
        assert abs((unit[:, lag:] * unit[:, :-lag]).mean()) < 4 / math.sqrt(unit.size)


def test_dtype_shape_and_precision_follow_the_tensor():
    exact = source(4).brownian("path", 0.2, 0.7, torch.empty(4, 2, 3, dtype=F64))
    narrow = source(4).brownian("path", 0.2, 0.7, torch.empty(4, 2, 3))
    torch.testing.assert_close(narrow.double(), exact, rtol=0, atol=5e-6)
    half = source(4).brownian("path", 0.2, 0.7, torch.empty(4, 2, 3, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert half.shape == (4, 2, 3)
    assert source(4).brownian("path", 0.2, 0.7, torch.empty(4, 0)).shape == (4, 0)
    assert CounterNoise.from_seeds([]).brownian("path", 0.2, 0.7, torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("u0", "u1", "like", "message"),
    [
        (-0.1, 1.0, torch.empty(3, 2), "at least 0, not -0.1"),
        (0.0, math.inf, torch.empty(3, 2), "finite"),
        (math.nan, 1.0, torch.empty(3, 2), "finite"),
        (0.0, 1.0, torch.empty(4, 2), "3 rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(u0, u1, like, message):
    with pytest.raises(ValueError, match=message):
        source(3).brownian("path", u0, u1, like)
