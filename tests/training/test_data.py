"""Rows come as the order asks, read ahead or from memory."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import tiny_training as tiny
import torch

from atlas_core.contracts import Example
from atlas_core.engine.training.data import ReadAhead, RowReader
from atlas_core.engine.training.order import Order
from atlas_core.errors import DataError


class Slow:
    """A split whose rows take longer the smaller their number: threads finish in another order."""

    def __init__(self, count):
        self.count = count
        self.read = []
        self.lock = threading.Lock()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(0.002 * (self.count - index) / self.count)
        with self.lock:
            self.read.append(index)
        return Example(torch.full((2,), float(index)), f"label {index}", index)


@pytest.mark.parametrize("memory", [0, 10**6])
def test_each_step_gets_its_rows_in_order(memory):
    split, order = Slow(20), Order(20, 6, 0)
    with ReadAhead(RowReader(split, (2,), memory=memory), order.examples) as rows:
        for step in [*range(8), 30, 31]:  # a run may start anywhere
            x, conditions = rows(step)
            expected = order.examples(step)
            np.testing.assert_array_equal(x[:, 0].numpy(), expected)
            assert conditions == [f"label {i}" for i in expected]


def test_what_fits_in_memory_is_read_once():
    split, order = Slow(20), Order(20, 6, 0)
    with ReadAhead(RowReader(split, (2,)), order.examples) as rows:
        for step in range(12):
            rows(step)
    assert sorted(split.read) == list(range(20))


def test_what_does_not_fit_is_read_ahead_while_a_step_computes():
    split, order = Slow(1000), Order(1000, 8, 0)
    with ReadAhead(RowReader(split, (2,), memory=0), order.examples) as rows:
        rows(0)
        time.sleep(0.2)
        assert set(order.examples(1)) | set(order.examples(2)) <= set(split.read)
        assert len(split.read) <= 8 * 4, "no more than two steps ahead"


def test_an_error_of_the_data_set_reaches_the_caller():
    class Broken(Slow):
        def __getitem__(self, index):
            raise OSError(f"cannot read image {index}")

    with (
        ReadAhead(RowReader(Broken(5), (2,)), Order(5, 2, 0).examples) as rows,
        pytest.raises(OSError, match="cannot read image"),
    ):
        rows(0)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match=r"Slow, has no examples"):
        RowReader(Slow(0), (2,))


def test_threads_end_with_the_training(tmp_path):
    before = threading.active_count()
    tiny.trainer(tmp_path / "run", tiny.config(steps=2)).fit()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
