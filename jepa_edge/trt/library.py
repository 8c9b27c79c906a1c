# SPDX-License-Identifier: Apache-2.0
"""TensorRT's Python module: found, checked, and asked what this version of it can do."""

from __future__ import annotations

import importlib
import importlib.machinery
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jepa_edge.errors import BundleError, InputError, MissingDependencyError

logger = logging.getLogger(__name__)

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
OLDEST = {"tensorrt": (10, 3, 0), "tensorrt_rtx": (1, 7, 0)}
"""TensorRT of JetPack 6.1; TensorRT-RTX from where its builder can be given a target."""
SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
"""Where JetPack's Debian packages put Python modules."""
TEGRA_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """An imported TensorRT. text: its version as it says it; version: the first three numbers."""

    name: LibraryName
    module: Any
    version: tuple[int, int, int]
    text: str

    def has(self, path: str) -> bool:
        """Whether the module has a dotted name, e.g. "BuilderFlag.FP16", gone in TensorRT 11."""
        holder = self.module
        for part in path.split("."):
            if not hasattr(holder, part):
                return False
            holder = getattr(holder, part)
        return True

    def told(self) -> str:
        """Name and version, as they are printed."""
        return f"{'TensorRT-RTX' if self.name == 'tensorrt_rtx' else 'TensorRT'} {self.text}"


def load_library(name: LibraryName = "tensorrt") -> Library:
    """Import TensorRT and check its version.

    Raises MissingDependencyError when it is not there or cannot be loaded, with what to install;
    BundleError when it is too old.
    """
    if name not in get_args(LibraryName):
        raise InputError(f"library is {name!r}, expected one of {', '.join(get_args(LibraryName))}")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise MissingDependencyError(_broken(name, error)) from error
        raise MissingDependencyError(_what_to_install(name)) from None
    except (ImportError, OSError, RuntimeError) as error:  # a shared library is missing
        raise MissingDependencyError(_broken(name, error)) from error
    text = str(getattr(module, "__version__", ""))
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None or not hasattr(module, "Builder"):
        raise MissingDependencyError(
            f"the Python module {name} has no builder (version {text or 'unknown'}): it is a stub "
            f"or a lean runtime; {_what_to_install(name)}"
        )
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    if version < OLDEST[name]:
        oldest = ".".join(str(part) for part in OLDEST[name][:2])
        raise BundleError(
            f"{name} is {text}, expected {oldest} or newer"
            + ("; flash JetPack 6.1 or newer" if name == "tensorrt" else "; upgrade it")
        )
    return Library(name=name, module=module, version=version, text=text)


def _broken(name: LibraryName, error: Exception) -> str:
    return f"{name} is installed but cannot be loaded ({error}); {_what_to_install(name)}"


def _what_to_install(name: LibraryName) -> str:
    if name == "tensorrt_rtx":
        return "TensorRT-RTX is not installed here; pip install 'jepa-edge[check]'"
    if not TEGRA_RELEASE.exists():
        return (
            "TensorRT is not installed here: engines are built on the device that runs them; run "
            "this on the Jetson, or check the bundle here with --dry-run"
        )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if in_virtual_environment() and not sees_system_packages() and system_has(name):
        return (
            f"TensorRT is installed for the system's Python, but the virtual environment "
            f"{sys.prefix} does not see it; make one with `python3 -m venv "
            "--system-site-packages`, and never install TensorRT with pip on a Jetson"
        )
    if system_has(name):
        return (
            f"TensorRT's Python module lies in {SYSTEM_PACKAGES} but is not for Python {python}; "
            "use the system's python3"
        )
    return (
        "TensorRT's Python module is not installed; `sudo apt install python3-libnvinfer "
        "python3-libnvinfer-dev` (part of JetPack, never pip), in a virtual environment made with "
        "--system-site-packages"
    )


def in_virtual_environment() -> bool:
    """Whether this Python runs in a virtual environment."""
    return sys.prefix != sys.base_prefix


def sees_system_packages() -> bool:
    """Whether modules that Debian packages bring can be imported."""
    return str(SYSTEM_PACKAGES) in sys.path


def system_has(name: str) -> bool:
    """Whether Debian's packages brought a module, seen from here or not."""
    return importlib.machinery.PathFinder.find_spec(name, [str(SYSTEM_PACKAGES)]) is not None


_loggers: list[Any] = []
"""TensorRT keeps the first logger of a process for its plugins: none may ever be freed."""


class Messages:
    """Keeps errors, so that one can be told with its cause; all is logged at debug level.

    Nothing may be raised into TensorRT's C++ code, an interrupt that lands here neither: it is kept
    for `reraise`.
    """

    def __init__(self, library: Library) -> None:
        severity = library.module.ILogger
        self._errors: list[str] = []
        self.caught: BaseException | None = None

        def log(_: Any, level: Any, text: str) -> None:
            try:
                if level in (severity.INTERNAL_ERROR, severity.ERROR):
                    self._errors.append(without_source(text))
                logger.debug("%s", text)
            except BaseException as error:
                self.caught = error

        def start(this: Any) -> None:
            severity.__init__(this)

        self.logger = type("Logger", (severity,), {"__init__": start, "log": log})()
        _loggers.append(self.logger)

    def last_error(self) -> str:
        """Return the error that caused the others since `clear`: the first; "" for none."""
        return self._errors[0] if self._errors else ""

    def clear(self) -> None:
        """Forget the errors."""
        self._errors.clear()

    def reraise(self) -> None:
        """Raise what was caught inside TensorRT's callbacks."""
        if self.caught is not None:
            raise self.caught


def without_source(text: str) -> str:
    """Drop TensorRT's own file names: "[builder.cpp::build::123]", "(... In x at /src/y.cpp:9)"."""
    text = re.sub(r"\[[^\]\s]+::[^\]]*\]\s*", "", text)
    text = re.sub(r"\s*In \S+ at \S+:\d+(?=\)|$)", "", text)
    return " ".join(text.split())
