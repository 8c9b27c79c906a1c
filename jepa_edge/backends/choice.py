# SPDX-License-Identifier: Apache-2.0
"""Which backend runs a variant: an engine that fits this machine, else ONNX Runtime."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jepa_edge.backends import PROVIDERS, Backend, Provider
from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, InputError, JepaEdgeError
from jepa_edge.trt.device import find_device
from jepa_edge.trt.key import MachineKey
from jepa_edge.trt.library import load_library
from jepa_edge.trt.store import EngineStore, StoredEngine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Backends by variant, of which the fastest that passes is taken.

    why: what speaks for it, in words. optional: what fails in it is told in a warning, and the
    next stage is tried.
    """

    backends: dict[str, Backend]
    why: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendChoice:
    """Where graphs are run. engines: folder that `jepa-edge build` wrote, None for the one beside
    the bundle. device: number of the GPU. threads: of what runs on the CPU.
    """

    provider: Provider = "auto"
    engines: Path | None = None
    device: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise InputError(
                f"provider is {self.provider!r}, expected one of {', '.join(PROVIDERS)}"
            )
        if self.engines is not None and self.provider not in ("auto", "tensorrt"):
            raise InputError(
                f"engines were named and provider {self.provider}, which runs none; take tensorrt, "
                "or leave one of them out"
            )
        if self.engines is not None and not self.engines.is_dir():
            raise BundleError(
                f"{self.engines} is no folder of engines; check the path, or make one with "
                "`jepa-edge build NAME.jepa --out DIR`"
            )

    @property
    def options(self) -> str:
        """What a command line must add to choose the same, "" where it is the default."""
        told = "" if self.provider == "auto" else f" --provider {self.provider}"
        return told + ("" if self.engines is None else f" --engines {self.engines}")

    def stages(self, bundle: Bundle, variants: Sequence[str]) -> Iterator[Stage]:
        """Yield what to try, the better first; the next counts only where nothing passed.

        An engine that does not fit is passed over with a warning that says how to build it again,
        unless engines were asked for. Raises BundleError when engines were asked for and none fits,
        MissingDependencyError when what was asked for is not installed here.
        """
        if self.provider == "tensorrt":
            yield Stage(backends=self._asked_engines(bundle, variants))
        elif self.provider == "auto":
            engines = self._found_engines(bundle, variants)
            if engines:
                yield Stage(backends=engines, why="engine of this machine", optional=True)
            names = _for_onnxruntime(bundle, variants)
            yield Stage(backends=dict.fromkeys(names, OnnxRuntimeBackend(self.threads)))
        else:
            yield Stage(backends=self._onnxruntime(bundle, variants))

    def _onnxruntime(self, bundle: Bundle, variants: Sequence[str]) -> dict[str, Backend]:
        provider = "tensorrt" if self.provider == "tensorrt-ep" else self.provider
        assert provider in ("cpu", "cuda", "tensorrt")
        make = functools.partial(OnnxRuntimeBackend, self.threads, device=self.device)
        spec = bundle.manifest.variants
        names = _for_onnxruntime(bundle, variants)
        return {name: make(provider=provider, precision=spec[name].precision) for name in names}

    def _asked_engines(self, bundle: Bundle, variants: Sequence[str]) -> dict[str, Backend]:
        store = EngineStore(bundle, self.engines)
        found, refused = self._engines(store, machine_here(self.device), variants)
        if not found:  # what is there and does not fit says more than what is not there
            told = [name for name in variants if store.records(name)]
            raise refused[(told or list(variants))[0]]
        return found

    def _found_engines(self, bundle: Bundle, variants: Sequence[str]) -> dict[str, Backend]:
        """Backends of the engines that fit, none where there are no engines or no TensorRT."""
        store = EngineStore(bundle, self.engines)
        there = [name for name in bundle.manifest.variants if store.records(name)]
        stored = [name for name in variants if name in there]
        if there and bundle.trusted and self.engines is None:
            logger.warning(
                "the engines in %s are not used: a signature was asked for, and nobody signed "
                "them; --provider tensorrt takes them, where that folder is trusted",
                store.root,
            )
            return {}
        if there and not stored:
            told, wanted = ", ".join(there), ",".join(variants)
            logger.warning(
                "the engines in %s are of variant %s and not used: asked for, or calibrated, is "
                "%s, which runs without TensorRT; `jepa-edge build %s --variant %s%s` builds it, "
                "`jepa-edge calibrate %s --variant %s` calibrates what was built",
                store.root,
                told,
                wanted,
                bundle.path,
                wanted,
                "" if self.engines is None else f" --out {self.engines}",
                bundle.path,
                there[0],
            )
        if not stored:
            return {}
        try:
            machine = machine_here(self.device)
            found, refused = self._engines(store, machine, stored)
        except JepaEdgeError as error:
            logger.warning("the engines in %s cannot be used: %s", store.root, error)
            return {}
        for name, why in refused.items():
            logger.warning("no engine of variant %s is used: %s", name, why)
        return found

    def _engines(
        self, store: EngineStore, machine: MachineKey, variants: Sequence[str]
    ) -> tuple[dict[str, Backend], dict[str, BundleError]]:
        found: dict[str, Backend] = {}
        refused: dict[str, BundleError] = {}
        for name in variants:
            stored = _required(store, name, machine)
            if isinstance(stored, BundleError):
                refused[name] = stored
            else:
                found[name] = self._backend(stored)
        return found, refused

    def _backend(self, stored: StoredEngine) -> Backend:
        from jepa_edge.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(stored, threads=self.threads, device=self.device)


def _for_onnxruntime(bundle: Bundle, variants: Sequence[str]) -> list[str]:
    """Return the variants that ONNX Runtime runs. Raises BundleError when there is none."""
    specs = bundle.manifest.variants
    names = [name for name in variants if not specs[name].needs_tensorrt]
    for name in variants:
        if name not in names:
            logger.info("variant %s is passed over: only TensorRT runs it", name)
    if not names:
        raise BundleError(
            f"{bundle.path}: only TensorRT runs {', '.join(variants)}, and no engine of it is used "
            f"here; run `jepa-edge build {bundle.path}` on the robot, or take another variant"
        )
    return names


def machine_here(device: int = 0) -> MachineKey:
    """Return what engines must have been built for to run here.

    Raises MissingDependencyError without TensorRT, a driver, or that GPU; BundleError when TensorRT
    is too old.
    """
    return MachineKey.of(load_library("tensorrt"), find_device(device))


def _required(store: EngineStore, variant: str, machine: MachineKey) -> StoredEngine | BundleError:
    try:
        return store.require(variant, machine)
    except BundleError as error:
        return error
