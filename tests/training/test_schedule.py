"""The learning rate against its formula at points where it is known."""

from __future__ import annotations

import pytest

from atlas_core.engine.training.schedule import Schedule


def test_warm_up_rises_by_equal_steps_to_the_peak():
    schedule = Schedule(peak=2.0, steps=100, warmup_steps=4, kind="cosine")
    assert [schedule(k) for k in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


@pytest.mark.parametrize(("share", "expected"), [(0, 1.0), (1 / 3, 0.75), (1 / 2, 0.5), (2 / 3, 0.25), (1, 0.0)])
def test_cosine_passes_through_the_known_values(share, expected):
    """½ (1 + cos πs) is 1, ¾, ½, ¼, 0 at s = 0, ⅓, ½, ⅔, 1."""
    schedule = Schedule(peak=1.0, steps=610, warmup_steps=10, kind="cosine")
    assert schedule(10 + round(600 * share)) == pytest.approx(expected, abs=1e-12)


def test_constant_stays_at_the_peak():
    assert Schedule(3.0, 10, 0, "constant")(9) == 3.0


def test_a_run_shorter_than_its_warm_up_is_all_warm_up():
    schedule = Schedule(1.0, 5, 100, "cosine")
    assert [schedule(k) for k in range(5)] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
