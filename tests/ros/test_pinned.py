# SPDX-License-Identifier: Apache-2.0
"""rosbags' types, ours among them, are those of a real ROS 2: hashes and bytes (pin.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.ros_types import make, type_hash, typestore

from .pinned import build, load_pinned

PINNED = load_pinned()
INTERFACES = Path(__file__).parents[2] / "ros/jepa_msgs"


@pytest.fixture(scope="module")
def store() -> Any:
    return typestore()


@pytest.mark.parametrize("name", PINNED.hashes)
def test_the_type_hash_is_that_of_ros(store: Any, name: str) -> None:
    assert type_hash(store, name) == PINNED.hashes[name]


@pytest.mark.parametrize(("name", "fields", "cdr"), PINNED.messages, ids=lambda v: str(v)[:60])
def test_the_bytes_are_those_of_ros(
    store: Any, name: str, fields: dict[str, Any], cdr: bytes
) -> None:
    message = build(make(store), store.fielddefs, name, fields)

    assert bytes(store.serialize_cdr(message, name)) == cdr


@pytest.mark.parametrize(("name", "fields", "cdr"), PINNED.messages, ids=lambda v: str(v)[:60])
def test_what_ros_wrote_reads_as_it_was_meant(
    store: Any, name: str, fields: dict[str, Any], cdr: bytes
) -> None:
    read = store.deserialize_cdr(cdr, name)

    _assert_holds(read, fields)


def _assert_holds(read: Any, fields: dict[str, Any]) -> None:
    for name, wanted in fields.items():
        got = getattr(read, name)
        if isinstance(wanted, dict):
            _assert_holds(got, wanted)
        elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
            assert len(got) == len(wanted)
            for one, expected in zip(got, wanted, strict=True):
                _assert_holds(one, expected)
        elif isinstance(got, np.ndarray) and got.dtype.kind == "f":
            np.testing.assert_array_equal(got, np.array([float(v) for v in wanted], got.dtype))
        elif isinstance(got, np.ndarray):
            assert got.tolist() == wanted
        elif isinstance(got, float):
            np.testing.assert_equal(got, float(wanted))
        else:
            assert got == wanted


def test_every_interface_is_pinned() -> None:
    """A new message without pinned bytes, or a pinned one that is gone, fails here."""
    ours = {f"jepa_msgs/{file.parent.name}/{file.stem}" for file in INTERFACES.glob("*/*.[msa]*")}
    pinned = {re.sub(r"_\w+$", "", name) for name, _, _ in PINNED.messages}

    assert ours == {name for name in pinned if name.startswith("jepa_msgs/")}
