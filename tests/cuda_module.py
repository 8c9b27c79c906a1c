# SPDX-License-Identifier: Apache-2.0
"""`jepa_edge._cuda` as the tests have it: built once, on an emulated GPU (csrc/cuda/emulator)."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import jepa_edge

from .native_tools import run, tool

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "cuda_emulated"


def use_emulated(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Let `from jepa_edge import _cuda` find the emulated module until the test ends; return it."""
    module = emulated()
    monkeypatch.setitem(sys.modules, "jepa_edge._cuda", module)
    monkeypatch.setattr(jepa_edge, "_cuda", module, raising=False)
    return module


@cache
def emulated() -> ModuleType:
    """Build the module if it is older than its sources, and import it under its own name."""
    cmake, ninja = tool("cmake"), tool("ninja")
    options = (
        "-DJEPA_EDGE_CUDA_EMULATE=ON",
        "-DJEPA_EDGE_PYTHON=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-Dpybind11_DIR={_pybind11()}",
    )
    run(cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", *options)
    run(cmake, "--build", str(BUILD), "--target", "_cuda")
    (found,) = BUILD.glob("_cuda.*.so")
    spec = importlib.util.spec_from_file_location("jepa_edge._cuda", found)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pybind11() -> str:
    return run(sys.executable, "-m", "pybind11", "--cmakedir").strip()
