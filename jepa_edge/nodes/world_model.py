# SPDX-License-Identifier: Apache-2.0
"""The world model node: images and actions in; flags, embeddings and predictions out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.monitor import Monitor
from jepa_edge.nodes import diagnostics, markers
from jepa_edge.nodes.backend import Backend, Closable, Publisher
from jepa_edge.nodes.bundle_loading import open_bundle
from jepa_edge.nodes.diagnostics import Diagnostics
from jepa_edge.nodes.fields import ARRAY, full_name
from jepa_edge.nodes.frame_loop import FrameLoop, LoopLimits
from jepa_edge.nodes.inputs import Frame, Inputs
from jepa_edge.nodes.labels import STRING, labels_message
from jepa_edge.nodes.messages import (
    EMBEDDING,
    FLAG,
    IMAGE,
    MODEL_INFO,
    PREDICTION,
    embedding_message,
    flag_message,
    header,
    model_info_message,
    nanoseconds,
    prediction_message,
    seconds,
)
from jepa_edge.nodes.qos import Qos
from jepa_edge.nodes.world_model_parameters import PARAMETERS as PARAMETERS
from jepa_edge.nodes.world_model_parameters import Settings
from jepa_edge.selective import Selective, selective
from jepa_edge.session import Flag, Observation, Session, Update
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

_TRIGGER = "std_srvs/srv/Trigger"
_DEADLINE_SLACK_S = 0.04
"""How much later than the watchdog looks a flag may come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Configured:
    """What lasts from configure to cleanup."""

    settings: Settings
    inputs: Inputs
    outputs: _Outputs
    diagnostics: Diagnostics
    loop: FrameLoop
    monitor: Monitor | None
    closables: tuple[Closable, ...]


class WorldModelNode:
    """Lifecycle: `configure` loads the bundle and advertises, `activate` starts, `deactivate` and
    `cleanup` undo that; `close` ends it in any state.

    Active, it publishes a flag for every frame that the model gets, and one per period when none
    comes or inference does not end. Errors of a single frame are reported and survived: its flag is
    UNKNOWN, /diagnostics shows an error.
    """

    def __init__(self, backend: Backend) -> None:
        """Declares the parameters. Raises InputError when one that is given does not fit."""
        self._backend = backend
        self._values = backend.parameters(PARAMETERS)
        self._configured: _Configured | None = None
        self._active: tuple[Closable, ...] | None = None

    def configure(self) -> None:
        """Load the bundle, then advertise topics and services; parameters cannot be set until
        `cleanup`.

        Raises JepaEdgeError, one line, when the parameters, the bundle or its calibration do not
        allow it; nothing is left behind then.
        """
        if self._configured is not None:
            raise InputError("the node is configured already; clean it up first")
        settings = Settings.of(self._values)
        model, monitor, signed_by = _load(settings)
        inputs = Inputs(model.manifest, settings.inputs)
        inputs.check_fields(self._backend.make)
        session = Session(
            model,
            monitor,
            settings.session,
            clock=lambda: seconds(self._backend.now_ns()),
        )
        opened: list[Closable] = []
        try:
            self._configured = self._assemble(settings, session, inputs, signed_by, opened)
        except Exception:
            _close(opened)
            raise
        self._backend.freeze_parameters(True)
        logger.info(
            "%s: %s %s at %g Hz, %s",
            self._backend.name,
            model.bundle.path.name,
            model.variant,
            model.manifest.observation.rate_hz,
            "not calibrated" if monitor is None else monitor.disarmed_reason or "armed",
        )

    def activate(self) -> None:
        """Subscribe and start."""
        parts = self._ready()
        if self._active is not None:
            raise InputError("the node is active already")
        backend, settings, inputs, loop = self._backend, parts.settings, parts.inputs, parts.loop
        loop.start()
        opened: list[Closable] = []
        try:
            action_type = full_name(settings.inputs.action_type)
            array = full_name(ARRAY)
            subscriptions = []
            if inputs.actions is not None:
                subscriptions += [
                    ("action", action_type, lambda m: inputs.on_action(m, backend.now_ns())),
                    ("planned_actions", array, lambda m: inputs.on_plan(m, backend.now_ns())),
                ]
            if settings.inputs.state_type:
                state_type = full_name(settings.inputs.state_type)
                subscriptions.append(
                    ("state", state_type, lambda m: inputs.on_state(m, backend.now_ns()))
                )
            for topic, type_name, callback in subscriptions:
                opened.append(backend.subscribe(topic, type_name, settings.action_qos, callback))
            opened.append(backend.subscribe("image", IMAGE, settings.image_qos, loop.on_image))
            period_s = float(settings.values["diagnostics_period_s"])
            opened.append(backend.timer(period_s, self._publish_diagnostics))
        except Exception:
            _close(opened)
            loop.stop()
            raise
        self._active = tuple(opened)

    def deactivate(self) -> None:
        """Stop. The last flag says UNKNOWN, and nothing is published after this returns. A latched
        level stays."""
        if self._active is None:
            raise InputError("the node is not active")
        active, self._active = self._active, None
        _close(active)
        self._ready().loop.stop()

    def cleanup(self) -> None:
        """Let go of bundle, topics and services; a latched level is forgotten with the session."""
        if self._active is not None:
            raise InputError("the node is active; deactivate it first")
        parts, self._configured = self._ready(), None
        _close(parts.closables)
        self._backend.freeze_parameters(False)

    def close(self) -> None:
        """End it, whatever its state; twice does no harm."""
        if self._active is not None:
            self.deactivate()
        if self._configured is not None:
            self.cleanup()

    def _ready(self) -> _Configured:
        if self._configured is None:
            raise InputError("the node is not configured yet, expected configure() before this")
        return self._configured

    def _assemble(
        self,
        settings: Settings,
        session: Session,
        inputs: Inputs,
        signed_by: str,
        opened: list[Closable],
    ) -> _Configured:
        """Advertise everything; what is opened goes onto the list at once."""
        backend, values, model = self._backend, settings.values, session.model
        period_s = 1.0 / model.manifest.observation.rate_hz
        valid_for_s = cast(float, session.config.max_age_s)
        publish = selective(
            model,
            on_change=float(values["on_change"]) or None,
            keepalive_s=float(values["on_change_keepalive_s"]),
            labels=int(values["labels"]),
        )
        if not model.takes_actions:  # and so it predicts nothing ahead
            settings = replace(settings, values={**values, "publish_prediction": False})
        outputs = _Outputs(backend, settings, period_s, valid_for_s, publish, opened)
        diagnostic = Diagnostics(
            name=backend.name,
            period_s=period_s,
            max_allowed_s=1e-3 * float(values["max_allowed_processing_time_ms"]) or period_s,
            max_delay_s=1e-3 * float(values["max_acceptable_consecutive_delay_ms"]),
        )
        limits = LoopLimits(
            period_s=period_s,
            valid_for_s=valid_for_s,
            check_s=float(values["watchdog_period_s"]),
            state_wait_s=float(values["sync_wait_s"]),
        )
        loop = FrameLoop(session, inputs, outputs, diagnostic, limits, backend.now_ns)
        for name, act in (
            ("jepa/begin_episode", loop.begin_episode),
            ("jepa/reset_latch", loop.reset_latch),
        ):
            opened.append(backend.service(name, _TRIGGER, _answering(backend, act)))
        info = backend.publisher("jepa/model_info", MODEL_INFO, Qos(depth=1, transient_local=True))
        opened.append(info)
        info.publish(
            model_info_message(
                backend.make,
                model,
                session.monitor,
                header(backend.make, backend.now_ns(), str(values["frame_id"])),
                limits=session.config,
                inputs=settings.inputs,
                signed_by=signed_by,
            )
        )
        return _Configured(
            settings=settings,
            inputs=inputs,
            outputs=outputs,
            diagnostics=diagnostic,
            loop=loop,
            monitor=session.monitor,
            closables=tuple(opened),
        )

    def _publish_diagnostics(self) -> None:
        parts = self._configured
        if parts is None:
            return
        monitor = parts.monitor
        message = parts.diagnostics.message(
            self._backend.make,
            self._backend.now_ns(),
            {
                "frames_received": parts.inputs.frames_seen,
                "frames_decimated": parts.inputs.frames_decimated,
                "frames_dropped": parts.loop.dropped,
                "frames_without_action": parts.inputs.frames_without_action,
                "frames_without_state": parts.inputs.frames_without_state,
                "clips_broken": parts.inputs.clips_broken,
                "embeddings_saved_share": parts.outputs.saved_share,
                "armed": monitor is not None and monitor.armed,
                "armed_reason": "not calibrated" if monitor is None else monitor.disarmed_reason,
                "drift": monitor is not None and monitor.drift_alarmed,
            },
        )
        parts.outputs.diagnostics.publish(message)


class _Outputs:
    """The node's publishers."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        period_s: float,
        valid_for_s: float,
        publish: Selective,
        opened: list[Closable],
    ) -> None:
        """publish: says what goes out of an update. opened: takes every publisher at once, so that
        none is left behind on an error."""
        values = settings.values
        self._make = backend.make
        self._frame_id = str(values["frame_id"])
        self._last_frame_id = self._frame_id
        self._period_s = period_s
        self._horizon = settings.session.horizon

        def publisher(topic: str, type_name: str, qos: Qos) -> Publisher:
            opened.append(backend.publisher(topic, type_name, qos))
            return opened[-1]  # type: ignore[return-value]

        # Stale flags follow each other by a period, the first one follows a good one by more.
        deadline_s = max(valid_for_s, period_s) + float(values["watchdog_period_s"])
        deadline_s += _DEADLINE_SLACK_S
        self._flag = publisher("jepa/flag", FLAG, Qos(depth=1, deadline_s=deadline_s))
        self._flag_message: Any = None
        self._publish = publish
        self._labels: Publisher | None = None
        if publish.labels:
            self._labels = publisher("jepa/labels", STRING, settings.output_qos)
        self._embedding: Publisher | None = None
        self._prediction: Publisher | None = None
        self._markers: Publisher | None = None
        if values["publish_embedding"]:
            self._embedding = publisher("jepa/embedding", EMBEDDING, settings.output_qos)
        if values["publish_prediction"]:
            self._prediction = publisher("jepa/prediction", PREDICTION, settings.output_qos)
        if values["publish_markers"]:
            self._markers = publisher("jepa/markers", markers.ARRAY, settings.output_qos)
        self.diagnostics = publisher("/diagnostics", diagnostics.ARRAY, Qos(depth=10))

    @property
    def saved_share(self) -> float:
        """Share of embeddings that parameter on_change withheld."""
        gate = self._publish.gate
        return 0.0 if gate is None else gate.saved_share

    def flag(self, flag: Flag, frame: Frame | None) -> None:
        """Publish a flag; the watchdog's has the time it was made and the last image's frame."""
        if frame is None:
            stamped = header(self._make, nanoseconds(flag.stamp_s), self._last_frame_id)
        else:
            stamped = self._header(frame)
            self._last_frame_id = stamped.frame_id
        message = flag_message(self._make, flag, stamped)
        self._flag.publish(message)
        if frame is not None:
            self._flag_message = message
        elif self._markers is not None:
            self._markers.publish(markers.marker_array(self._make, flag, None, stamped))

    def rest(
        self,
        frame: Frame,
        observation: Observation,
        update: Update,
        state: NDArray[np.float32] | None,
    ) -> None:
        """Publish what goes with a flag; a session gives embeddings and futures only if they are
        finite and fresh."""
        flag, make, stamped = update.flag, self._make, self._flag_message.header
        published = self._publish(update)
        futures = published.futures
        if self._labels is not None and published.labels:
            self._labels.publish(labels_message(make, published.labels, flag, stamped))
        if self._embedding is not None and published.embedding is not None:
            self._embedding.publish(
                embedding_message(
                    make,
                    published.embedding,
                    stamped,
                    self._flag_message,
                    action=observation.action,
                    state=state,
                )
            )
        if self._prediction is not None and futures is not None:
            steps = len(futures.spread)
            planned = observation.planned
            if planned is None and observation.action is not None:
                planned = np.repeat(observation.action[None], steps, axis=0)
            if planned is not None:
                self._prediction.publish(
                    prediction_message(
                        make, futures, stamped, flag, actions=planned, period_s=self._period_s
                    )
                )
        if self._markers is not None:
            self._markers.publish(markers.marker_array(make, flag, update.futures, stamped))

    def _header(self, frame: Frame) -> Any:
        """The image's header as it is, or with the frame that the parameter names."""
        given = frame.header
        if not self._frame_id:
            return given
        return self._make("std_msgs/msg/Header", stamp=given.stamp, frame_id=self._frame_id)


def _load(settings: Settings) -> tuple[WorldModel, Monitor | None, str]:
    """Open, verify and load the bundle; the last is the id of the key that signed it, or empty."""
    values = settings.values
    bundle, signed_by = open_bundle(str(values["bundle"]), str(values["require_signature"]))
    model = WorldModel.load(
        bundle,
        str(values["variant"]),
        threads=int(values["threads"]),
        calibrated_only=not values["uncalibrated"],
        provider=values["provider"],
        engines=Path(values["engines"]) if values["engines"] else None,
    )
    monitor = None
    if not values["uncalibrated"]:
        state = Path(str(values["state_dir"])) if values["state_dir"] else None
        try:
            monitor = Monitor.load(model, state=state)
        except CalibrationError as error:
            raise CalibrationError(f"{error}; or set parameter uncalibrated") from error
    return model, monitor, signed_by


def _answering(backend: Backend, act: Any) -> Any:
    """A Trigger's callback out of a function that returns (success, message)."""

    def answer(_: Any) -> Any:
        success, message = act()
        return backend.make(f"{_TRIGGER}_Response", success=success, message=message)

    return answer


def _close(opened: list[Closable] | tuple[Closable, ...]) -> None:
    for closable in reversed(opened):
        closable.close()
