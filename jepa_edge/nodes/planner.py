# SPDX-License-Identifier: Apache-2.0
"""The planner node: action sequences that bring the robot to a goal, as long as the model is good.

    jepa/embedding, jepa/flag, jepa/model_info -> [ planner ] -> jepa/planned_actions, /diagnostics
    action jepa/plan_latent: search, once or again and again. Service jepa/score_actions: rate.

It plans from what the world model node publishes, with the same bundle. It refuses while the flag
is UNKNOWN, REJECT or stale, and without a fresh latent. A plan is a proposal: what executes it puts
the safety gate behind itself, and follows only the newest plan, for there is none that says stop.
A search cannot be broken off: a cancelled goal ends when its search does, so give it a deadline.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jepa_edge.backends import Provider
from jepa_edge.chunks import rows_per_chunk
from jepa_edge.errors import InputError, JepaEdgeError
from jepa_edge.flags import Level
from jepa_edge.manifest import calibration_name
from jepa_edge.nodes.backend import Backend, Closable, Goal
from jepa_edge.nodes.bundle_loading import open_bundle
from jepa_edge.nodes.diagnostics import ARRAY as DIAGNOSTICS
from jepa_edge.nodes.diagnostics import Severity, status_array
from jepa_edge.nodes.gate_logic import MAX_VALID_FOR_S, FlagReport, FlagWatch
from jepa_edge.nodes.messages import EMBEDDING, FLAG, MODEL_INFO, SECOND_NS
from jepa_edge.nodes.planner_messages import ARRAY, flat, plan_message, read_candidates, read_goal
from jepa_edge.nodes.planner_parameters import PARAMETERS as PARAMETERS
from jepa_edge.nodes.planner_parameters import make_planner
from jepa_edge.nodes.planner_run import PlanRun, World
from jepa_edge.nodes.planner_state import State, StateHistory
from jepa_edge.nodes.qos import Qos, qos_profile
from jepa_edge.planner import goal_energy
from jepa_edge.session_config import MAX_AGE_PERIODS
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

_REPORT_S = 1.0
_NO_INFO = "no jepa/model_info has come yet; is the world model configured?"


class PlannerNode:
    """Topics, action and service as above."""

    def __init__(self, backend: Backend) -> None:
        """Declare the parameters; nothing is loaded before `start`."""
        self._backend = backend
        self._values = backend.parameters(PARAMETERS)
        self._parts: list[Closable] = []
        self._run: PlanRun | None = None
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._closing = threading.Event()

    def start(self) -> None:
        """Load the bundle and begin to serve.

        Raises JepaEdgeError when the bundle cannot be loaded or cannot do what the parameters ask
        for, and InputError when it runs already.
        """
        if self._parts:
            raise InputError(f"{self._backend.name} runs already; close it first")
        values, backend = self._values, self._backend
        bundle, _ = open_bundle(cast(str, values["bundle"]), cast(str, values["require_signature"]))
        manifest = bundle.manifest
        manifest.require_action()
        calibrated = any(calibration_name(name) in manifest.files for name in manifest.variants)
        self._model = WorldModel.load(
            bundle,
            cast(str, values["variant"]),
            threads=cast(int, values["threads"]),
            calibrated_only=calibrated,
            provider=cast(Provider, values["provider"]),
            engines=Path(cast(str, values["engines"])) if values["engines"] else None,
        )
        self._planner = make_planner(self._model, values)
        self._model.own_engine()  # loaded now, not with the first request
        usual_s = MAX_AGE_PERIODS / manifest.observation.rate_hz
        age_s = cast(float, values["max_state_age_s"]) or usual_s
        self._states = StateHistory(manifest, round(age_s * SECOND_NS))
        self._flags = FlagWatch(round(MAX_VALID_FOR_S * SECOND_NS))
        self._flag = backend.make(FLAG)
        self._mismatch = _NO_INFO
        self._run = None
        self._closing.clear()
        backend.freeze_parameters(True)
        output_qos = qos_profile(cast(str, values["output_qos"]))
        self._plans = backend.publisher("jepa/planned_actions", ARRAY, output_qos)
        self._diagnostics = backend.publisher("/diagnostics", DIAGNOSTICS, Qos())
        self._parts = [
            backend.subscribe("jepa/flag", FLAG, Qos(depth=1), self._on_flag),
            backend.subscribe(
                "jepa/model_info", MODEL_INFO, Qos(depth=1, transient_local=True), self._on_info
            ),
            backend.subscribe(
                "jepa/embedding",
                EMBEDDING,
                qos_profile(cast(str, values["input_qos"])),
                self._on_embedding,
            ),
            backend.service("jepa/score_actions", "jepa_msgs/srv/ScoreActions", self._score),
            backend.action("jepa/plan_latent", "jepa_msgs/action/PlanLatent", self._execute),
            backend.timer(_REPORT_S, self._report),
        ]

    def close(self) -> None:
        """Take no more goals, and wait for the search at work."""
        if not self._parts:
            return
        self._closing.set()
        for part in self._parts:
            part.close()
        self._parts = []
        with self._lock:
            self._diagnostics.close()
        with self._busy:
            self._plans.close()
        self._backend.freeze_parameters(False)

    def _on_flag(self, message: Any) -> None:
        with self._lock:
            self._flags.on_flag(FlagReport.of(message), time.monotonic_ns(), self._backend.now_ns())
            self._flag = message

    def _on_info(self, message: Any) -> None:
        """Find out whether the latents that come are this model's."""
        manifest, mismatch = self._model.manifest, ""
        self._states.gaps = (float(message.min_gap_periods), float(message.max_gap_periods))
        if message.manifest_sha256 != manifest.sha256:
            mismatch = (
                f"the world model runs bundle {message.bundle} ({message.manifest_sha256[:12]}), "
                f"expected the planner's {self._model.bundle.path.name} ({manifest.sha256[:12]}); "
                "give both the same bundle"
            )
            logger.error("%s", mismatch)
        elif message.variant_sha256 != manifest.variant_sha256(self._model.variant):
            logger.warning(
                "the world model encodes with variant %s, the planner predicts with %s; set "
                "parameter variant of both to the same",
                message.variant,
                self._model.variant,
            )
        self._mismatch = mismatch

    def _on_embedding(self, message: Any) -> None:
        self._states.on_embedding(message, time.monotonic_ns())

    def _state(self) -> tuple[State | None, str]:
        if self._mismatch:
            return None, self._mismatch
        return self._states.state(time.monotonic_ns(), self._backend.now_ns())

    def _over(self, state: State) -> tuple[int, str]:
        """As `World.over`."""
        if self._mismatch:
            return 0, self._mismatch
        clock_ns = self._backend.now_ns()
        newest, why = self._states.state(time.monotonic_ns(), clock_ns)
        if newest is None:
            return 0, why
        rate_hz = self._model.manifest.observation.rate_hz
        return int(max(clock_ns - state.stamp_ns, 0) * rate_hz / SECOND_NS), ""

    def _trust(self) -> tuple[str, int]:
        """Why the model is not to be trusted, empty if it is; and the flag's level."""
        with self._lock:
            level, why = self._flags.level(time.monotonic_ns())
        return "" if level in (Level.NOMINAL, Level.CAUTION) else why.value, int(level)

    def _newest_flag(self) -> Any:
        with self._lock:
            return self._flag

    def _goal(self, request: Any) -> NDArray[np.float32]:
        fit = cast(Any, self._values["image_fit"])
        return read_goal(self._model, request.goal_image, request.goal_latent, fit)

    def _execute(self, goal: Goal) -> Any:
        world = World(
            state=self._state,
            trust=self._trust,
            flag=self._newest_flag,
            wait_newer=self._states.wait_newer,
            over=self._over,
            publish=lambda actions: self._plans.publish(plan_message(self._backend.make, actions)),
            closing=self._closing.is_set,
        )
        period_s = cast(float, self._values["replan_period_s"])
        run = PlanRun(self._backend.make, self._planner, world, self._goal, period_s)
        with self._busy:
            self._run = run
            return _aside(lambda: run.run(goal), cast(int, self._values["search_nice"]))

    def _score(self, request: Any) -> Any:
        """Answer ScoreActions; what is wrong with a request is a message, never an exception."""
        make, kind = self._backend.make, "jepa_msgs/srv/ScoreActions_Response"
        flag = self._newest_flag()
        try:
            spec = self._model.manifest.require_action()
            most = cast(int, self._values["max_candidates"])
            steps = most * cast(int, self._values["horizon"])
            actions = read_candidates(request, spec.dim, most, steps)
            goal = self._goal(request)
            state, why = self._state()
            why = why or self._trust()[0]
            if state is None or why:
                return make(kind, message=why, flag=flag)
            energies = self._energies(state, actions, goal)
        except JepaEdgeError as error:
            return make(kind, message=str(error), flag=flag)
        good = bool(np.isfinite(energies).any())
        return make(
            kind,
            success=good,
            message="" if good else f"all of {len(actions)} rollouts diverged",
            stamp=state.stamp,
            energies=flat(energies),
            best=int(np.argmin(energies)),
            flag=flag,
        )

    def _report(self) -> None:
        """Publish the diagnostics."""
        backend, run, clock_ns = self._backend, self._run, self._backend.now_ns()
        state, no_state = self._state()
        no_trust, level = self._trust()
        severity = Severity.WARN if no_state or no_trust else Severity.OK
        if self._mismatch not in ("", _NO_INFO):
            severity = Severity.ERROR
        values: dict[str, object] = {
            "state_age_ms": "",
            "trust": no_trust or "good",
            "flag_level": Level(level).name,
            "status": "no goal yet" if run is None else run.status or "planning",
            "searches": 0 if run is None else run.searches,
            "search_time_ms": "" if run is None else 1e3 * run.search_s,
        }
        if state is not None:
            values["state_age_ms"] = 1e-6 * state.age_ns(time.monotonic_ns(), clock_ns)
        message = status_array(
            backend.make,
            backend.name,
            "planner",
            severity,
            no_state or no_trust or "ready",
            values,
            clock_ns,
        )
        with self._lock:
            if not self._closing.is_set():
                self._diagnostics.publish(message)

    def _energies(
        self, state: State, actions: NDArray[np.float32], goal: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Energy of each candidate's last latent, +inf where it diverged."""
        engine = self._model.own_engine()
        with np.errstate(over="ignore", invalid="ignore"):
            if engine is not None:
                rolled = engine.rollout(state.history, state.past_actions, actions)[:, -1:]
            else:
                floats = (len(state.history) + actions.shape[1]) * self._model.manifest.latent.size
                rows = rows_per_chunk(floats)  # the graph holds a copy of the history for each
                rolled = np.concatenate(
                    [
                        self._rolled(state, actions[begin : begin + rows])
                        for begin in range(0, len(actions), rows)
                    ]
                )
            energies = goal_energy(rolled, goal, spec=self._model.manifest.latent)
        return np.where(np.isfinite(energies), energies, np.float32(np.inf))

    def _rolled(self, state: State, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        count = len(actions)
        history = np.repeat(state.history[None], count, axis=0)
        past = np.repeat(state.past_actions[None], count, axis=0)
        return self._model.rollout(history, np.concatenate([past, actions], axis=1))[:, -1:]


def _aside(work: Callable[[], Any], nice: int) -> Any:
    """Return what work returns, done in a thread of its own whose priority is lower by nice.

    The backend's threads serve others too, and no thread may raise its priority again. Threads that
    the work starts inherit it. Elsewhere than on Linux threads have none of their own.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            if sys.platform == "linux":
                thread = threading.get_native_id()
                present = os.getpriority(os.PRIO_PROCESS, thread)
                os.setpriority(os.PRIO_PROCESS, thread, min(present + nice, 19))
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="planner search", daemon=True).start()
    return done.result()
