"""The kinds of component: what each is called in a config, an entry point, a hook and a contract.

This table is the only place that knows them all; it imports nothing but the standard library.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of component."""

    name: str
    """As users write it: `atlas-core describe sampler/heun`."""
    plural: str

    @property
    def group(self) -> str:
        """Entry-point group in which a distribution declares its components of this kind."""
        return f"atlas_core.{self.plural}"

    @property
    def hook(self) -> str:
        """Hook through which a hooks module supplies components of this kind."""
        return f"atlas_{self.plural}"

    @property
    def contract(self) -> str:
        """Name of the Protocol in `atlas_core.contracts`."""
        return self.name.capitalize()


KINDS: tuple[Kind, ...] = (
    Kind("kernel", "kernels"),
    Kind("solver", "solvers"),
    Kind("sampler", "samplers"),
    Kind("conditioner", "conditioners"),
    Kind("dataset", "datasets"),
    Kind("process", "processes"),
    Kind("grid", "grids"),
    Kind("guidance", "guidance"),
    Kind("parametrization", "parametrizations"),
    Kind("model", "models"),
    Kind("objective", "objectives"),
    Kind("metric", "metrics"),
    Kind("baseline", "baselines"),
)

HOOKS = "hooks"
"""The kind of a row that stands for a module of hook implementations."""
HOOKS_GROUP = "atlas_core.plugins"
UNKNOWN = "unknown"
"""The kind of a row that stands for something in an entry-point file which cannot be read."""

ORDER: dict[str, int] = {name: index for index, name in enumerate([*(kind.name for kind in KINDS), HOOKS, UNKNOWN])}
"""Every kind that a row may have, and its place in a listing."""
KIND_OF_GROUP: dict[str, str] = {**{kind.group: kind.name for kind in KINDS}, HOOKS_GROUP: HOOKS}


def check_kind(name: str) -> str:
    """Return `name` if it is a kind of row; raise UsageError with the nearest one if not."""
    if name in ORDER:
        return name
    from atlas_core.errors import UsageError
    from atlas_core.plugins.suggest import did_you_mean

    raise UsageError(f"there is no kind {name!r}{did_you_mean(name, ORDER)}", hint=f"Kinds: {', '.join(ORDER)}")
