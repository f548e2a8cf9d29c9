"""Reading what the user asks samples of: how many, from which seeds, under which conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas_core.errors import UsageError
from atlas_core.plugins.suggest import did_you_mean


def check_whole(name: str, value: Any, *, least: int, most: int | None = None) -> None:
    """Raise UsageError unless `value` is a whole number in [least, most]."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{name}={value!r}: expected a whole number, {limits}")


def seeds_from(first: int, n: int) -> range:
    """Return the seeds of n samples, first, first + 1, …. Raises UsageError for numbers that are none."""
    check_whole("n", n, least=1)
    check_whole("seed", first, least=0, most=2**63 - n)
    return range(first, first + n)


def conditions(given: Any, n: int, classes: Sequence[str]) -> list[Any] | None:
    """Return one conditioner input a sample: `given` is one for all, a list of n, a tensor or an array; None is none.

    A string is the name of a class, or a prompt where there are no classes. Raises UsageError.
    """
    if given is None:
        return None
    tolist = getattr(given, "tolist", None)  # of a tensor or an array
    given = given if tolist is None else tolist()
    inputs = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given] * n
    if len(inputs) != n:
        raise UsageError(f"{len(inputs)} conditions for {n} samples", hint="Give one, or one for each sample.")
    return [_class(each, classes) if isinstance(each, str) else each for each in inputs]


def _class(name: str, classes: Sequence[str]) -> Any:
    if classes and name not in classes:
        raise UsageError(
            f"there is no class {name!r}{did_you_mean(name, classes)}",
            hint=f"Classes: {', '.join(classes)}. A string is a name; an index is given as an int.",
        )
    return list(classes).index(name) if classes else name
