"""What a config has become when everything in it is found, checked and filled in: ready to be built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import attrs

from atlas_core.config.facts import Facts
from atlas_core.config.lock import lock
from atlas_core.config.resolved import Resolved, Section
from atlas_core.config.sections import (
    EvaluateConfig,
    PluginsConfig,
    SamplingConfig,
    TrainConfig,
    TransportConfig,
    TransportEvaluateConfig,
)

if TYPE_CHECKING:
    from atlas_core.plugins.registry import Registry

COMPONENTS: Mapping[str, str] = {
    "data": "dataset",
    "process": "process",
    "parametrization": "parametrization",
    "model": "model",
    "conditioner": "conditioner",
    "objective": "objective",
    "sampler": "sampler",
}
"""Tables of a pipeline that hold a component, and its kind."""
SECTIONS: Mapping[str, type] = {
    "train": TrainConfig,
    "sampling": SamplingConfig,
    "evaluate": EvaluateConfig,
    "plugins": PluginsConfig,
}
"""Tables of a pipeline that the engine itself reads."""
DEFAULTS: Mapping[str, str] = {
    "process": "atlas-solvers-builtin:edm",
    "parametrization": "atlas-solvers-builtin:edm",
    "objective": "atlas-solvers-builtin:denoising",
    "sampler": "atlas-solvers-builtin:multistep",
}
"""What a pipeline uses where its config says nothing: full ids, which no plugin of the same name makes ambiguous."""


@attrs.frozen(kw_only=True, slots=False, eq=False)
class PipelinePlan:
    """A pipeline for training and sampling, resolved. `table` is the whole of it and reads back to the same plan."""

    name: str
    process: Resolved
    parametrization: Resolved
    model: Resolved
    conditioner: Resolved | None
    sampler: Resolved
    facts: Facts
    table: dict[str, Any]
    """The resolved config in the types of TOML: full ids, every default and derived setting, `[facts]`."""
    registry: Registry
    origin: str = ""
    """The file or preset that it comes from."""
    notes: tuple[str, ...] = ()
    """What the user should know, as settings that an override dropped."""
    read: Callable[[str], Any]
    """Gives the parts below by their table's name; in a checkpoint, only when they are asked for."""

    # A checkpoint samples without its dataset, its objective and its metrics, so their plugins may be missing.

    @cached_property
    def data(self) -> Resolved:
        return cast(Resolved, self.read("data"))

    @cached_property
    def dataset(self) -> Any:
        """The dataset, built once."""
        return self.read("dataset")

    @cached_property
    def objective(self) -> Resolved:
        return cast(Resolved, self.read("objective"))

    @cached_property
    def sections(self) -> Mapping[str, Section]:
        """The tables that are no components, with what is nested in them unbuilt."""
        return {name: self.read(name) for name in SECTIONS}

    @cached_property
    def train(self) -> TrainConfig:
        return cast(TrainConfig, self.read("train").config)

    @cached_property
    def sampling(self) -> SamplingConfig:
        """With grid and guidance built."""
        return cast(SamplingConfig, self.read("sampling").config)

    @cached_property
    def evaluate(self) -> EvaluateConfig:
        """With metrics and baselines built, the same ones at every access; `metrics` gives new ones."""
        return cast(EvaluateConfig, self.read("evaluate").config)

    @cached_property
    def plugins(self) -> PluginsConfig:
        return cast(PluginsConfig, self.read("plugins").config)

    @property
    def metrics(self) -> tuple[Resolved, ...]:
        return tuple(self.read("evaluate").settings["metrics"])

    @property
    def baselines(self) -> tuple[Resolved, ...]:
        return tuple(self.read("evaluate").settings["baselines"])

    @property
    def grid(self) -> Resolved:
        return cast(Resolved, self.read("sampling").settings["grid"])

    @property
    def guidance(self) -> Resolved:
        return cast(Resolved, self.read("sampling").settings["guidance"])

    def components(self) -> Iterator[Resolved]:
        """Every component, nested ones too, in the order of the tables."""
        for name in COMPONENTS:
            if (component := getattr(self, name)) is not None:
                yield from component.components()
        for section in self.sections.values():
            yield from section.components()

    def lock(self) -> dict[str, Any]:
        """Return kind, id, version and settings of every component, and the versions of Python, torch and Atlas."""
        return lock(self.components())

    def describe(self) -> str:
        """Return the plan as text, for `--dry-run`: what runs, what the user changed, what the data says."""
        from atlas_core.config.describe_plan import describe_pipeline

        return describe_pipeline(self)

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any], registry: Registry | None = None, *, overrides: Sequence[str] = ()
    ) -> PipelinePlan:
        """Re-open the resolved config of a checkpoint, without its dataset.

        `overrides` may change how it samples, not what was trained. Raises ConfigError.
        """
        from atlas_core.config.pipeline import reopen

        return reopen(table, registry, overrides)


@attrs.frozen(kw_only=True, slots=False, eq=False)
class TransportPlan:
    """Two bodies of data and the solver that couples them, resolved."""

    name: str
    source: Resolved
    target: Resolved
    solver: Resolved
    transport: TransportConfig
    evaluate_section: Section
    plugins: PluginsConfig
    facts: Facts
    """Of the source."""
    datasets: tuple[Any, Any]
    """Source and target, built."""
    table: dict[str, Any]
    registry: Registry
    origin: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def evaluate(self) -> TransportEvaluateConfig:
        return cast(TransportEvaluateConfig, self.evaluate_section.config)

    @property
    def metrics(self) -> tuple[Resolved, ...]:
        return tuple(self.evaluate_section.settings["metrics"])

    def components(self) -> Iterator[Resolved]:
        """Every component, nested ones too."""
        for section in (self.source, self.target, self.solver, self.evaluate_section):
            yield from section.components()

    def lock(self) -> dict[str, Any]:
        """Return kind, id, version and settings of every component, and the versions of Python, torch and Atlas."""
        return lock(self.components())

    def describe(self) -> str:
        """Return the plan as text, for `--dry-run`."""
        from atlas_core.config.describe_plan import describe_transport

        return describe_transport(self)
