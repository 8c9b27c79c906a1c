# SPDX-License-Identifier: Apache-2.0
"""Hold another implementation of the types against pinned.json, which a real ROS 2 wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("pinned.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """hashes: type to RIHS01 hash. messages: (type, fields as JSON, CDR bytes with header)."""

    hashes: dict[str, str]
    messages: list[tuple[str, dict[str, Any], bytes]]


def load_pinned() -> Pinned:
    """Read the file."""
    found = json.loads(_FILE.read_text())
    messages = [(m["type"], m["fields"], bytes.fromhex(m["cdr"])) for m in found["messages"]]
    return Pinned(hashes=found["hashes"], messages=messages)


def build(
    make: Callable[..., Any], fielddefs: Mapping[str, Any], name: str, fields: dict[str, Any]
) -> Any:
    """Return the message of that type with these fields.

    make: jepa_edge.ros_types.make(store). fielddefs: the store's, which tell the nested types.
    """
    kinds = dict(fielddefs[name][1])
    return make(
        name,
        **{field: _value(make, fielddefs, kinds[field], value) for field, value in fields.items()},
    )


def _value(make: Callable[..., Any], fielddefs: Mapping[str, Any], kind: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return build(make, fielddefs, kind[1], value)
    if isinstance(value, list):
        element = kind[1][0][1]
        if value and isinstance(value[0], dict):
            return [build(make, fielddefs, element, one) for one in value]
        return [float(v) for v in value] if element[0].startswith("float") else value
    return float(value) if kind[1][0].startswith("float") else value
