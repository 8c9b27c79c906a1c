# SPDX-License-Identifier: Apache-2.0
"""Recording a simulator's scripted policy: repeatable, honest about what was commanded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pymunk")

from jepa_edge.errors import InputError
from jepa_edge.faults import parse_fault
from jepa_edge.recording import Recording
from jepa_edge.sim import SIMULATORS, PushTSim, make_simulator, record
from jepa_edge.sim.pusht import STATE_NAMES


def test_recording_reads_back_and_repeats(tmp_path: Path) -> None:
    done: list[int] = []
    record("pusht", tmp_path / "a", 2, 6, seed=9, on_progress=done.append)
    record("pusht", tmp_path / "b", 2, 6, seed=9)
    record("pusht", tmp_path / "c", 2, 6, seed=10)
    assert done == [1, 2]
    a, b, c = (Recording(tmp_path / name) for name in "abc")
    assert a.info.action_dim == 4
    assert a.info.rate_hz == 5.0
    assert a.info.state_names == STATE_NAMES
    assert a.info.source == "sim:pusht seed=9 fault=none"
    for left, right, other in zip(a, b, c, strict=True):
        assert left.frames.shape == (7, 64, 64, 3)
        assert left.actions.shape == (6, 4)
        assert left.state is not None
        assert left.state.shape == (7, 6)
        np.testing.assert_allclose(np.diff(left.stamps_s), 0.2)
        assert left.actions.min() >= 0
        assert left.actions.max() <= 512
        np.testing.assert_array_equal(left.frames, right.frames)
        np.testing.assert_array_equal(left.actions, right.actions)
        assert not np.array_equal(left.actions, other.actions)


def test_size_and_block_are_the_simulators(tmp_path: Path) -> None:
    record("pusht", tmp_path / "r", 1, 3, size=32, block=5)
    episode = Recording(tmp_path / "r").load(0)
    assert episode.frames.shape == (4, 32, 32, 3)
    assert episode.actions.shape == (3, 10)
    np.testing.assert_allclose(np.diff(episode.stamps_s), 0.5)


def test_two_processes_record_the_same(tmp_path: Path) -> None:
    record("pusht", tmp_path / "one", 3, 4, seed=1)
    record("pusht", tmp_path / "two", 3, 4, seed=1, workers=2)
    for one, two in zip(Recording(tmp_path / "one"), Recording(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)


def test_recorded_action_is_the_commanded_one(tmp_path: Path) -> None:
    stuck = parse_fault("stuck@4")
    record("pusht", tmp_path / "r", 1, 12, seed=2, injection=stuck)
    record("pusht", tmp_path / "well", 1, 12, seed=2)
    recording = Recording(tmp_path / "r")
    assert recording.info.source == "sim:pusht seed=2 fault=stuck:1.0@4"
    episode, well = recording.load(0), Recording(tmp_path / "well").load(0)
    assert episode.state is not None
    assert well.state is not None
    np.testing.assert_array_equal(episode.state[:5], well.state[:5])
    assert np.ptp(episode.state[7:, :2], axis=0).max() < 2.0  # settled on its last target
    assert np.ptp(episode.actions[4:], axis=0).max() > 20.0


def test_every_episode_draws_its_fault_apart(tmp_path: Path) -> None:
    record("pusht", tmp_path / "well", 6, 2)
    record("pusht", tmp_path / "r", 6, 2, injection=parse_fault("shift:0.2@1"))
    sides = set()
    for well, episode in zip(Recording(tmp_path / "well"), Recording(tmp_path / "r"), strict=True):
        np.testing.assert_array_equal(well.frames[0], episode.frames[0])
        np.testing.assert_array_equal(well.actions, episode.actions)
        before, after = well.frames[1], episode.frames[1]
        moved = {
            "down": np.array_equal(after[13:], before[:-13]),
            "up": np.array_equal(after[:-13], before[13:]),
            "right": np.array_equal(after[:, 13:], before[:, :-13]),
            "left": np.array_equal(after[:, :-13], before[:, 13:]),
        }
        (side,) = [name for name, is_it in moved.items() if is_it]
        sides.add(side)
    assert len(sides) > 1


def test_simulators_are_made_by_name() -> None:
    assert set(SIMULATORS) == {"pusht", "reacher"}
    sim = make_simulator("pusht", 7, size=32)
    assert isinstance(sim, PushTSim)
    assert (sim.name, sim.size, sim.block) == ("pusht", 32, 2)
    np.testing.assert_array_equal(sim.state, PushTSim(7).state)
    with pytest.raises(InputError, match="there is pusht, reacher"):
        make_simulator("walker")


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    for bad in ({"episodes": 0}, {"steps": 0}, {"workers": 0}, {"block": 0}, {"size": 4}):
        with pytest.raises(InputError, match="expected at least 1"):
            record("pusht", tmp_path / "x", **{"episodes": 1, "steps": 5, **bad})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed=-1"):
        record("pusht", tmp_path / "x", 1, 5, -1)
    with pytest.raises(InputError, match="fault starts at step 9"):
        record("pusht", tmp_path / "x", 1, 5, injection=parse_fault("freeze@9"))
    with pytest.raises(InputError, match="not known"):
        record("walker", tmp_path / "x", 1, 5)
    assert not (tmp_path / "x").exists()


def test_a_simulator_that_accepts_no_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PushTSim, "accepts", lambda self, states: False, raising=False)
    with pytest.raises(InputError, match="none of 20 runs drawn for episode 0"):
        record("pusht", tmp_path / "x", 1, 2, size=16)
    assert not (tmp_path / "x").exists()
