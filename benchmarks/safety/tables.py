# SPDX-License-Identifier: Apache-2.0
"""Prints the study's figures and stores them."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_edge.json_text import json_bytes
from jepa_edge.version import __version__
from safety import protocol

_PACKAGES = ("numpy", "onnxruntime", "scipy", "torch", "gym-pusht", "dm_control", "mujoco")


def write_results(out: Path, entries: Sequence[dict[str, Any]], jobs: int, seconds: float) -> None:
    """Write safety.json and print its tables. jobs, seconds: that were run now, and how long."""
    results = {
        "date": datetime.date.today().isoformat(),
        "how": "python benchmarks/safety/study.py (protocol: benchmarks/safety/PROTOCOL.md)",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {
            "jepa-edge": __version__,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "seeds": list(protocol.SEEDS),
        "jobs": jobs,
        "seconds": round(seconds, 1),
        "entries": list(entries),
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "safety.json"
    path.write_bytes(json_bytes(results))
    console = Console(width=150)
    for table in (_alarms(entries), _accuracy(entries), _conditions(entries)):
        console.print(table)
    for table in (_coverage(entries), _spread(entries)):
        console.print(table)
    console.print(f"{path}; {jobs} jobs took {seconds:.0f} s")


def _alarms(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Nominal test episodes that alarm, alpha 0.05, 400 per seed")
    for name in ("robot", "variant", "per seed %", "pooled %", "95 % interval", "if exact"):
        table.add_column(name)
    for entry in entries:
        monitor = entry["monitor"]
        pooled = monitor["false_alarms_pooled"]
        table.add_row(
            entry["robot"],
            entry["variant"],
            "  ".join(
                f"{100 * r.value:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]"
                for r in monitor["false_alarms"]
            ),
            f"{100 * pooled.value:.2f}",
            f"{100 * pooled.low:.2f} to {100 * pooled.high:.2f}",
            "{:.2f} to {:.2f}".format(*(100 * end for end in monitor["plausible_pooled"])),
        )
    return table


def _accuracy(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Held-out faults: accuracy and paired gain of the monitor, 95 % bootstrap")
    for name in (
        "robot",
        "variant",
        "detector",
        "false alarms %",
        "balanced",
        "time-weighted",
        "gain, balanced",
        "gain, time-weighted",
    ):
        table.add_column(name)
    for entry in entries:
        for name, one in {"monitor": entry["monitor"], **entry["rivals"]}.items():
            table.add_row(
                entry["robot"],
                entry["variant"],
                name,
                f"{100 * one['false_alarms_pooled'].value:.2f}",
                _span(one["balanced"]),
                _span(one["time_weighted"]),
                _span(one.get("gain_balanced")),
                _span(one.get("gain_time_weighted")),
            )
    return table


def _conditions(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Share of episodes detected at or after onset: monitor / flow + band")
    table.add_column("condition")
    for entry in entries:
        table.add_column(f"{entry['robot']} {entry['variant']}")
    names = list(dict.fromkeys(name for e in entries for name in e["monitor"]["detected"]))
    for name in names:
        cells = []
        for entry in entries:
            own = entry["monitor"]["detected"].get(name)
            flow = entry["rivals"]["flow density + band"]["detected"].get(name)
            cells.append("no effect" if own is None else f"{own.value:.2f} / {flow.value:.2f}")
        table.add_row(name, *cells)
    return table


def _coverage(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Coverage at alpha 0.1, horizons 1 to 5, over all seeds")
    for name in ("robot", "variant", "windows", "coverage % per horizon", "binomial", "beta-b."):
        table.add_column(name)
    for entry in entries:
        for name, one in {"all": entry["coverage"], **entry["group_coverage"]}.items():
            table.add_row(
                entry["robot"],
                entry["variant"],
                name,
                "  ".join(f"{100 * row.value:.1f}" for row in one["pooled"].values()),
                f"{one['inside_binomial']}/{one['rows']}",
                f"{one['inside_beta_binomial']}/{one['rows']}",
            )
    return table


def _spread(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Spread against realized error, means over seeds")
    for name in ("robot", "variant", "sampler", "runs", "Spearman", "per horizon", "AURC"):
        table.add_column(name)
    for entry in entries:
        for row in entry["spread"]:
            table.add_row(
                entry["robot"],
                entry["variant"],
                row["sampler"],
                row["condition"],
                f"{row['spearman']:.2f}",
                " ".join(f"{value:.2f}" for value in row["per_horizon"]),
                f"{row['aurc']:.4f} (random {row['aurc_random']:.4f}, "
                f"oracle {row['aurc_oracle']:.4f})",
            )
    return table


def _span(estimate: Any) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
