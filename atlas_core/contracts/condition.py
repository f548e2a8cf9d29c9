"""What a network is told about the sample it draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(eq=False)
class Condition:
    """A product of parts, any of which may be absent; every part has the batch as its first dimension."""

    vector: Tensor | None = None
    """(b, d): one vector a sample, as from a class label."""
    tokens: Tensor | None = None
    """(b, l, d): a sequence a sample, as from a text encoder."""
    mask: Tensor | None = None
    """(b, l), bool: which tokens count."""
    image: Tensor | None = None
    """(b, c, h, w): an image that the network sees beside its input."""

    def _map(self, fn: Callable[..., Tensor], *others: Condition) -> Condition:
        parts = {}
        for field in attrs.fields(Condition):
            values = [getattr(condition, field.name) for condition in (self, *others)]
            present = [value is not None for value in values]
            if any(present) and not all(present):
                raise ValueError(f"one of the conditions has no {field.name!r}: they cannot be combined")
            parts[field.name] = fn(*values) if all(present) else None
        return Condition(**parts)

    def drop(self, keep: Tensor, null: Condition) -> Condition:
        """Return this condition where `keep` (b,), bool, is true and `null` elsewhere."""
        return self._map(lambda ours, theirs: _where(keep, ours, theirs), null)

    def take(self, index: Tensor) -> Condition:
        """Return the rows `index`; rows may repeat."""
        return self._map(lambda part: part[index.to(part.device)])

    def cat(self, other: Condition) -> Condition:
        """Return the rows of this condition, then those of `other`."""
        import torch

        return self._map(lambda ours, theirs: torch.cat([ours, theirs]), other)

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Move every part, as `Tensor.to` does; the mask keeps its dtype."""
        moved = self._map(lambda part: part.to(*args, **kwargs))
        if self.mask is not None and moved.mask is not None:
            moved = attrs.evolve(moved, mask=moved.mask.to(self.mask.dtype))
        return moved


def _where(keep: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    import torch

    return torch.where(keep.to(ours.device).view(-1, *[1] * (ours.ndim - 1)), ours, theirs)
