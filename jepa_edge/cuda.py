# SPDX-License-Identifier: Apache-2.0
"""The GPU core: rollouts and planning on an NVIDIA GPU, without TensorRT or torch."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.engine import (
    CUDA_PRECISIONS,
    CudaPrecision,
    check_goal,
    check_shapes,
    distances,
    raise_refused,
)
from jepa_edge.errors import BundleError, InputError, MissingDependencyError
from jepa_edge.golden import Golden
from jepa_edge.metrics import sqnr_db
from jepa_edge.world_model import WorldModel, required_db

if TYPE_CHECKING:
    from types import ModuleType

    from jepa_edge import _cuda

logger = logging.getLogger(__name__)

_AC_FORMAT = "vjepa2-ac-predictor-1"
# Tried in this order where none is asked for; those of 8 bits are taken by name alone.
_USUAL: tuple[CudaPrecision, ...] = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """A GPU. capability: "8.7" for Orin. driver, runtime: of CUDA, 13000 for 13.0."""

    name: str
    capability: str
    processors: int
    memory_bytes: int
    driver: int
    runtime: int


def load() -> ModuleType:
    """Return the extension module. Raises MissingDependencyError where it is not built."""
    try:
        from jepa_edge import _cuda
    except ImportError as error:
        raise MissingDependencyError(
            f"the GPU core is not there ({error}); it is no part of the wheel: build it on a "
            "machine with CUDA by `pip install . -C cmake.define.JEPA_EDGE_CUDA=ON` in a checkout "
            "of jepa-edge, or plan with device='cpu'"
        ) from error
    return _cuda


def device_info(device: int = 0) -> DeviceInfo:
    """Describe a GPU. Raises MissingDependencyError without the core, a driver or a GPU."""
    info = _device(load(), device)
    return DeviceInfo(
        name=info.name,
        capability=f"{info.major}.{info.minor}",
        processors=info.processors,
        memory_bytes=info.memory_bytes,
        driver=info.driver,
        runtime=info.runtime,
    )


def _device(module: ModuleType, device: int = 0) -> _cuda.DeviceInfo:
    try:
        info: _cuda.DeviceInfo = module.device_info(device)
    except module.CudaError as error:
        raise MissingDependencyError(
            f"no GPU can be used here ({error}); check `nvidia-smi`, or on a Jetson that JetPack's "
            "nvidia-l4t-cuda is installed, or plan with device='cpu'"
        ) from error
    return info


class CudaRolloutEngine:
    """Rolls candidates forward on the GPU, on one predictor's weights there.

    Calls from several Python threads take turns.
    """

    def __init__(
        self,
        predictor: _cuda.Predictor | _cuda.AcPredictor,
        precision: CudaPrecision,
        *,
        candidates: int = 1,
        horizon: int = 1,
        samples: int = 1,
    ) -> None:
        """candidates, horizon, samples: memory to reserve; it grows."""
        self.predictor = predictor
        self.precision = precision
        self._lock = threading.Lock()
        self._reserved = (candidates, horizon, samples)
        self._rollout = _made(load(), predictor, *self._reserved)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        precision: CudaPrecision = "float32",
        candidates: int = 1,
        horizon: int = 1,
        samples: int = 1,
    ) -> CudaRolloutEngine:
        """Read `predictor.safetensors` onto the GPU.

        Raises BundleError when the file is not a predictor's, InputError for a precision that is
        unknown or that the GPU has no matrix units for, MissingDependencyError without a GPU or the
        core for it.
        """
        if precision not in CUDA_PRECISIONS:
            raise InputError(
                f"precision is {precision!r}, expected one of {', '.join(CUDA_PRECISIONS)}"
            )
        module = load()
        info = _device(module)
        number = getattr(module.Precision, precision.upper())
        if not module.is_supported(number, info):
            raise InputError(
                f"{info.name} ({info.major}.{info.minor}) has no matrix units for {precision}; ask "
                f"for one of {', '.join(_supported(module, info))}"
            )
        try:
            kind = module.AcPredictor if _names_format(path, _AC_FORMAT) else module.Predictor
            predictor = kind(path, number)
        except module.FileError as error:
            raise BundleError(str(error)) from None
        except module.CudaError as error:
            raise InputError(f"the GPU refused the predictor in {precision}: {error}") from None
        return cls(predictor, precision, candidates=candidates, horizon=horizon, samples=samples)

    def core(self, candidates: int, horizon: int, samples: int = 1) -> _cuda.Rollout:
        """Return the core's rollout with room for this many candidates, steps and samples."""
        with self._lock:
            needed = (candidates, horizon, samples)
            if any(need > have for need, have in zip(needed, self._reserved, strict=True)):
                both = zip(needed, self._reserved, strict=True)
                candidates, horizon, samples = (max(pair) for pair in both)
                self._rollout = _made(load(), self.predictor, candidates, horizon, samples)
                self._reserved = (candidates, horizon, samples)
            return self._rollout

    def rollout(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
        start: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Roll S candidates forward: latents (S, H, N, D) float32.

        Arguments, shapes and errors as of `RolloutEngine.rollout`. Candidates with a history or a
        start of their own are rolled out one after the other.
        """
        sizes = self._rollout.sizes
        check_shapes(sizes, history, past_actions, actions, start)
        history = np.asarray(history, np.float32)
        past_actions = np.ascontiguousarray(past_actions, np.float32)
        actions = np.ascontiguousarray(actions, np.float32)
        if history.ndim == 3 and start is None:
            return self._shared(np.ascontiguousarray(history), past_actions, actions)
        own = history if history.ndim == 4 else np.repeat(history[None], len(actions), axis=0)
        own = np.array(own)
        if start is not None:
            own[:, -1] = start
        past = np.broadcast_to(past_actions, (len(actions), *past_actions.shape[-2:]))
        each = [
            self._shared(own[c], np.ascontiguousarray(past[c]), actions[c : c + 1])
            for c in range(len(actions))
        ]
        return np.concatenate(each)

    def _shared(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        core = self.core(len(actions), actions.shape[1])
        status, latents = core.rollout(history, past_actions, actions)
        raise_refused(
            _core.Status(status), history=history, past_actions=past_actions, actions=actions
        )
        return np.asarray(latents)

    def goal_energies(
        self,
        history: NDArray[np.float32],
        past_actions: NDArray[np.float32],
        actions: NDArray[np.float32],
        goal: NDArray[np.float32],
        goal_steps: int = 1,
    ) -> NDArray[np.float32]:
        """Squared distance of the last latents to the goal: `RolloutEngine.goal_energies`."""
        check_goal(self._rollout.sizes, actions, goal, goal_steps)
        return distances(self.rollout(history, past_actions, actions), goal, goal_steps)


def _names_format(path: Path, name: str) -> bool:
    """Whether the head of a file names this format; what it holds is the loader's to check."""
    try:
        with path.open("rb") as stream:
            return f'"{name}"'.encode() in stream.read(1 << 20)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error}; give the path of a predictor") from error


def _made(
    module: ModuleType,
    predictor: _cuda.Predictor | _cuda.AcPredictor,
    candidates: int,
    horizon: int,
    samples: int,
) -> _cuda.Rollout:
    kind = module.AcRollout if isinstance(predictor, module.AcPredictor) else module.Rollout
    try:
        made: _cuda.Rollout = kind(predictor, candidates, horizon, samples)
    except module.CudaError as error:
        raise InputError(
            f"the GPU refused {candidates} candidates x {samples} samples x {horizon} steps: "
            f"{error}; ask for fewer"
        ) from None
    return made


def _supported(module: ModuleType, info: _cuda.DeviceInfo) -> list[CudaPrecision]:
    return [
        name
        for name in CUDA_PRECISIONS
        if module.is_supported(getattr(module.Precision, name.upper()), info)
    ]


def engine(
    model: WorldModel,
    candidates: int = 1,
    horizon: int = 1,
    samples: int = 1,
    *,
    precision: CudaPrecision | None = None,
) -> CudaRolloutEngine | None:
    """Return the GPU's rollout engine of a bundle, or None where it holds none for a GPU.

    precision: None for the first of float16, bfloat16 and float32 that the GPU has and that
    reproduces the golden outputs there; those of 8 bits are taken only when they are named. What
    passes: a precision that was measured at export, as near as then; another one, as near as the
    least accurate that was accepted then.
    Raises BundleError when the precision asked for, or every one, does not reproduce them; and as
    `CudaRolloutEngine.load` does.
    """
    spec = model.manifest.engine
    if spec is None or not spec.runs_on("cuda"):
        return None
    module = load()
    usable = _supported(module, _device(module))
    wanted = [precision] if precision else [name for name in _USUAL if name in usable]
    told = []
    for name in wanted:
        made = CudaRolloutEngine.load(
            model.bundle.file(spec.file),
            precision=name,
            candidates=candidates,
            horizon=horizon,
            samples=samples,
        )
        measured, required = _replayed(model, made), _required(model, name)
        if measured >= required:
            logger.info("rollout engine on the GPU in %s, golden outputs pass", name)
            return made
        told.append(f"{name} {measured:.1f} dB, expected {required:.1f}")
        logger.warning("engine on the GPU does not pass: %s", told[-1])
    raise BundleError(
        f"{model.bundle.path}: the engine does not reproduce the golden outputs on this GPU "
        f"({'; '.join(told)}); ask for precision float32, or plan with device='cpu'"
    )


def _replayed(model: WorldModel, made: CudaRolloutEngine) -> float:
    golden = Golden.read(model.bundle)
    assert golden.history is not None
    assert golden.actions is not None
    assert golden.predictions is not None
    past, actions = golden.actions[:, :-1], golden.actions[:, -1:]
    return sqnr_db(golden.predictions, made.rollout(golden.history, past, actions)[:, 0])


def _required(model: WorldModel, precision: CudaPrecision) -> float:
    spec = model.manifest.engine
    assert spec is not None
    measured = {name: found.sqnr_db for name, found in spec.precisions.items()}
    if precision in measured:
        return required_db(measured[precision])
    accepted = list(measured.values()) or [
        variant.predictor.sqnr_db
        for variant in model.manifest.variants.values()
        if variant.predictor is not None
    ]
    return required_db(min(accepted))


def rollout_for(
    model: WorldModel,
    candidates: int,
    horizon: int,
    samples: int,
    *,
    precision: CudaPrecision | None = None,
) -> tuple[_cuda.Rollout, CudaPrecision | None] | None:
    """Return what a planner on the GPU rolls out with, and its precision; None for nothing.

    Our own engine where the bundle holds it for a GPU; else the predictor of a model that runs on
    TensorRT, whose precision is the variant's: None. Raises as `engine` and `tensorrt_rollout` do,
    and InputError for a precision where TensorRT predicts.
    """
    module = load()
    _device(module)
    made = engine(model, candidates, horizon, samples, precision=precision)
    if made is not None:
        return made.core(candidates, horizon, samples), made.precision
    if not model.backend.startswith("tensorrt"):
        return None
    if precision is not None:
        raise InputError(
            f"precision is {precision!r}, but TensorRT predicts here, in the precision of variant "
            f"{model.variant}; leave precision out"
        )
    from jepa_edge.trt.rollout import tensorrt_rollout

    manifest = model.manifest
    rollout: _cuda.Rollout = module.Rollout.from_callback(
        tensorrt_rollout(model, candidates * samples),
        window=manifest.history,
        tokens=manifest.latent.tokens,
        latent_dim=manifest.latent.dim,
        action_dim=manifest.require_action().dim,
        candidates=candidates,
        horizon=horizon,
        samples=samples,
    )
    return rollout, None
