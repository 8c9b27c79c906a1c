# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end, with few episodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "pusht" / "demo.py"


@pytest.mark.timeout(900)
def test_the_demo_runs_and_its_figures_make_sense(tmp_path: Path) -> None:
    sizes = ["--episodes", "60", "--nominal-episodes", "6", "--fault-episodes", "3", "--tasks", "1"]
    done = subprocess.run(
        [sys.executable, str(DEMO), "--out", str(tmp_path / "demo"), *sizes],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "JEPA Edge on PushT" in done.stdout
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    parts = [graph for variant in summary["export"]["variants"] for graph in variant["graphs"]]
    assert min(part["sqnr_db"] for part in parts) >= 20.0
    assert min(part["centered_cosine"] for part in parts) >= 0.99
    faults = {fault["fault"]: fault["detected"] for fault in summary["faults"]["faults"]}
    assert set(faults) == {"occlusion", "freeze", "stuck", "friction"}
    for fault in ("occlusion", "freeze", "stuck"):
        assert faults[fault]["count"] == faults[fault]["trials"] == 3
    spreads = {spread["name"]: spread["overall"]["value"] for spread in summary["spread"]}
    assert set(spreads) == {"latent variable", "heads", "MC-dropout"}
    assert spreads["latent variable"] > spreads["MC-dropout"]
    assert set(summary["planning"]) == {"planner", "random", "no-op"}
    report = (tmp_path / "demo" / "report.html").read_text()
    assert report.count("Plotly.newPlot(") >= 7
    assert 'src="http' not in report
