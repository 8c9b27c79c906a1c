# SPDX-License-Identifier: Apache-2.0
"""The node's settings in a replay: what was given, else what the bag tells, else the defaults."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_edge.bags.recorded import Recorded, Run
from jepa_edge.dds.parameter_values import read_file
from jepa_edge.flags import Level, Reason
from jepa_edge.nodes.messages import time_ns
from jepa_edge.nodes.parameters import resolve
from jepa_edge.nodes.world_model_parameters import PARAMETERS, Settings
from jepa_edge.session import SessionConfig

NODE_NAME = "jepa_world_model"
"""What a world model node is called unless it is renamed."""

_KNOWN = frozenset(parameter.name for parameter in PARAMETERS)
_OF_A_WORLD_MODEL = frozenset({"bundle", "fall_after", "latch"})


def told_parameters(recorded: Recorded, run: Run | None = None) -> dict[str, Any]:
    """Return the parameters of the world model node, as far as the bag tells them.

    From /parameter_events, unless several world model nodes spoke there: which of them made the
    flags is not told. And from the run's own ModelInfo, which tells how they were resolved.
    """
    nodes = [v for v in recorded.parameters.values() if v.keys() >= _OF_A_WORLD_MODEL]
    events = nodes[0] if len(nodes) == 1 else {}
    told = {name: value for name, value in events.items() if name in _KNOWN}
    info = None if run is None else run.info
    if info is None or not info.fall_after:  # an earlier version tells no settings
        return told
    latch = Level(int(info.latch))
    read: dict[str, Any] = {}
    if info.image_fit:
        read = {
            "image_fit": str(info.image_fit),
            "action_type": str(info.action_type),
            "action_fields": tuple(info.action_fields),
            "action_timeout_s": float(info.action_timeout),
            "threads": int(info.threads),
        }
    return (
        told
        | read
        | {
            "max_age_s": float(info.max_age),
            "min_gap_periods": float(info.min_gap_periods),
            "max_gap_periods": float(info.max_gap_periods),
            "max_latency_s": float(info.max_latency) if math.isfinite(info.max_latency) else 0.0,
            "fall_after": int(info.fall_after),
            "latch": "none" if latch is Level.UNKNOWN else latch.name.lower(),
            "domain_tolerance": float(info.domain_tolerance),
            "samples": int(info.samples),
            "seed": int(info.seed),
        }
    )


def file_parameters(path: Path, flag_topic: str | None) -> dict[str, Any]:
    """Read a ROS parameter file as the node that published the flags does, by its usual name.

    Raises InputError when the file cannot be read or is no parameter file.
    """
    namespace = (flag_topic or "").rpartition("/")[0].rpartition("/")[0]
    named, wild = read_file(path, f"{namespace}/{NODE_NAME}")
    return {name: value for name, value in wild.items() if name in _KNOWN} | {
        name: value for name, value in named.items() if name != "use_sim_time"
    }


def make_settings(bundle: Path, *layers: Mapping[str, Any]) -> Settings:
    """Return the settings; later layers win. Raises InputError for values that cannot be."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged.update(layer)
    merged["bundle"] = str(bundle)
    return Settings.of(resolve(PARAMETERS, merged))


def with_told_limits(config: SessionConfig, run: Run, rate_hz: float) -> tuple[SessionConfig, str]:
    """Return the settings with the limits that a run's flags tell, and a note if one was another.

    Every flag tells how old input may be. Flags without a clock, as of `jepa-edge run`, have a
    limit on the latency only if one was asked for: a period, if an overload shows.
    """
    if config.max_latency_s is None and not run.clocked:
        slow = any(Reason.OVERLOAD in flag.reasons for flag in run.flags.values())
        config = dataclasses.replace(config, max_latency_s=1.0 / rate_hz if slow else None)
    told_ns = time_ns(run.flags[min(run.flags)].message.valid_for)
    limit_s = config.resolved(1.0 / rate_hz, live=False).max_age_s or 0.0
    if round(limit_s * 1e9) == told_ns or told_ns <= 0:
        return config, ""
    taken = dataclasses.replace(config, max_age_s=told_ns / 10**9)
    return taken, f"max_age_s is {told_ns * 1e-9:g} s, as the flags tell, not {limit_s:g} s"
