# SPDX-License-Identifier: Apache-2.0
"""The C++ tests: plain, under sanitizers, on other processors; and the library for C++ users."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from .native_tools import TOOLS_REQUIRED, run, tool

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "csrc"
X86 = platform.machine().lower() in {"x86_64", "amd64"}
SANITIZED = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1 -D_GLIBCXX_ASSERTIONS")


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One build of the tests: options for CMake and the tools that it cannot do without."""

    options: tuple[str, ...]
    tools: tuple[str, ...] = ("c++",)
    target: str = "all"


FLAVOURS = {
    # Static, so that the emulator of an older processor runs our code and libc alone.
    "release": Flavour(
        options=("-DCMAKE_COMPILE_WARNING_AS_ERROR=ON", "-DCMAKE_EXE_LINKER_FLAGS=-static")
    ),
    "address": Flavour(options=("-DJEPA_EDGE_SANITIZE=address,undefined", *SANITIZED)),
    "thread": Flavour(options=("-DJEPA_EDGE_SANITIZE=thread", *SANITIZED)),
    "aarch64": Flavour(
        options=(
            "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
        ),
        tools=("aarch64-linux-gnu-g++",),
    ),
    # The GPU core on an emulated GPU: csrc/cuda/emulator.
    "emulated": Flavour(
        options=(
            "-DJEPA_EDGE_CUDA_EMULATE=ON",
            "-DJEPA_EDGE_SANITIZE=address,undefined",
            *SANITIZED,
        ),
        target="jepa_edge_cuda_tests",
    ),
}


@cache
def _configure_and_build(name: str) -> Path:
    folder = BUILD / name
    options = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-DJEPA_EDGE_TESTS=ON")
    run(tool("cmake"), "-S", ROOT, "-B", folder, *options, *FLAVOURS[name].options)
    run(tool("cmake"), "--build", folder, "--target", FLAVOURS[name].target)
    return folder


def _build(name: str) -> Path:
    """Return the folder of a finished build; each is made once per session."""
    for needed in FLAVOURS[name].tools:
        tool(needed)
    probe = subprocess.run(
        [tool("c++"), "-E", "-x", "c++", "-"],
        input="#include <doctest/doctest.h>\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        message = "doctest is missing; run .ci/apt, which names the packages to install"
        if TOOLS_REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    return _configure_and_build(name)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of the reference implementation for csrc/tests/test_safetensors.cpp."""
    path = tmp_path_factory.mktemp("csrc") / "reference.safetensors"
    tensors = {
        "layers.0.weight": np.arange(105, dtype=np.float32).reshape(3, 5, 7) / 8 - 4,
        "scale": np.array(0.25, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        'größe "\\\n😀': np.arange(2, dtype=np.float32),
    }
    note = 'tab\t, quote", backslash\\, é, 🤖, \x01'
    save_file(tensors, path, metadata={"format": "lewm-predictor-1", "note": note})
    strict = {
        "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    return {**os.environ, **strict, "JEPA_EDGE_REFERENCE_SAFETENSORS": str(path)}


def _run_tests(
    folder: Path,
    environment: dict[str, str],
    *runner: str,
    program: str = "csrc/tests/jepa_edge_tests",
) -> None:
    output = run(*runner, folder / program, env=environment)
    assert "Status: SUCCESS" in output
    assert "is not set" not in output


@pytest.mark.parametrize("name", ["release", "address"])
def test_the_core_passes_its_tests(name: str, environment: dict[str, str]) -> None:
    _run_tests(_build(name), environment)


def test_the_gpu_core_passes_its_tests_on_an_emulated_gpu(environment: dict[str, str]) -> None:
    # Fake stacks of its many fibers would take all memory.
    options = environment["ASAN_OPTIONS"].replace("use_after_return=1", "use_after_return=0")
    environment = {**environment, "ASAN_OPTIONS": options}
    _run_tests(_build("emulated"), environment, program="csrc/cuda/tests/jepa_edge_cuda_tests")


def test_the_core_has_no_data_race(environment: dict[str, str]) -> None:
    program = _build("thread") / "csrc/tests/jepa_edge_tests"
    # Older ThreadSanitizers cannot live with the address randomization of newer kernels.
    probe = subprocess.run(
        [program, "--list-test-cases"], capture_output=True, text=True, check=False
    )
    clash = "unexpected memory mapping" in probe.stdout + probe.stderr
    fixed = (tool("setarch"), platform.machine(), "-R") if clash else ()
    _run_tests(_build("thread"), environment, *fixed)


# Without dot products, with them but without bfloat16 (as Jetson's Cortex-A78AE), with everything.
@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76", "max"])
def test_the_core_passes_its_tests_on_aarch64(cpu: str, environment: dict[str, str]) -> None:
    _run_tests(_build("aarch64"), environment, tool("qemu-aarch64"), "-cpu", cpu)


@pytest.mark.skipif(not X86, reason="emulates an x86-64 processor on itself")
def test_the_core_passes_its_tests_without_vector_extensions(environment: dict[str, str]) -> None:
    _run_tests(_build("release"), environment, tool("qemu-x86_64"), "-cpu", "Nehalem")


@pytest.mark.parametrize("name", ["release", "aarch64"])
def test_no_kernel_lends_its_instructions_to_others(name: str) -> None:
    # The linker keeps one copy of an inline function: one compiled for AVX-512 would crash callers
    # on other processors. So a kernel's object must define none that others could pick up.
    kernels = _build(name) / "csrc/CMakeFiles/jepa_edge_core.dir/src/kernels"
    objects = [path for path in sorted(kernels.glob("*.o")) if path.name != "dispatch.cpp.o"]
    assert len(objects) >= 4
    for path in objects:
        symbols = run(tool("nm"), "--demangle", "--defined-only", path).splitlines()
        shared = [line[19:] for line in symbols if line[17] == "W"]
        assert not shared, f"{path.name} defines inline functions that others may link: {shared}"


def test_a_cpp_project_can_use_the_installed_library(tmp_path: Path) -> None:
    cmake = tool("cmake")
    run(cmake, "--install", _build("release"), "--prefix", tmp_path / "prefix")
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    where = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}"
    consumer = ROOT / "csrc/tests/consumer"
    run(cmake, "-S", consumer, "-B", tmp_path / "build", *generator, where)
    run(cmake, "--build", tmp_path / "build")
    run(tmp_path / "build/consumer")
