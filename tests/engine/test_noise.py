"""Counter-based noise against the known answers of Random123, its own law, and the independence of rows."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from atlas_core.contracts import NoiseSource
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds, as Salmon, Moraes, Dror & Shaw 2011 write them."""
    c, k, low = list(counter), list(key), 2**64 - 1
    for _ in range(10):
        first, second = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(second >> 64) ^ c[1] ^ k[0], second & low, (first >> 64) ^ c[3] ^ k[1], first & low]
        k = [(k[0] + 0x9E3779B97F4A7C15) & low, (k[1] + 0xBB67AE8584CAA73B) & low]
    return c


def test_bits_are_philox_of_counter_and_key_as_random123_knows_it():
    # The reference above gives the known answer of Random123, and numpy's generator what the reference gives.
    assert philox4x64([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    source = CounterNoise(torch.tensor([7, -1]))
    words = source._words("normal prior", 3, 10)
    stream = hashlib.blake2b(b"normal prior", digest_size=16).digest()
    tail = [int.from_bytes(stream[:8], "little"), int.from_bytes(stream[8:], "little")]
    for row, key in enumerate((7, 2**64 - 1)):
        expected = [word for block in (1, 2, 3) for word in philox4x64([block, 3, *tail], [key, 0])]
        assert words[row].tolist() == expected[:10]


def test_it_is_a_noise_source():
    assert isinstance(CounterNoise.from_seeds([0]), NoiseSource)


def noise(rows=64, first=0):
    return CounterNoise.from_seeds(range(first, first + rows))


@pytest.mark.parametrize("purpose", ["prior", "ancestral", "noise"])
@pytest.mark.parametrize("step", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_normals_are_normal(purpose, step, dtype):
    z = noise(256).normal(purpose, step, torch.empty(256, 501, dtype=dtype)).double().numpy().ravel()
    n = z.size
    assert stats.kstest(z, stats.norm.cdf).pvalue > 1e-3
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)


def test_uniforms_are_uniform_and_never_one():
    u = noise(256).uniform("time", 3, (501,)).numpy()
    assert u.dtype == np.float64
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), stats.uniform.cdf).pvalue > 1e-3
    assert noise(5).uniform("time", 0).shape == (5,)


def test_rows_purposes_steps_and_neighbours_are_independent():
    z = noise(40).normal("a", 0, torch.empty(40, 4000, dtype=F64)).numpy()
    other = [
        noise(40).normal("b", 0, torch.empty(40, 4000, dtype=F64)).numpy(),
        noise(40).normal("a", 1, torch.empty(40, 4000, dtype=F64)).numpy(),
        noise(40, first=40).normal("a", 0, torch.empty(40, 4000, dtype=F64)).numpy(),
    ]
    everything = np.concatenate([z, *other])
    correlation = np.corrcoef(everything) - np.eye(160)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)  # 12,720 pairs
    for lag in (1, 2, 3, 4):  # within one block of the generator, and across
        assert abs((z[:, lag:] * z[:, :-lag]).mean()) < 4 / np.sqrt(z.size)
        assert abs((z[:, lag:] ** 2 * z[:, :-lag] ** 2).mean() - 1) < 4 * np.sqrt(8 / z.size)


def test_normal_and_uniform_of_one_purpose_share_no_bits():
    z = noise(1).normal("same", 0, torch.empty(1, 20_000, dtype=F64)).numpy()[0]
    u = noise(1).uniform("same", 0, (20_000,)).numpy()[0]
    assert abs(np.corrcoef(stats.norm.cdf(z), u)[0, 1]) < 4 / np.sqrt(20_000)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=9), size=st.integers(1, 70), data=st.data())
def test_a_row_is_the_same_in_every_batch(rows, size, data):
    source = CounterNoise.from_seeds(rows)
    together = source.normal("prior", 7, torch.empty(len(rows), size, dtype=F64))
    uniform = source.uniform("time", 7, (size,))
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    part = source.select(torch.tensor(picked))
    assert part.rows == len(picked)
    assert torch.equal(part.normal("prior", 7, torch.empty(len(picked), size, dtype=F64)), together[picked])
    assert torch.equal(part.uniform("time", 7, (size,)), uniform[picked])


def test_a_row_is_the_same_beside_any_number_of_others_and_in_tiles():
    # 300 rows of 3,000 cross the tiles that the bits are made in, both ways.
    whole = noise(300).normal("prior", 0, torch.empty(300, 3, 1000))
    alone = CounterNoise.from_seeds([271]).normal("prior", 0, torch.empty(1, 3, 1000))
    assert torch.equal(whole[271:272], alone)
    long = CounterNoise.from_seeds([271]).normal("prior", 0, torch.empty(1, 100_000))
    assert torch.equal(long[0, :3000], alone.flatten())
    assert len(long.unique()) > 99_000


def test_dtype_and_shape_follow_the_tensor():
    source = noise(4)
    exact = source.normal("prior", 0, torch.empty(4, 2, 3, dtype=F64))
    # In float32 the angle of Box & Muller has an error of 2⁻²² or so, times a radius of up to 6.8.
    narrow = source.normal("prior", 0, torch.empty(4, 2, 3))
    torch.testing.assert_close(narrow.double(), exact, rtol=0, atol=5e-6)
    assert source.normal("prior", 0, torch.empty(4, 2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert source.normal("prior", 0, torch.empty(4, 0)).shape == (4, 0)


def test_training_keys_differ_by_run_and_by_sample():
    index = torch.arange(1000)
    keys = [CounterNoise.for_training(run, index).uniform("time", 0) for run in (0, 1)]
    assert len(torch.cat(keys).unique()) == 2000
    assert torch.equal(CounterNoise.for_training(1, index[500:]).uniform("time", 0), keys[1][500:])
    assert not torch.equal(CounterNoise.from_seeds(range(1000)).uniform("time", 0), keys[0])


def test_asking_changes_nothing():
    source, state = noise(3), torch.get_rng_state()
    first = source.normal("a", 0, torch.empty(3, 5))
    source.uniform("b", 1)
    assert torch.equal(source.normal("a", 0, torch.empty(3, 5)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pickle.loads(pickle.dumps(source)).normal("a", 0, torch.empty(3, 5)), first)  # noqa: S301


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise(3).normal("a", 0, torch.empty(4, 2)), "3 rows"),
        (lambda: noise(3).normal("a", -1, torch.empty(3, 2)), "step"),
        (lambda: noise(3).uniform("a", 2**32), "step"),
        (lambda: CounterNoise.from_seeds([1, -1]), "seed"),
        (lambda: CounterNoise(torch.zeros(3)), "int64"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
