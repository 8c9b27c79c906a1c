# SPDX-License-Identifier: Apache-2.0
"""A bundle's model at run time: encode, predict, rollout. No torch, no families."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.backends import Backend, Graph
from jepa_edge.bundle import Bundle
from jepa_edge.engine import PRECISIONS, Precision, RolloutEngine, fastest_precisions
from jepa_edge.errors import BundleError, InputError
from jepa_edge.golden import Golden
from jepa_edge.manifest import Manifest, calibration_name
from jepa_edge.metrics import sqnr_db
from jepa_edge.rollout import roll

logger = logging.getLogger(__name__)

AUTO = "auto"
_ENCODE_BATCH = 64
_ENGINE_PRECISION: dict[str, Precision] = {"fp32": "float32", "int8": "int8"}
# The golden replay may fall this far below the ratio measured at export (other CPU, other kernels).
_SQNR_MARGIN_DB = 6.0
# Above this ratio float32 rounding alone explains any difference.
_SQNR_CEILING_DB = 70.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenReplay:
    """What replaying the golden inputs on this machine gave. Times are medians at batch 1."""

    variant: str
    encoder_sqnr_db: float
    predictor_sqnr_db: float
    encoder_ms: float
    predictor_ms: float
    passed: bool


class WorldModel:
    """One variant of a bundle, loaded and checked against the golden outputs."""

    def __init__(self, bundle: Bundle, variant: str, backend: Backend) -> None:
        """Raises BundleError when the bundle lacks the variant or the runtime refuses it."""
        if variant not in bundle.manifest.variants:
            raise BundleError(
                f"{bundle.path} has no variant {variant!r}, it has "
                f"{', '.join(bundle.manifest.variants)}; export with --precision {variant}"
            )
        spec = bundle.manifest.variants[variant]
        self.bundle = bundle
        self.variant = variant
        self.backend = backend.name
        self.threads = backend.threads
        self.runtime = backend.runtime
        self.device_class = backend.device_class
        self._predictors: dict[Precision, _core.Predictor] = {}
        self._own_engine: RolloutEngine | None = None
        self._own_engine_known = False
        self._encoder = _load(bundle, spec.encoder.file, backend, {"frames"})
        noise = bundle.manifest.noise
        self.z_dim = 0 if isinstance(noise, msgspec.UnsetType) else noise.dim
        inputs = {"history", "actions", *(["z"] if self.z_dim else [])}
        self._predictor = _load(bundle, spec.predictor.file, backend, inputs)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @classmethod
    def load(
        cls,
        path: Path | str | Bundle,
        variant: str = AUTO,
        *,
        threads: int = 1,
        calibrated_only: bool = False,
    ) -> WorldModel:
        """Open a bundle and load a variant that passes its golden replay.

        variant: a name from the manifest, or "auto" for the fastest one on this machine that
        passes. calibrated_only: "auto" considers only variants that have a calibration.
        Raises BundleError when the bundle is damaged or nothing passes.
        """
        from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend

        bundle = path if isinstance(path, Bundle) else Bundle.open(path)
        backend = OnnxRuntimeBackend(threads)
        names = [variant]
        if variant == AUTO:
            names = [
                name
                for name in bundle.manifest.variants
                if not calibrated_only or calibration_name(name) in bundle.manifest.files
            ]
            if not names:
                raise BundleError(
                    f"{bundle.path} has no calibrated variant; "
                    "run `jepa-edge calibrate` on it first"
                )
        models = [cls(bundle, name, backend) for name in names]
        golden = Golden.read(bundle)
        replays = [model.replay_golden(golden) for model in models]
        passing = [index for index, replay in enumerate(replays) if replay.passed]
        if not passing:
            told = ", ".join(
                f"{r.variant} (encoder {r.encoder_sqnr_db:.1f} dB, "
                f"predictor {r.predictor_sqnr_db:.1f} dB)"
                for r in replays
            )
            raise BundleError(
                f"{bundle.path}: no variant reproduces the golden outputs here: {told}; "
                "export again on this kind of machine"
            )
        best = min(passing, key=lambda i: replays[i].encoder_ms + replays[i].predictor_ms)
        chosen = replays[best]
        logger.info(
            "variant %s on %s: encode %.2f ms, predict %.2f ms, golden outputs pass (%s)",
            chosen.variant,
            backend.name,
            chosen.encoder_ms,
            chosen.predictor_ms,
            "fastest of " + ", ".join(names) if len(names) > 1 else "as asked",
        )
        return models[best]

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode frames (B, H, W, 3) uint8 into latents (B, N, D) float32.

        Raises InputError when the frames' shape or dtype is not the manifest's.
        """
        self.manifest.observation.check_frames(frames)
        return self._encoder({"frames": frames})

    def predict(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        z: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Predict the next latent (B, N, D).

        history (B, T, N, D), oldest first, T = manifest.history. actions (B, T, A) raw units:
        actions[:, t] is taken at history[:, t]. z (B, z_dim) float32, of a model that has a latent
        variable of its own; None for 0, its mean prediction. Raises InputError on any other shape.
        """
        manifest = self.manifest
        latent = (manifest.history, manifest.latent.tokens, manifest.latent.dim)
        if history.ndim != 4 or history.shape[1:] != latent:
            raise InputError(f"history has shape {history.shape}, expected (B, {latent})")
        if actions.shape != (len(history), manifest.history, manifest.action.dim):
            raise InputError(
                f"actions have shape {actions.shape}, expected "
                f"{(len(history), manifest.history, manifest.action.dim)}: (B, history, action dim)"
            )
        feeds = {"history": history, "actions": actions}
        if z is not None and (not self.z_dim or z.shape != (len(history), self.z_dim)):
            raise InputError(
                f"z has shape {z.shape}, expected {(len(history), self.z_dim)}; a model whose "
                "manifest has no latent variable (noise) takes none"
            )
        if self.z_dim:
            feeds["z"] = np.zeros((len(history), self.z_dim), np.float32) if z is None else z
        return self._predictor(feeds)

    def rollout(
        self, history: NDArray[np.float32], actions: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Roll the predictor forward on its own outputs: (B, H, N, D).

        history (B, T, N, D); actions (B, T - 1 + H, A) raw units: the T - 1 actions taken between
        the history's latents, then H future ones. Computed by the C++ engine in the variant's own
        precision where the bundle offers that, else step by step by the variant's graph.
        Raises InputError on any other shape, and from the engine when a number is not finite.
        """
        manifest = self.manifest
        steps = manifest.history
        latent = (steps, manifest.latent.tokens, manifest.latent.dim)
        if history.ndim != 4 or history.shape[1:] != latent:
            raise InputError(f"history has shape {history.shape}, expected (B, {latent})")
        if (
            actions.ndim != 3
            or len(actions) != len(history)
            or actions.shape[1] < steps
            or actions.shape[2] != manifest.action.dim
        ):
            raise InputError(
                f"actions have shape {actions.shape}, expected ({len(history)}, {steps} or more, "
                f"{manifest.action.dim}): {steps - 1} past blocks and one or more future ones"
            )
        engine = self.own_engine()
        if engine is None:
            return roll(self.predict, np.ascontiguousarray(history, np.float32), actions)
        past = steps - 1
        return engine.rollout(history, actions[:, :past], actions[:, past:])

    def own_engine(self) -> RolloutEngine | None:
        """Return the rollout engine in the variant's own precision, None where there is none.

        There is none in a bundle without an engine, where that precision missed the budget or does
        not reproduce the golden outputs here (a warning says so), and for fp16.
        """
        if not self._own_engine_known:
            self._own_engine_known = True
            offered = self.manifest.engine.precisions if self.manifest.engine is not None else {}
            precision = _ENGINE_PRECISION.get(self.variant)
            if precision in offered:
                try:
                    self._own_engine = self.engine(precision=precision)
                except BundleError as error:
                    logger.warning("%s; the graph predicts instead", error)
        return self._own_engine

    def engine(
        self,
        candidates: int = 1,
        horizon: int = 1,
        samples: int = 1,
        *,
        precision: Precision | None = None,
    ) -> RolloutEngine | None:
        """Return the C++ rollout engine of this bundle, or None where it holds none.

        candidates, horizon, samples: memory to reserve. precision: None for the one that this
        machine computes fastest of those that met the accuracy budget at export and reproduce the
        golden outputs here. Engines of one model share their packed weights.
        Raises BundleError when the precision asked for is not offered or does not reproduce them.
        """
        spec = self.manifest.engine
        if spec is None:
            return None
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        if precision is not None and precision not in spec.precisions:
            raise BundleError(
                f"{self.bundle.path} offers the engine in {', '.join(spec.precisions)}, not in "
                f"{precision}: it missed the accuracy budget at export (reports/export.html)"
            )
        wanted = [precision] if precision else fastest_precisions()
        for name in wanted:
            if name not in spec.precisions:
                continue
            if name not in self._predictors:
                engine = RolloutEngine.load(
                    self.bundle.file(spec.file), precision=name, threads=self.threads
                )
                measured = self._replay_engine(engine)
                if measured < _required_db(spec.precisions[name].sqnr_db):
                    told = f"{measured:.1f} dB, {spec.precisions[name].sqnr_db:.1f} at export"
                    if precision is None:
                        logger.warning("engine in %s does not pass here: %s", name, told)
                        continue
                    raise BundleError(
                        f"{self.bundle.path}: the engine in {name} does not reproduce the golden "
                        f"outputs here ({told}); export again on this kind of machine"
                    )
                logger.info("rollout engine in %s, golden outputs pass", name)
                self._predictors[name] = engine.predictor
            return RolloutEngine(
                self._predictors[name],
                threads=self.threads,
                candidates=candidates,
                horizon=horizon,
                samples=samples,
            )
        offered = ", ".join(spec.precisions) or "no precision"
        raise BundleError(
            f"{self.bundle.path} offers the engine in {offered}; none of these is both fast on "
            "this machine and true to the golden outputs: export again on this kind of "
            "machine, or with a larger --max-latent-error"
        )

    def _replay_engine(self, engine: RolloutEngine) -> float:
        golden = Golden.read(self.bundle)
        past, actions = golden.actions[:, :-1], golden.actions[:, -1:]
        return sqnr_db(golden.predictions, engine.rollout(golden.history, past, actions)[:, 0])

    def replay_golden(self, golden: Golden, repeats: int = 5) -> GoldenReplay:
        """Run the bundle's golden inputs and compare with the reference outputs."""
        spec = self.manifest.variants[self.variant]
        encoder_db = sqnr_db(golden.latents, self.encode(golden.frames))
        predictor_db = sqnr_db(golden.predictions, self.predict(golden.history, golden.actions))
        passed = all(
            measured >= _required_db(exported)
            for measured, exported in (
                (encoder_db, spec.encoder.sqnr_db),
                (predictor_db, spec.predictor.sqnr_db),
            )
        )
        encode_ms, predict_ms = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            self.encode(golden.frames[:1])
            middle = time.perf_counter()
            self.predict(golden.history[:1], golden.actions[:1])
            encode_ms.append(1e3 * (middle - start))
            predict_ms.append(1e3 * (time.perf_counter() - middle))
        return GoldenReplay(
            variant=self.variant,
            encoder_sqnr_db=encoder_db,
            predictor_sqnr_db=predictor_db,
            encoder_ms=float(np.median(encode_ms)),
            predictor_ms=float(np.median(predict_ms)),
            passed=passed,
        )


def _required_db(exported: float) -> float:
    return min(exported, _SQNR_CEILING_DB) - _SQNR_MARGIN_DB


def encode_frames(model: WorldModel, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encode the frames of a run, (T + 1, H, W, 3) uint8, in batches: (T + 1, N, D) float32."""
    parts = [
        model.encode(np.ascontiguousarray(frames[start : start + _ENCODE_BATCH]))
        for start in range(0, len(frames), _ENCODE_BATCH)
    ]
    return np.concatenate(parts)


def _load(bundle: Bundle, file: str, backend: Backend, inputs: set[str]) -> Graph:
    graph = backend.load(bundle.file(file))
    if graph.inputs != inputs:
        raise BundleError(
            f"{bundle.path / file} takes {', '.join(sorted(graph.inputs))}, expected "
            f"{', '.join(sorted(inputs))}; export the bundle again"
        )
    return graph
