# SPDX-License-Identifier: Apache-2.0
"""The settings of a replay: given ones, else what the bag tells, else the defaults."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jepa_edge.bags.recorded import Recorded, RecordedFlag, Run
from jepa_edge.bags.settings import (
    file_parameters,
    make_settings,
    told_parameters,
    with_told_limits,
)
from jepa_edge.errors import InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.nodes.messages import FLAG, MODEL_INFO, duration
from jepa_edge.session import SessionConfig

from .robot import MAKE

BUNDLE = Path("pusht.jepa")


def run_of(info: Any = None, **fields: Any) -> Run:
    """A run of one flag; fields: of its message."""
    message = MAKE(FLAG, valid_for=duration(MAKE, 0.4), **fields)
    return Run(info=info, flags={0: RecordedFlag(message=message, embedding=None, stamp_ns=1)})


def recorded(nodes: dict[str, dict[str, Any]]) -> Recorded:
    return Recorded(runs=[run_of()], images=Counter(), parameters=nodes)


def test_later_layers_win() -> None:
    events = {"/jepa_world_model": {"bundle": "x", "latch": "none", "fall_after": 7, "other": 1}}
    told = told_parameters(recorded(events))
    assert told == {"bundle": "x", "latch": "none", "fall_after": 7}
    settings = make_settings(BUNDLE, told, {"fall_after": 2})
    assert (settings.session.latch, settings.session.fall_after) == (None, 2)
    assert settings.values["bundle"] == "pusht.jepa"


def test_two_nodes_tell_nothing() -> None:
    values = {"bundle": "x", "latch": "none", "fall_after": 7}
    assert told_parameters(recorded({"/a": values, "/b": values})) == {}


def test_model_info_tells_the_settings_of_its_run() -> None:
    info = MAKE(
        MODEL_INFO,
        max_age=0.1 + 0.2,
        min_gap_periods=0.25,
        max_gap_periods=3.0,
        max_latency=math.inf,
        fall_after=4,
        latch=2,
        domain_tolerance=0.3,
        samples=0,
        seed=7,
    )
    events = {"/jepa_world_model": {"bundle": "x", "latch": "none", "fall_after": 7, "threads": 2}}
    told = told_parameters(recorded(events), run_of(info))
    config = make_settings(BUNDLE, told).session
    assert config == SessionConfig(
        max_age_s=0.1 + 0.2,
        min_gap_periods=0.25,
        max_gap_periods=3.0,
        fall_after=4,
        latch=Level.CAUTION,
        domain_tolerance=0.3,
        samples=0,
        seed=7,
    )
    assert told["threads"] == 2
    untold = told_parameters(recorded(events), run_of(MAKE(MODEL_INFO)))
    assert untold["fall_after"] == 7


def test_flags_tell_how_old_input_may_be() -> None:
    config, note = with_told_limits(SessionConfig(), run_of(), 5.0)
    assert (config.max_age_s, note) == (None, "")  # 2 periods it is, to the last bit
    config, note = with_told_limits(SessionConfig(), run_of(), 2.0)
    assert config.max_age_s == 0.4
    assert "not 1 s" in note


def test_an_overload_without_a_clock_tells_of_a_limit() -> None:
    slow = run_of(reasons=int(Reason.OVERLOAD))
    assert with_told_limits(SessionConfig(), slow, 5.0)[0].max_latency_s == 0.2
    clocked = run_of(reasons=int(Reason.OVERLOAD), input_age=duration(MAKE, 0.01))
    assert with_told_limits(SessionConfig(), clocked, 5.0)[0].max_latency_s is None


def test_a_parameter_file_is_read_as_the_node_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {latch: caution, port: /dev/ttyACM0}\n"
        "/robot1/jepa_world_model:\n  ros__parameters: {fall_after: 9, use_sim_time: true}\n"
    )
    assert file_parameters(file, "/robot1/jepa/flag") == {"latch": "caution", "fall_after": 9}
    assert file_parameters(file, "/jepa/flag") == {"latch": "caution"}
    given = file_parameters(file, None)
    assert make_settings(BUNDLE, given).session.latch is Level.CAUTION
    with pytest.raises(InputError, match="cannot read"):
        file_parameters(tmp_path / "none.yaml", None)
