"""Finds components by name and imports them when they are used: the one way to any plugin, ours or a stranger's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from atlas_core import __version__
from atlas_core.plugins.api_version import unmet
from atlas_core.plugins.failures import Failure, LoadError
from atlas_core.plugins.kinds import HOOKS, UNKNOWN, check_kind
from atlas_core.plugins.policy import Policy, admit, choose, settle, usable
from atlas_core.plugins.scan import Entry, Installed, normalised, scan
from atlas_core.plugins.verdicts import Verdict, Verdicts, key

if TYPE_CHECKING:
    import pluggy

    from atlas_core.errors import AtlasError

__all__ = ["Entry", "Registry", "default_registry"]


class Registry:
    """What is installed, what of it may be used, and what of that is loaded.

    `failures` collects what plugins did wrong; a plugin that fails never keeps another one from working.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        installed: Sequence[Installed] | None = None,
        verdicts: Verdicts | None = None,
    ) -> None:
        self.policy = Policy.from_environment() if policy is None else policy
        self.installed = tuple(_checked_version(one) for one in (scan() if installed is None else installed))
        if any(one.unreadable for one in self.installed):
            from atlas_core.plugins.shield import protect

            protect(self.installed)
        self.verdicts = Verdicts() if verdicts is None else verdicts
        self.failures: list[Failure] = []
        self._loaded: dict[tuple[str, str], Any] = {}
        self._hooks: tuple[pluggy.PluginManager, list[tuple[Entry, ModuleType]]] | None = None
        self._components: tuple[list[Entry], tuple[Entry, ...]] | None = None

    # ---- what there is -----------------------------------------------------------------------------------------------

    def listing(self, kind: str | None = None) -> tuple[Entry, ...]:
        """Return every row that the files on disk and the last check know of. Imports no plugin.

        Components that a hook supplies are rows after the first check, which is when they become known.
        """
        if kind is not None:
            check_kind(kind)
        rows: list[Entry] = []
        known: dict[tuple[str, ...], Verdict] = {}
        for installed in self.installed:
            verdicts = self.verdicts.of(installed)
            entries = list(installed.entries)
            for owner in usable(admit(installed.entries, self.policy)):
                supplied = verdicts[key(owner)].supplied if key(owner) in verdicts else ()
                entries += [Entry(k, name, owner.provider, owner.version, target) for k, name, target in supplied]
            rows += entries
            known.update({entry[:5]: verdicts[key(entry)] for entry in entries if key(entry) in verdicts})
        settled = settle(admit(rows, self.policy), self.policy)
        return tuple(_with_verdict(row, known.get(row[:5])) for row in settled if kind in (None, row.kind))

    def entries(self, kind: str | None = None) -> tuple[Entry, ...]:
        """Return the components, those of hooks modules included, in a stable order. Imports hooks modules only."""
        if kind is not None:
            check_kind(kind)
        return tuple(row for row in self._all_components()[1] if kind in (None, row.kind))

    def _all_components(self) -> tuple[list[Entry], tuple[Entry, ...]]:
        """Return those that may be used, and all of them with their conflicts marked."""
        if self._components is None:
            rows = [row for row in (*self._declared(), *self._supplied()) if row.kind not in (HOOKS, UNKNOWN)]
            self._components = sorted(set(usable(rows))), settle(rows, self.policy)
        return self._components

    def _declared(self) -> list[Entry]:
        return admit((entry for installed in self.installed for entry in installed.entries), self.policy)

    def _supplied(self) -> list[Entry]:
        from atlas_core.plugins.hookspecs import supplied

        rows = []
        manager, modules = self.hooks()
        for owner, _ in modules:
            try:
                specs = supplied(manager, owner.id)
            except LoadError as error:
                self._fail(owner, error)
                continue
            rows += [Entry(kind, spec.name, owner.provider, owner.version, spec.target) for kind, spec in specs]
        return admit(rows, self.policy)

    def hooks(self) -> tuple[pluggy.PluginManager, list[tuple[Entry, ModuleType]]]:
        """Return a plugin manager with the hooks modules that take part, and these; the broken ones are failures."""
        from atlas_core.plugins.hookspecs import plugin_manager, register

        if self._hooks is None:
            manager = plugin_manager()
            modules: list[tuple[Entry, ModuleType]] = []
            self._hooks = manager, modules
            for entry in sorted(row for row in usable(self._declared()) if row.kind == HOOKS):
                try:
                    module = self._import(entry)
                    register(manager, module, entry.id)
                except LoadError as error:
                    self._fail(entry, error)
                else:
                    modules.append((entry, module))
        return self._hooks

    # ---- one of it ---------------------------------------------------------------------------------------------------

    def resolve(self, kind: str, name: str) -> Entry:
        """Return the one component that `name`, short or `provider:name`, can mean. Imports hooks modules only.

        Raises ComponentError for a name that is unknown, ambiguous or disabled, and PluginError for one whose
        distribution needs another atlas-core or declares it in a way that cannot be read.
        """
        provider, _, short = name.rpartition(":")
        provider = normalised(provider)
        usable_rows = self._all_components()[0]
        possible = [r for r in usable_rows if (r.kind, r.name) == (kind, short) and provider in ("", r.provider)]
        if not provider:
            possible = choose(possible, self.policy)
        if len(possible) == 1:
            return possible[0]
        check_kind(kind)
        raise self._refusal(kind, f"{provider}:{short}" if provider else short, possible)

    def _refusal(self, kind: str, name: str, possible: Sequence[Entry]) -> AtlasError:
        from atlas_core.errors import ComponentError, PluginError

        ids = sorted({row.id for row in possible})
        if len(ids) > 1:
            return ComponentError(
                f"{kind} {name!r} is ambiguous: {', '.join(ids)}",
                hint="Write one of these ids in full, or set `prefer` in [plugins].",
            )
        if ids:
            return ComponentError(
                f"{kind} {ids[0]!r} is declared more than once: {', '.join(sorted(row.target for row in possible))}",
                hint=f"The authors of {possible[0].provider} have to mend this; `disable` in [plugins] leaves it out.",
            )
        for row in self.entries(kind):
            if name in (row.name, row.id):
                what = f"{kind} {row.id!r} ({row.provider} {row.version}) is"
                if row.status == "disabled":
                    return ComponentError(f"{what} {row.reason}", hint=self.policy.remedy(row.provider, row.name))
                return PluginError(f"{what} {row.status}: {row.reason}", hint=_LIST)
        return ComponentError(
            f"there is no {kind} {name!r}{self._suggestion(kind, name)}", hint=self._remedy(kind, name)
        )

    def _suggestion(self, kind: str, name: str) -> str:
        from atlas_core.plugins.known import names
        from atlas_core.plugins.suggest import did_you_mean

        installed = [row.id if ":" in name else row.name for row in self.entries(kind)]
        return did_you_mean(name, {*installed, *names(kind)})

    def _remedy(self, kind: str, name: str) -> str:
        from atlas_core.plugins.known import PROVIDERS, names
        from atlas_core.plugins.suggest import nearest

        provider, _, short = name.rpartition(":")
        installed = {one.provider for one in self.installed}
        if provider and provider not in installed:
            if provider in PROVIDERS:
                return f"Install its provider: pip install {provider}"
            # Never a pip line for a name out of a config that somebody sent: it could be anybody's package.
            return f"No distribution called {provider} is installed; `atlas-core list-plugins` shows those that are."
        known = names(kind)
        for candidate in (short, *nearest(short, known, 1)):
            if candidate in known and known[candidate] not in installed:
                return f"{candidate!r} comes with: pip install {known[candidate]}"
        lost = sorted({failure.entry.id for failure in self.failures if failure.entry.kind == HOOKS})
        broken = f" {', '.join(lost)} failed, and might have supplied it." if lost else ""
        return f"Installed: {', '.join(sorted({row.name for row in self.entries(kind)})) or 'none'}.{broken}"

    def load(self, entry: Entry) -> Any:
        """Import the component behind `entry`, once, and hold it against its contract's shape.

        Raises PluginError, naming distribution, version and stage, whatever the plugin does at import; ComponentError
        if the policy forbids it.
        """
        from atlas_core.errors import ComponentError, PluginError

        refusal = self.policy.refusal(entry.provider, entry.name)
        if refusal:
            raise ComponentError(
                f"{entry.kind} {entry.id!r} cannot be used: {refusal}",
                hint=self.policy.remedy(entry.provider, entry.name),
            )
        try:
            return self._import(entry)
        except LoadError as error:
            self._fail(entry, error)
            raise PluginError(
                f"{entry.kind} {entry.id!r} ({entry.provider} {entry.version}) fails at {error.stage}: {error}",
                hint=f"{_LIST} ATLAS_DISABLE_PLUGINS={entry.provider} leaves it out.",
            ) from error

    def _import(self, entry: Entry) -> Any:
        from atlas_core.plugins.loading import captured_output, load_target

        known = entry.kind, entry.target
        if known not in self._loaded:
            with captured_output() as output:
                self._loaded[known] = load_target(entry.kind, entry.target)
            if output.getvalue():
                self._fail(
                    entry, LoadError("import", f"prints at import: {output.getvalue().strip()!r:.60}"), warn=True
                )
        return self._loaded[known]

    def _fail(self, entry: Entry, error: LoadError, *, warn: bool = False) -> None:
        failure = Failure.of(error.stage, entry, error)
        if failure not in self.failures:
            self.failures.append(failure)
            if warn or entry.kind == HOOKS:  # nobody asked for hooks by name, so nobody gets their error
                warnings.warn(f"{failure}. {_LIST}", RuntimeWarning, stacklevel=3)


_LIST = "`atlas-core list-plugins --check` shows what every plugin does."


def _checked_version(installed: Installed) -> Installed:
    requirement = unmet(installed.metadata, __version__)
    if not requirement:
        return installed
    reason = f"{installed.provider} {installed.version} needs atlas-core{requirement}; this is atlas-core {__version__}"
    return installed._replace(
        entries=tuple(
            entry._replace(status="incompatible", reason=reason) if entry.status == "unverified" else entry
            for entry in installed.entries
        )
    )


def _with_verdict(row: Entry, verdict: Verdict | None) -> Entry:
    if verdict is None or row.status not in ("unverified", "ambiguous"):
        return row
    if row.status == "unverified":
        return row._replace(status=verdict.status, reason=verdict.reason)
    if verdict.status != "broken":
        return row
    return row._replace(status="broken", reason=f"{verdict.reason}; {row.reason}")


@cache
def default_registry() -> Registry:
    """Return the registry of this process, under the policy of the environment."""
    return Registry()
