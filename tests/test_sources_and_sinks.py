# SPDX-License-Identifier: Apache-2.0
"""Every source yields the stream that was put in; what the MCAP sink writes is itself a source."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner
from rosbags.rosbag2 import Reader

from jepa_edge.bags.reader import Bag
from jepa_edge.bags.topics import BagOptions
from jepa_edge.cli.replay import command as replay
from jepa_edge.cli.run import command as run
from jepa_edge.errors import InputError
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.ros_types import CONFIDENCE_FLAG, typestore
from jepa_edge.selective import Published
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.sinks.jsonl import json_lines
from jepa_edge.sinks.mcap import FLAG_TOPIC, INFO_TOPIC, PREDICTION_TOPIC, mcap_sink
from jepa_edge.sinks.terminal import plain_lines
from jepa_edge.sources import SourceOptions, open_source
from jepa_edge.text import Label
from jepa_edge.world_model import WorldModel

STEPS = 7


@pytest.fixture
def model(linear_bundle: Path) -> WorldModel:
    return WorldModel.load(linear_bundle)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        for _ in range(2):
            writer.add(
                Episode(
                    name="e",
                    frames=rng.integers(0, 256, (STEPS + 1, 8, 8, 3), dtype=np.uint8),
                    actions=rng.uniform(0, 512, (STEPS, 4)).astype(np.float32),
                    stamps_s=1e9 + np.arange(STEPS + 1) / 5.0,
                )
            )
    return tmp_path / "runs"


def _same(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.stamp_s == pytest.approx(b.stamp_s, abs=1e-6)
        assert np.array_equal(a.frame, b.frame)
        assert (a.action is None) == (b.action is None)
        if a.action is not None:
            assert np.array_equal(a.action, b.action)


def test_a_recording_pairs_each_frame_with_the_action_before_it(
    recording: Path, model: WorldModel
) -> None:
    stream = list(open_source(str(recording), model.manifest, SourceOptions(episode=1)))
    assert len(stream) == STEPS + 1
    assert stream[0].action is None
    assert all(observation.action is not None for observation in stream[1:])
    with pytest.raises(InputError, match="--episode 2"):
        open_source(str(recording), model.manifest, SourceOptions(episode=2))


def test_an_mcap_written_by_a_session_replays_to_the_same_flags(
    recording: Path, model: WorldModel, tmp_path: Path
) -> None:
    source = list(open_source(str(recording), model.manifest, SourceOptions()))
    session = Session(model, None)
    mcap = tmp_path / "out.mcap"
    flags = []
    with mcap_sink(mcap, model, None, SessionConfig()) as sink:
        for observation in source:
            update = session.step(observation)
            flags.append(update.flag)
            sink(observation, update)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linear.jepa", "out.mcap", "runs"]
    replayed = list(open_source(str(mcap), model.manifest, SourceOptions()))
    _same(source, replayed)
    store = typestore()
    with Reader(mcap) as reader:
        connections = [c for c in reader.connections if c.topic == FLAG_TOPIC]
        stored = [
            store.deserialize_cdr(payload, CONFIDENCE_FLAG)
            for _, _, payload in reader.messages(connections=connections)
        ]
    assert [message.level for message in stored] == [int(flag.level) for flag in flags]
    assert [message.reasons for message in stored] == [flag.reason_bits for flag in flags]
    with (
        pytest.raises(InputError, match="exists already"),
        mcap_sink(mcap, model, None, SessionConfig()),
    ):
        pass


def test_a_bag_of_bgr_images_is_turned_around(
    recording: Path, model: WorldModel, tmp_path: Path
) -> None:
    source = list(open_source(str(recording), model.manifest, SourceOptions()))
    session = Session(model, None)
    with mcap_sink(tmp_path / "bgr.mcap", model, None, SessionConfig(), color="bgr") as sink:
        for observation in source:
            sink(observation, session.step(observation))
    replayed = open_source(str(tmp_path / "bgr.mcap"), model.manifest, SourceOptions())
    for before, after in zip(source, replayed, strict=True):
        assert np.array_equal(before.frame[..., ::-1], after.frame)


def test_a_bag_without_the_topic_says_what_it_has(
    recording: Path, model: WorldModel, tmp_path: Path
) -> None:
    session = Session(model, None)
    with mcap_sink(tmp_path / "a.mcap", model, None, SessionConfig()) as sink:
        for observation in open_source(str(recording), model.manifest, SourceOptions()):
            sink(observation, session.step(observation))
    elsewhere = SourceOptions(bag=BagOptions(image_topic="/cam"))
    with pytest.raises(InputError, match="/camera/image_raw"):
        open_source(str(tmp_path / "a.mcap"), model.manifest, elsewhere)
    damaged = tmp_path / "b.mcap"
    damaged.write_bytes((tmp_path / "a.mcap").read_bytes()[:500])
    with pytest.raises(InputError, match=r"b\.mcap"):
        open_source(str(damaged), model.manifest, SourceOptions())


def test_a_video_is_sampled_at_the_models_rate(model: WorldModel, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        # Lossless, so that pixels can be compared.
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "bgr0"
        for index in range(11):
            pixels = np.full((8, 8, 3), 20 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    observations = list(open_source(str(path), model.manifest, SourceOptions()))
    # 10 frames per second seen at 5 Hz: every second one.
    assert [int(o.frame[0, 0, 0]) for o in observations] == [0, 40, 80, 120, 160, 200]
    assert all(o.action is None for o in observations)
    actions = tmp_path / "actions.npy"
    np.save(actions, np.ones((4, 4), np.float32))
    with_actions = list(open_source(str(path), model.manifest, SourceOptions(actions=actions)))
    assert len(with_actions) == 5
    np.save(actions, np.ones((4, 3), np.float32))
    with pytest.raises(InputError, match=r"\(T, 4\)"):
        open_source(str(path), model.manifest, SourceOptions(actions=actions))


def test_a_video_of_another_size_needs_consent(model: WorldModel, tmp_path: Path) -> None:
    path = tmp_path / "big.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 9, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="--resize"):
        open_source(str(path), model.manifest, SourceOptions())
    (only,) = open_source(str(path), model.manifest, SourceOptions(resize=True))
    assert only.frame.shape == (8, 8, 3)
    assert np.abs(only.frame.astype(int) - 9).max() <= 1


def test_an_unknown_source_lists_the_known_kinds(model: WorldModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sim:pusht"):
        open_source(str(tmp_path / "nothing"), model.manifest, SourceOptions())
    with pytest.raises(InputError, match="simulator"):
        open_source("sim:atlantis", model.manifest, SourceOptions())
    with pytest.raises(InputError, match="--fault"):
        open_source(str(tmp_path), model.manifest, SourceOptions(fault="stuck@3"))


def test_json_lines_are_json_with_levels_spelled_out(recording: Path, model: WorldModel) -> None:
    stream = io.BytesIO()
    session = Session(model, None)
    sink = json_lines(stream)
    for observation in open_source(str(recording), model.manifest, SourceOptions()):
        sink(observation, session.step(observation))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == STEPS + 1
    assert {line["level"] for line in lines} == {"UNKNOWN"}
    assert all("uncalibrated" in line["reasons"] for line in lines)
    assert all(line["score"] is None for line in lines)


def test_labels_of_a_strangers_bundle_do_not_reach_the_terminal_raw(
    model: WorldModel, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Observation(stamp_s=0.0, frame=np.zeros((8, 8, 3), np.uint8))
    update = Session(model, None).step(seen)
    evil = Label(text="cup\x1b]0;owned\x07\x1b[2J\u202e", probability=0.9, similarity=0.5)
    plain_lines()(seen, Published(flag=update.flag, labels=(evil,), changed=True))
    told = capsys.readouterr().out
    assert r"label: cup\x1b]0;owned\x07\x1b[2J\u202e (0.90)" in told
    assert told.replace("\n", "").isprintable()


def test_a_slow_video_keeps_its_own_time(model: WorldModel, tmp_path: Path) -> None:
    path = tmp_path / "slow.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "bgr0"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    observations = list(open_source(str(path), model.manifest, SourceOptions()))
    assert [o.stamp_s for o in observations] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    session = Session(model, None)
    flags = [session.step(observation).flag for observation in observations]
    assert all("clock_jump" in flag.reasons for flag in flags[1:])


def test_an_mcap_of_a_calibrated_run_gives_its_flags_again(
    calibrated_bundle: Path, make_episode: Callable[[int], Episode], tmp_path: Path
) -> None:
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        writer.add(make_episode(9005))
    bundle, mcap = str(calibrated_bundle), str(tmp_path / "out.mcap")
    runs = ("--source", str(tmp_path / "runs"), "--rate", "0", "--samples", "4", "--mcap", mcap)
    done = CliRunner().invoke(run, [bundle, *runs], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(replay, [mcap, "--bundle", bundle, "--json"], catch_exceptions=False)
    told = json.loads(again.stdout)
    assert (told["same"], told["compared"]) == (True, len(make_episode(9005).frames))
    assert told["identities"][0] == {"known": True, "differing": [], "numbers": []}
    bag = Bag(mcap)
    predictions = [entry.message for entry in bag.messages([PREDICTION_TOPIC])]
    episode = make_episode(9005)
    assert predictions
    for message in predictions:
        step = round((message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec) * 5.0)
        held = np.asarray(message.actions).reshape(message.horizon, message.action_dim)
        assert np.array_equal(held, np.repeat(episode.actions[step - 1][None], 5, axis=0))
        assert (len(message.spread), len(message.level), message.seq) == (5, 5, step)
    (info,) = bag.messages([INFO_TOPIC])
    assert info.message.variant == "fp32"
