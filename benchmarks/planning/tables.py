# SPDX-License-Identifier: Apache-2.0
"""Results as text on the terminal."""

from __future__ import annotations

from typing import Any


def print_race(result: dict[str, Any]) -> None:
    """One line per contestant, fastest last."""
    setting = result["setting"]
    print(
        f"\n{setting['candidates']} candidates, horizon {setting['horizon']}, "
        f"{setting['observed_frames']} observed, {result['threads']} thread(s): "
        f"{setting['exact_gflop']:.1f} GFLOP exact, {setting['naive_gflop']:.1f} naive"
    )
    print(
        f"{'':38}{'CPU ms':>8}{'wall ms':>9}{'x eager':>16}{'x best rival':>16}"
        f"{'error':>8}{'elites':>8}{'GFLOP/s':>9}{'peak':>6}"
    )
    for row in sorted(result["contestants"], key=lambda row: -row["cpu_ms"]):
        share = row["share_of_peak"]
        print(
            f"{row['name']:38}{row['cpu_ms']:8.0f}{row['wall_ms']:9.0f}"
            f"{_pair(row['times_faster_than_eager']):>16}"
            f"{_pair(row['times_faster_than_best_rival']):>16}"
            f"{row['max_relative_cost_error']:8.0e}{row['elites']:8d}"
            f"{row['gflops_per_core']:9.0f}" + (f"{share['cpu']:6.0%}" if share else f"{'-':>6}")
        )
    for row in result["failed"]:
        print(f"{row['name']:38} skipped: {row['reason']}")


def _pair(ratio: dict[str, float] | None) -> str:
    """CPU and wall ratio."""
    return f"{ratio['cpu']:.2f} / {ratio['wall']:.2f}" if ratio else "-"


def print_whole_plan(results: list[dict[str, Any]]) -> None:
    """One line per precision and number of threads."""
    for result in results:
        print(f"\na plan of {result['iterations']} iterations, {result['threads']} thread(s)")
        for row in result["rows"]:
            print(f"{row['precision']:10}{row['wall_s']:8.2f} s wall{row['cpu_s']:8.2f} s CPU")


def print_sweeps(result: dict[str, Any]) -> None:
    """Each sweep as a list of points."""
    for axis in ("candidates", "horizon"):
        print(f"\nsweep over {axis}")
        for row in result[axis]:
            print(
                f"{row['name']:38}{row['threads']:3d} thread(s){row[axis]:6d}"
                f"{row['wall_ms']:10.1f} ms{row['speedup_over_one_thread']:7.2f} x one thread"
            )


def print_single_step(result: dict[str, Any]) -> None:
    """One line per contestant and number of samples."""
    print(f"\none step, full history, one thread, {result['repeats']} repeats")
    for row in result["rows"]:
        print(
            f"{row['name']:38}{row['samples']:4d} samples   p50 {row['p50_ms']:8.2f} ms   "
            f"p99 {row['p99_ms']:8.2f} ms   p99/p50 {row['p99_over_p50']:5.2f}   "
            f"error {row['max_error_in_spreads']:.0e}"
        )
    for row in result["failed"]:
        print(f"{row['name']:38}{row['samples']:4d} samples   skipped: {row['reason']}")
