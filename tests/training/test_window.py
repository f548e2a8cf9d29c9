"""The numbers between two lines, and the first that is not finite."""

from __future__ import annotations

import pytest
import torch

from atlas_core.engine.training.window import NotFiniteError, Window


def test_means_do_not_depend_on_when_numbers_are_pulled():
    values = [1.0, 2.0, 4.0, 9.0]
    often, once = Window(frozenset()), Window(frozenset())
    for step, value in enumerate(values):
        for window in (often, once):
            window.add(step, {"loss": torch.tensor(value)})
        assert often.pull() == {"loss": value}
    once.pull()
    assert often.close() == once.close() == {"loss": 4.0}
    assert often.close() == {}


def test_the_first_bad_step_is_named_although_it_is_noticed_later():
    window = Window(frozenset({"loss"}))
    for step, value in [(5, 1.0), (6, float("nan")), (7, float("nan"))]:
        window.add(step, {"loss": torch.tensor(value)})
    with pytest.raises(NotFiniteError, match="loss is nan at step 6"):
        window.pull()


def test_a_window_goes_on_from_its_stored_state():
    window, resumed = Window(frozenset()), Window(frozenset())
    window.add(1, {"loss": torch.tensor(0.1)})
    window.pull()
    resumed.load(window.state())
    for each in (window, resumed):
        each.add(2, {"loss": torch.tensor(0.7)})
        each.pull()
    assert window.close() == resumed.close()
