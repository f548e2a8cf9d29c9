"""The README's example does what it says."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_example_prints_what_it_says(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(source, "README.md", "exec"), {})
    (promise,) = re.findall(r"print\(.*# (.*)", source)
    assert capsys.readouterr().out.strip() == promise


def test_the_pipeline_table_is_a_legal_config():
    import tomllib

    from atlas_core.building import build_table

    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    net = build_table("model", {**tomllib.loads(source)["model"], "shape": [1, 28, 28]})
    assert net.config.checkpointing
    assert net.config.multipliers == (1, 2)
