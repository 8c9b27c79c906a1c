# SPDX-License-Identifier: Apache-2.0
"""The GPU at hand: none, and what a Jetson says of itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from jepa_edge.errors import MissingDependencyError
from jepa_edge.trt import device
from jepa_edge.trt.device import DRIVER, find_device, parse_available, parse_l4t


def _driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


@pytest.mark.skipif(_driver(), reason="this machine has an NVIDIA driver")
def test_a_machine_without_a_driver_is_told_where_to_go() -> None:
    with pytest.raises(MissingDependencyError, match=r"no NVIDIA driver here \(libcuda.*--dry-run"):
        find_device()


@pytest.mark.skipif(not _driver(), reason="this machine has no NVIDIA driver")
def test_a_gpu_tells_what_it_is() -> None:
    found = find_device()
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.name
    major, minor = found.compute_capability.split(".")
    assert int(major) >= 5
    assert int(minor) >= 0


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3"),
        ("# R38 (release), REVISION: 2.0, GCID: 41844464", "38.2.0"),
        ("Ubuntu 24.04", ""),
        ("", ""),
    ],
)
def test_the_release_of_jetpack_is_read(text: str, release: str) -> None:
    assert parse_l4t(text) == release


def test_memory_that_the_system_could_give_is_read() -> None:
    text = "MemTotal:        7801856 kB\nMemFree:  200 kB\nMemAvailable:    5242880 kB\n"
    assert parse_available(text) == 5 << 30
    assert parse_available("MemTotal: 3 kB") == 0
    assert parse_available(Path("/proc/meminfo").read_text()) > 0


def test_an_orin_is_named_after_its_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    board = tmp_path / "model"
    board.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\x00")
    name = device._with_board("Orin", device._read(board))
    assert name == "Orin (NVIDIA Jetson Orin Nano Developer Kit)"
    assert device._with_board("NVIDIA H200", device._read(tmp_path / "none")) == "NVIDIA H200"
