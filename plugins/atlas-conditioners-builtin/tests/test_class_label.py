"""The class-label conditioner: rows of a table, and labels that do not exist."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from atlas_conditioners_builtin.class_label import ClassLabel

from atlas_core.contracts import Conditioner


@pytest.fixture
def conditioner():
    return ClassLabel(ClassLabel.Config(classes=10, width=6))


@pytest.mark.parametrize("labels", [[3, 0, 9, 3], torch.tensor([3, 0, 9, 3]), np.array([3, 0, 9, 3])])
def test_a_label_is_its_row_of_the_table(conditioner, labels):
    assert isinstance(conditioner, Conditioner)
    assert conditioner.widths == {"vector": 6}
    encoded = conditioner.encode(labels).vector
    assert torch.equal(encoded, conditioner.table.weight[[3, 0, 9, 3]])


def test_the_null_condition_is_a_row_of_its_own_and_drop_puts_it_in_place(conditioner):
    encoded, null = conditioner.encode(list(range(10))), conditioner.null(10)
    assert torch.equal(null.vector, conditioner.table.weight[10].expand(10, 6))
    keep = torch.arange(10) % 3 > 0
    dropped = encoded.drop(keep, null).vector
    assert torch.equal(dropped[keep], encoded.vector[keep])
    assert torch.equal(dropped[~keep], null.vector[~keep])


def test_gradients_reach_the_rows_that_were_used_and_no_others(conditioner):
    conditioner.encode([2, 2]).vector.sum().backward()
    touched = conditioner.table.weight.grad.abs().sum(-1).nonzero().flatten()
    assert touched.tolist() == [2]


def test_it_follows_the_dtype_and_device_it_is_moved_to(conditioner):
    assert conditioner.to(torch.float64).encode([1]).vector.dtype == torch.float64
    assert conditioner.to("meta").null(2).vector.device.type == "meta"


@pytest.mark.parametrize("bad", [1.0, True, np.True_, torch.tensor(True), "7", None])
def test_a_label_is_an_int_and_nothing_that_resembles_one(conditioner, bad):
    with pytest.raises(ValueError, match=r"of sample 0 is not an int: labels are the ints 0 to 9"):
        conditioner.encode([bad])


@pytest.mark.parametrize("bad", [10, -1, 2.5, "seven", None, True, torch.tensor(1.5)])
def test_a_label_that_does_not_exist_is_named_with_its_place_and_the_range(conditioner, bad):
    with pytest.raises(ValueError, match=r"of sample 1 .* 0 to 9"):
        conditioner.encode([0, bad])


@pytest.mark.parametrize(("field", "value"), [("classes", 0), ("width", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        ClassLabel.Config(**{"classes": 10, field: value})


def test_dropout_is_read_from_the_config():
    assert ClassLabel(ClassLabel.Config(classes=2, dropout=0.25)).dropout == 0.25
