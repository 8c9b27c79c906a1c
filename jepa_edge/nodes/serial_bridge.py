# SPDX-License-Identifier: Apache-2.0
"""The serial bridge: jepa/flag to a microcontroller or an autopilot.

    jepa/flag, jepa/model_info -> [ bridge ] -> serial line (docs/serial.md, docs/autopilot.md)

How old a flag may be is decided as in the safety gate, by its stamp. The line is told at a fixed
rate what holds at that moment; without a valid flag that is UNKNOWN. `start` does not wait for the
port: it is opened when it is there, and again when it was lost.
"""

from __future__ import annotations

import threading
import time
from typing import Any, cast

from jepa_edge.errors import InputError
from jepa_edge.nodes.backend import Backend, Closable
from jepa_edge.nodes.diagnostics import ARRAY as DIAGNOSTICS
from jepa_edge.nodes.diagnostics import Severity, status_array
from jepa_edge.nodes.gate_logic import FlagReport, FlagWatch, Why
from jepa_edge.nodes.messages import FLAG, MODEL_INFO
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos, qos_profile
from jepa_edge.serial.config import (
    MAX_HOLD_S,
    MAX_RATE_HZ,
    LinkConfig,
    LinkFlag,
    LinkProtocol,
    LinkStats,
    LinkStatus,
)
from jepa_edge.serial.link import SerialLink

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        name="port",
        default="",
        description="Device such as /dev/ttyACM0, socket://host:port, or for MAVLink also "
        "udpout:host:port, udpin:host:port, udpbcast:host:port.",
    ),
    Parameter(
        name="baud",
        default=115200,
        description="Bits per second of a device; USB devices do not care.",
        low=1,
        high=20_000_000,
    ),
    Parameter(
        name="protocol",
        default=LinkProtocol.JEPA.value,
        description="jepa: frames for a microcontroller (docs/serial.md). mavlink: MAVLink 2.",
        choices=tuple(protocol.value for protocol in LinkProtocol),
    ),
    Parameter(
        name="rate_hz",
        default=0.0,
        description="Flags per second, 1 or more; 0 for the protocol's own, 20 or with MAVLink 10.",
        low=0.0,
        high=MAX_RATE_HZ,
    ),
    Parameter(
        name="hold_s",
        default=0.5,
        description="The longest that the receiver may act on one frame, s: so long a cut line "
        "can go unnoticed.",
        low=0.001,
        high=MAX_HOLD_S,
    ),
    Parameter(
        name="max_valid_for_s",
        default=2.0,
        description="A flag is believed no longer than this, whatever it says itself, s.",
        low=0.001,
        high=3600.0,
    ),
    Parameter(
        name="max_backoff_s",
        default=2.0,
        description="Longest pause between two attempts to open the port, s.",
        low=0.1,
        high=60.0,
    ),
    Parameter(
        name="system_id",
        default=1,
        description="MAVLink: system, that of the vehicle.",
        low=1,
        high=255,
    ),
    Parameter(
        name="component_id",
        default=191,
        description="MAVLink: component, 191 is an onboard computer.",
        low=1,
        high=255,
    ),
)

_REPORT_S = 1.0
_LATE = (Why.STALE, Why.NO_CLOCK, Why.FUTURE)


class SerialBridgeNode:
    """Topics: jepa/flag and jepa/model_info in; /diagnostics out."""

    def __init__(self, backend: Backend) -> None:
        """Declare the parameters; nothing is opened before `start`."""
        self._backend = backend
        self._values = backend.parameters(PARAMETERS)
        self._lock = threading.Lock()
        self._parts: list[Closable] = []
        self._link: SerialLink | None = None

    def start(self) -> None:
        """Subscribe and begin to send.

        Raises InputError when it runs already or a parameter cannot be, MissingDependencyError
        without the extra `serial`, or `mavlink` for that protocol.
        """
        if self._link is not None:
            raise InputError(f"{self._backend.name} runs already; close it first")
        backend, values = self._backend, self._values
        link = SerialLink(
            LinkConfig(
                port=cast(str, values["port"]),
                baud=cast(int, values["baud"]),
                protocol=LinkProtocol(values["protocol"]),
                rate_hz=cast(float, values["rate_hz"]),
                hold_s=cast(float, values["hold_s"]),
                max_backoff_s=cast(float, values["max_backoff_s"]),
                system_id=cast(int, values["system_id"]),
                component_id=cast(int, values["component_id"]),
            )
        )
        backend.freeze_parameters(True)
        self._flags = FlagWatch(round(1e9 * cast(float, values["max_valid_for_s"])))
        self._seen = LinkStats()
        self._link = link
        link.start()
        info_qos = Qos(reliable=True, depth=1, transient_local=True)
        self._parts = [
            backend.subscribe("jepa/flag", FLAG, qos_profile("RELIABLE"), self._on_flag),
            backend.subscribe("jepa/model_info", MODEL_INFO, info_qos, self._on_model_info),
        ]
        diagnostics = backend.publisher("/diagnostics", DIAGNOSTICS, Qos())
        timer = backend.timer(_REPORT_S, lambda: diagnostics.publish(self._report()))
        self._parts += [timer, diagnostics]

    def close(self) -> None:
        """Take nothing in any more, say UNKNOWN once more and close the port."""
        for part in self._parts:
            part.close()
        self._parts.clear()
        if self._link is None:
            return
        self._link.close()
        self._link = None
        self._backend.freeze_parameters(False)

    def _on_flag(self, message: Any) -> None:
        link = self._link
        if link is None:
            return
        with self._lock:
            taken, (before, _) = self._flags.taken, self._flags.level(time.monotonic_ns())
            now_ns = time.monotonic_ns()
            self._flags.on_flag(FlagReport.of(message), now_ns, self._backend.now_ns())
            level, why = self._flags.level(now_ns)
            repeated = self._flags.taken == taken
            left_s = 0.0 if why in _LATE else 1e-9 * (self._flags.good_until_ns - now_ns)
        if repeated and level == before:
            return
        link.update(
            LinkFlag(
                level=level,
                reasons=int(message.reasons),
                latched=bool(message.latched),
                confidence=float(message.confidence),
                seq=int(message.seq),
            ),
            left_s,
        )

    def _on_model_info(self, message: Any) -> None:
        if self._link is not None:
            self._link.introduce(
                LinkStatus(
                    variant=message.variant,
                    model_sha256=message.variant_sha256,
                    calibration_sha256=message.calibration_sha256,
                    alpha=float(message.caution_alpha),
                    armed=bool(message.armed),
                )
            )

    def _report(self) -> Any:
        """Return the diagnostics."""
        backend, link = self._backend, self._link
        now, before = LinkStats() if link is None else link.stats, self._seen
        self._seen = now
        with self._lock:
            _, why = self._flags.level(time.monotonic_ns())
            age_ns = self._flags.age_ns(time.monotonic_ns())
        if not now.connected:
            severity, told = Severity.ERROR, now.error or "the port is not open yet"
        elif now.skipped > before.skipped:
            severity, told = Severity.WARN, "the other end does not read as fast as it is sent to"
        elif why in _LATE or why is Why.NO_FLAG:
            severity, told = Severity.WARN, why.value
        else:
            severity, told = Severity.OK, "sending"
        values = {
            "port": self._values["port"],
            "link": "open" if now.connected else "closed",
            "flag": why.value,
            "flag_age_ms": "" if age_ns is None else f"{age_ns / 1e6:.1f}",
            "frames_sent": now.flags,
            "frames_skipped": now.skipped,
            "stalls": now.stalls,
            "reconnects": max(now.connects - 1, 0),
            "frame_rate_node": f"{(now.flags - before.flags) / _REPORT_S:.1f}",
        }
        return status_array(
            backend.make, backend.name, "serial link", severity, told, values, backend.now_ns()
        )
