"""Derive every seed of training from the run's seed and a purpose, so that no generator has a state to be saved."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def key(seed: int, *words: str | int) -> int:
    """Return a number in [0, 2⁶³) that depends on every argument and on nothing else: no version, no hash seed."""
    text = "\x1f".join(f"{type(word).__name__}:{word}" for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seeded_build(build: Callable[[], T], seed: int) -> T:
    """Call `build`, which draws initial weights from torch's global generator, as if that was seeded with `seed`.

    The generator is left as it was found.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "initial-weights"))
        return build()


@contextlib.contextmanager
def borrowed_generator(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds the global generators; they are put back at the end.

    Layers such as dropout draw from them and from nothing else, so they are seeded anew for every step.
    """
    import torch

    on_cuda = device.type == "cuda"

    def reseed(value: int) -> None:
        torch.default_generator.manual_seed(value)
        if on_cuda:
            torch.cuda.manual_seed(value)
        elif device.type == "mps":
            torch.mps.manual_seed(value)

    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        yield reseed
