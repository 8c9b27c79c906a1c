# SPDX-License-Identifier: Apache-2.0
"""The planner on a bus, with the linear world: what it plans, refuses, and scores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge import chunks
from jepa_edge.errors import BundleError, InputError
from jepa_edge.goals import encode_goal
from jepa_edge.nodes.planner import PlannerNode
from jepa_edge.nodes.planner_messages import read_goal
from jepa_edge.planner import Planner, PlannerConfig, shift_plan
from jepa_edge.world_model import WorldModel

from ..state_world import make_state_bundle
from .bus import LocalBus, make

EMBEDDING = "jepa_msgs/msg/StateEmbedding"
FLAG = "jepa_msgs/msg/ConfidenceFlag"
ARRAY = "std_msgs/msg/Float32MultiArray"
GOAL = "jepa_msgs/action/PlanLatent_Goal"
FAILED, PLANNED, REACHED, NOT_TRUSTED, NO_STATE, BAD_GOAL = range(6)
PERIOD_NS = 200_000_000
FAST = {"horizon": 2, "candidates": 64, "elites": 8, "iterations": 3}
WIDE = {"horizon": 2, "candidates": 400, "elites": 40, "iterations": 25, "init_std": 2.0}
FREE = {"clip": False}


class Bench:
    """A planner, the latents of a linear world, and a clock that only moves with them."""

    def __init__(self, bundle: Path | str, **parameters: Any) -> None:
        self.bus = LocalBus()
        self.stamp = 1_700_000_000_123_456_789
        self.bus.set_time(self.stamp)
        given = {"bundle": str(bundle), "max_state_age_s": 30.0, **parameters}
        self.node = PlannerNode(self.bus.backend("jepa_planner", parameters=given))
        self.plans = self.bus.record("jepa/planned_actions", ARRAY)
        self.seq = 0
        self.episode = 0
        self.latents: list[NDArray[np.float32]] = []
        self.actions: list[NDArray[np.float32]] = []
        self.node.start()
        self.info()

    def info(self, **changes: Any) -> None:
        """Tell which bundle the world model runs, and its limits on gaps."""
        manifest = self.node._model.manifest
        told = {
            "manifest_sha256": manifest.sha256,
            "variant_sha256": manifest.variant_sha256("fp32"),
            "min_gap_periods": 0.5,
            "max_gap_periods": 1.75,
        }
        self.bus.publish("jepa/model_info", "jepa_msgs/msg/ModelInfo", **{**told, **changes})
        self.bus.settle()

    def flag(self, level: int = 1, valid_for_s: int = 4) -> None:
        """Send a flag of this moment."""
        self.seq += 1
        self.bus.publish("jepa/flag", FLAG, **self._flag(level, valid_for_s))
        self.bus.settle()

    def embed(
        self,
        latent: NDArray[np.floating],
        action: NDArray[np.floating] | None,
        periods: float = 1.0,
    ) -> None:
        """Send the next latent and the block that led to it."""
        self.stamp += round(periods * PERIOD_NS)
        self.bus.set_time(self.stamp)
        if action is not None:
            self.actions.append(np.asarray(action, np.float32))
        self.latents.append(np.asarray(latent, np.float32))
        self.bus.publish(
            "jepa/embedding",
            EMBEDDING,
            header=_header(self.stamp),
            tokens=1,
            dim=latent.size,
            latent=self.latents[-1].reshape(-1),
            action=np.zeros(0, np.float32) if action is None else self.actions[-1],
            flag=make(FLAG, **self._flag(1, 4)),
        )
        self.bus.settle()

    def warm_up(self, latents: NDArray[np.floating], actions: NDArray[np.floating]) -> None:
        """Send a whole history, and a good flag."""
        for index, latent in enumerate(latents):
            self.embed(latent, None if index == 0 else actions[index - 1])
        self.flag()

    def send(self, latent: Any = None, **fields: Any) -> Any:
        """Send a goal."""
        if latent is not None:
            fields["goal_latent"] = np.asarray(latent, np.float32).reshape(-1)
        return self.bus.send_goal("jepa/plan_latent", make(GOAL, **fields))

    def plan(self, latent: Any = None, **fields: Any) -> tuple[Any, Any]:
        """Send a goal of one search unless told otherwise; return its handle and its result."""
        handle = self.send(latent, **{"replans": 1, **fields})
        return handle, handle.result()

    def score(self, candidates: NDArray[np.floating], goal: Any, changes: Any = ()) -> Any:
        """Call score_actions."""
        fields: dict[str, Any] = {
            "candidates": candidates.shape[0],
            "horizon": candidates.shape[1],
            "actions": candidates.astype(np.float32).reshape(-1),
            "goal_latent": np.asarray(goal, np.float32).reshape(-1),
        }
        request = make("jepa_msgs/srv/ScoreActions_Request", **{**fields, **dict(changes)})
        return self.bus.call("jepa/score_actions", request)

    def _flag(self, level: int, valid_for_s: int) -> dict[str, Any]:
        return {
            "header": _header(self.stamp),
            "seq": self.seq,
            "level": level,
            "episode": self.episode,
            "valid_for": make("builtin_interfaces/msg/Duration", sec=valid_for_s),
        }


MakeBench = Any


@contextmanager
def benches(linear_bundle: Path) -> Iterator[MakeBench]:
    """Makes benches that are closed at the end, with the errors of callbacks raised."""
    made: list[Bench] = []

    def of(bundle: Path | str = linear_bundle, **parameters: Any) -> Bench:
        made.append(Bench(bundle, **parameters))
        return made[-1]

    yield of
    for bench in made:
        bench.node.close()
        bench.bus.close()


@pytest.fixture
def bench_of(linear_bundle: Path) -> Iterator[MakeBench]:
    """As `benches`."""
    with benches(linear_bundle) as of:
        yield of


def _header(stamp_ns: int) -> Any:
    stamp = make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return make("std_msgs/msg/Header", stamp=stamp)


def _duration(seconds: float) -> Any:
    sec, nanosec = divmod(round(seconds * 1e9), 10**9)
    return make("builtin_interfaces/msg/Duration", sec=sec, nanosec=nanosec)


def _image(frame: NDArray[np.uint8], encoding: str) -> Any:
    return make(
        "sensor_msgs/msg/Image",
        height=frame.shape[0],
        width=frame.shape[1],
        encoding=encoding,
        step=frame.shape[1] * 3,
        data=np.ascontiguousarray(frame).reshape(-1),
    )


def _history(seed: int = 5) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(3, 6)).astype(np.float32)
    return latents, rng.uniform(200.0, 300.0, (2, 4)).astype(np.float32)


def _rolled(world: Any, start: Any, actions: Any) -> NDArray[np.float64]:
    """The linear world, in float64: the latents after each block."""
    latent, found = np.asarray(start, np.float64), []
    for action in np.asarray(actions, np.float64):
        latent = latent @ world.step.astype(np.float64) + action @ world.push.astype(np.float64)
        found.append(latent)
    return np.array(found)


def _equilibrium(world: Any, seed: int = 3) -> NDArray[np.float64]:
    """A latent that some block keeps where it is: a goal that can be reached and held."""
    action = np.random.default_rng(seed).uniform(150.0, 350.0, 4)
    step, push = world.step.astype(np.float64), world.push.astype(np.float64)
    return np.linalg.solve((np.eye(6) - step).T, push.T @ action)


def test_one_search_comes_near_the_least_squares_plan(bench_of: MakeBench, world: Any) -> None:
    bench = bench_of(**WIDE, **FREE)
    latents, actions = _history()
    bench.warm_up(latents, actions)
    goal = np.random.default_rng(6).normal(size=6)
    handle, result = bench.plan(goal)
    assert (result.status, result.replans, handle.succeeded) == (PLANNED, 1, True)
    assert (result.horizon, result.action_dim) == (2, 4)
    step, push = world.step.astype(np.float64), world.push.astype(np.float64)
    drift = latents[-1] @ step @ step
    jacobian = np.concatenate([push @ step, push])
    _, residual, *_ = np.linalg.lstsq(jacobian.T, goal - drift, rcond=None)
    best = float(residual[0]) if residual.size else 0.0
    reached = float(np.sum((drift + result.actions.astype(np.float64) @ jacobian - goal) ** 2))
    start = float(np.sum((drift + np.full(8, 256.0) @ jacobian - goal) ** 2))
    assert reached - best < 0.02 * (start - best)
    assert result.energy == pytest.approx(np.sum((latents[-1] - goal) ** 2), rel=1e-5)
    assert best <= result.best_energy * (1 + 1e-4)
    feedback = handle.feedbacks[0]
    assert feedback.stamp == _header(bench.stamp).stamp
    assert (feedback.replan, feedback.level) == (1, 1)
    assert feedback.actions.tolist() == result.actions.tolist()
    assert feedback.search_time.nanosec > 0
    assert result.flag.seq == bench.seq
    bench.bus.settle()
    (plan,) = bench.plans
    assert plan.data.tolist() == result.actions.tolist()
    assert [(d.label, d.size, d.stride) for d in plan.layout.dim] == [
        ("horizon", 2, 8),
        ("action", 4, 4),
    ]


def test_it_plans_what_the_planner_plans(
    bench_of: MakeBench, linear_bundle: Path, world: Any
) -> None:
    """Bit for bit, from the newest history; the second search starts from the first, moved on."""
    settings = {"method": "icem", "seed": 9, "goal_steps": 2, **FAST}
    bench = bench_of(**settings)
    latents, past = _history()
    bench.warm_up(latents, past)
    goal = _equilibrium(world).astype(np.float32)
    handle = bench.send(goal, replans=2)
    bench.bus.wait_for(lambda: len(handle.feedbacks) == 1)
    first = handle.feedbacks[0].actions.reshape(2, 4)
    bench.embed(_rolled(world, latents[-1], first[:1])[0], first[0])
    result = handle.result()
    planner = Planner(WorldModel.load(linear_bundle), PlannerConfig(**settings))
    history = np.stack(bench.latents).reshape(-1, 1, 6)
    taken = np.stack(bench.actions)
    cold = planner.plan(history[:3], taken[:2], goal[None])
    assert np.array_equal(cold.actions, first)
    warm = planner.plan(history[1:], taken[1:], goal[None], initial=shift_plan(first, 1))
    assert np.array_equal(warm.actions, result.actions.reshape(2, 4))
    assert not np.array_equal(
        planner.plan(history[1:], taken[1:], goal[None]).actions, warm.actions
    )


def test_receding_horizon_reaches_the_goal(bench_of: MakeBench, world: Any) -> None:
    bench = bench_of(**WIDE, **FREE)
    latents, past = _history()
    bench.warm_up(latents, past)
    goal = _equilibrium(world)
    first = float(np.sum((latents[-1] - goal) ** 2))
    handle = bench.send(goal, goal_energy=0.02 * first)
    for index in range(40):
        bench.bus.wait_for(lambda: handle._result.done() or len(handle.feedbacks) > index)  # noqa: B023
        if handle._result.done():
            break
        action = handle.feedbacks[index].actions.reshape(2, 4)[0]
        bench.flag()
        bench.embed(_rolled(world, bench.latents[-1], action[None])[0], action)
    result = handle.result()
    assert result.status == REACHED
    assert handle.succeeded
    assert result.energy <= 0.02 * first
    assert result.energy == pytest.approx(
        float(np.sum((bench.latents[-1].astype(np.float64) - goal) ** 2)), rel=1e-3
    )
    assert 1 <= result.replans <= 40
    assert [feedback.replan for feedback in handle.feedbacks] == [*range(1, result.replans + 1)]


@pytest.mark.parametrize(("encoding", "order"), [("rgb8", 1), ("bgr8", -1)])
def test_the_goal_may_be_a_picture(
    bench_of: MakeBench, world: Any, encoding: str, order: int
) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    bench = bench_of(image_fit="stretch", **FAST)
    bench.warm_up(*_history())
    goal = world.encoded(frame[None])[0, 0].astype(np.float64)
    _, result = bench.plan(goal_image=_image(frame[..., ::order], encoding))
    assert result.status == PLANNED
    expected = float(np.sum((bench.latents[-1] - goal) ** 2))
    assert result.energy == pytest.approx(expected, rel=1e-4)
    large = frame.repeat(4, axis=0).repeat(4, axis=1)
    _, result = bench.plan(goal_image=_image(large[..., ::order], encoding))
    assert result.energy == pytest.approx(expected, rel=0.02)


def test_it_plans_only_under_a_good_flag(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    for index, latent in enumerate(_history()[0]):
        bench.embed(latent, None if not index else np.full(4, 256.0))
    goal = np.zeros(6)
    assert bench.plan(goal)[1].status == NOT_TRUSTED
    for level, word in ((0, "UNKNOWN"), (3, "REJECT"), (9, "UNKNOWN")):
        bench.flag(level)
        handle, result = bench.plan(goal)
        assert result.status == NOT_TRUSTED
        assert word in result.message
        assert not handle.succeeded
        assert result.flag.level == level
    bench.flag(2)
    handle, result = bench.plan(goal)
    assert (result.status, handle.feedbacks[0].level) == (PLANNED, 2)
    bench.flag(3)
    assert bench.plan(goal, goal_energy=1e9)[1].status == NOT_TRUSTED  # who knows where it is
    bench.flag(1, valid_for_s=0)
    assert "stale" in bench.plan(goal)[1].message
    assert len(bench.plans) == 1


def test_a_flag_that_turns_bad_ends_the_planning(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    bench.warm_up(*_history())
    handle = bench.send(np.zeros(6))
    bench.bus.wait_for(lambda: len(handle.feedbacks) == 1)
    bench.flag(3)
    bench.embed(np.zeros(6), np.full(4, 256.0))
    assert handle.result().status == NOT_TRUSTED
    assert len(bench.plans) == 1


def test_searches_block_nothing_and_their_plan_is_dropped_when_trust_ends(
    bench_of: MakeBench,
) -> None:
    """A search of some seconds is at work, bounded by its deadline."""
    bench = bench_of(**{**FAST, "iterations": 10_000, "candidates": 2000, "elites": 100})
    latents, past = _history()
    bench.warm_up(latents, past)
    handle = bench.send(np.zeros(6), replans=1, deadline=_duration(1.5))
    begun = time.monotonic()
    time.sleep(0.1)
    answer = bench.score(np.full((2, 2, 4), 256.0), np.zeros(6))
    assert answer.success
    bench.flag(3)
    assert time.monotonic() - begun < 1.2
    assert not handle._result.done()
    assert handle.result().status == NOT_TRUSTED
    assert time.monotonic() - begun < 3.0
    bench.bus.settle()
    assert not bench.plans
    assert not handle.feedbacks


def test_the_deadline_ends_a_search(bench_of: MakeBench) -> None:
    bench = bench_of(**{**FAST, "iterations": 10_000})
    bench.warm_up(*_history())
    handle, result = bench.plan(np.zeros(6), deadline=_duration(0.1))
    assert (result.status, result.deadline_hit) == (PLANNED, True)
    assert handle.feedbacks[0].search_time.sec == 0
    _, result = bench.plan(np.zeros(6), deadline=_duration(-0.1))
    assert (result.status, "deadline is -0.1 s" in result.message) == (BAD_GOAL, True)


def test_goals_are_cancelled_and_preempted(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    bench.warm_up(*_history())
    first = bench.send(np.zeros(6))
    bench.bus.wait_for(lambda: len(first.feedbacks) == 1)
    second = bench.send(np.ones(6))
    assert (first.result().status, first.result().message) == (PLANNED, "cancelled")
    assert not first.succeeded
    bench.bus.wait_for(lambda: len(second.feedbacks) == 1)
    second.cancel()
    assert second.result().replans == 1
    assert not second.succeeded
    assert bench.plan(bench.latents[-1])[1].status == PLANNED  # goal_energy 0: never there
    third = bench.send(np.ones(6))
    bench.bus.wait_for(lambda: len(third.feedbacks) == 1)
    bench.node.close()
    assert third.result().message == "cancelled"
    bench.node.start()
    assert bench.plan(np.ones(6))[1].status == NO_STATE


def test_a_goal_that_is_cancelled_while_it_is_searched_gives_no_plan(bench_of: MakeBench) -> None:
    bench = bench_of(**{**FAST, "iterations": 10_000})
    bench.warm_up(*_history())
    handle = bench.send(np.zeros(6), deadline=_duration(0.4))
    time.sleep(0.1)
    handle.cancel()
    result = handle.result()
    assert (result.status, result.message, result.horizon) == (FAILED, "cancelled", 0)
    bench.bus.settle()
    assert not bench.plans


def test_searches_keep_their_period(bench_of: MakeBench, linear_bundle: Path) -> None:
    bench = bench_of(replan_period_s=0.3, **FAST)
    bench.warm_up(*_history())
    handle = bench.send(np.zeros(6), replans=2)
    bench.bus.wait_for(lambda: len(handle.feedbacks) == 1)
    begun = time.monotonic()
    bench.embed(np.zeros(6), np.full(4, 256.0))
    bench.embed(np.ones(6), np.full(4, 250.0))
    assert handle.result().replans == 2
    assert time.monotonic() - begun > 0.2
    second = handle.feedbacks[1]
    assert second.stamp == _header(bench.stamp).stamp
    # Both blocks of the first plan are over: the search begins anew.
    cold = Planner(WorldModel.load(linear_bundle), PlannerConfig(**FAST)).plan(
        np.stack(bench.latents[-3:])[:, None], np.stack(bench.actions[-2:]), np.zeros((1, 6), "f4")
    )
    assert second.actions.tolist() == cold.actions.reshape(-1).tolist()


def test_there_is_no_plan_without_a_fresh_state(bench_of: MakeBench) -> None:
    bench = bench_of(max_state_age_s=1.0, **FAST)
    goal, block = np.zeros(6), np.full(4, 256.0)

    def refused(match: str) -> None:
        bench.flag()
        _, result = bench.plan(goal)
        assert result.status == NO_STATE
        assert match in result.message

    refused("no embedding has come")
    latents, past = _history()
    bench.embed(latents[0], None)
    bench.embed(latents[1], past[0])
    refused("2 latents have come since the last gap, expected 3")
    bench.embed(latents[2], past[1])
    bench.flag()
    assert bench.plan(goal)[1].status == PLANNED
    bench.stamp += 1_100_000_000
    bench.bus.set_time(bench.stamp)
    refused("the newest embedding is 1.100 s old")
    bench.embed(latents[0], block)
    refused("1 latents have come")  # a gap of more than a second lies before it
    for _ in range(2):
        bench.embed(latents[1], block)
    bench.embed(latents[1], None)
    refused("1 latents")
    for _ in range(2):
        bench.embed(latents[1], block)
    bench.episode = 1
    bench.embed(latents[1], block)
    refused("1 latents")
    for _ in range(2):
        bench.embed(latents[1], block, periods=1.6)
    bench.flag()
    assert bench.plan(goal)[1].status == PLANNED
    bench.embed(latents[1], block, periods=0.0)  # a repetition
    bench.embed(np.zeros(5), block, periods=0.0)  # of another model: left out
    bench.flag()
    assert bench.plan(goal)[1].status == PLANNED
    for periods in (2.0, 0.4):
        bench.embed(latents[1], block, periods=periods)
        refused("1 latents")
    for _ in range(2):
        bench.embed(latents[1], block)
    bench.embed(np.full(6, np.inf), block)
    refused("none that is finite")
    bench.embed(latents[1], block)
    refused("1 latents")
    time.sleep(1.05)  # the time of the stamps stands still, as that of a paused simulation
    refused("s old, expected 1.000 s at most")


def test_goals_that_are_none_are_told(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    bench.warm_up(*_history())
    frame = np.zeros((8, 8, 3), np.uint8)
    short = _image(frame, "rgb8")
    short.data = short.data[:-1]
    for fields, match in (
        ({}, "neither of goal_image and goal_latent"),
        ({"latent": np.zeros(6), "goal_image": _image(frame, "rgb8")}, "both"),
        ({"latent": np.zeros(5)}, "goal_latent holds 5 numbers, expected 1 x 6"),
        ({"latent": np.full(6, np.nan)}, "finite"),
        ({"goal_image": _image(frame, "yuv444")}, "encoding"),
        ({"goal_image": _image(np.zeros((9, 8, 3), np.uint8), "rgb8")}, "9 x 8"),
        ({"goal_image": short}, "short"),
    ):
        _, result = bench.plan(**fields)
        assert (result.status, match in result.message) == (BAD_GOAL, True), result.message
    _, result = bench.plan(np.full(6, 3e38))  # every energy overflows
    assert result.status == FAILED
    assert "diverged" in result.message


def test_scores_are_the_energies_of_the_world(bench_of: MakeBench, world: Any) -> None:
    bench = bench_of(max_candidates=225, **FAST)
    rng = np.random.default_rng(8)
    actions = rng.uniform(0.0, 512.0, (150, 3, 4)).astype(np.float32)
    goal = rng.normal(size=6).astype(np.float32)
    assert not bench.score(actions, goal).success
    latents, past = _history()
    bench.warm_up(latents, past)
    answer = bench.score(actions, goal)
    assert answer.success
    expected = [np.sum((_rolled(world, latents[-1], a)[-1] - goal) ** 2) for a in actions]
    np.testing.assert_allclose(answer.energies, expected, rtol=1e-4)
    assert answer.best == int(np.argmin(expected))
    assert answer.stamp == _header(bench.stamp).stamp
    assert answer.flag.seq == bench.seq
    actions[3, 0] = 3e38  # this one diverges
    answer = bench.score(actions, goal)
    assert answer.success
    assert np.flatnonzero(np.isinf(answer.energies)).tolist() == [3]
    assert answer.best == int(np.argmin(expected))
    only = bench.score(actions[3:4], goal)
    assert not only.success
    assert "all of 1 rollouts diverged" in only.message


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidates": 0}, "got 0 candidates"),
        ({"candidates": 65}, "65 candidates of 2 steps, expected 1 to 64 (max_candidates)"),
        ({"horizon": 0}, "of 0 steps"),
        ({"horizon": 101}, "of 1 to 100"),
        ({"candidates": 2**32 - 1, "horizon": 2**32 - 1}, "expected 1 to 64"),
        ({"actions": np.zeros(15, np.float32)}, "actions holds 15 numbers, expected 2 x 2 x 4"),
        ({"actions": np.full(16, np.nan, np.float32)}, "finite"),
        ({"goal_latent": np.zeros(7, np.float32)}, "goal_latent holds 7"),
        ({"goal_latent": np.zeros(0, np.float32)}, "neither"),
    ],
)
def test_requests_that_cannot_be_scored_are_told(
    bench_of: MakeBench, changes: dict[str, Any], match: str
) -> None:
    bench = bench_of(max_candidates=64, **FAST)
    bench.warm_up(*_history())
    answer = bench.score(np.zeros((2, 2, 4)), np.zeros(6), changes)
    assert not answer.success
    assert match in answer.message
    assert answer.energies.size == 0


def test_the_world_model_must_run_the_same_bundle(bench_of: MakeBench) -> None:
    bench = bench_of(**FAST)
    bench.warm_up(*_history())
    bench.info(bundle="b.jepa", manifest_sha256="0" * 64)
    _, result = bench.plan(np.zeros(6))
    assert result.status == NO_STATE
    assert "the world model runs bundle b.jepa (000000000000)" in result.message
    bench.info()
    assert bench.plan(np.zeros(6))[1].status == PLANNED


def test_what_cannot_start_says_why(bench_of: MakeBench, linear_bundle: Path) -> None:
    with pytest.raises(InputError, match="bundle is empty"):
        bench_of("")
    with pytest.raises(BundleError):
        bench_of("/nowhere.jepa")
    with pytest.raises(BundleError, match="has no variant 'int4'"):
        bench_of(variant="int4")
    with pytest.raises(InputError, match="elites"):
        bench_of(candidates=10, elites=30)
    with pytest.raises(InputError, match="goal_steps"):
        bench_of(goal_steps=9)
    bench = bench_of(**FAST)
    with pytest.raises(InputError, match="runs already"):
        bench.node.start()


def test_a_goal_picture_needs_no_state_where_energies_leave_it_out(
    bench_of: MakeBench, tmp_path: Path
) -> None:
    """As of V-JEPA 2-AC: the camera's picture of the goal says nothing of the arm's pose."""
    bundle = make_state_bundle(tmp_path / "state.jepa")
    bench = bench_of(bundle, **{**FAST, "horizon": 2})
    frame = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    model = bench.node._model
    goal = read_goal(model, _image(frame, "rgb8"), [], "model")
    np.testing.assert_array_equal(goal, encode_goal(model, frame))


def test_scoring_keeps_memory_bounded(
    bench_of: MakeBench, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(max_candidates=225, **FAST)
    latents, past = _history()
    bench.warm_up(latents, past)
    actions = np.random.default_rng(8).uniform(0.0, 512.0, (20, 3, 4)).astype(np.float32)
    whole = bench.score(actions, np.zeros(6))
    batches: list[int] = []
    rollout = WorldModel.rollout

    def watched(self: WorldModel, history: Any, blocks: Any) -> Any:
        batches.append(len(history))
        return rollout(self, history, blocks)

    monkeypatch.setattr(WorldModel, "rollout", watched)
    monkeypatch.setattr(chunks, "_BYTES", 7 * 4 * (3 + 3) * 6)
    parts = bench.score(actions, np.zeros(6))
    assert batches == [7, 7, 6]
    np.testing.assert_allclose(parts.energies, whole.energies, rtol=1e-6)
