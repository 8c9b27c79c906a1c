# SPDX-License-Identifier: Apache-2.0
"""The GPU core compiles for the chips that it is for. Nothing runs here: there is no GPU."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from .native_tools import run, tool

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "csrc" / "cuda"
HEADERS = ROOT / "build" / "cublas"
CHIPS = ("sm_87", "sm_90", "sm_110")


def _compiler() -> Path:
    """Return where nvcc is, or skip: a package of CUDA is not something that a test installs."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is missing: whether the GPU core compiles was not checked here")
    return Path(nvcc)


def _header() -> list[str]:
    if (HEADERS / "cublasLt.h").exists():
        return [f"-DJEPA_EDGE_CUBLAS_INCLUDE={HEADERS}"]
    return []  # the toolkit's own


@pytest.mark.timeout(1500)
def test_the_gpu_core_compiles_for_orin_hopper_and_thor() -> None:
    nvcc = _compiler()
    cmake = tool("cmake")
    ninja = tool("ninja")
    options = ("-DJEPA_EDGE_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", *_header())
    run(cmake, "-S", ROOT, "-B", FOLDER, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options)
    output = run(cmake, "--build", FOLDER, "--target", "jepa_edge_cuda")
    assert not re.search(r"\bwarning\b", output), output[-8000:]
    commands = (FOLDER / "build.ninja").read_text()
    for chip in CHIPS:
        assert f"code=[{chip}]" in commands, f"nothing was compiled for {chip}"
