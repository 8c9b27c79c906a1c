# SPDX-License-Identifier: Apache-2.0
"""All episodes of an evaluation, encoded: nominal, injected, recorded, simulated, calibration's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.binding import current_binding
from jepa_edge.calibration.cache import CacheKey, LatentCache
from jepa_edge.calibration.dataset import EncodedEpisode, data_sha256
from jepa_edge.calibration.evaluation.options import EvaluateOptions
from jepa_edge.calibration.evaluation.sources import (
    FaultRequest,
    check_simulator,
    scratch_directory,
    simulate,
)
from jepa_edge.calibration.evaluation.work import encode_episodes
from jepa_edge.calibration_file import Calibration
from jepa_edge.errors import InputError
from jepa_edge.faults import inject_recorded
from jepa_edge.progress import Progress
from jepa_edge.recording import Recording, check_fits
from jepa_edge.version import __version__
from jepa_edge.world_model import WorldModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyEpisodes:
    """A fault with its encoded episodes. cluster: (m,) as in `outcomes.FaultTraces`."""

    request: FaultRequest
    episodes: list[EncodedEpisode]
    cluster: NDArray[np.int64]
    data_sha256: str


class Episodes:
    """Encodes what an evaluation needs, or finds it in the cache.

    Raises InputError when the nominal recording does not fit the model, or is the calibration's.
    """

    def __init__(
        self,
        model: WorldModel,
        calibration: Calibration,
        nominal: Recording,
        options: EvaluateOptions,
        progress: Progress,
    ) -> None:
        self.model, self.calibration, self.nominal = model, calibration, nominal
        self.options, self.progress = options, progress
        self.binding = current_binding(model)
        self.nominal_sha256 = self._checked(nominal)
        self._cache = LatentCache(directory=options.cache)
        if self.nominal_sha256 == calibration.data_sha256:
            raise InputError(
                f"{nominal.path} is the recording that this bundle was calibrated on; "
                "false alarms counted there prove nothing: pass runs that it has not seen"
            )

    def encode_nominal(self) -> list[EncodedEpisode]:
        """All nominal episodes."""
        return self._encode(self.nominal, self.nominal_sha256, "nominal")

    def encode_calibration(self, path: Path) -> list[EncodedEpisode]:
        """The calibration's own episodes. Raises InputError when path holds others."""
        recording = self._calibration_runs(path)
        return self._encode(recording, self.calibration.data_sha256, "calibration")

    def check(self, requests: Sequence[FaultRequest]) -> None:
        """Raise InputError, before the long part, for what will not work."""
        manifest = self.model.manifest
        first = self.nominal.load(0)
        for request in requests:
            if request.path is not None:
                check_fits(Recording(request.path), manifest.observation, manifest.action)
            elif request.simulator is not None:
                check_simulator(request.simulator)
            elif request.injection is not None:
                inject_recorded(first, request.injection, manifest.action)
        if self.options.calibration_data is not None:
            self._calibration_runs(self.options.calibration_data)

    def encode_faulty(self, requests: Sequence[FaultRequest]) -> list[FaultyEpisodes]:
        """Episodes of every fault; runs of one simulator share their clusters, seed by seed."""
        with ExitStack() as stack:
            return self._encode_faulty(requests, stack)

    def _encode_faulty(
        self, requests: Sequence[FaultRequest], stack: ExitStack
    ) -> list[FaultyEpisodes]:
        found: list[FaultyEpisodes] = []
        offset = len(self.nominal)
        simulated: dict[str, int] = {}
        for request in requests:
            if request.path is not None:
                recording = Recording(request.path)
                sha256 = self._checked(recording)
                encoded = self._encode(recording, sha256, request.name)
                cluster, offset = offset + np.arange(len(encoded)), offset + len(encoded)
            elif request.simulator is not None:
                recording = self._simulated(request, stack)
                sha256 = self._checked(recording)
                encoded = self._encode(recording, sha256, request.name)
                if request.simulator not in simulated:
                    simulated[request.simulator] = offset
                    offset += len(encoded)
                cluster = simulated[request.simulator] + np.arange(len(encoded))
            else:
                sha256, encoded = self.nominal_sha256, self._injected(request)
                cluster = np.arange(len(encoded))
            found.append(
                FaultyEpisodes(
                    request=request, episodes=encoded, cluster=cluster, data_sha256=sha256
                )
            )
        return found

    def _encode(self, recording: Recording, sha256: str, name: str) -> list[EncodedEpisode]:
        count = len(recording)
        return self._cache.get(
            CacheKey(binding=self.binding, data_sha256=sha256, episodes=count),
            lambda: encode_episodes(
                self.model,
                recording.load,
                count,
                self.options.workers,
                self.progress,
                f"encode {name}",
            ),
        )

    def _injected(self, request: FaultRequest) -> list[EncodedEpisode]:
        injection, options = request.injection, self.options
        if injection is None:
            raise InputError(f"fault {request.name} has neither runs nor an entry in the library")
        count = min(options.fault_episodes, len(self.nominal))
        key = CacheKey(
            binding=self.binding,
            data_sha256=self.nominal_sha256,
            episodes=count,
            injection=f"{injection} seed {options.seed} jepa-edge {__version__}",
        )
        return self._cache.get(
            key,
            lambda: encode_episodes(
                self.model,
                lambda index: inject_recorded(
                    self.nominal.load(index),
                    injection,
                    self.model.manifest.action,
                    options.seed * 1_000_003 + index,
                ),
                count,
                options.workers,
                self.progress,
                f"encode {request.name}",
            ),
        )

    def _simulated(self, request: FaultRequest, stack: ExitStack) -> Recording:
        """Simulate runs as long as the shortest calibrated one, in the cache if there is one."""
        options, steps = self.options, self.calibration.domain.steps_min
        label = (
            f"simulated {request.simulator} {request.injection} seed {options.seed} "
            f"{options.fault_episodes} x {steps} jepa-edge {__version__}"
        )
        root = options.cache
        if root is None:
            root = Path(stack.enter_context(scratch_directory()))
        root.mkdir(parents=True, exist_ok=True)
        folder = "".join(letter if letter.isalnum() else "_" for letter in label)
        return simulate(
            request,
            self.model.manifest,
            root / folder,
            options.fault_episodes,
            steps,
            options.seed,
            options.workers,
            self.progress,
        )

    def _calibration_runs(self, path: Path) -> Recording:
        """Open the calibration's own recording. Raises InputError when it is another one."""
        recording, expected = Recording(path), self.calibration.data_sha256
        sha256 = self._checked(recording)
        if sha256 != expected:
            raise InputError(
                f"{path} has data {sha256[:12]}, the bundle was calibrated on {expected[:12]}; "
                "baselines need the calibration's own recording"
            )
        return recording

    def _checked(self, recording: Recording) -> str:
        """Check that a recording fits the model; return the digest of its data."""
        manifest = self.model.manifest
        check_fits(recording, manifest.observation, manifest.action)
        return data_sha256(recording)
