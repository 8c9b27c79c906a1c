# SPDX-License-Identifier: Apache-2.0
"""The planner says what it stands on, and gives nothing that is late or not to be trusted."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import BundleError, InputError
from jepa_edge.keys import generate_key
from jepa_edge.nodes.bundle_loading import open_bundle
from jepa_edge.planner import Plan, Planner
from jepa_edge.signing import sign_bundle

from .test_planner_node import (
    FAST,
    NO_STATE,
    NOT_TRUSTED,
    PERIOD_NS,
    PLANNED,
    Bench,
    MakeBench,
    _history,
    benches,
)

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
GOAL, BLOCK = np.zeros(6), np.full(4, 256.0)


@pytest.fixture
def bench_of(linear_bundle: Path) -> Iterator[MakeBench]:
    """As `benches`."""
    with benches(linear_bundle) as of:
        yield of


def _searches(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> list[Plan]:
    """Have something happen while every search is at work; return the list of their plans."""
    plans: list[Plan] = []
    plan = Planner.plan

    def slow(self: Planner, *args: Any, **kwargs: Any) -> Plan:
        plans.append(plan(self, *args, **kwargs))
        meanwhile()
        return plans[-1]

    monkeypatch.setattr(Planner, "plan", slow)
    return plans


@pytest.mark.parametrize(("periods", "over"), [(0.0, 0), (0.9, 0), (1.1, 1), (2.9, 2)])
def test_blocks_that_are_over_when_the_search_ends_are_left_out(
    bench_of: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
    periods: float,
    over: int,
) -> None:
    bench = bench_of(**{**FAST, "horizon": 3})
    bench.warm_up(*_history())
    late_ns = bench.stamp + round(periods * PERIOD_NS)
    found = _searches(monkeypatch, lambda: bench.bus.set_time(late_ns))
    handle, result = bench.plan(GOAL)
    due = found[0].actions[over:]
    bench.bus.settle()
    assert (result.status, result.horizon, result.action_dim) == (PLANNED, 3 - over, 4)
    assert result.actions.tolist() == due.reshape(-1).tolist()
    assert handle.feedbacks[0].actions.tolist() == due.reshape(-1).tolist()
    assert bench.plans[0].data.tolist() == due.reshape(-1).tolist()
    assert bench.plans[0].layout.dim[0].size == 3 - over


@pytest.mark.parametrize(
    ("most_s", "late_s", "told"),
    [
        (30.0, 0.41, "all 2 blocks of the plan were over"),
        (0.3, 0.31, "the newest embedding is 0.310 s old, expected 0.300 s at most"),
    ],
)
def test_a_plan_that_comes_too_late_is_none(
    bench_of: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
    most_s: float,
    late_s: float,
    told: str,
) -> None:
    bench = bench_of(max_state_age_s=most_s, **FAST)
    bench.warm_up(*_history())
    late_ns = bench.stamp + round(1e9 * late_s)
    _searches(monkeypatch, lambda: bench.bus.set_time(late_ns))
    handle, result = bench.plan(GOAL)
    assert (result.status, told in result.message) == (NO_STATE, True), result.message
    assert (result.horizon, result.actions.size, handle.feedbacks) == (0, 0, [])
    bench.bus.settle()
    assert not bench.plans


def test_a_plan_for_another_bundle_is_none(
    bench_of: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world model is given another one while a search is at work."""
    bench = bench_of(**FAST)
    bench.warm_up(*_history())
    _searches(monkeypatch, lambda: bench.info(manifest_sha256="0" * 64))
    _, result = bench.plan(GOAL)
    assert (result.status, "the same bundle" in result.message) == (NO_STATE, True)
    bench.bus.settle()
    assert not bench.plans


def test_nothing_is_scored_that_is_not_to_be_trusted(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    candidates = np.full((2, 2, 4), 256.0)
    for index, latent in enumerate(_history()[0]):
        bench.embed(latent, None if not index else BLOCK)
    assert "no flag has come" in bench.score(candidates, GOAL).message
    for level, word in ((0, "UNKNOWN"), (3, "REJECT"), (9, "UNKNOWN")):
        bench.flag(level)
        answer = bench.score(candidates, GOAL)
        assert (answer.success, word in answer.message, answer.flag.level) == (False, True, level)
        assert answer.energies.size == 0
    bench.flag(1, valid_for_s=0)
    assert "stale" in bench.score(candidates, GOAL).message
    bench.flag(2)
    assert bench.score(candidates, GOAL).success


def test_without_model_info_nobody_knows_whose_latents_these_are(
    bench_of: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bench, "info", lambda self: None)
    bench = bench_of(**FAST)
    monkeypatch.undo()
    bench.warm_up(*_history())
    _, result = bench.plan(GOAL)
    assert (result.status, "no jepa/model_info" in result.message) == (NO_STATE, True)
    assert "no jepa/model_info" in bench.score(np.full((2, 2, 4), 256.0), GOAL).message
    bench.info()
    bench.warm_up(*_history())
    assert bench.plan(GOAL)[1].status == PLANNED


def test_gaps_are_those_of_the_session_that_runs(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    bench.info(min_gap_periods=0.2, max_gap_periods=3.0)
    for periods in (0.3, 2.9):
        for _ in range(3):
            bench.embed(GOAL, BLOCK, periods=periods)
    bench.flag()
    assert bench.plan(GOAL)[1].status == PLANNED
    for periods in (0.1, 3.1):
        bench.embed(GOAL, BLOCK, periods=periods)
        bench.flag()
        _, result = bench.plan(GOAL)
        assert (result.status, result.message[:10]) == (NO_STATE, "1 latents ")


def test_one_call_scores_no_more_than_an_iteration_does(bench_of: MakeBench) -> None:
    bench = bench_of(max_candidates=30, **FAST)  # of horizon 2
    bench.warm_up(*_history())
    assert bench.score(np.full((20, 3, 4), 256.0), GOAL).success
    answer = bench.score(np.full((21, 3, 4), 256.0), GOAL)
    assert not answer.success
    assert "got 21 candidates of 3 steps, expected 60 steps in all" in answer.message


def test_diagnostics_tell_state_trust_and_search(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    told = bench.bus.record("/diagnostics", DIAGNOSTICS)

    def newest() -> tuple[int, str, dict[str, str]]:
        bench.node._report()
        bench.bus.settle()
        (status,) = told[-1].status
        assert status.name == "jepa_planner: planner"
        return status.level, status.message, {v.key: v.value for v in status.values}

    level, message, values = newest()
    assert (level, values["status"], values["state_age_ms"]) == (1, "no goal yet", "")
    assert "no embedding has come" in message
    bench.warm_up(*_history())
    bench.bus.set_time(bench.stamp + 60_000_000_000)
    assert newest()[0] == 1
    bench.bus.set_time(bench.stamp + 3_000_000_000)
    level, message, values = newest()
    assert (level, message, values["trust"]) == (0, "ready", "good")
    assert float(values["state_age_ms"]) == 3000.0
    bench.bus.set_time(bench.stamp)
    bench.plan(GOAL)
    values = newest()[2]
    assert (values["status"], values["searches"]) == ("PLANNED", "1")
    assert float(values["search_time_ms"]) > 0.0
    bench.flag(3)
    assert bench.plan(GOAL)[1].status == NOT_TRUSTED
    level, message, values = newest()
    assert (level, "REJECT" in message, values["status"]) == (1, True, "NOT_TRUSTED")
    bench.info(manifest_sha256="0" * 64)
    level, message, _ = newest()
    assert (level, "give both the same bundle" in message) == (2, True)
    told.clear()
    bench.bus.wait_for(lambda: bool(told))  # by itself, too


def test_qos_is_as_the_parameters_say(bench_of: MakeBench) -> None:
    assert [q.depth for q in bench_of(**FAST).bus.offered("jepa/planned_actions")] == [1]
    bench = bench_of(output_qos="SENSOR_DATA", input_qos="BEST_EFFORT", **FAST)
    (offered,) = bench.bus.offered("jepa/planned_actions")
    assert (offered.reliable, offered.depth) == (False, 5)
    with pytest.raises(InputError, match="input_qos"):
        bench_of(input_qos="FAST", **FAST)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority only on Linux")
def test_a_search_stands_back_behind_everything_else(
    bench_of: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    seen: list[int] = []
    _searches(monkeypatch, lambda: seen.append(priority()))
    own = os.getpriority(os.PRIO_PROCESS, os.getpid())
    for nice in (0, 3):
        bench = bench_of(search_nice=nice, **FAST)
        bench.warm_up(*_history())
        for _ in range(2):
            assert bench.plan(GOAL)[1].status == PLANNED
        rest: list[int] = []
        bench.node._backend.post(lambda rest=rest: rest.append(priority()))  # type: ignore[attr-defined]
        bench.bus.settle()
        assert rest == [own]
    assert seen == [own, own, min(own + 3, 19), min(own + 3, 19)]


def test_a_bundle_is_opened_only_with_the_signature_asked_for(
    linear_bundle: Path, tmp_path: Path
) -> None:
    bundle, signed_by = open_bundle(str(linear_bundle), "")
    assert (bundle.path, signed_by) == (linear_bundle, "")
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    generate_key(private, public)
    with pytest.raises(BundleError, match="sign"):
        open_bundle(str(linear_bundle), str(public))
    signed = tmp_path / "signed" / linear_bundle.name
    shutil.copytree(linear_bundle, signed)
    assert open_bundle(str(signed), "")[1] == ""
    signature = sign_bundle(signed, private)
    assert open_bundle(str(signed), str(public))[1] == signature.key_id
    with pytest.raises(InputError, match="bundle is empty"):
        open_bundle("", str(public))
