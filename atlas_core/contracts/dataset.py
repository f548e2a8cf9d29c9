"""The kind `dataset`: map-style splits of examples, each split defined and stable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.noise import NoiseSource


@attrs.frozen
class DataSpec:
    """What a network has to know about its data before the first example is read."""

    shape: tuple[int, ...]
    """Shape of one item: (c, h, w) for images, (d,) for points."""
    value_range: tuple[float, float] | None = (-1.0, 1.0)
    """Closed range of the values; None: unbounded (points)."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in label order; empty where there are none."""
    std: float = 0.5
    """Standard deviation of all values of the training split together: the σ_data of the parametrizations."""
    levels: int | None = None
    """Grey levels that the values are quantised to (17 for `digits`, 256 for image files); None: continuous."""


@attrs.frozen(eq=False)
class Example:
    """One item of a split."""

    x: Tensor
    """(*item), float32."""
    condition: Any
    """What the conditioner encodes, as a class index; None where the data has none."""
    index: int
    """Position in the split: the key of every random draw that concerns this example."""


@attrs.frozen(eq=False)
class Batch:
    """What an objective or a metric sees of the data."""

    x: Tensor
    """(b, *item): the data end, t = 0."""
    condition: Any = None
    """In an objective: an encoded `Condition` or None. In a metric: the raw inputs, one a sample, or None."""
    index: Tensor | None = None
    """(b,), int64: global sample index of each row."""
    step: int = 0
    source: Tensor | None = None
    """(b, *item): the t = 1 end of a bridge; None where it is noise."""


@runtime_checkable
class Split(Protocol):
    """A map-style sequence of examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Dataset(Protocol):
    """Named, disjoint, reproducible splits of one body of data.

    Two methods are optional: `augment(x, noise, step) -> x` changes a training batch (b, *item) with draws from the
    keyed `NoiseSource` alone, so that a resumed run sees the same pixels; `skipped() -> Sequence[Problem]` names the
    files that were left out, for the report. A transport uses more where it is there:

    - `opens: Sequence[str]`, on the class: endings of files, as `.csv`, or `/` for a folder, that
      `atlas-core transport` reads with it; `opening(path) -> settings`, a class method, says with which settings;
    - `weights_of(split) -> Tensor | None`: the mass of each point, (n,);
    - `coordinates: Sequence[str]`: names of the columns of a point; those of source and target have to agree in order;
    - `notes() -> Sequence[str]`: what was converted or left out, a sentence each;
    - `encode(x, name) -> Iterable[tuple[str, bytes]]`: files, as (relative path that starts with `name`, content), that
      hold items x (n, *item), one for each of `train`, in the format in which this dataset reads them.
    """

    @property
    def spec(self) -> DataSpec: ...

    @property
    def splits(self) -> Sequence[str]:
        """Names that `split` accepts; `train` is always one of them, `test` where data is held out."""
        ...

    def split(self, name: str) -> Split:
        """Return a split. Raises ValueError, with the valid names, for one that does not exist."""
        ...


class Augmenting(Protocol):
    """A dataset that changes its training batches."""

    def augment(self, x: Tensor, noise: NoiseSource, step: int) -> Tensor: ...
