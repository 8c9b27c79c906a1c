# SPDX-License-Identifier: Apache-2.0
"""Every source makes the clips of the same run, and none over a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle
from jepa_edge.clip import by_camera_frame, clips_of
from jepa_edge.errors import InputError
from jepa_edge.image_fit import fit_to
from jepa_edge.manifest import ClipSpec, FitSpec, Manifest, StateSpec
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.session import Observation, Session, SessionConfig
from jepa_edge.sinks.mcap import mcap_sink
from jepa_edge.sources import SourceOptions, open_source
from jepa_edge.world_model import WorldModel

RATE = 10.0  # of the camera; the model steps at 5 Hz
CLIP = ClipSpec(frames=4, tubelet=2, hop=2)
FRAMES = 11


def _of_clips(manifest: Manifest, **observation: Any) -> Manifest:
    spec = msgspec.structs.replace(manifest.observation, clip=CLIP, **observation)
    return msgspec.structs.replace(manifest, observation=spec, action=None)


@pytest.fixture
def manifest(linear_bundle: Path) -> Manifest:
    return _of_clips(Bundle.open(linear_bundle).manifest)


@pytest.fixture
def run() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, 8, 8, 3), dtype=np.uint8)


def _check(stream: list[Observation], run: NDArray[np.uint8], start_s: float = 0.0) -> None:
    expected = list(clips_of(run, CLIP))
    assert len(stream) == len(expected) == 4
    for observation, (newest, clip) in zip(stream, expected, strict=True):
        np.testing.assert_array_equal(observation.frame, clip)
        assert observation.stamp_s == pytest.approx(start_s + newest / RATE, abs=1e-3)
        assert observation.action is None


def _record(path: Path, run: NDArray[np.uint8], stamps_s: NDArray[np.float64]) -> str:
    with RecordingWriter(path, RecordingInfo(rate_hz=RATE, action_dim=0)) as writer:
        nothing = np.zeros((len(run) - 1, 0), np.float32)
        writer.add(Episode(name="e", frames=run, actions=nothing, stamps_s=stamps_s))
    return str(path)


def test_a_recording_of_camera_frames(
    manifest: Manifest, run: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = _record(tmp_path / "runs", run, 100.0 + np.arange(FRAMES) / RATE)
    _check(list(open_source(path, manifest, SourceOptions())), run, 100.0)


def test_a_gap_in_a_recording_is_in_no_clip(
    manifest: Manifest, run: NDArray[np.uint8], tmp_path: Path
) -> None:
    stamps_s = np.arange(FRAMES) / RATE
    stamps_s[5:] += 1.0
    stream = list(open_source(_record(tmp_path / "runs", run, stamps_s), manifest, SourceOptions()))
    np.testing.assert_array_equal([o.frame for o in stream], [run[0:4], run[5:9], run[7:11]])


@pytest.mark.parametrize("faster", [1, 3])
def test_a_video(manifest: Manifest, run: NDArray[np.uint8], tmp_path: Path, faster: int) -> None:
    """faster: the video has so many pictures for each that the model sees."""
    path = _video(tmp_path / "clip.mkv", run.repeat(faster, 0), round(RATE * faster))
    _check(list(open_source(str(path), manifest, SourceOptions())), run)


def test_a_video_of_another_size_is_fitted_as_the_bundle_says(
    manifest: Manifest, tmp_path: Path
) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (6, 20, 36, 3), dtype=np.uint8)
    path = _video(tmp_path / "clip.mkv", pictures, round(RATE))
    with pytest.raises(InputError, match="--resize"):
        open_source(str(path), manifest, SourceOptions())
    for fit, choice, options in (
        (FitSpec(short_side=10), "model", SourceOptions()),
        (FitSpec(short_side=10), "stretch", SourceOptions(resize=True)),
        (None, "stretch", SourceOptions(resize=True)),
    ):
        fitted = _of_clips(manifest, fit=fit)
        stream = list(open_source(str(path), fitted, options))
        expected = [fit_to(fitted.observation, picture, choice) for picture in pictures]
        np.testing.assert_array_equal([o.frame for o in stream], [expected[0:4], expected[2:6]])


def test_a_video_that_is_too_slow_is_refused(
    manifest: Manifest, run: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = _video(tmp_path / "clip.mkv", run, 7)
    with pytest.raises(InputError, match="set the camera to 10 Hz"):
        list(open_source(str(path), manifest, SourceOptions()))


def test_actions_beside_a_video_are_refused_by_a_model_without(
    manifest: Manifest, run: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = _video(tmp_path / "clip.mkv", run, round(RATE))
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="takes no actions"):
        open_source(str(path), manifest, SourceOptions(actions=tmp_path / "a.npy"))


def test_a_bag_without_commands(
    manifest: Manifest, linear_bundle: Path, run: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = WorldModel.load(linear_bundle)
    session = Session(model, None)
    path = tmp_path / "camera.mcap"
    with mcap_sink(path, model, None, SessionConfig()) as sink:
        for k, picture in enumerate(run):
            observation = Observation(stamp_s=50.0 + k / RATE, frame=picture)
            sink(observation, session.step(observation))
    _check(list(open_source(str(path), manifest, SourceOptions())), run, 50.0)


def test_a_simulator(manifest: Manifest) -> None:
    pytest.importorskip("gym_pusht")
    spec = msgspec.structs.replace(manifest.observation, height=96, width=96)
    manifest = msgspec.structs.replace(manifest, observation=spec)
    options = SourceOptions(steps=3, seed=1)
    stream = list(open_source("sim:pusht", manifest, options))
    assert len(stream) == 4
    frames = list(
        open_source("sim:pusht", by_camera_frame(manifest), SourceOptions(steps=9, seed=1))
    )
    assert len(frames) == 10
    _check(stream, np.stack([frame.frame for frame in frames]))
    unclipped = msgspec.structs.replace(spec, clip=None, rate_hz=1000.0)
    with pytest.raises(InputError, match="Hz"):
        open_source("sim:pusht", msgspec.structs.replace(manifest, observation=unclipped), options)


def _video(path: Path, pictures: NDArray[np.uint8], rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)  # lossless
        stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_sources_without_the_robots_state_are_refused(
    manifest: Manifest, run: NDArray[np.uint8], tmp_path: Path
) -> None:
    taking = msgspec.structs.replace(manifest, state=StateSpec(dim=2, names=("x", "y")))
    path = _video(tmp_path / "clip.mkv", run, round(RATE))
    for spec, what in ((str(path), "is a video"), ("sim:pusht", "sim:pusht is a simulator")):
        with pytest.raises(InputError, match=rf"{what}.*2 numbers of it \(x, y\).*state_type"):
            open_source(spec, taking, SourceOptions())


def test_a_gap_in_a_file_is_told_where_the_stamps_hide_it(
    linear_bundle: Path, tmp_path: Path
) -> None:
    """Clips of 2 every 2: over a lost frame they end 1.5 steps apart."""
    spec = ClipSpec(frames=2, tubelet=2, hop=2)
    manifest = _of_clips(Bundle.open(linear_bundle).manifest)
    observation = msgspec.structs.replace(manifest.observation, clip=spec)
    manifest = msgspec.structs.replace(manifest, observation=observation)
    kept = np.array([k for k in range(14) if k != 6])
    pictures = np.zeros((len(kept), 8, 8, 3), np.uint8)
    stream = list(
        open_source(_record(tmp_path / "runs", pictures, kept / RATE), manifest, SourceOptions())
    )
    newest = [round(RATE * seen.stamp_s) for seen in stream]
    assert newest == [1, 3, 5, 8, 10, 12]
    assert [seen.continues for seen in stream] == [True, True, True, False, True, True]
    assert [seen.continues for seen in _gappy_video(tmp_path, manifest, kept)] == [
        seen.continues for seen in stream
    ]


def _gappy_video(path: Path, manifest: Manifest, kept: NDArray[np.int64]) -> list[Observation]:
    with av.open(str(path / "gap.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=round(RATE))
        stream.width, stream.height, stream.pix_fmt = 8, 8, "bgr0"
        for k in kept:
            frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")
            frame.pts = int(k)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return list(open_source(str(path / "gap.mkv"), manifest, SourceOptions()))
