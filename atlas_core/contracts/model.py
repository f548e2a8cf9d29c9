"""The kind `model`: the network F whose meaning the parametrization gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from atlas_core.contracts.condition import Condition

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """An `nn.Module`. Its config's fields may be derived from the data: see `atlas_core.derived`."""

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Condition | None = None, *, c_noise_end: Tensor | None = None
    ) -> Tensor:
        """Map x (b, *item) and c_noise (b,) to F (b, *item).

        c_noise is the noise level as the parametrization embeds it (log-SNR / 4 or thereabouts: of order one, finite).
        `c_noise_end` (b,) is where a flow map jumps to; a model that cannot use it raises ValueError.
        """
        ...
