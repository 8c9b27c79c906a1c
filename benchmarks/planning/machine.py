# SPDX-License-Identifier: Apache-2.0
"""What a result must say about where it was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimddp", "i8mm", "bf16")
_PACKAGES = ("jepa-edge", "stable-worldmodel", "torch", "onnxruntime", "openvino", "nncf", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return processor, its relevant features, cores, caches of one core, load and kernel."""
    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "cache": fields.get("cache size"),
        "virtual": "hypervisor" in flags,
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str | None]:
    """Return the versions of everything that takes part; None where it is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def today() -> str:
    """Return the date, as results carry it."""
    return datetime.date.today().isoformat()
