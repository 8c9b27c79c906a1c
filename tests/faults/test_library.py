# SPDX-License-Identifier: Apache-2.0
"""The fault library: what is in it, and how a fault is written and read."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.errors import InputError
from jepa_edge.faults import FAULTS, FaultKind, Injection, parse_fault

# Issue 4, item 6.
ASKED = {
    FaultKind.CAMERA: "occlusion blur freeze salt shift exposure rotation lag ghost",
    FaultKind.ACTUATOR: "stuck bias gain delay inverted dead_axis",
    FaultKind.DYNAMICS: "friction mass",
}


def test_the_library_holds_what_the_issue_lists() -> None:
    for kind, names in ASKED.items():
        assert {f.name for f in FAULTS.values() if f.kind is kind} == set(names.split())
    assert all(name == fault.name for name, fault in FAULTS.items())


def test_what_a_recording_cannot_show() -> None:
    only = {fault.name for fault in FAULTS.values() if fault.simulator_only}
    assert only == {"stuck", "dead_axis", "friction", "mass"}


@pytest.mark.parametrize("name", FAULTS)
def test_defaults_lie_within_their_range_and_do_something(name: str) -> None:
    fault = FAULTS[name]
    fault.check(fault.severity)
    assert fault.description
    assert fault.meaning
    if fault.name in ("exposure", "gain", "mass"):
        assert fault.severity != 1.0  # a factor of 1 would be no fault
    assert parse_fault(name) == Injection(name=name, severity=fault.severity, onset=0)


@given(st.data())
def test_what_is_written_is_read_back(data: st.DataObject) -> None:
    fault = FAULTS[data.draw(st.sampled_from(sorted(FAULTS)))]
    severity = data.draw(
        st.integers(int(fault.low), int(fault.high)).map(float)
        if fault.whole
        else st.floats(fault.low, fault.high)
    )
    injection = Injection(
        name=fault.name, severity=severity, onset=data.draw(st.integers(0, 10_000))
    )
    assert parse_fault(str(injection)) == injection
    assert msgspec.json.decode(msgspec.json.encode(injection), type=Injection) == injection


def test_the_parts_of_the_text_are_optional() -> None:
    assert parse_fault("blur:0.05@15") == Injection(name="blur", severity=0.05, onset=15)
    assert parse_fault("lag:3@2").steps == 3
    assert parse_fault("stuck@15") == Injection(name="stuck", severity=1.0, onset=15)
    assert parse_fault("salt:1e-2") == Injection(name="salt", severity=0.01, onset=0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not in the library"),
        ("frozen@3", "not in the library"),
        ("Blur", "not in the library"),
        ("blur@", "expected NAME"),
        ("blur@-1", "expected NAME"),
        ("blur@\u00b2", "expected NAME"),
        ("blur:@3", "expected NAME"),
        ("blur@" + "9" * 5000, "expected NAME"),
        ("blur@" + "9" * 10, "expected NAME"),
        ("blur:much", "expected NAME"),
        ("blur:nan", "severity nan"),
        ("blur:inf", "severity inf"),
        ("blur:0", "expected 0.005 to 0.2"),
        ("blur:-0.1", "expected 0.005 to 0.2"),
        ("lag:2.5", "whole steps"),
        ("delay:0", "whole steps"),
        ("freeze:0.5", "no degrees"),
    ],
)
def test_bad_texts_are_refused(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        parse_fault(text)


def test_what_comes_from_json_is_checked_too() -> None:
    with pytest.raises(InputError, match="onset -1"):
        Injection(name="blur", severity=0.02, onset=-1)
    for payload in (b'{"name": "blur", "severity": 3.0}', b'{"name": "smog", "severity": 1.0}'):
        with pytest.raises(InputError):
            msgspec.json.decode(payload, type=Injection)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"name": "blur", "severity": 0.02, "x": 1}', type=Injection)


def test_ranges_are_in_order() -> None:
    for fault in FAULTS.values():
        assert math.isfinite(fault.low)
        assert math.isfinite(fault.high)
        assert 0.0 < fault.low <= fault.severity <= fault.high


def test_the_documentations_table_is_the_library() -> None:
    page = Path(__file__).parents[2] / "docs" / "faults.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(FAULTS)
    for row, fault in zip(rows, FAULTS.values(), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        graded = fault.low != fault.high
        assert cells == [
            f"`{fault.name}`",
            fault.kind.value,
            fault.description,
            fault.meaning if graded else "-",
            f"{fault.severity:g}" if graded else "-",
            f"{fault.low:g} to {fault.high:g}" if graded else "-",
            "no" if fault.simulator_only else "yes",
        ]
