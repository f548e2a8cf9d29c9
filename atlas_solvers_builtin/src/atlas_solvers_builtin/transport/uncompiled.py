"""How a whole solve behaves inside `torch.compile`: as one call between two graphs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Let `torch.compile` end its graph before `function` and begin another one after it.

    A solve looks at what it has reached and goes on accordingly, which no graph can hold; what it spends its time on,
    the products and blocks of sweeps between two looks, could be compiled on its own. `torch.compiler.disable` says the
    same, but imports the compiler, which takes a second, where nothing is compiled.
    """
    disabled: list[Callable[P, R]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _within_compiled():
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return disabled[0](*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


def _within_compiled() -> bool:
    """Whether frames that are called from here would be compiled: asked of the compiler, if anything imported it."""
    if torch.compiler.is_compiling():
        return True
    compiler = sys.modules.get("torch._C._dynamo.eval_frame") if "torch._dynamo" in sys.modules else None
    callback = getattr(compiler, "get_eval_frame_callback", None)
    if compiler is None or callback is None:
        return compiler is not None
    return bool(callback())  # False: what is compiled already may run
