"""Decides which installed plugins take part, and who owns a name; the order of the rows changes nothing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from atlas_core.plugins.kinds import HOOKS, ORDER, UNKNOWN
from atlas_core.plugins.scan import Entry, normalised

if TYPE_CHECKING:
    from atlas_core.config.sections import PluginsConfig


class Policy(NamedTuple):
    """What the user allows. A config and the environment add up: each of them can only forbid more."""

    prefer: tuple[str, ...] = ()
    """Providers that win a name that several have; the first wins."""
    disabled: Mapping[str, str] = {}
    """Provider, or `provider:name`, and where that is said."""
    allowed: tuple[tuple[str, frozenset[str]], ...] = ()
    """Allow-lists, each with where it is said; a provider has to be on all of them."""

    @classmethod
    def from_environment(cls) -> Policy:
        """Read ATLAS_PLUGINS (an allow-list) and ATLAS_DISABLE_PLUGINS; each is `a,b,c`, and nothing when empty."""
        allow, disable = (
            _names(os.environ.get(name, "").split(",")) for name in ("ATLAS_PLUGINS", "ATLAS_DISABLE_PLUGINS")
        )
        return cls(
            disabled=dict.fromkeys(disable, "ATLAS_DISABLE_PLUGINS"),
            allowed=(("ATLAS_PLUGINS", frozenset(allow)),) if allow else (),
        )

    @classmethod
    def from_config(cls, config: PluginsConfig) -> Policy:
        """Combine the `[plugins]` table with the environment."""
        environment = cls.from_environment()
        allowlist = config.mode == "allowlist"
        return cls(
            prefer=_names(config.prefer),
            disabled={**dict.fromkeys(_names(config.disable), "[plugins] disable"), **environment.disabled},
            allowed=((("[plugins] allow", frozenset(_names(config.allow))),) if allowlist else ())
            + environment.allowed,
        )

    def refusal(self, provider: str, name: str) -> str:
        """Say why a plugin may not be imported; empty where it may."""
        for spelled in (provider, f"{provider}:{name}"):
            if spelled in self.disabled:
                return f"disabled by {self.disabled[spelled]}"
        return f"not on the allow-list of {missing[0]}" if (missing := self._missing(provider)) else ""

    def remedy(self, provider: str, name: str) -> str:
        """Say what to change so that a plugin may be imported; empty where it may."""
        for spelled in (provider, f"{provider}:{name}"):
            if spelled in self.disabled:
                source = self.disabled[spelled]
                take = "Take" if source.startswith("[") else f"Unset {source}, or take"
                return f"{take} {spelled!r} out of {source}."
        return f"Add {provider!r} to {' and to '.join(missing)}." if (missing := self._missing(provider)) else ""

    def _missing(self, provider: str) -> list[str]:
        """Return where the allow-lists are said that a provider is not on."""
        return [source for source, providers in self.allowed if provider not in providers]

    def unknown(self, rows: Iterable[Entry]) -> list[str]:
        """Return the names of this policy that nothing installed has: typing errors, or another machine's plugins."""
        providers = {row.provider for row in rows} | {row.id for row in rows}
        ours = {*self.prefer, *self.disabled, *(name for _, names in self.allowed for name in names)}
        return sorted(ours - providers)


def _names(given: Iterable[str]) -> tuple[str, ...]:
    result = []
    for text in given:
        provider, separator, name = text.strip().partition(":")
        if provider:
            result.append(f"{normalised(provider)}{separator}{name}")
    return tuple(result)


def admit(rows: Iterable[Entry], policy: Policy) -> list[Entry]:
    """Mark what the policy refuses as disabled, before anything is imported."""
    result = []
    for row in rows:
        reason = policy.refusal(row.provider, row.name)
        result.append(row._replace(status="disabled", reason=reason) if reason else row)
    return result


def usable(rows: Iterable[Entry]) -> list[Entry]:
    """Return the rows that nothing on disk and no policy rules out."""
    return [row for row in rows if row.status == "unverified"]


def choose(candidates: Sequence[Entry], policy: Policy) -> list[Entry]:
    """Return the candidates for one short name that remain: one, or all that nobody decided between."""
    owners = {row.provider for row in candidates}
    winner = next((provider for provider in policy.prefer if provider in owners), None)
    return [row for row in candidates if winner in (None, row.provider)]


def settle(rows: Iterable[Entry], policy: Policy) -> tuple[Entry, ...]:
    """Mark names that several providers have, and return all rows in their one order."""
    rows = sorted(set(rows), key=lambda row: (ORDER[row.kind], row[1:]))
    by_name = defaultdict(list)
    for row in usable(rows):
        if row.kind not in (HOOKS, UNKNOWN):
            by_name[row.kind, row.name].append(row)
    marked: dict[Entry, Entry] = {}
    for candidates in by_name.values():
        if len(candidates) > 1:
            marked.update(zip(candidates, _conflict(candidates, choose(candidates, policy)), strict=True))
    return tuple(marked.get(row, row) for row in rows)


def _conflict(candidates: Sequence[Entry], remaining: Sequence[Entry]) -> list[Entry]:
    result = []
    for row in candidates:
        twins = sorted(other.target for other in candidates if other.id == row.id and other != row)
        rivals = sorted({other.id for other in remaining} - {row.id})
        if row not in remaining:
            row = row._replace(status="shadowed", reason=f"{rivals[0]} is preferred; write {row.id!r} to use this one")
        elif twins:
            row = row._replace(
                status="ambiguous",
                reason=f"{row.provider} declares {row.name!r} more than once: also {', '.join(twins)}",
            )
        elif rivals:
            reason = f"also provided as {', '.join(rivals)}; write {row.id!r} or set [plugins] prefer"
            row = row._replace(status="ambiguous", reason=reason)
        result.append(row)
    return result
