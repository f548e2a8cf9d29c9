"""The README's example prints what the README says."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_example_runs_and_prints_what_it_says(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == re.search(r"^# (.*)$", code, re.M)[1]
