"""The main job among every broken plugin at once: nothing of it may suffer."""

from __future__ import annotations

from pathlib import Path

MAIN = "import sys; from atlas_core.cli import main; sys.exit(main(sys.argv[1:]))"
SHORT = (
    "train.steps=2",
    "train.validate_every=0",
    "evaluate.count=100",
    """evaluate.metrics=[{use="nearest-neighbour"}]""",
    "evaluate.baselines=[]",
    "sampling.nfe=2",
)


def test_the_help_of_every_command_works(run):
    done = run(MAIN, "--help")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for command in ("run", "train", "sample", "evaluate", "report", "presets", "describe", "doctor"):
        assert command in done.stdout
        assert run(MAIN, command, "--help").returncode == 0


def test_a_short_run_of_digits_works(run, tmp_path: Path):
    done = run(MAIN, "run", "digits", *SHORT, "--runs", str(tmp_path), "-q", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "nearest-neighbour" in done.stdout
    # The hook that fails is said, on the terminal and in the report, and by name.
    assert "acme-bad-hook" in done.stderr
    assert "acme-bad-hook" in (tmp_path / "digits" / "report.html").read_text()


def test_using_a_broken_plugin_names_it_and_the_way_out(run):
    done = run(MAIN, "run", "digits", "sampler.use=raises", "--dry-run")
    assert done.returncode == 2, done.stderr
    for word in ("acme-raises", "no licence found", "list-plugins --check"):
        assert word in done.stderr
