"""The order of the data is a pure function: against its definition, and N ranks against one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from atlas_core.engine.training.order import Order, permutation


def splitmix64_in_plain_python(count: int, start: int) -> list[int]:
    """Steele, Lea & Flood 2014, figure 16, with Python's own integers: row i is ranked by the (i + 1)-th output."""
    mask, outputs = 2**64 - 1, []
    for i in range(1, count + 1):
        z = (start + i * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        outputs.append(z ^ (z >> 31))
    return sorted(range(count), key=outputs.__getitem__)


def test_an_epoch_is_sorted_by_splitmix64():
    from atlas_core.engine.training.keys import key

    assert permutation(101, 7, 3).tolist() == splitmix64_in_plain_python(101, key(7, "order", 3))


@pytest.mark.parametrize(("count", "batch"), [(37, 8), (37, 37), (5, 16), (64, 8), (1, 4)])
def test_every_epoch_holds_every_example_once(count, batch):
    order = Order(count, batch, seed=1)
    epochs = 6
    stream = np.concatenate([order.examples(step) for step in range(epochs * count // batch + 1)])[: epochs * count]
    for epoch in stream.reshape(epochs, count):
        assert sorted(epoch) == list(range(count))
    if count > 8:
        assert len({tuple(epoch) for epoch in stream.reshape(epochs, count)}) == epochs


def test_every_place_of_the_epoch_is_equally_likely():
    """Over 2000 epochs of 10 examples each cell of example × place expects 200; χ² has 81 degrees of freedom.

    P(χ² > 150) is 5e-6; a shuffle that favours one place fails by hundreds.
    """
    counts = np.zeros((10, 10))
    for epoch in range(2000):
        counts[permutation(10, 0, epoch), np.arange(10)] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 150


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_together_see_the_batch_of_one_rank(ranks):
    order = Order(37, 16, seed=4)
    for step in range(8):
        shares = [order.share(rank, ranks) for rank in range(ranks)]
        np.testing.assert_array_equal(np.concatenate([order.examples(step)[s] for s in shares]), order.examples(step))
        np.testing.assert_array_equal(np.concatenate([order.positions(step)[s] for s in shares]), order.positions(step))
        sizes = [s.stop - s.start for s in shares]
        assert max(sizes) - min(sizes) <= 1


def test_the_batch_of_a_step_does_not_depend_on_what_was_asked_before_nor_on_the_process():
    program = "from atlas_core.engine.training.order import Order; print(Order(37, 16, 4).examples(9).tolist())"
    fresh = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )
    order = Order(37, 16, 4)
    for step in (0, 3, 8):
        order.examples(step)
    assert fresh.stdout.strip() == str(order.examples(9).tolist())


def test_another_seed_is_another_order():
    assert Order(100, 100, 0).examples(0).tolist() != Order(100, 100, 1).examples(0).tolist()
