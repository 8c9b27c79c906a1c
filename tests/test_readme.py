# SPDX-License-Identifier: Apache-2.0
"""The README's commands, run as written, one after the other, in an empty directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.timeout(1200)
def test_the_commands_and_the_python_examples_work(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    alarmed = ""
    for line in "".join(_blocks("bash")).strip().splitlines():
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if line.startswith("jepa-edge run"):
            alarmed = done.stdout
    assert "CAUTION" in alarmed or "REJECT" in alarmed
    for example in _blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        expected = re.findall(r"print\(.*\)  # (.*)", example)
        assert done.stdout.splitlines() == expected


def test_every_linked_file_exists() -> None:
    for document in [
        ROOT / "README.md",
        ROOT / "benchmarks/README.md",
        *(ROOT / "docs").glob("*.md"),
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links {target}"
