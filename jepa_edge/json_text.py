# SPDX-License-Identifier: Apache-2.0
"""JSON as we write it to files and to stdout."""

from __future__ import annotations

from typing import Any

import msgspec


def json_bytes(value: Any) -> bytes:
    """Encode anything msgspec knows: UTF-8, two-space indent, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
