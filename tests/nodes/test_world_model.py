# SPDX-License-Identifier: Apache-2.0
"""The node publishes what a session says, for every frame, copied to the nanosecond."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_edge.errors import BundleError, InputError, JepaEdgeError
from jepa_edge.flags import Reason
from jepa_edge.monitor import Monitor
from jepa_edge.nodes.parameters import Parameter
from jepa_edge.nodes.qos import Qos
from jepa_edge.nodes.world_model import PARAMETERS, WorldModelNode
from jepa_edge.recording import Episode
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.world_model import WorldModel

from .bus import LocalBus, make
from .rig import ARRAY, FLAG, PERIOD_NS, T0_NS, Rig, header_of, image_fields, running, stamp_of

WARM_UP = 3  # frames of the linear world, before the first that is judged


@pytest.fixture
def episode(make_episode: Callable[[int], Episode]) -> Episode:
    """A fresh nominal one."""
    return make_episode(9001)


def _reasons(flag: Any) -> Reason:
    return Reason(flag.reasons)


def test_everything_published_is_what_a_session_says(
    calibrated_bundle: Path, episode: Episode
) -> None:
    model = WorldModel.load(calibrated_bundle)
    now = [0.0]
    session = Session(
        model,
        Monitor.load(model),
        SessionConfig(samples=8, latch=None),
        clock=lambda: now[0],
    )
    with running(calibrated_bundle) as rig:
        flags = rig.play(episode, 0, len(episode.frames))
        rig.bus.settle()
        embeddings, predictions = list(rig.embeddings), list(rig.predictions)
    assert [flag.seq for flag in flags] == list(range(len(flags)))
    assert len(embeddings) == len(flags)
    predicted = {prediction.seq: prediction for prediction in predictions}
    for k, (flag, embedding) in enumerate(zip(flags, embeddings, strict=True)):
        stamp = T0_NS + k * PERIOD_NS
        now[0] = (stamp + 5_000_000) / 10**9
        action = episode.actions[k - 1] if k else None
        update = session.step(
            Observation(stamp_s=stamp / 10**9, frame=episode.frames[k], action=action)
        )
        said = update.flag
        assert stamp_of(flag) == stamp
        assert flag.header.frame_id == "camera_optical"
        assert (flag.level, flag.raw_level) == (said.level, said.raw_level)
        assert (flag.reasons, flag.latched) == (said.reason_bits, said.latched)
        for name in ("confidence", "score", "caution_threshold", "reject_threshold"):
            np.testing.assert_array_equal(getattr(flag, name), np.float32(getattr(said, name)))
        out = [said.channels[c] for c in ("familiarity", "familiarity_mean") if c in said.channels]
        innovations = ("innovation", "innovation_long", "innovation_mean", "innovation_long_mean")
        changes = ("motion", "motion_mean")
        told = [said.channels[c] for c in innovations + changes if c in said.channels]
        if said.channels:
            assert flag.ood_score == np.float32(max(out))
            assert flag.innovation == np.float32(max(told))
        else:
            assert math.isnan(flag.ood_score)
            assert math.isnan(flag.innovation)
        assert (flag.episode_steps, flag.budget_period) == (said.episode_steps, said.budget_period)
        assert flag.episode == 0
        assert flag.valid_for.sec * 10**9 + flag.valid_for.nanosec == 400_000_000
        assert flag.input_age.nanosec == pytest.approx(5_000_000, abs=1000)
        assert 0 < flag.latency.nanosec < 10**9

        assert embedding.header == flag.header
        assert embedding.flag == flag or math.isnan(flag.score)
        assert (embedding.tokens, embedding.dim) == (1, 6)
        assert update.embedding is not None
        np.testing.assert_array_equal(embedding.latent, update.embedding.reshape(-1))
        np.testing.assert_array_equal(embedding.action, [] if action is None else action)
        assert embedding.state.size == 0

        assert (update.futures is not None) == (flag.seq in predicted)
        if update.futures is None:
            continue
        futures, prediction = update.futures, predicted[flag.seq]
        assert prediction.header == flag.header
        assert prediction.dt.nanosec == PERIOD_NS
        assert (prediction.horizon, prediction.tokens, prediction.dim) == (5, 1, 6)
        np.testing.assert_array_equal(prediction.latent, futures.mean.reshape(-1))
        for name in ("aleatoric", "epistemic", "spread"):
            np.testing.assert_array_equal(getattr(prediction, name), getattr(futures, name))
        bound = [] if futures.bound is None else futures.bound
        np.testing.assert_array_equal(prediction.bound, bound)
        assert prediction.action_dim == 4
        assert action is not None
        np.testing.assert_array_equal(prediction.actions, np.tile(action, 5))  # held
        for step, level in enumerate(prediction.level):
            if futures.usual is None or said.level == 0:
                assert level == 0
            elif futures.spread[step] > futures.usual[step]:
                assert level == max(int(said.level), 2)
            else:
                assert level == said.level
    assert len(predicted) >= len(flags) - 3
    assert max(flag.level for flag in flags) >= 1


FAULTS: dict[str, tuple[Reason, Callable[[dict[str, Any], int], dict[str, Any]]]] = {
    "old stamp": (
        Reason.STALE | Reason.CLOCK_JUMP,
        lambda f, t: {**f, "header": header_of(t - 10**10)},
    ),
    "stamp of the frame before": (
        Reason.CLOCK_JUMP,
        lambda f, t: {**f, "header": header_of(t - PERIOD_NS)},
    ),
    "future stamp": (Reason.CLOCK_JUMP, lambda f, t: {**f, "header": header_of(t + 10**10)}),
    "no stamp": (Reason.STALE | Reason.CLOCK_JUMP, lambda f, t: {**f, "header": header_of(0)}),
    "short buffer": (Reason.INPUT_MISMATCH, lambda f, t: {**f, "data": f["data"][:-1]}),
    "no buffer": (Reason.INPUT_MISMATCH, lambda f, t: {**f, "data": f["data"][:0]}),
    "wrong encoding": (Reason.INPUT_MISMATCH, lambda f, t: {**f, "encoding": "yuv444"}),
    "wrong size": (
        Reason.INPUT_MISMATCH,
        lambda f, t: image_fields(t, np.zeros((9, 8, 3), np.uint8)),
    ),
    "floats": (
        Reason.INPUT_MISMATCH,
        lambda f, t: {**f, "encoding": "32FC3", "step": 96, "data": np.zeros(768, np.uint8)},
    ),
    "NaN in a picture of floats": (
        Reason.NON_FINITE,
        lambda f, t: {**f, "encoding": "32FC3", "step": 96, "data": np.full(768, 255, np.uint8)},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_frame_is_flagged_at_once_and_forgiven_after_the_warm_up(
    calibrated_bundle: Path, episode: Episode, fault: str
) -> None:
    expected, spoil = FAULTS[fault]
    with running(calibrated_bundle) as rig:
        assert rig.play(episode, 0, 6)[-1].level > 0
        stamp = T0_NS + 6 * PERIOD_NS
        rig.command(stamp - PERIOD_NS + 10_000_000, episode.actions[5])
        before = len(rig.embeddings)
        bad = rig.see(stamp + 5_000_000, **spoil(image_fields(stamp, episode.frames[6]), stamp))
        assert bad.level == 0
        assert _reasons(bad) & expected == expected
        assert math.isnan(bad.score)
        rig.bus.settle()
        if expected & (Reason.STALE | Reason.NON_FINITE):
            assert len(rig.embeddings) == before
        after = rig.play(episode, 7, 14)
        rig.bus.settle()
    assert after[0].level == 0
    judged = [flag.level > 0 for flag in after]
    assert not any(judged[:WARM_UP])
    assert all(judged[WARM_UP + 1 :])


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (np.array([np.nan, 1, 2, 3], np.float32), Reason.NON_FINITE),
        (np.array([1, 2, np.inf, 3], np.float32), Reason.NON_FINITE),
        (np.array([1, 2, 3], np.float32), Reason.INPUT_MISMATCH),
        (None, Reason.INPUT_MISMATCH),
    ],
)
def test_a_bad_action_is_flagged_with_the_frame_that_it_led_to(
    calibrated_bundle: Path, episode: Episode, action: Any, expected: Reason
) -> None:
    with running(calibrated_bundle) as rig:
        assert rig.play(episode, 0, 6)[-1].level > 0
        stamp = T0_NS + 6 * PERIOD_NS
        rig.command(stamp - PERIOD_NS + 10_000_000, action)
        bad = rig.see(stamp + 5_000_000, **image_fields(stamp, episode.frames[6]))
        assert bad.level == 0
        assert _reasons(bad) & expected
        assert rig.play(episode, 7, 14)[-1].level > 0


def test_an_old_frame_is_stale(calibrated_bundle: Path, episode: Episode) -> None:
    with running(calibrated_bundle) as rig:
        rig.play(episode, 0, 4)
        stamp = T0_NS + 4 * PERIOD_NS
        rig.command(stamp - PERIOD_NS + 10_000_000, episode.actions[3])
        late = rig.see(stamp + 400_000_000, **image_fields(stamp, episode.frames[4]))
        assert _reasons(late) == Reason.STALE | Reason.WARMING_UP
        assert late.input_age.nanosec == pytest.approx(400_000_000, abs=1000)


def test_a_faster_camera_is_thinned_out_to_the_models_rate(
    calibrated_bundle: Path, episode: Episode
) -> None:
    """30 Hz in, 5 Hz out, and the actions still fit."""
    with running(calibrated_bundle) as rig:
        for k in range(60):
            stamp = T0_NS + round(k * 1e9 / 30)
            if k % 6 == 0:
                rig.command(stamp, episode.actions[k // 6])
            rig.bus.set_time(stamp + 5_000_000)
            picture = episode.frames[-(-k // 6)]
            rig.bus.publish("image", "sensor_msgs/msg/Image", **image_fields(stamp, picture))
            if k % 6 == 0:
                rig.bus.wait_for(lambda k=k: len(rig.arrived) == k // 6 + 1)  # type: ignore[misc]
        rig.bus.settle()
        assert [(stamp_of(f) - T0_NS) // 1000 for f in rig.flags] == [
            k * 200_000 for k in range(10)
        ]
        assert all(flag.level > 0 for flag in rig.flags[WARM_UP + 1 :])


def test_the_plan_is_what_futures_are_drawn_under(
    calibrated_bundle: Path, episode: Episode
) -> None:
    plan = np.random.default_rng(4).uniform(100, 400, (3, 4)).astype(np.float32)
    with running(calibrated_bundle) as rig:
        rig.play(episode, 0, 5)
        rig.bus.publish("planned_actions", ARRAY, data=plan.reshape(-1))
        rig.play(episode, 5, 6)
        rig.bus.wait_for(lambda: bool(rig.predictions) and rig.predictions[-1].horizon == 2)
        np.testing.assert_array_equal(rig.predictions[-1].actions, plan[1:].reshape(-1))
        rig.play(episode, 6, 9)
        rig.bus.wait_for(lambda: rig.predictions[-1].horizon == 5)  # the plan is over


def test_one_trajectory_is_an_action_for_every_frame_after_it(
    calibrated_bundle: Path, episode: Episode
) -> None:
    """An arm is told once where to go: a gate that waits for flags would never open else."""
    parameters = {
        "action_type": "trajectory_msgs/JointTrajectory",
        "action_fields": ("positions[0]", "positions[1]"),
    }
    kind = "trajectory_msgs/msg/JointTrajectory"
    after = make("builtin_interfaces/msg/Duration", sec=2)
    points = [
        make("trajectory_msgs/msg/JointTrajectoryPoint", positions=np.array([100.0, 100.0])),
        make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=np.array([300.0, 400.0]),
            time_from_start=after,
        ),
    ]
    with running(calibrated_bundle, **parameters) as rig:
        rig.bus.publish("action", kind, joint_names=["a", "b"], points=points)
        rig.bus.settle()
        flags = []
        for k in range(20):
            stamp = T0_NS + k * PERIOD_NS
            pixels = image_fields(stamp, episode.frames[k])
            flags.append(rig.see(stamp + 5_000_000, **pixels))
        rig.bus.wait_for(lambda: len(rig.embeddings) == 20)
    assert not any(_reasons(flag) & Reason.INPUT_MISMATCH for flag in flags)
    assert all(flag.level > 0 for flag in flags[WARM_UP + 1 :])
    for k in (5, 15):
        seconds = np.array([0.2 * (k - 1) + 0.05, 0.2 * (k - 1) + 0.15])
        expected = np.stack([100 + np.minimum(seconds, 2) * rise for rise in (100, 150)], axis=1)
        np.testing.assert_allclose(rig.embeddings[k].action, expected.reshape(-1), rtol=1e-5)


def test_state_goes_along(calibrated_bundle: Path, episode: Episode) -> None:
    parameters = {
        "state_type": "sensor_msgs/JointState",
        "state_fields": ("position[1]", "velocity[0]"),
    }
    with running(calibrated_bundle, **parameters) as rig:
        rig.bus.publish(
            "state",
            "sensor_msgs/msg/JointState",
            header=header_of(T0_NS - 20_000_000),
            position=np.array([1.0, 2.0]),
            velocity=np.array([3.0]),
        )
        rig.bus.settle()
        rig.play(episode, 0, 2)
        rig.bus.wait_for(lambda: len(rig.embeddings) == 2)
        assert rig.embeddings[0].state.tolist() == [2.0, 3.0]
        assert rig.embeddings[1].state.size == 0  # none came near enough


def test_the_latest_model_info_reaches_who_comes_late(calibrated_bundle: Path) -> None:
    model = WorldModel.load(calibrated_bundle)
    with running(calibrated_bundle, frame_id="nose") as rig:
        late: list[Any] = []
        rig.bus.backend("late").subscribe(
            "jepa/model_info", "jepa_msgs/msg/ModelInfo", Qos(transient_local=True), late.append
        )
        rig.bus.wait_for(lambda: bool(late))
        (info,) = late
    manifest, calibration = model.manifest, Monitor.load(model).calibration
    assert (info.bundle, info.family, info.variant) == ("linear.jepa", "linear", "fp32")
    assert info.header.frame_id == "nose"
    assert info.manifest_sha256 == manifest.sha256
    assert info.variant_sha256 == manifest.variant_sha256("fp32")
    assert info.calibration_sha256 == manifest.files["calibration/fp32.json"]
    assert (info.armed, info.armed_reason, info.signed_by) == (True, "", "")
    assert info.caution_threshold == calibration.thresholds.caution
    assert info.reject_alpha == calibration.thresholds.reject_alpha
    assert info.budget_steps == 24 + 1 - WARM_UP
    assert (info.rate_hz, info.height, info.width, info.color) == (5.0, 8, 8, "rgb")
    assert (info.history, info.tokens, info.dim) == (3, 1, 6)
    assert (info.action_dim, info.action_block, info.action_units) == (4, 2, "pixel")
    assert info.horizon == 5


@pytest.mark.parametrize("given", [False, True])
def test_model_info_tells_every_setting_as_it_was_resolved(
    calibrated_bundle: Path, given: bool
) -> None:
    parameters: dict[str, object] = {}
    if given:
        parameters = {
            "max_age_s": 0.5,
            "max_latency_s": 0.15,
            "fall_after": 5,
            "samples": 6,
            "seed": 9,
            "latch": "caution",
            "image_fit": "crop",
            "action_type": "geometry_msgs/Twist",
            "action_fields": ("linear.x", "angular.z"),
            "action_timeout_s": 0.4,
            "threads": 2,
        }
    with running(calibrated_bundle, **parameters) as rig:
        told: list[Any] = []
        rig.bus.backend("late").subscribe(
            "jepa/model_info", "jepa_msgs/msg/ModelInfo", Qos(transient_local=True), told.append
        )
        rig.bus.wait_for(lambda: bool(told))
        (info,) = told
    # Of 5 Hz: flags hold for two periods, and a step may take one.
    assert info.max_age == pytest.approx(0.5 if given else 0.4)
    assert info.max_latency == pytest.approx(0.15 if given else 0.2)
    assert (info.fall_after, info.samples, info.seed) == ((5, 6, 9) if given else (3, 8, 0))
    assert info.latch == (2 if given else 0)
    assert info.image_fit == ("crop" if given else "model")
    assert info.action_type == ("geometry_msgs/Twist" if given else "std_msgs/Float32MultiArray")
    assert list(info.action_fields) == (["linear.x", "angular.z"] if given else [])
    assert info.action_timeout == pytest.approx(0.4 if given else 0.0)
    assert info.threads == (2 if given else 1)


def test_uncalibrated_it_says_so_in_every_flag(linear_bundle: Path, episode: Episode) -> None:
    with LocalBus() as bus:
        node = WorldModelNode(bus.backend("n", parameters={"bundle": str(linear_bundle)}))
        with pytest.raises(BundleError, match="no calibrated variant"):
            node.configure()
    with running(linear_bundle, uncalibrated=True) as rig:
        flags = rig.play(episode, 0, 6)
        assert {flag.level for flag in flags} == {0}
        assert all(_reasons(flag) & Reason.UNCALIBRATED for flag in flags)
        rig.bus.wait_for(lambda: len(rig.embeddings) == 6)
        assert not rig.predictions


def test_the_frame_may_be_named_by_a_parameter(calibrated_bundle: Path, episode: Episode) -> None:
    with running(calibrated_bundle, frame_id="nose") as rig:
        flag = rig.play(episode, 0, 1)[0]
        assert flag.header.frame_id == "nose"
        assert stamp_of(flag) == T0_NS


# -- services -------------------------------------------------------------------------------------


def test_an_episode_begins_between_two_steps(calibrated_bundle: Path, episode: Episode) -> None:
    with running(calibrated_bundle) as rig:
        assert rig.play(episode, 0, 6)[-1].level > 0
        answer = rig.bus.call("jepa/begin_episode")
        assert answer.success
        after = rig.play(episode, 0, 6, start_ns=T0_NS + 10**13)  # any next stamp is taken
        assert not _reasons(after[0]) & Reason.CLOCK_JUMP
        assert [flag.episode for flag in after] == [1] * 6
        assert [flag.level > 0 for flag in after] == [False] * WARM_UP + [True] * 3
        # The first frame is taken though, for the camera's grid, it comes too soon.
        assert rig.bus.call("jepa/begin_episode").success
        soon = T0_NS + 10**13 + 5 * PERIOD_NS + 30_000_000
        flag = rig.see(soon, **image_fields(soon, episode.frames[0]))
        assert _reasons(flag) == Reason.WARMING_UP


def test_the_latch_holds_until_a_reset_is_accepted(
    calibrated_bundle: Path, episode: Episode
) -> None:
    def spoiled(rig: Rig, k: int) -> Any:
        stamp = T0_NS + k * PERIOD_NS
        rig.command(stamp - PERIOD_NS + 10_000_000, episode.actions[k - 1])
        black = np.zeros_like(episode.frames[k])
        return rig.see(stamp + 5_000_000, **image_fields(stamp, black))

    with running(calibrated_bundle, latch="reject") as rig:
        rig.play(episode, 0, 8)
        assert spoiled(rig, 8).latched
        refused = rig.bus.call("jepa/reset_latch")
        assert not refused.success
        assert "last reasons" in refused.message
        flags = rig.play(episode, 9, 20)
        assert flags[-1].level == 3
        assert flags[-1].latched
        accepted = rig.bus.call("jepa/reset_latch")
        assert accepted.success, accepted.message
        assert rig.play(episode, 20, 22)[-1].level < 3


# -- lifecycle ------------------------------------------------------------------------------------


def test_the_lifecycle_refuses_wrong_orders_and_can_go_round(
    calibrated_bundle: Path, episode: Episode
) -> None:
    with LocalBus() as bus:
        bus.set_time(T0_NS)
        backend = bus.backend("n", parameters={"bundle": str(calibrated_bundle), "samples": 8})
        node = WorldModelNode(backend)
        rig = Rig(bus, node, backend)
        for wrong in (node.activate, node.deactivate, node.cleanup):
            with pytest.raises(InputError, match="not"):
                wrong()
        for turn in range(2):
            backend.set_parameter("seed", turn)
            node.configure()
            with pytest.raises(InputError, match="configured already"):
                node.configure()
            for _ in range(2):
                node.activate()
                with pytest.raises(InputError, match="active already"):
                    node.activate()
                with pytest.raises(InputError, match="active"):
                    node.cleanup()
                with pytest.raises(InputError):
                    backend.set_parameter("seed", 7)
                assert rig.play(episode, 0, 1, start_ns=T0_NS + turn)[0].level == 0
                node.deactivate()
                bus.settle()
                count = len(rig.arrived)
                bus.publish("image", "sensor_msgs/msg/Image", **image_fields(1, episode.frames[0]))
                bus.settle()
                assert len(rig.arrived) == count
            assert set(bus.services()) == {"/jepa/begin_episode", "/jepa/reset_latch"}
            node.cleanup()
            assert not bus.services()
        node.close()
        node.close()
        assert bus.offered("jepa/flag")[0].reliable
        assert bus.offered("jepa/flag")[0].depth == 1
        assert bus.offered("jepa/flag")[0].deadline_s == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, "parameter bundle is empty"),
        ({"bundle": "/nowhere/x.jepa"}, "does not exist"),
        ({"variant": "int3"}, "no variant 'int3'"),
        ({"action_type": "geometry_msgs/Twist"}, "action_fields is empty"),
        ({"action_fields": ("data[0]",)}, "names 1 numbers"),
        (
            {"action_type": "geometry_msgs/Twist", "action_fields": ("linear.x", "angular.w")},
            "has no field 'w'",
        ),
        ({"samples": 1}, "samples is 1"),
        (
            {
                "action_type": "trajectory_msgs/JointTrajectory",
                "action_fields": ("positions", "positions[1]"),
            },
            "positions of trajectory_msgs/JointTrajectory is no number",
        ),
        ({"require_signature": "/nowhere/key.pem"}, "/nowhere/key.pem"),
    ],
)
def test_configure_says_in_one_line_why_not(
    calibrated_bundle: Path, parameters: dict[str, object], told: str
) -> None:
    given = {"bundle": str(calibrated_bundle), **parameters} if parameters else {}
    with LocalBus() as bus:
        node = WorldModelNode(bus.backend("n", parameters=given))
        with pytest.raises(JepaEdgeError, match=told) as refusal:
            node.configure()
        assert "\n" not in str(refusal.value)
        assert not bus.services()
        with pytest.raises(InputError, match="not configured"):
            node.activate()


def test_parameters_are_described_and_have_ranges() -> None:
    names = [parameter.name for parameter in PARAMETERS]
    assert len(set(names)) == len(names)
    for parameter in PARAMETERS:
        assert isinstance(parameter, Parameter)
        assert parameter.description.endswith((".", "?"))
        assert parameter.checked(parameter.default) == parameter.default
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            assert math.isfinite(parameter.low)
            assert math.isfinite(parameter.high)


def test_no_flag_may_be_told_to_hold_for_longer_than_a_minute() -> None:
    (max_age,) = [parameter for parameter in PARAMETERS if parameter.name == "max_age_s"]
    assert max_age.checked(60.0) == 60.0
    with pytest.raises(InputError, match="expected 0 to 60"):
        max_age.checked(60.1)


def test_markers_show_level_and_spread(calibrated_bundle: Path, episode: Episode) -> None:
    with running(calibrated_bundle, publish_markers=True, publish_prediction=False) as rig:
        arrays = rig.bus.record("jepa/markers", "visualization_msgs/msg/MarkerArray")
        flags = rig.play(episode, 0, 6)
        rig.bus.wait_for(lambda: len(arrays) == 6)
        assert not rig.predictions
    colors = {0: (0.6, 0.6, 0.6), 1: (0.1, 0.8, 0.2), 2: (1.0, 0.75, 0.0), 3: (0.9, 0.1, 0.1)}
    for flag, array in zip(flags, arrays, strict=True):
        sphere, label, bars = array.markers
        assert sphere.header == flag.header
        assert (sphere.color.r, sphere.color.g, sphere.color.b) == pytest.approx(colors[flag.level])
        assert label.text.split("\n")[0] == ("UNKNOWN", "NOMINAL", "CAUTION", "REJECT")[flag.level]
        assert len(bars.points) == len(bars.colors)
        assert len({marker.id for marker in array.markers}) == 3
    assert len({point.x for point in arrays[-1].markers[2].points}) == 5  # a column per step


def test_the_flag_type_is_ours() -> None:
    assert FLAG == "jepa_msgs/msg/ConfidenceFlag"
    assert make(FLAG).level == 0
