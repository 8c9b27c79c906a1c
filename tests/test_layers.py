# SPDX-License-Identifier: Apache-2.0
"""Who may import whom (docs/architecture.md), read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCH_ONLY = {"torch", "scipy", "sklearn", "pandas", "matplotlib", "nncf", "onnx", "onnxscript"}
MIDDLEWARE = {"rclpy", "cyclonedds", "rosbags", "serial", "pymavlink"}
BENCH = {*BENCH_ONLY, "jepa_edge.export", "jepa_edge.calibration"}
# The command line may reach everything, but only inside functions.
RULES = {
    "jepa_edge": {*BENCH, "rclpy"},
    "jepa_edge/nodes": {*MIDDLEWARE, "jepa_edge.dds", "jepa_edge.cli"},
    "ros/jepa_ros/jepa_ros": {*BENCH, "cyclonedds", "rosbags", "jepa_edge.dds"},
    "export": {"jepa_edge.calibration", "scipy", "sklearn"},
    "calibration": {"jepa_edge.export", "onnx", "nncf"},
}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("layer", RULES)
def test_no_layer_reaches_where_it_must_not(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for file in files:
        if file.is_relative_to(ROOT / "jepa_edge" / "cli"):
            continue
        for name in _imports(file):
            broken = [bad for bad in RULES[layer] if name == bad or name.startswith(bad + ".")]
            assert not broken, f"{file.relative_to(ROOT)} imports {name}"


def test_the_core_knows_neither_python_nor_ros() -> None:
    for file in [*(ROOT / "csrc/include").rglob("*.hpp"), *(ROOT / "csrc/src").rglob("*.cpp")]:
        for line in file.read_text().splitlines():
            if line.startswith("#include"):
                assert "pybind" not in line, file
                assert "Python.h" not in line, file
                assert "rcl" not in line, file


def test_importing_the_runtime_leaves_the_bench_out() -> None:
    code = (
        "import sys, jepa_edge, jepa_edge.session, jepa_edge.planner, jepa_edge.cli.run\n"
        f"print(sorted({sorted(BENCH_ONLY)!r} & sys.modules.keys()))".replace(
            repr(sorted(BENCH_ONLY)), "set(" + repr(sorted(BENCH_ONLY)) + ")"
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
