# SPDX-License-Identifier: Apache-2.0
"""Diagnostics map levels as docs/flags.md says, and tell slow from late from broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jepa_edge.flags import Level
from jepa_edge.nodes.diagnostics import ARRAY, SEVERITIES, Diagnostics, StageTimes

from .bus import copied, make
from .test_messages import _flag

DOCS = Path(__file__).parents[2] / "docs" / "flags.md"


class Steady:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def steady() -> Steady:
    return Steady()


@pytest.fixture
def diagnostics(steady: Steady) -> Diagnostics:
    return Diagnostics(
        name="/robot1/jepa_world_model",
        period_s=0.2,
        max_allowed_s=0.1,
        max_delay_s=1.0,
        steady=steady,
    )


def _times(model_s: float = 0.02) -> StageTimes:
    return StageTimes(wait_s=0.004, decode_s=0.001, model_s=model_s, publish_s=0.002)


def _told(diagnostics: Diagnostics, now_s: float = 100.0) -> tuple[int, str, dict[str, str]]:
    message = diagnostics.message(make, round(now_s * 1e9), {"frames_dropped": 3})
    array: Any = copied(message, ARRAY)
    (status,) = array.status
    assert status.name == "robot1/jepa_world_model: world model"
    assert array.header.stamp.sec == int(now_s)
    return status.level, status.message, {v.key: v.value for v in status.values}


def test_levels_are_those_of_the_page() -> None:
    (line,) = re.findall(r"ROS diagnostics: (.*)\.", DOCS.read_text())
    page = dict(part.split(" is ") for part in line.split(", "))
    assert page == {level.name: severity.name for level, severity in SEVERITIES.items()}
    assert [int(SEVERITIES[level]) for level in Level] == [3, 0, 1, 2]


def test_rates_delay_and_stages_are_told(diagnostics: Diagnostics, steady: Steady) -> None:
    assert _told(diagnostics)[:2] == (3, "no frame yet")
    for k in range(40):
        steady.now_s = 50.0 + 0.25 * k  # 4 Hz heard, 5 Hz by the stamps
        flag = _flag(stamp_s=90.0 + 0.2 * k, level=Level.CAUTION, reasons=("drift",), seq=k)
        diagnostics.on_frame(flag, _times(), now_s=90.0 + 0.2 * k + 0.03)
    level, message, values = _told(diagnostics, now_s=98.0)
    assert (level, message) == (1, "CAUTION: drift")
    assert float(values["frame_rate_node"]) == pytest.approx(4.0)
    assert float(values["frame_rate_msg"]) == pytest.approx(5.0)
    assert float(values["current_delay_from_realtime_ms"]) == pytest.approx(30.0)
    assert float(values["processing_time_ms"]) == pytest.approx(23.0)
    stages = [float(values[f"{stage}_ms"]) for stage in ("wait", "decode", "model", "publish")]
    assert stages == pytest.approx([4.0, 1.0, 20.0, 2.0])
    assert values["reasons"] == "drift"
    assert values["seq"] == "39"
    assert values["frames_dropped"] == "3"
    assert float(values["flag_age_ms"]) == pytest.approx(200.0)
    steady.now_s += 5.0
    assert _told(diagnostics)[2]["frame_rate_node"] == "0.000"


def test_slow_frames_warn_and_are_an_error_if_it_goes_on(
    diagnostics: Diagnostics, steady: Steady
) -> None:
    def frame(model_s: float, level: Level = Level.NOMINAL) -> tuple[int, str]:
        steady.now_s += 0.3
        diagnostics.on_frame(_flag(level=level), _times(model_s), now_s=100.0)
        return _told(diagnostics)[:2]

    assert frame(0.05) == (0, "NOMINAL")
    assert frame(0.2) == (1, "NOMINAL; frames take longer than 100 ms")
    assert [frame(0.2)[0] for _ in range(4)] == [1, 1, 2, 2]
    assert frame(0.2, Level.UNKNOWN)[0] == 3
    assert frame(0.05)[0] == 0
    assert frame(0.2)[0] == 1


def test_failures_are_errors_until_a_frame_is_judged(diagnostics: Diagnostics) -> None:
    diagnostics.on_frame(_flag(), _times(), now_s=100.0)
    diagnostics.on_failure(ValueError("no such kernel"))
    assert _told(diagnostics)[:2] == (2, "inference failed: ValueError: no such kernel")
    diagnostics.on_watchdog(_flag(level=Level.UNKNOWN, reasons=("stale",)))
    level, _, values = _told(diagnostics)
    assert level == 2
    assert (values["watchdog_count"], values["inference_failures"]) == ("1", "1")
    diagnostics.on_frame(_flag(), _times(), now_s=100.0)
    assert _told(diagnostics)[:2] == (0, "NOMINAL")
    diagnostics.on_watchdog(msgspec.structs.replace(_flag(level=Level.UNKNOWN), reasons=("stale",)))
    assert _told(diagnostics)[:2] == (3, "UNKNOWN: stale")
