# SPDX-License-Identifier: Apache-2.0
"""All episodes of an evaluation, encoded: nominal, injected, recorded, simulated, calibration's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_edge.bags.recording import open_recording
from jepa_edge.binding import current_binding
from jepa_edge.calibration.cache import CacheKey, LatentCache
from jepa_edge.calibration.conformal import required_episodes
from jepa_edge.calibration.dataset import (
    EncodedEpisode,
    data_sha256,
    episode_digests,
    episode_lengths,
)
from jepa_edge.calibration.evaluation.options import EvaluateOptions
from jepa_edge.calibration.evaluation.sources import (
    FaultRequest,
    check_simulator,
    library_digest,
    scratch_directory,
    simulate,
)
from jepa_edge.calibration.evaluation.work import encode_episodes
from jepa_edge.calibration_file import Calibration
from jepa_edge.channels import LONG
from jepa_edge.errors import CalibrationError, InputError
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

    Raises InputError when the nominal recording does not fit the model, or shares an episode with
    the calibration.
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
        self._opened: dict[Path, Recording] = {}
        self._cache = LatentCache(directory=options.cache)
        self.lengths = episode_lengths(nominal)
        if self.nominal_sha256 == calibration.data_sha256:
            raise InputError(
                f"{nominal.path} is the recording that this bundle was calibrated on; "
                "false alarms counted there prove nothing: pass runs that it has not seen"
            )
        self._refuse_known(nominal)

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
        longest = self.nominal.load(int(np.argmax(self.lengths)))
        for request in requests:
            if request.path is not None:
                self._check_recorded(self._open(request.path), request.onset)
            elif request.simulator is not None:
                check_simulator(request.simulator, manifest)
                self._check_simulated(request)
            elif request.injection is not None:
                inject_recorded(longest, request.injection, manifest.action)
            if request.onset > max(self.lengths):
                raise InputError(
                    f"fault {request.name} begins at frame {request.onset}, the longest nominal "
                    f"episode has {max(self.lengths) + 1}; choose an onset within the episode"
                )
        if self.options.calibration_data is not None:
            self._calibration_runs(self.options.calibration_data)
            self._check_baselines()

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
                recording = self._open(request.path)
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
                sha256, rows = self.nominal_sha256, self._rows(request)
                encoded = self._injected(request, rows)
                cluster = np.array(rows)
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

    def _rows(self, request: FaultRequest) -> list[int]:
        """The nominal episodes that a fault is injected into: the first that outlast its onset."""
        rows = [row for row, steps in enumerate(self.lengths) if steps >= request.onset]
        return rows[: self.options.fault_episodes]

    def _injected(self, request: FaultRequest, rows: list[int]) -> list[EncodedEpisode]:
        injection, options = request.injection, self.options
        if injection is None:
            raise InputError(f"fault {request.name} has neither runs nor an entry in the library")
        count = len(rows)
        skipping = "" if rows == list(range(count)) else f" of {rows}"
        key = CacheKey(
            binding=self.binding,
            data_sha256=self.nominal_sha256,
            episodes=count,
            injection=f"{injection} seed {options.seed} jepa-edge {__version__}{skipping}",
        )
        return self._cache.get(
            key,
            lambda: encode_episodes(
                self.model,
                lambda index: inject_recorded(
                    self.nominal.load(rows[index]),
                    injection,
                    self.model.manifest.action,
                    options.seed * 1_000_003 + rows[index],
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
        manifest = self.model.manifest
        label = (
            f"simulated {request.simulator} {request.injection} seed {options.seed} "
            f"{options.fault_episodes} x {steps} size {manifest.observation.height} block "
            f"{manifest.require_action().block} jepa-edge {__version__} {library_digest()}"
        )
        root = options.cache
        if root is None:
            root = Path(stack.enter_context(scratch_directory()))
        root.mkdir(parents=True, exist_ok=True)
        folder = "".join(letter if letter.isalnum() else "_" for letter in label)
        return simulate(
            request,
            manifest,
            root / folder,
            options.fault_episodes,
            steps,
            options.seed,
            options.workers,
            self.progress,
        )

    def _open(self, path: Path) -> Recording:
        """Open recorded runs, bags too; once each, for bags are converted."""
        if path not in self._opened:
            horizon = max(self.calibration.horizon, LONG)
            self._opened[path] = open_recording(
                path, self.model.manifest, self.options.bag, horizon=horizon
            )
        return self._opened[path]

    def _calibration_runs(self, path: Path) -> Recording:
        """Open the calibration's own recording. Raises InputError when it is another one."""
        recording, expected = self._open(path), self.calibration.data_sha256
        sha256 = self._checked(recording)
        if sha256 != expected:
            raise InputError(
                f"{path} has data {sha256[:12]}, the bundle was calibrated on {expected[:12]}; "
                "baselines need the calibration's own recording"
            )
        return recording

    def _refuse_known(self, recording: Recording) -> None:
        """Raise InputError when an episode took part in the calibration, whatever its name."""
        known = set(self.calibration.episode_sha256)
        seen = sum(digest in known for digest in episode_digests(recording)) if known else 0
        if seen:
            raise InputError(
                f"{seen} of {len(recording)} episodes in {recording.path} took part in the "
                "calibration; what is counted there proves nothing: pass runs that it has not seen"
            )

    def _check_recorded(self, recording: Recording, onset: int) -> None:
        """Raise InputError for recorded faults that cannot be evaluated."""
        self._checked(recording)
        self._refuse_known(recording)
        if min(episode_lengths(recording)) < onset:
            raise InputError(
                f"{recording.path} has episodes of fewer than {onset + 1} frames; "
                "the fault never begins in them, pass the onset it was recorded with"
            )

    def _check_simulated(self, request: FaultRequest) -> None:
        """Raise InputError when simulated runs would end before their fault begins."""
        steps = self.calibration.domain.steps_min
        if request.injection is not None and request.injection.onset >= steps:
            raise InputError(
                f"fault {request.name} begins at step {request.injection.onset}, simulated runs "
                f"have {steps} steps as the shortest calibrated one; choose an earlier onset"
            )

    def _check_baselines(self) -> None:
        """Raise CalibrationError when there are too few episodes for the baselines' bands."""
        calibration = self.calibration
        have = calibration.episodes["standardize"] + calibration.episodes["conformal"]
        needed = 2 * required_episodes(calibration.alpha)
        if have < needed:
            raise CalibrationError(
                f"baselines at alpha={calibration.alpha:g} need {needed} standardize and conformal "
                f"episodes, half of them for the band's shape, the calibration has {have}; "
                "leave out --baselines, or calibrate on more or with a larger alpha"
            )

    def _checked(self, recording: Recording) -> str:
        """Check that a recording fits the model; return the digest of its data."""
        manifest = self.model.manifest
        check_fits(recording, manifest.observation, manifest.action, manifest.state)
        return data_sha256(recording)
