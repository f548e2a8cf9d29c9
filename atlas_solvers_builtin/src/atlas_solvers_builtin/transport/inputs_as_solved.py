"""Whether the tensors of a solve are still what they were: a solution reads them, and keeps no copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor


@attrs.frozen(eq=False)
class InputsAsSolved:
    """The tensors that a solution reads when it is asked, with how often each had been changed in place by then.

    Told from the count that autograd keeps of them, which costs nothing. What passes it by, `x.data` and arrays that
    share memory with a tensor, passes this by, too.
    """

    tensors: tuple[Tensor, ...] = ()
    versions: tuple[int | None, ...] = attrs.field(init=False)

    @versions.default
    def _versions(self) -> tuple[int | None, ...]:
        return tuple(map(_version, self.tensors))

    def check(self) -> None:
        """Raise ValueError if one of them was changed in place since."""
        if self.versions != tuple(map(_version, self.tensors)):
            raise ValueError(
                "points were changed in place after the solve, and a solution reads them when it is asked: solve again "
                "or pass x.clone() (the same goes for y and the weights)"
            )

    def watch(self, value: Tensor) -> None:
        """Have the backward pass of `value`, which reads them again, begin with `check`."""
        if value.requires_grad:
            value.register_hook(lambda _: self.check())  # type: ignore[no-untyped-call]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self.check()  # a copy counts from its own start
        return InputsAsSolved, (self.tensors,)


def as_solved(*inputs: Tensor | None, value: Tensor) -> InputsAsSolved:
    """Note x, y, a, b, those that are there, as they are now, and see to it that `value` is differentiated at these."""
    found = InputsAsSolved(tuple(each for each in inputs if each is not None))
    found.watch(value)
    return found


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
