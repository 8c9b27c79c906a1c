# SPDX-License-Identifier: Apache-2.0
"""The GPU at hand, asked through the driver's own library: no package is needed for it."""

from __future__ import annotations

import contextlib
import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

from jepa_edge.errors import MissingDependencyError
from jepa_edge.trt.library import TEGRA_RELEASE

DRIVER = "libcuda.so.1"
BOARD = Path("/proc/device-tree/model")
MEMORY = Path("/proc/meminfo")
_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and MINOR."""
_INTEGRATED = 18
"""CU_DEVICE_ATTRIBUTE_INTEGRATED: its memory is the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU. driver: CUDA version that the driver offers. l4t: of a Jetson, "" elsewhere."""

    name: str
    compute_capability: str
    driver: str
    l4t: str
    total_bytes: int
    free_bytes: int


def find_device(index: int = 0) -> Device:
    """Return what GPU number `index` is.

    Raises MissingDependencyError where there is no driver, no GPU, or the driver does not start.
    """
    try:
        cuda = ctypes.CDLL(DRIVER)
    except OSError:
        raise MissingDependencyError(
            f"no NVIDIA driver here ({DRIVER} cannot be loaded): engines are built on the device "
            "that runs them; run this on the Jetson (in a container: with --runtime nvidia), or "
            "check the bundle here with --dry-run"
        ) from None
    code = cuda.cuInit(0)
    if code != 0:
        raise MissingDependencyError(
            f"the NVIDIA driver finds no GPU (cuInit: {_error(cuda, code)}); "
            + (
                "check that the process may use /dev/nvidia* or /dev/nvhost*, and "
                "CUDA_VISIBLE_DEVICES"
                if code == _NO_DEVICE
                else "restart, or install the driver that matches the kernel"
            )
        )
    device, context = ctypes.c_int(), ctypes.c_void_p()
    name = ctypes.create_string_buffer(256)
    number = ctypes.c_int()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()

    def call(function: str, *arguments: object) -> None:
        code = getattr(cuda, function)(*arguments)
        if code != 0:
            raise MissingDependencyError(
                f"the NVIDIA driver refuses {function} on GPU {index}: {_error(cuda, code)}; "
                "check it with nvidia-smi (on a Jetson: tegrastats) and restart"
            )

    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        call("cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    call("cuDeviceGetAttribute", ctypes.byref(number), _INTEGRATED, device)
    integrated = number.value == 1
    call("cuDriverGetVersion", ctypes.byref(number))
    driver = f"{number.value // 1000}.{number.value % 1000 // 10}"
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        call("cuCtxPushCurrent_v2", context)
        call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        call("cuCtxPopCurrent_v2", ctypes.byref(context))
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)
    board = _read(BOARD)
    free_bytes = free.value
    if integrated:  # of the system's memory the driver counts too little
        free_bytes = min(max(free_bytes, parse_available(_read(MEMORY))), total.value)
    return Device(
        name=_with_board(name.value.decode(errors="replace"), board),
        compute_capability=".".join(capability),
        driver=driver,
        l4t=parse_l4t(_read(TEGRA_RELEASE)),
        total_bytes=total.value,
        free_bytes=free_bytes,
    )


def parse_l4t(text: str) -> str:
    """Return "36.4.3" from the first line of /etc/nv_tegra_release, "" from anything else."""
    found = re.search(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def parse_available(text: str) -> int:
    """Return bytes of MemAvailable in /proc/meminfo, 0 where it says nothing.

    Source: https://docs.nvidia.com/cuda/cuda-for-tegra-appnote, estimating total allocatable
    device memory.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _with_board(gpu: str, board: str) -> str:
    """Name the board too: every Orin's GPU is called "Orin", from the Nano to the AGX."""
    return f"{gpu} ({board})" if _is_nvidia(board) else gpu


def _is_nvidia(board: str) -> bool:
    return "NVIDIA" in board or "Jetson" in board


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip("\x00\n ")
    return ""


def _error(cuda: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    if cuda.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
        return f"{text.value.decode()}, error {code}"
    return f"error {code}"
