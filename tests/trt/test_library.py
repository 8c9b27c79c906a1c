# SPDX-License-Identifier: Apache-2.0
"""TensorRT's Python module: found, missing, broken, too old."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from jepa_edge.errors import BundleError, InputError, MissingDependencyError
from jepa_edge.trt import library
from jepa_edge.trt.library import Messages, load_library, without_source

RTX = importlib.util.find_spec("tensorrt_rtx") is not None
PROPER = importlib.util.find_spec("tensorrt") is not None


@pytest.mark.skipif(not RTX, reason="tensorrt_rtx is not installed")
def test_the_library_tells_its_version_and_what_it_can_do() -> None:
    found = load_library("tensorrt_rtx")
    assert found.text.startswith(".".join(str(part) for part in found.version))
    assert found.told() == f"TensorRT-RTX {found.text}"
    assert found.has("BuilderFlag.VERSION_COMPATIBLE")
    assert not found.has("BuilderFlag.NO_SUCH_FLAG")
    assert not found.has("NoSuchClass.NO_SUCH_FLAG")


@pytest.mark.skipif(not RTX, reason="tensorrt_rtx is not installed")
def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.OLDEST, "tensorrt_rtx", (99, 2, 0))
    with pytest.raises(BundleError, match=r"tensorrt_rtx is 1\..*, expected 99\.2 or newer"):
        load_library("tensorrt_rtx")


@pytest.mark.skipif(PROPER, reason="TensorRT is installed")
def test_a_bench_is_sent_to_the_device_or_to_a_dry_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "TEGRA_RELEASE", tmp_path / "none")
    with pytest.raises(MissingDependencyError, match=r"on the Jetson, .*--dry-run"):
        load_library("tensorrt")


@pytest.mark.skipif(PROPER, reason="TensorRT is installed")
def test_a_jetson_is_told_the_packages_or_that_its_environment_hides_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.3\n")
    packages = tmp_path / "dist-packages"
    packages.mkdir()
    monkeypatch.setattr(library, "TEGRA_RELEASE", release)
    monkeypatch.setattr(library, "SYSTEM_PACKAGES", packages)
    with pytest.raises(MissingDependencyError, match=r"apt install python3-libnvinfer.*never pip"):
        load_library("tensorrt")

    (packages / "tensorrt").mkdir()
    (packages / "tensorrt" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    with pytest.raises(MissingDependencyError, match=r"venv does not see it.*--system-site-packag"):
        load_library("tensorrt")

    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(MissingDependencyError, match="is not for Python 3"):
        load_library("tensorrt")


@pytest.mark.skipif(PROPER, reason="TensorRT is installed")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import ctypes; ctypes.CDLL('libnvinfer.so.9999')", "cannot be loaded .*libnvinfer"),
        ("import tensorrt_libs_that_are_missing", "cannot be loaded .*tensorrt_libs_that"),
        ("__version__ = '10.9.0'", "no builder .version 10.9.0.: it is a stub"),
    ],
)
def test_a_package_that_is_no_tensorrt_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, words: str
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(MissingDependencyError, match=words):
            load_library("tensorrt")
    finally:
        sys.modules.pop("tensorrt", None)


def test_only_two_libraries_are_known() -> None:
    with pytest.raises(InputError, match="library is 'torch', expected one of tensorrt, "):
        load_library("torch")  # type: ignore[arg-type]


@pytest.mark.skipif(not RTX, reason="tensorrt_rtx is not installed")
def test_the_first_error_is_the_cause_and_nothing_is_raised_into_the_library() -> None:
    found = load_library("tensorrt_rtx")
    messages = Messages(found)
    severity = found.module.ILogger
    messages.logger.log(severity.INFO, "by the way")
    assert messages.last_error() == ""
    messages.logger.log(severity.ERROR, "[a.cpp::build::12] out of memory")
    messages.logger.log(severity.INTERNAL_ERROR, "and so it failed")
    assert messages.last_error() == "out of memory"
    messages.clear()
    assert messages.last_error() == ""
    messages.reraise()
    messages.caught = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        messages.reraise()


def test_source_files_of_the_library_are_left_out() -> None:
    told = "Error Code 7: X (no. In next at /_src/optimizer/a.cpp:92)"
    assert without_source(told) == "Error Code 7: X (no.)"
    assert without_source("  [graph.cpp::parse::10]  bad\nnode ") == "bad node"
