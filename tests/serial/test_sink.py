# SPDX-License-Identifier: Apache-2.0
"""A session's flags go over the line as they are, for as long as they are valid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from jepa_edge.cli.run import command
from jepa_edge.errors import InputError
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.serial.config import LinkConfig, LinkProtocol, LinkStatus
from jepa_edge.serial.receiver import Receiver
from jepa_edge.serial.sink import link_flag, link_status, serial_sink, time_left_s
from jepa_edge.session import Observation, Session
from jepa_edge.sinks import Sink
from jepa_edge.world_model import WorldModel

from .lines import Line


def test_a_session_speaks_over_a_line(
    calibrated_bundle: Path, make_episode: Callable[[int], Episode]
) -> None:
    model = WorldModel.load(calibrated_bundle)
    monitor = Monitor.load(model)
    session = Session(model, monitor)
    episode = make_episode(500)
    receiver, sent, heard = Receiver(), [], []
    with Line() as line:
        config = LinkConfig(port=line.path, rate_hz=100.0, hold_s=0.2)
        with serial_sink(config, link_status(model, monitor)) as sink:
            for index, stamp_s in enumerate(episode.stamps_s):
                action = episode.actions[index - 1] if index else None
                observation = Observation(
                    stamp_s=float(stamp_s), frame=episode.frames[index], action=action
                )
                update = session.step(observation)
                sink(observation, update)
                end_s = time.monotonic() + 0.05
                while time.monotonic() < end_s:
                    receiver.push(line.read(0.01), 0)
                assert receiver.flag is not None
                heard.append((receiver.flag.flag_seq, receiver.flag.level, receiver.flag.reasons))
                sent.append((update.flag.seq, update.flag.level, update.flag.reason_bits))
    assert heard == sent
    assert len({level for _, level, _ in sent}) > 1
    status = receiver.status
    assert status is not None
    assert status.variant == model.variant
    assert status.model.hex() == model.manifest.variant_sha256(model.variant)[:16]
    assert any(status.calibration)
    assert status.alpha == pytest.approx(0.1)
    uncalibrated = link_status(model, None)
    assert (uncalibrated.calibration_sha256, uncalibrated.armed) == ("", False)

    flag = msgspec.structs.replace(update.flag, valid_for_s=0.5, input_age_s=0.1, latency_s=0.15)
    assert time_left_s(flag) == pytest.approx(0.25)
    assert time_left_s(msgspec.structs.replace(flag, input_age_s=-3.0)) == pytest.approx(0.35)
    assert link_flag(flag).confidence == pytest.approx(flag.confidence, nan_ok=True)


def run(bundle: Path, source: Path, *options: str) -> BaseException | None:
    arguments = [str(bundle), "--source", str(source), "--rate", "0", "--samples", "0"]
    return CliRunner().invoke(command, [*arguments, *options]).exception


def test_the_line_hears_of_a_flag_before_any_sink_that_may_wait(
    calibrated_bundle: Path,
    make_episode: Callable[..., Episode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flag's time runs from its making: writing to a slow disk or a full pipe must not give it
    more."""
    info = RecordingInfo(rate_hz=5.0, action_dim=4)
    with RecordingWriter(tmp_path / "runs", info) as writer:
        writer.add(episode := make_episode(9003, 6))
    called: list[str] = []

    def sink_of(name: str) -> Sink:
        return lambda observation, update: called.append(name)

    @contextmanager
    def serial(config: LinkConfig, status: LinkStatus) -> Iterator[Sink]:
        assert (config.port, config.protocol) == ("/dev/ttyX", LinkProtocol.MAVLINK)
        yield sink_of("serial")

    @contextmanager
    def mcap(*_: object) -> Iterator[Sink]:
        yield sink_of("mcap")

    monkeypatch.setattr("jepa_edge.serial.sink.serial_sink", serial)
    monkeypatch.setattr("jepa_edge.sinks.mcap.mcap_sink", mcap)
    monkeypatch.setattr("jepa_edge.sinks.terminal.plain_lines", lambda: sink_of("lines"))
    monkeypatch.setattr(
        "jepa_edge.sinks.terminal.Tally.__call__", lambda self, *_: called.append("tally")
    )
    options = ("--serial", "/dev/ttyX", "--serial-protocol", "mavlink")
    mcap_option = ("--mcap", str(tmp_path / "flags.mcap"))
    assert run(calibrated_bundle, tmp_path / "runs", *options, *mcap_option) is None
    assert called == ["serial", "tally", "lines", "mcap"] * len(episode.frames)


@pytest.mark.parametrize("option", [("--baud", "9600"), ("--serial-protocol", "mavlink")])
def test_options_of_a_line_without_a_line_are_refused(
    option: tuple[str, str], calibrated_bundle: Path, tmp_path: Path
) -> None:
    error = run(calibrated_bundle, tmp_path, *option)
    assert isinstance(error, InputError)
    assert f"without --serial has no use for {option[0]}" in str(error)
