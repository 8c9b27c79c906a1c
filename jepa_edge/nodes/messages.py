# SPDX-License-Identifier: Apache-2.0
"""What a session says, as ROS messages. `make` is `Backend.make`, or `ros_types.make(store)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jepa_edge.channels import CHANNELS, first_step
from jepa_edge.domain_check import FalseAlarmBudget
from jepa_edge.flags import Level, Reason
from jepa_edge.latent_variable import Futures
from jepa_edge.manifest import calibration_name
from jepa_edge.monitor import Monitor
from jepa_edge.session import Flag
from jepa_edge.session_config import SessionConfig
from jepa_edge.world_model import WorldModel

if TYPE_CHECKING:
    from jepa_edge.nodes.inputs import InputOptions

Make = Callable[..., Any]

IMAGE = "sensor_msgs/msg/Image"
FLAG = "jepa_msgs/msg/ConfidenceFlag"
EMBEDDING = "jepa_msgs/msg/StateEmbedding"
PREDICTION = "jepa_msgs/msg/LatentPrediction"
MODEL_INFO = "jepa_msgs/msg/ModelInfo"

_HEADER = "std_msgs/msg/Header"
_TIME = "builtin_interfaces/msg/Time"
_DURATION = "builtin_interfaces/msg/Duration"
SECOND_NS = 1_000_000_000
_MAX_SECONDS = 2**31 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def time_ns(message: Any) -> int:
    """Return a builtin_interfaces Time or Duration in nanoseconds."""
    return int(message.sec) * SECOND_NS + int(message.nanosec)


def stamp_ns(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return time_ns(header.stamp)


def seconds(stamp_ns: int) -> float:
    """Return a stamp as a session takes it, seconds. Every node and every replay rounds here."""
    return stamp_ns / SECOND_NS


def nanoseconds(seconds: float) -> int:
    """Return the inverse of `seconds`: the nearest nanosecond, which gives the same float again."""
    whole = math.floor(seconds)
    return whole * SECOND_NS + round((seconds - whole) * SECOND_NS)


def header(make: Make, stamp_ns: int, frame_id: str) -> Any:
    """Return a std_msgs/Header. Seconds that do not fit into 32 bits are held at the nearest."""
    sec, nanosec = divmod(stamp_ns, SECOND_NS)
    if not -_MAX_SECONDS <= sec <= _MAX_SECONDS:
        sec, nanosec = (_MAX_SECONDS, SECOND_NS - 1) if sec > 0 else (-_MAX_SECONDS, 0)
    return make(_HEADER, stamp=make(_TIME, sec=sec, nanosec=nanosec), frame_id=frame_id)


def duration(make: Make, seconds: float) -> Any:
    """Return a Duration, to the nanosecond; the longest for what is no number or does not fit."""
    if not -_MAX_SECONDS <= seconds <= _MAX_SECONDS:
        seconds = -_MAX_SECONDS if seconds < 0.0 else _MAX_SECONDS
    sec, nanosec = divmod(round(seconds * SECOND_NS), SECOND_NS)
    return make(_DURATION, sec=sec, nanosec=nanosec)


def flag_message(make: Make, flag: Flag, header: Any) -> Any:
    """Return a ConfidenceFlag. header: the image's, or made of the time of a flag without one."""
    return make(
        FLAG,
        header=header,
        seq=flag.seq,
        level=int(flag.level),
        raw_level=int(flag.raw_level),
        latched=flag.latched,
        reasons=flag.reason_bits,
        confidence=flag.confidence,
        score=_float32(flag.score),
        caution_threshold=_float32(flag.caution_threshold),
        reject_threshold=_float32(flag.reject_threshold),
        ood_score=_float32(_worst(flag, Reason.OUT_OF_DISTRIBUTION)),
        innovation=_float32(_worst(flag, Reason.INNOVATION)),
        episode_steps=flag.episode_steps,
        budget_period=flag.budget_period,
        episode=flag.episode,
        input_age=duration(make, flag.input_age_s),
        latency=duration(make, flag.latency_s),
        # What is no number must not hold for ever.
        valid_for=duration(make, 0.0 if math.isnan(flag.valid_for_s) else flag.valid_for_s),
    )


def embedding_message(
    make: Make,
    embedding: NDArray[np.float32],
    header: Any,
    flag: Any,
    *,
    action: NDArray[np.generic] | None = None,
    state: NDArray[np.float32] | None = None,
) -> Any:
    """Return a StateEmbedding.

    embedding: (N, D). flag: its ConfidenceFlag. action: (A,), as the session was given it. state:
    the robot's own, (K,). None gives an empty field.
    """
    return make(
        EMBEDDING,
        header=header,
        tokens=embedding.shape[0],
        dim=embedding.shape[1],
        latent=_flat(embedding),
        action=_flat(action),
        state=_flat(state),
        flag=flag,
    )


def prediction_message(
    make: Make,
    futures: Futures,
    header: Any,
    flag: Flag,
    *,
    actions: NDArray[np.float32],
    period_s: float,
) -> Any:
    """Return a LatentPrediction.

    actions: (H, A), the blocks that the futures were drawn under, raw units. period_s: of the
    model. Levels per step: UNKNOWN where the spread has no calibration, else the flag's, CAUTION
    or more where the spread is beyond what it usually is.
    """
    horizon, tokens, dim = futures.mean.shape
    levels = np.zeros(horizon, np.uint8)
    if futures.usual is not None and flag.level is not Level.UNKNOWN:
        caution = np.where(futures.spread > futures.usual, int(Level.CAUTION), 0)
        levels = np.maximum(int(flag.level), caution).astype(np.uint8)
    return make(
        PREDICTION,
        header=header,
        dt=duration(make, period_s),
        horizon=horizon,
        tokens=tokens,
        dim=dim,
        latent=_flat(futures.mean),
        action_dim=actions.shape[1],
        actions=_flat(actions),
        aleatoric=_flat(futures.aleatoric),
        epistemic=_flat(futures.epistemic),
        spread=_flat(futures.spread),
        bound=_flat(futures.bound),
        level=levels,
        seq=flag.seq,
    )


def model_info_message(
    make: Make,
    model: WorldModel,
    monitor: Monitor | None,
    header: Any,
    *,
    limits: SessionConfig,
    inputs: InputOptions | None = None,
    signed_by: str = "",
) -> Any:
    """Return the ModelInfo of what judges.

    limits: `Session.config`. inputs: how messages are read, if any are. signed_by: id of the key
    that the bundle's signature was checked with.
    """
    manifest, bundle = model.manifest, model.bundle
    limits = limits.resolved(1.0 / manifest.observation.rate_hz, live=False)
    observation, action = manifest.observation, manifest.action  # zeros: it takes none
    thresholds = None if monitor is None else monitor.calibration.thresholds
    budget_steps = 0
    if monitor is not None:
        domain = monitor.calibration.domain
        budget_steps = FalseAlarmBudget(domain, first_step(manifest.history)).period_steps
    return make(
        MODEL_INFO,
        header=header,
        bundle=bundle.path.name,
        family=manifest.family,
        variant=model.variant,
        runtime=model.runtime,
        device_class=model.device_class,
        manifest_sha256=manifest.sha256,
        variant_sha256=manifest.variant_sha256(model.variant),
        calibration_sha256=(
            "" if monitor is None else manifest.files.get(calibration_name(model.variant), "")
        ),
        signed_by=signed_by,
        armed=monitor is not None and monitor.armed,
        armed_reason="not calibrated" if monitor is None else monitor.disarmed_reason,
        caution_alpha=math.nan if thresholds is None else thresholds.caution_alpha,
        reject_alpha=math.nan if thresholds is None else thresholds.reject_alpha,
        caution_threshold=math.nan if thresholds is None else thresholds.caution,
        reject_threshold=math.nan if thresholds is None else thresholds.reject,
        budget_steps=budget_steps,
        rate_hz=observation.rate_hz,
        height=observation.height,
        width=observation.width,
        color=observation.color,
        history=manifest.history,
        tokens=manifest.latent.tokens,
        dim=manifest.latent.dim,
        action_dim=0 if action is None else action.dim,
        action_block=0 if action is None else action.block,
        action_names=[] if action is None else list(action.names),
        action_units="" if action is None else action.units,
        horizon=limits.horizon if limits.samples and action is not None else 0,
        max_age=limits.max_age_s,
        min_gap_periods=limits.min_gap_periods,
        max_gap_periods=limits.max_gap_periods,
        max_latency=math.inf if limits.max_latency_s is None else limits.max_latency_s,
        fall_after=limits.fall_after,
        latch=int(Level.UNKNOWN if limits.latch is None else limits.latch),
        domain_tolerance=limits.domain_tolerance,
        samples=limits.samples,
        seed=limits.seed,
        image_fit="" if inputs is None else inputs.image_fit,
        action_type="" if inputs is None else inputs.action_type,
        action_fields=[] if inputs is None else list(inputs.action_fields),
        action_timeout=0.0 if inputs is None else inputs.action_timeout_s,
        threads=model.threads,
    )


def _worst(flag: Flag, reason: Reason) -> float:
    """Largest score of the channels that give a reason; NaN where there is none."""
    names = [channel.name for channel in CHANNELS if channel.reason is reason]
    return max((flag.channels[n] for n in names if n in flag.channels), default=math.nan)


def _float32(value: float) -> float:
    """Value, or infinity where a float32 field cannot hold it."""
    return value if not abs(value) > _FLOAT32_MAX else math.copysign(math.inf, value)


def _flat(values: NDArray[np.generic] | None) -> NDArray[np.float32]:
    if values is None:
        return np.zeros(0, np.float32)
    with np.errstate(over="ignore"):  # a command beyond float32 is published as infinite
        return np.ascontiguousarray(values, np.float32).reshape(-1)
