"""Hooks modules: what they supply, what they are told, and what happens to the run when they fail."""

from __future__ import annotations

import sys
import warnings

import pytest

from atlas_core.errors import PluginError
from atlas_core.plugins.events import Events
from atlas_core.plugins.failures import LoadError
from atlas_core.plugins.hookspecs import hookimpl
from atlas_core.plugins.policy import Policy

HEAD = "from atlas_core import hookimpl\nfrom atlas_core.plugins.hookspecs import ComponentSpec\n"


@pytest.fixture
def hooks(make, tmp_path):
    """Install a distribution with a hooks module and a sampler that only the hooks module names."""

    def install(provider, source):
        module = provider.replace("-", "_")
        files = {f"{module}_hooks.py": HEAD + source, f"{module}.py": make.SAMPLER.format(name="Sampler")}
        entry_points = f"[atlas_core.plugins]\nmain = {module}_hooks\n"
        make.make_distribution(tmp_path / "site", provider, entry_points=entry_points, files=files)

    return install


SUPPLY = "@hookimpl\ndef atlas_samplers():\n    return [ComponentSpec(f's{i}', '%s:Sampler') for i in range(3)]\n"


def test_components_of_a_hook_are_components_like_any_other(hooks, registry_of):
    hooks("acme-computed", SUPPLY % "acme_computed")
    registry = registry_of()
    assert [row.id for row in registry.entries("sampler")] == [
        "acme-computed:s0",
        "acme-computed:s1",
        "acme-computed:s2",
    ]
    assert "acme_computed" not in sys.modules  # named, not imported
    assert registry.load(registry.resolve("sampler", "s1")).__name__ == "Sampler"


def test_a_listing_shows_the_hooks_module_and_imports_it_not(hooks, registry_of):
    hooks("acme-computed", SUPPLY % "acme_computed")
    (row,) = registry_of().listing()
    assert (row.kind, row.name, row.target, row.status) == ("hooks", "main", "acme_computed_hooks", "unverified")
    assert "acme_computed_hooks" not in sys.modules


def test_a_hook_and_an_entry_point_of_two_providers_make_a_name_ambiguous(hooks, sampler, registry_of):
    hooks("acme-computed", SUPPLY % "acme_computed")
    sampler("beta-samplers", "s1")
    assert {row.status for row in registry_of().entries() if row.name == "s1"} == {"ambiguous"}


def test_disabling_a_hooks_module_happens_before_its_import(hooks, registry_of):
    hooks("acme-computed", SUPPLY % "acme_computed")
    registry = registry_of(Policy(disabled={"acme-computed": "[plugins] disable"}))
    assert registry.entries() == ()
    assert "acme_computed_hooks" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no licence')", "raises RuntimeError: no licence"),
        (
            "@hookimpl\ndef atlas_sampler(): return []",
            "there is no hook 'atlas_sampler'; did you mean 'atlas_samplers'",
        ),
        ("@hookimpl\ndef atlas_train_step(epoch): pass", "epoch"),
        ("@hookimpl\ndef atlas_samplers(): return ['heun']", "returns 'heun', which is no ComponentSpec"),
        ("@hookimpl\ndef atlas_samplers(): return None", "atlas_samplers raises TypeError"),
        ("@hookimpl\ndef atlas_samplers(): raise SystemExit(3)", "atlas_samplers raises SystemExit: 3"),
    ],
)
def test_a_broken_hooks_module_is_warned_of_and_the_others_work(hooks, sampler, registry_of, source, message):
    hooks("acme-broken", source)
    hooks("beta-good", SUPPLY % "beta_good")
    registry = registry_of()
    with pytest.warns(RuntimeWarning, match="acme-broken:main"):
        assert len(registry.entries("sampler")) == 3
    assert [failure.entry.provider for failure in registry.failures] == ["acme-broken"]
    assert message in str(registry.failures[0])


class Recorder:
    def __init__(self):
        self.seen = []

    @hookimpl
    def atlas_train_start(self, run, config, step, steps):
        self.seen.append(("start", run, config, step, steps))

    @hookimpl
    def atlas_train_step(self, step, logs):  # takes what it needs
        self.seen.append(("step", step, logs["loss"]))

    @hookimpl
    def atlas_train_end(self, reason):
        self.seen.append(("end", reason))

    @hookimpl
    def atlas_sample_step(self, step, steps):
        self.seen.append(("sample", step, steps))

    @hookimpl
    def atlas_checkpoint_saved(self, path, step):
        self.seen.append(("saved", path, step))


class Failing:
    calls = 0

    @hookimpl(tryfirst=True)
    def atlas_train_step(self):
        self.calls += 1
        raise ValueError("tracker is down")

    @hookimpl
    def atlas_train_end(self):
        self.calls += 100


def test_every_event_reaches_its_listener_with_the_arguments_it_asks_for(tmp_path):
    events, recorder = Events(), Recorder()
    events.register(recorder)
    events.train_start(run="run", config={}, step=3, steps=9)
    events.train_step(run="run", step=4, steps=9, logs={"loss": 0.5})
    events.sample_step(step="s", steps=2)
    events.checkpoint_saved(run="run", path=tmp_path, step=4)
    events.train_end(run="run", step=9, reason="finished")
    expected = [
        ("start", "run", {}, 3, 9),
        ("step", 4, 0.5),
        ("sample", "s", 2),
        ("saved", tmp_path, 4),
        ("end", "finished"),
    ]
    assert recorder.seen == expected


def test_a_listener_that_raises_is_switched_off_warned_of_once_and_recorded_while_the_others_go_on():
    events, recorder, failing = Events(), Recorder(), Failing()
    events.register(recorder)
    events.register(failing)
    with pytest.warns(RuntimeWarning, match=r"atlas_train_step of .*Failing.* raises ValueError: tracker is down"):
        events.train_step(run=None, step=0, steps=2, logs={"loss": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events.train_step(run=None, step=1, steps=2, logs={"loss": 0.5})
    assert failing.calls == 1
    assert recorder.seen == [("step", 0, 1.0), ("step", 1, 0.5)]
    assert [(failure.stage, failure.error) for failure in events.failures] == [("event", "ValueError: tracker is down")]
    assert "def atlas_train_step" not in events.failures[0].error
    assert "tracker is down" in events.failures[0].traceback


def test_listeners_are_called_in_the_order_of_pluggy():
    order = []

    def listener(name, **options):
        def atlas_train_end():
            order.append(name)

        return type(name, (), {"atlas_train_end": staticmethod(hookimpl(**options)(atlas_train_end))})()

    events = Events()
    for plugin in (listener("first", tryfirst=True), listener("old"), listener("new"), listener("last", trylast=True)):
        events.register(plugin)
    events.train_end(run=None, step=0, reason="finished")
    assert order == ["first", "new", "old", "last"]


def test_strict_stops_at_the_first_error():
    events = Events(strict=True)
    events.register(Failing())
    with pytest.raises(PluginError, match="tracker is down"):
        events.train_step(run=None, step=0, steps=1, logs={})


def test_an_interrupt_is_no_failure_of_a_plugin():
    class Interrupted:
        @hookimpl
        def atlas_train_step(self):
            raise KeyboardInterrupt

    events = Events()
    events.register(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        events.train_step(run=None, step=0, steps=1, logs={})
    assert events.failures == []


def test_an_object_with_a_mistyped_hook_is_refused():
    class Mistyped:
        @hookimpl
        def atlas_train_steps(self): ...

    with pytest.raises(LoadError, match="did you mean 'atlas_train_step'"):
        Events().register(Mistyped())


def test_hooks_are_told_and_asked_through_the_registry(hooks, registry_of):
    hooks("acme-a", "seen = []\n@hookimpl\ndef atlas_train_end(reason): seen.append(reason)\n")
    hooks(
        "beta-b",
        "@hookimpl\ndef atlas_presets(): return ['preset']\n@hookimpl\ndef atlas_commands(): raise OSError('no')\n",
    )
    events = Events(registry_of())
    events.train_end(run=None, step=1, reason="finished")
    assert sys.modules["acme_a_hooks"].seen == ["finished"]
    assert events.collect("atlas_presets") == [("beta-b", "preset")]
    assert events.presets() == ["preset"]
    with pytest.warns(RuntimeWarning, match="beta-b:main: atlas_commands raises OSError: no"):
        assert events.commands() == []
