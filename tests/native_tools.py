# SPDX-License-Identifier: Apache-2.0
"""Compilers, CMake and emulators, for tests of native code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# In CI a missing tool is a failure: .ci/run.
TOOLS_REQUIRED = bool(os.environ.get("JEPA_EDGE_REQUIRE_TOOLS"))
SEARCH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def tool(name: str) -> str:
    """Return where a program is; without it skip the test, or fail it in CI."""
    name = os.environ.get("CXX", name) if name == "c++" else name
    found = shutil.which(name, path=SEARCH)
    if found is None:
        message = f"{name} is missing; run .ci/apt, which names the packages to install"
        if TOOLS_REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return its output, stderr included; fail the test with it on an error."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-8000:]}")
    return done.stdout
