# SPDX-License-Identifier: Apache-2.0
"""The GPU core compiles for the chips that it is for. Nothing runs here: there is no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "csrc" / "cuda"
HEADERS = ROOT / "build" / "cublas"
CHIPS = ("sm_87", "sm_90", "sm_110")
SEARCH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


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


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-8000:]}")
    return done.stdout


@pytest.mark.timeout(1500)
def test_the_gpu_core_compiles_for_orin_hopper_and_thor() -> None:
    nvcc = _compiler()
    cmake = shutil.which("cmake", path=SEARCH) or "cmake"
    ninja = shutil.which("ninja", path=SEARCH) or "ninja"
    options = ("-DJEPA_EDGE_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", *_header())
    _run(cmake, "-S", ROOT, "-B", FOLDER, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options)
    output = _run(cmake, "--build", FOLDER, "--target", "jepa_edge_cuda")
    assert not re.search(r"\bwarning\b", output), output[-8000:]
    commands = (FOLDER / "build.ninja").read_text()
    for chip in CHIPS:
        assert f"code=[{chip}]" in commands, f"nothing was compiled for {chip}"
