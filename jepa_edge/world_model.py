# SPDX-License-Identifier: Apache-2.0
"""A bundle's model at run time: encode, predict, rollout. No torch, no families."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.backends import Backend, Graph, Provider
from jepa_edge.bundle import Bundle
from jepa_edge.chunks import rows_per_chunk
from jepa_edge.engine import PRECISIONS, Precision, RolloutEngine, fastest_precisions
from jepa_edge.errors import BundleError, InputError
from jepa_edge.golden import Golden
from jepa_edge.manifest import Manifest, calibration_name
from jepa_edge.masked import MaskedEnergy
from jepa_edge.metrics import sqnr_db
from jepa_edge.rollout import roll

logger = logging.getLogger(__name__)

AUTO = "auto"
CPU_BACKEND = "onnxruntime-cpu"
_ENCODE_BATCH = 64
_ENGINE_PRECISION: dict[str, Precision] = {"fp32": "float32", "int8": "int8"}
# The golden replay may fall this far below the ratio measured at export (other CPU, other kernels).
_SQNR_MARGIN_DB = 6.0
# Above this ratio float32 rounding alone explains any difference.
_SQNR_CEILING_DB = 70.0
# A graph that takes so long is not timed again.
_SLOW_MS = 500.0
# Stands for equality in what is told.
SQNR_EXACT_DB = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenReplay:
    """What replaying the golden inputs on this machine gave.

    sqnr_db: by graph. time_ms: by graph, medians at batch 1.
    """

    variant: str
    sqnr_db: dict[str, float]
    time_ms: dict[str, float]
    passed: bool

    def told(self) -> str:
        """All graphs in one line."""
        parts = [f"{name} {db:.1f} dB" for name, db in self.sqnr_db.items()]
        return f"{self.variant} ({', '.join(parts)})"


class WorldModel:
    """One variant of a bundle, loaded and checked against the golden outputs."""

    def __init__(self, bundle: Bundle, variant: str, backend: Backend) -> None:
        """Raises BundleError when the bundle lacks the variant or the runtime refuses it."""
        _check_variant(bundle, variant)
        spec = bundle.manifest.variants[variant]
        self.bundle = bundle
        self.variant = variant
        self.backend = backend.name
        self.threads = backend.threads
        self.runtime = backend.runtime
        self.device_class = backend.device_class
        # Set by `load`: what a command line must add to choose the same, and why this was chosen.
        self.options = ""
        self.reason = "as asked"
        self._predictors: dict[Precision, _core.Predictor] = {}
        self._own_engine: RolloutEngine | None = None
        self._own_engine_known = False
        manifest = bundle.manifest
        noise = manifest.noise
        self.z_dim = 0 if isinstance(noise, msgspec.UnsetType) else noise.dim
        self._backend = backend
        further = [
            *(["states"] if manifest.state else []),
            *(["visible"] if manifest.masks else []),
        ]
        self._encoder = _load(bundle, spec.encoder.file, backend, {"frames", *further})
        self._all_tokens = np.arange(manifest.latent.tokens)
        self._predictor: Graph | None = None
        if spec.predictor is not None:
            inputs = {"history", "actions", *(["z"] if self.z_dim else [])}
            self._predictor = _load(bundle, spec.predictor.file, backend, inputs)
        self._masked: MaskedEnergy | None = None
        if spec.mask_predictor is not None and manifest.masks is not None:
            inputs = {"context", "visible", "hidden"}
            graph = _load(bundle, spec.mask_predictor.file, backend, inputs)
            masks = bundle.file(manifest.masks.file)
            self._masked = MaskedEnergy.load(masks, manifest.masks, manifest.latent, graph)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def predictor_graph(self) -> Graph | None:
        """The loaded predictor, None in a model that takes no actions."""
        return self._predictor

    @property
    def takes_actions(self) -> bool:
        """Whether the model predicts what an action does; else it only encodes."""
        return self.manifest.action is not None

    def load_graph(self, file: str, inputs: set[str]) -> Graph:
        """Load another graph of the bundle with this model's backend.

        Raises BundleError when the bundle lists no such file or it takes other inputs.
        """
        return _load(self.bundle, file, self._backend, inputs)

    @classmethod
    def load(
        cls,
        path: Path | str | Bundle,
        variant: str = AUTO,
        *,
        threads: int = 1,
        calibrated_only: bool = False,
        provider: Provider = "auto",
        engines: Path | None = None,
        device: int = 0,
    ) -> WorldModel:
        """Open a bundle and load a variant that passes its golden replay.

        variant: a name from the manifest, or "auto" for the fastest one on this machine that
        passes. calibrated_only: "auto" considers only variants that have a calibration. provider:
        what computes; "auto" takes an engine of `jepa-edge build` that fits this machine and
        passes, else ONNX Runtime on the CPU; nobody signed an engine, so that "auto" takes none
        from beside a bundle that was opened with a trusted key. engines: folder of those engines,
        None for the one beside the bundle. device: number of the GPU.
        Raises BundleError when the bundle is damaged, nothing passes, or no engine fits and the
        provider is "tensorrt"; MissingDependencyError where a provider was asked for by name and is
        not installed here.
        """
        from jepa_edge.backends.choice import BackendChoice
        from jepa_edge.loading import fastest

        choice = BackendChoice(provider=provider, engines=engines, device=device, threads=threads)
        bundle = path if isinstance(path, Bundle) else Bundle.open(path)
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
        else:
            _check_variant(bundle, variant)
        golden = Golden.read(bundle)
        replays: list[GoldenReplay] = []
        for stage in choice.stages(bundle, names):
            model = fastest(bundle, stage, golden, replays)
            if model is not None:
                model.options = choice.options
                return model
        told = ", ".join(replay.told() for replay in replays)
        raise BundleError(
            f"{bundle.path}: no variant reproduces the golden outputs here: {told}; "
            "export again on this kind of machine"
        )

    def encode(
        self, frames: NDArray[np.uint8], states: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Encode frames (B, H, W, 3), or clips (B, F, H, W, 3), uint8 into latents (B, N, D).

        states: (B, S) float32 raw, the robot's own state at each frame, of a model that takes one.
        Raises InputError when a shape or dtype is not the manifest's.
        """
        feeds = self._encoder_feeds(frames, states)
        if self._masked is not None:
            feeds["visible"] = self._all_tokens
        return self._encoder(feeds)

    def masked_energy(
        self,
        frames: NDArray[np.uint8],
        latents: NDArray[np.float32] | None = None,
        states: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """How badly each token is predicted from frames in which it is hidden: (B, N) float32.

        NaN where no pattern hides a token. latents: of these frames, if they are at hand. Costs one
        encoding of the visible part per pattern (`manifest.masks`).
        Raises InputError when the model has no mask predictor, or a shape is not the manifest's:
        latents are (B, N, D), whole, of as many frames.
        """
        if self._masked is None:
            raise InputError(
                f"{self.bundle.path} has no mask predictor; export a checkpoint that holds one"
            )
        feeds = self._encoder_feeds(frames, states)
        if latents is None:
            latents = self.encode(frames, states)
        expected = (len(frames), self.manifest.latent.tokens, self.manifest.latent.dim)
        if latents.shape != expected:
            raise InputError(
                f"latents have shape {latents.shape}, expected {expected}: those of these frames; "
                "pass what encode() gave, whole, or leave them out"
            )
        return self._masked(latents, lambda visible: self._encoder({**feeds, "visible": visible}))

    @property
    def has_masks(self) -> bool:
        """Whether `masked_energy` can be computed."""
        return self._masked is not None

    def _encoder_feeds(
        self, frames: NDArray[np.uint8], states: NDArray[np.float32] | None
    ) -> dict[str, NDArray[np.generic]]:
        manifest = self.manifest
        manifest.observation.check_frames(frames)
        feeds: dict[str, NDArray[np.generic]] = {"frames": frames}
        if manifest.state is not None:
            expected = (len(frames), manifest.state.dim)
            if states is None or states.shape != expected:
                raise InputError(
                    f"states is {None if states is None else states.shape}, expected {expected}: "
                    "the robot's own state at each frame "
                    f"({', '.join(manifest.state.names) or 'raw units'})"
                )
            feeds["states"] = np.asarray(states, np.float32)
        elif states is not None:
            raise InputError("states were given, but this model takes none; leave them out")
        return feeds

    def predict(
        self,
        history: NDArray[np.float32],
        actions: NDArray[np.float32],
        z: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Predict the next latent (B, N, D).

        history (B, T, N, D), oldest first, T = manifest.history, or from min_history on where the
        manifest has one. actions (B, T, A) raw units: actions[:, t] is taken at history[:, t].
        z (B, z_dim) float32, of a model that has a latent variable of its own; None for 0, its mean
        prediction. Raises InputError on any other shape, and in a model without actions.
        """
        steps = self._window(history)
        expected = (len(history), steps, self.manifest.require_action().dim)
        if self._predictor is None or actions.shape != expected:
            raise InputError(
                f"actions have shape {actions.shape}, expected {expected}: (B, history, action dim)"
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
        action = self.manifest.require_action()
        steps = self._window(history)
        if (
            actions.ndim != 3
            or len(actions) != len(history)
            or actions.shape[1] < steps
            or actions.shape[2] != action.dim
        ):
            raise InputError(
                f"actions have shape {actions.shape}, expected ({len(history)}, {steps} or more, "
                f"{action.dim}): {steps - 1} past blocks and one or more future ones"
            )
        engine = self.own_engine()
        if engine is None:
            history = np.ascontiguousarray(history, np.float32)
            return roll(self.predict, history, actions, self.manifest.history)
        past = steps - 1
        return engine.rollout(history, actions[:, :past], actions[:, past:])

    def _window(self, history: NDArray[np.float32]) -> int:
        """Return how many latents a history holds. Raises InputError where that does not fit."""
        manifest = self.manifest
        manifest.require_action()
        longest, latent = manifest.history, (manifest.latent.tokens, manifest.latent.dim)
        shortest = manifest.min_history or longest
        steps = history.shape[1] if history.ndim == 4 else 0
        if not shortest <= steps <= longest or history.shape[2:] != latent:
            told = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
            raise InputError(
                f"history has shape {history.shape}, expected (B, {told}, {latent[0]}, {latent[1]})"
            )
        return steps

    def own_engine(self) -> RolloutEngine | None:
        """Return the rollout engine in the variant's own precision, None where there is none.

        There is none in a bundle without an engine, where that precision missed the budget or does
        not reproduce the golden outputs here (a warning says so), for fp16, and where the graphs
        run on a GPU: they predict there too.
        """
        if not self._own_engine_known and self.backend == CPU_BACKEND:
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
        if spec is None or not spec.runs_on("cpu"):
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
                if measured < required_db(spec.precisions[name].sqnr_db):
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
        assert golden.history is not None
        assert golden.actions is not None
        assert golden.predictions is not None
        past, actions = golden.actions[:, :-1], golden.actions[:, -1:]
        return sqnr_db(golden.predictions, engine.rollout(golden.history, past, actions)[:, 0])

    def _golden_calls(self, golden: Golden) -> dict[str, tuple[NDArray[np.float32], _Call]]:
        """What each graph must give for the golden inputs, and how it is asked."""
        states, masked = golden.states, self._masked
        calls: dict[str, tuple[NDArray[np.float32], _Call]] = {
            "encoder": (
                golden.latents,
                lambda rows: self.encode(
                    golden.frames[rows], None if states is None else states[rows]
                ),
            )
        }
        history, actions, context = golden.history, golden.actions, golden.context
        if golden.predictions is not None and history is not None and actions is not None:
            calls["predictor"] = (
                golden.predictions,
                lambda rows: self.predict(history[rows], actions[rows]),
            )
        if golden.masked is not None and context is not None and masked is not None:
            calls["mask_predictor"] = (
                golden.masked,
                lambda rows: masked.predict_first(context[rows]),
            )
        return calls

    def golden_outputs(
        self, golden: Golden
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """What each graph must give for the golden inputs, and what it gives here, by its name."""
        calls = self._golden_calls(golden)
        names = self.manifest.variants[self.variant].graphs
        return {name: (calls[name][0], calls[name][1](slice(None))) for name in names}

    def replay_golden(self, golden: Golden, repeats: int = 5) -> GoldenReplay:
        """Run the bundle's golden inputs and compare with the reference outputs."""
        calls = self._golden_calls(golden)
        measured, times_ms, passed = {}, {}, True
        for name, graph in self.manifest.variants[self.variant].graphs.items():
            expected, call = calls[name]
            measured[name] = min(sqnr_db(expected, call(slice(None))), SQNR_EXACT_DB)
            passed &= measured[name] >= required_db(graph.sqnr_db)
            spent = []
            for _ in range(repeats):
                start = time.perf_counter()
                call(slice(1))
                spent.append(1e3 * (time.perf_counter() - start))
                if spent[-1] > _SLOW_MS:
                    break
            times_ms[name] = float(np.median(spent))
        return GoldenReplay(variant=self.variant, sqnr_db=measured, time_ms=times_ms, passed=passed)


_Call = Callable[[slice], NDArray[np.float32]]


def required_db(exported: float) -> float:
    """Return how near to the reference a graph must come, whose export measured so many dB."""
    return min(exported, _SQNR_CEILING_DB) - _SQNR_MARGIN_DB


def encode_frames(
    model: WorldModel,
    frames: NDArray[np.uint8],
    states: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Encode the camera frames of a run, (T + 1, H, W, 3) uint8, in batches: (T + 1, N, D) float32.

    states: (T + 1, S) float32 of a model that takes them. Raises InputError where a shape is not
    the manifest's: of a model that takes clips, `jepa_edge.encoding` gathers them.
    """
    parts, batch = [], min(_ENCODE_BATCH, rows_per_chunk(model.manifest.latent.size))
    for start in range(0, len(frames), batch):
        rows = slice(start, start + batch)
        some = None if states is None else states[rows]
        parts.append(model.encode(np.ascontiguousarray(frames[rows]), some))
    return np.concatenate(parts)


def _check_variant(bundle: Bundle, variant: str) -> None:
    if variant not in bundle.manifest.variants:
        raise BundleError(
            f"{bundle.path} has no variant {variant!r}, it has "
            f"{', '.join(bundle.manifest.variants)}; export with --precision {variant}"
        )


def _load(bundle: Bundle, file: str, backend: Backend, inputs: set[str]) -> Graph:
    graph = backend.load(bundle.file(file))
    if graph.inputs != inputs:
        raise BundleError(
            f"{bundle.path / file} takes {', '.join(sorted(graph.inputs))}, expected "
            f"{', '.join(sorted(inputs))}; export the bundle again"
        )
    return graph
