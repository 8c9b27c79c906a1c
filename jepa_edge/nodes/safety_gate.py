# SPDX-License-Identifier: Apache-2.0
"""The safety gate: commands go through while the flag is good, slower on CAUTION, else a stop.

    cmd_in -> [ gate ] -> cmd_out          jepa/flag decides; /diagnostics says what and why

- The stop is active: as soon as the flag is REJECT, UNKNOWN or stale the gate itself publishes the
  safe command, and again at `stop_rate_hz`, whether commands come in or not. It starts stopped.
- Staleness is watched by a thread of the gate's own, on the steady clock. Simulated time that runs
  slower than real time makes flags stale early: raise max_age_s of the world model.
- Safe commands: the zero twist; for trajectories a hold of the joints where they were measured.
  Without a fresh joint state there is none: then nothing at all is passed through, the controller
  goes on with what it has, and the diagnostics say ERROR. Give such an arm a stop of its own.
- A trajectory at work when the flag turns CAUTION, or good again, is sent anew from where it is, at
  the other speed. One that a stop has ended is not taken up again. An empty trajectory is a stop,
  and so is one that names only some of the joints that another still moves.
- One publisher on jepa/flag: who published a flag cannot be told apart here, and of two publishers
  either could keep a gate open. Diagnostics count flag_restarts: with two it keeps rising.
- There is no manual override: who wants one puts it behind the gate, where it can be seen.

A gate is no safety-rated device: it needs this process, the network and the machine to run.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, cast

from jepa_edge.errors import InputError
from jepa_edge.nodes.backend import Backend, Closable
from jepa_edge.nodes.diagnostics import ARRAY as DIAGNOSTIC_ARRAY
from jepa_edge.nodes.diagnostics import Severity, status_array
from jepa_edge.nodes.gate_commands import (
    JOINT_TRAJECTORY,
    TWIST_STAMPED,
    Commands,
    TrajectoryCommands,
    TwistCommands,
)
from jepa_edge.nodes.gate_logic import Decision, FlagReport, GateLogic, GateState, Why
from jepa_edge.nodes.gate_parameters import PARAMETERS as PARAMETERS
from jepa_edge.nodes.gate_parameters import command_type, limits, nanoseconds
from jepa_edge.nodes.messages import FLAG
from jepa_edge.nodes.parameters import Value
from jepa_edge.nodes.qos import Qos, qos_profile

logger = logging.getLogger(__name__)

_WATCH_S = 0.005
"""Period of the watchdog; the first safe command of a stop is late by this at most."""

_REPORT_S = 1.0
"""Period of the diagnostics; a change is told at once, but no more often than _LEAST_REPORT_S."""

_SEVERITIES = {
    Why.NOMINAL: Severity.OK,
    Why.RESUMING: Severity.OK,
    Why.NO_COMMAND: Severity.OK,
    Why.CAUTION: Severity.WARN,
}
"""Every other reason for a state is an ERROR."""

_LEAST_REPORT_S = 0.1
_COMPLAIN_S = 1.0


class SafetyGateNode:
    """Topics: cmd_in, jepa/flag and joint_states in; cmd_out and /diagnostics out."""

    def __init__(self, backend: Backend) -> None:
        """Declare the parameters; nothing is published before `start`."""
        self._backend = backend
        self._values = backend.parameters(PARAMETERS)
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._closing = False
        self._inputs: list[Closable] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Subscribe, and publish the safe command until a good flag comes.

        Raises InputError when it runs already.
        """
        if self._thread is not None:
            raise InputError(f"{self._backend.name} runs already; close it first")
        backend, values = self._backend, self._values
        kind = command_type(values)
        backend.freeze_parameters(True)
        self._logic = GateLogic(limits(values))
        self._commands: Commands
        if kind == JOINT_TRAJECTORY:
            arm = self._commands = TrajectoryCommands(
                backend.make,
                cast("tuple[str, ...]", values["joints"]),
                timeout_ns=nanoseconds(values, "joint_state_timeout_s"),
                hold_time_ns=nanoseconds(values, "hold_time_s"),
            )
        else:
            self._commands = TwistCommands(
                backend.make,
                stamped=kind == TWIST_STAMPED,
                timeout_ns=self._logic.limits.command_timeout_ns,
            )
        self._decision = self._logic.decide(time.monotonic_ns())
        self._counts = dict.fromkeys(("passed", "scaled", "replaced", "safe"), 0)
        self._worst_delay_ns = 0
        self._reported: Decision | None = None
        self._out = backend.publisher("cmd_out", kind, _qos(values["output_qos"]))
        self._diagnostics = backend.publisher("/diagnostics", DIAGNOSTIC_ARRAY, Qos())
        self._ends.clear()
        self._closing = False
        self._thread = threading.Thread(target=self._watch, name="safety gate", daemon=True)
        self._thread.start()
        if kind == JOINT_TRAJECTORY:
            self._inputs.append(
                backend.subscribe(
                    "joint_states",
                    "sensor_msgs/msg/JointState",
                    _qos("SENSOR_DATA"),
                    lambda message: self._on_joint_state(arm, message),
                )
            )
        self._inputs += [
            backend.subscribe("jepa/flag", FLAG, _qos("RELIABLE"), self._on_flag),
            backend.subscribe("cmd_in", kind, _qos(values["input_qos"]), self._on_command),
            backend.timer(_REPORT_S, self._report),
        ]

    def close(self) -> None:
        """Take nothing in any more and stop the robot: the last word is the safe command."""
        for part in self._inputs:
            part.close()
        self._inputs.clear()
        if self._thread is None:
            return
        self._ends.set()
        self._thread.join()
        self._thread = None
        with self._lock:
            self._closing = True  # a callback that has begun may still wait for the lock
            self._stop(time.monotonic_ns())
        self._out.close()
        self._diagnostics.close()
        self._backend.freeze_parameters(False)

    def _on_flag(self, message: Any) -> None:
        with self._lock:
            if self._closing:
                return
            now_ns = time.monotonic_ns()
            self._logic.on_flag(FlagReport.of(message), now_ns, self._backend.now_ns())
            self._tick(now_ns)

    def _on_joint_state(self, arm: TrajectoryCommands, message: Any) -> None:
        with self._lock:
            arm.on_joint_state(message, time.monotonic_ns(), self._backend.now_ns())

    def _on_command(self, message: Any) -> None:
        with self._lock:
            if self._closing:
                return
            now_ns, clock_ns = time.monotonic_ns(), self._backend.now_ns()
            good = self._commands.admit(message, now_ns, clock_ns)
            self._logic.on_command(good, now_ns)
            decision = self._logic.decide(now_ns)
            if decision.state is GateState.STOPPED:
                self._counts["replaced"] += 1
                if self._commands.stream:  # as many safe commands as came in
                    self._stop(now_ns)
            else:
                full = decision.state is GateState.PASS
                self._counts["passed" if full else "scaled"] += 1
                linear, angular = decision.linear, decision.angular
                self._out.publish(self._commands.passed(message, linear, angular, now_ns, clock_ns))
            self._tick(now_ns)

    def _watch(self) -> None:
        """Stop the robot as soon as it is due, whatever the dispatcher is at."""
        complained_s = reported_s = 0.0
        while not self._ends.wait(_WATCH_S):
            now_s = time.monotonic()
            try:
                with self._lock:
                    self._tick(time.monotonic_ns())
                    told = self._reported is not None and _same(self._reported, self._decision)
                if not told and now_s - reported_s > _LEAST_REPORT_S:
                    reported_s = now_s
                    self._report()
            except Exception:  # a watchdog that dies is worse than one that complains
                if now_s - complained_s > _COMPLAIN_S:
                    complained_s = now_s
                    logger.exception("the gate's watchdog could not do its work, it goes on")

    def _tick(self, now_ns: int) -> None:
        """Do what is due by itself: stop, or send the command at work anew at another speed."""
        before, decision = self._decision, self._logic.decide(now_ns)
        self._decision = decision
        if decision.state is GateState.STOPPED:
            if self._logic.stop_due(now_ns):
                self._stop(now_ns)
            if before.state is not GateState.STOPPED and decision.why is Why.STALE:
                delay_ns = time.monotonic_ns() - self._logic.flags.good_until_ns
                self._worst_delay_ns = max(self._worst_delay_ns, delay_ns)
        else:
            message = self._commands.again(decision.linear, decision.angular, now_ns)
            if message is not None:
                self._out.publish(message)
        if not _same(before, decision):
            logger.info("%s: %s", decision.state.name, decision.why.value)

    def _stop(self, now_ns: int) -> None:
        message = self._commands.safe(now_ns, self._backend.now_ns())
        if message is not None:
            self._out.publish(message)
            self._counts["safe"] += 1
            self._logic.on_safe(now_ns)

    def _report(self) -> None:
        """Publish the diagnostics."""
        backend, clock_ns = self._backend, self._backend.now_ns()
        with self._lock:
            if self._closing:
                return
            decision = self._reported = self._decision
            flags = self._logic.flags
            age_ns = flags.age_ns(time.monotonic_ns())
            values = {
                "gate": decision.state.name,
                "why": decision.why.value,
                "flag_age_ms": "" if age_ns is None else f"{age_ns / 1e6:.1f}",
                "linear_scale": f"{decision.linear:.3f}",
                "angular_scale": f"{decision.angular:.3f}",
                **{f"commands_{name}": count for name, count in self._counts.items()},
                "stops": self._logic.stops,
                "flags_taken": flags.taken,
                "flag_restarts": flags.restarts,
                "flags_repeated": flags.repeated,
                "valid_for_capped": flags.capped,
                "worst_stop_delay_ms": f"{self._worst_delay_ns / 1e6:.2f}",
            }
            severity, told = self._judged(decision)
            self._diagnostics.publish(
                status_array(
                    backend.make, backend.name, "safety gate", severity, told, values, clock_ns
                )
            )

    def _judged(self, decision: Decision) -> tuple[Severity, str]:
        helpless = self._commands.unsafe_reason
        if helpless:
            return Severity.ERROR, helpless
        severity = _SEVERITIES.get(decision.why, Severity.ERROR)
        told = f"{decision.state.name}: {decision.why.value}"
        if self._logic.flags.capped:
            severity = max(severity, Severity.WARN)
            most_s = self._logic.limits.max_valid_for_ns / 1e9
            told += f"; flags say that they hold for longer than max_valid_for_s, {most_s:g} s"
        return severity, told


def _qos(name: Value) -> Qos:
    return qos_profile(cast(str, name))


def _same(one: Decision, other: Decision) -> bool:
    """Whether two decisions read alike; a ramp's factors change all the time."""
    return (one.state, one.why) == (other.state, other.why)
