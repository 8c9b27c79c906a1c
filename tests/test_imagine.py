# SPDX-License-Identifier: Apache-2.0
"""Imagined futures: the map against an SVD in float64, the paths against the model's rollout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration.imagine_page import write_imagine_page, write_landscape_page
from jepa_edge.cli.app import cli
from jepa_edge.energy_landscape import MAX_STEPS, Landscape, energy_landscape
from jepa_edge.errors import InputError
from jepa_edge.imagine import (
    INSIDE,
    MAX_SAMPLES,
    ActionSequence,
    Imagined,
    Path2D,
    builtin_sequences,
    ellipse,
    imagine,
    read_sequences,
)
from jepa_edge.imagine_inputs import Run, goal_frame, read_run, scene_of
from jepa_edge.imagine_report import report_futures, report_landscape
from jepa_edge.latent_map import LatentMap, map_name
from jepa_edge.manifest import ActionSpec, LatentSpec, StateSpec
from jepa_edge.monitor import Monitor
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.session_config import MAX_HORIZON
from jepa_edge.world_model import WorldModel

_SPEC = LatentSpec(tokens=4, dim=7, energy_tokens=3, energy_dim=6)


@pytest.fixture(scope="module")
def model(calibrated_bundle: Path) -> WorldModel:
    return WorldModel.load(calibrated_bundle)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_episode: Callable[[int], Episode]) -> Path:
    path = tmp_path_factory.mktemp("imagine") / "runs"
    with RecordingWriter(path, RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        for seed in range(500, 504):
            writer.add(make_episode(seed))
    return path


def _latents(rows: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, 4, 7)) * np.array([5.0, 3.0, 1.0, 0.5, 0.2, 0.1, 100.0])
    return np.asarray(mixed + rng.normal(size=7), np.float32)


def test_the_map_is_the_first_two_principal_components() -> None:
    episodes = [_latents(40, 1), _latents(25, 2)]
    found = LatentMap.fit(episodes, _SPEC)
    means = np.concatenate(episodes).astype(np.float64)[:, :3, :6].mean(axis=1)
    values, vectors = np.linalg.eigh(np.cov(means.T))
    for axis in range(2):
        direction = vectors[:, -1 - axis]
        assert abs(direction @ found.components[axis]) == pytest.approx(1.0, abs=1e-6)
        assert found.explained[axis] == pytest.approx(values[-1 - axis] / values.sum(), rel=1e-5)
        largest = np.argmax(np.abs(found.components[axis]))
        assert found.components[axis, largest] > 0.0
    np.testing.assert_allclose(found.mean, means.mean(axis=0), rtol=1e-5, atol=1e-6)
    expected = (means - means.mean(axis=0)) @ found.components.T.astype(np.float64)
    np.testing.assert_allclose(found.project(np.concatenate(episodes), _SPEC), expected, atol=1e-5)
    np.testing.assert_allclose(found.cloud, expected, atol=1e-5)


def test_the_map_does_not_see_what_energies_leave_out() -> None:
    latents = _latents(30)
    found = LatentMap.fit([latents], _SPEC)
    changed = latents.copy()
    changed[:, 3], changed[:, :, 6] = 1e3, -1e3
    np.testing.assert_array_equal(found.project(changed, _SPEC), found.project(latents, _SPEC))


def test_a_map_of_what_never_moves_is_refused() -> None:
    with pytest.raises(InputError, match="not all the same"):
        LatentMap.fit([np.ones((9, 4, 7), np.float32)], _SPEC)


def test_calibration_leaves_a_map_in_the_bundle(calibrated_bundle: Path) -> None:
    bundle = Bundle.open(calibrated_bundle)
    found = LatentMap.read(bundle, "fp32")
    assert found is not None
    assert found.components.shape == (2, bundle.manifest.latent.dim)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(2), atol=1e-6)
    assert len(found.cloud) > 100


def _moment(model: WorldModel, runs: Path) -> tuple[Any, NDArray[np.float32]]:
    run = read_run(runs, model.manifest, episode=1)
    scene = scene_of(run, model.manifest, 10)
    return scene, model.encode(scene.frames)


def test_paths_are_the_models_rollout_on_the_map(model: WorldModel, runs: Path) -> None:
    scene, history = _moment(model, runs)
    latent_map = LatentMap.read(model.bundle, "fp32")
    assert latent_map is not None
    rng = np.random.default_rng(3)
    sequences = [
        ActionSequence(name=str(k), actions=rng.uniform(0, 512, (k + 2, 4)).astype(np.float32))
        for k in range(3)
    ]
    goal = model.encode(scene.frames[:1])[0]
    found = imagine(model, latent_map, history, scene.past_actions, sequences, goal=goal)
    spec = model.manifest.latent
    for sequence, path in zip(sequences, found.paths, strict=True):
        actions = np.concatenate([scene.past_actions, sequence.actions])
        rolled = model.rollout(history[None], actions[None])[0].astype(np.float64)
        expected = (rolled.mean(axis=1) - latent_map.mean) @ latent_map.components.T
        np.testing.assert_allclose(path.points[1:], expected, atol=1e-5)
        np.testing.assert_allclose(path.points[0], latent_map.project(history[-1], spec))
        energies = ((rolled - goal) ** 2).sum(axis=(1, 2))
        np.testing.assert_allclose(path.energies, energies, rtol=1e-4)
    ends = [float(path.energies[-1]) for path in found.paths if path.energies is not None]
    assert found.best is found.paths[int(np.argmin(ends))]


def test_ellipses_hold_the_stated_share_of_samples(model: WorldModel, runs: Path) -> None:
    scene, history = _moment(model, runs)
    latent_map = LatentMap.read(model.bundle, "fp32")
    assert latent_map is not None
    sampler = Monitor.load(model)
    actions = np.tile(scene.past_actions[-1], (3, 1))
    taken = np.concatenate([scene.past_actions, actions])

    class Recorder:
        def sample(self, *arguments: Any) -> Any:
            return sampler.sample_futures(*arguments)

    found = imagine(
        model,
        latent_map,
        history,
        scene.past_actions,
        [ActionSequence(name="hold", actions=actions)],
        sampler=Recorder(),
        samples=2000,
        seed=4,
    )
    path = found.paths[0]
    drawn = latent_map.project(
        sampler.sample_futures(history, taken, 2000, 4).latents, model.manifest.latent
    )
    assert path.covariances is not None
    assert path.centers is not None
    for step in range(3):
        longer, shorter, angle = ellipse(path.covariances[step])
        apart = drawn[:, step] - path.centers[step]
        turned = apart @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        inside = np.mean((turned[:, 0] / longer) ** 2 + (turned[:, 1] / shorter) ** 2 <= 1.0)
        assert inside == pytest.approx(INSIDE, abs=0.025)
        np.testing.assert_allclose(path.covariances[step], np.cov(drawn[:, step].T), rtol=1e-4)


def test_builtin_sequences_move_one_axis_and_stay_within_limits() -> None:
    action = ActionSpec(
        dim=4,
        block=2,
        mean=(1.0, 2.0, 1.0, 2.0),
        std=(0.5, 9.0, 0.5, 9.0),
        low=(-4.0,) * 4,
        high=(4.0,) * 4,
        names=("x", "y"),
    )
    found = {s.name: s.actions for s in builtin_sequences(action, 3, np.full(4, 0.25, np.float32))}
    assert list(found) == [
        "hold the last command",
        "zero",
        "x +1 std",
        "x -1 std",
        "y +1 std",
        "y -1 std",
    ]
    np.testing.assert_array_equal(found["x +1 std"], np.tile([1.5, 2.0, 1.5, 2.0], (3, 1)))
    np.testing.assert_array_equal(found["y -1 std"], np.tile([1.0, -4.0, 1.0, -4.0], (3, 1)))
    names = [s.name for s in builtin_sequences(action, 1, None)]
    assert "hold the last command" not in names


def test_sequences_are_read_from_both_formats(tmp_path: Path) -> None:
    action = ActionSpec(dim=2, block=1, mean=(0.0, 0.0), std=(1.0, 1.0))
    table = tmp_path / "plans.csv"
    table.write_text("sequence,x,y\nleft,1,2\nleft,3,4\nright,-1,0.5\n")
    left, right = read_sequences(table, action)
    assert (left.name, right.name) == ("left", "right")
    np.testing.assert_array_equal(left.actions, [[1, 2], [3, 4]])
    array = np.arange(12, dtype=np.float64).reshape(2, 3, 2)
    np.save(tmp_path / "plans.npy", array)
    first, second = read_sequences(tmp_path / "plans.npy", action)
    np.testing.assert_array_equal([first.actions, second.actions], array)
    for text, message in (
        ("s,x,y\na,1\n", r"expected \(steps, 2\)"),
        ("s,x,y\na,1,nan\n", "NaN"),
        ("s,x,y\na,1,two\n", "two"),
        ("s,x,y\na,1,2\nb,1,2\na,1,2\n", "stand together"),
        ("s,x,y\n", "no sequences"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            read_sequences(table, action)


def test_pictures_and_trajectories_are_read(model: WorldModel, tmp_path: Path) -> None:
    manifest = model.manifest
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 5, 8, 8, 3), dtype=np.uint8)
    actions = rng.normal(size=(1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "run.npz", observations=frames, actions=actions, other=np.zeros(2))
    run = read_run(tmp_path / "run.npz", manifest)
    scene = scene_of(run, manifest, 3)
    np.testing.assert_array_equal(scene.frames, frames[0, 1:4])
    np.testing.assert_array_equal(scene.past_actions, actions[0, 1:3])
    np.testing.assert_array_equal(scene.last_action, actions[0, 2])
    picture, _, told = goal_frame(run, "4", manifest)
    np.testing.assert_array_equal(picture, frames[0, 4])
    assert told.endswith("frame 4")
    from PIL import Image

    Image.fromarray(frames[0, 2]).save(tmp_path / "goal.png")
    picture, _, _ = goal_frame(run, str(tmp_path / "goal.png"), manifest)
    np.testing.assert_array_equal(picture, frames[0, 2])
    with pytest.raises(InputError, match="later frame"):
        scene_of(run, manifest, 1)
    with pytest.raises(InputError, match="frames 0 to 4"):
        scene_of(run, manifest, 5)
    np.save(tmp_path / "large.npy", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="16 x 16"):
        read_run(tmp_path / "large.npy", manifest)
    assert read_run(tmp_path / "large.npy", manifest, fit="crop").frames.shape == (1, 8, 8, 3)
    np.savez(tmp_path / "bad.npz", frames=frames)
    with pytest.raises(InputError, match="expected observations"):
        read_run(tmp_path / "bad.npz", manifest)


def test_one_picture_is_too_little_for_a_model_with_a_history(model: WorldModel) -> None:
    run = Run(frames=np.zeros((1, 8, 8, 3), np.uint8), actions=None, states=None, told="a picture")
    with pytest.raises(InputError, match="the model needs 3"):
        scene_of(run, model.manifest)


def test_the_command_prints_json_and_writes_a_page(
    calibrated_bundle: Path, runs: Path, tmp_path: Path
) -> None:
    page = tmp_path / "futures.html"
    arguments = ["imagine", str(calibrated_bundle), "--source", str(runs), "--frame", "8"]
    run = CliRunner().invoke(
        cli, [*arguments, "--goal", "20", "--horizon", "4", "--out", str(page), "--json"]
    )
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert len(report["sequences"]) == 6
    first = report["sequences"][0]
    assert first["name"] == "hold the last command"
    assert np.shape(first["points"]) == (5, 2)
    assert np.shape(first["energies"]) == (4,)
    assert len(first["ellipses"]) == 4
    assert report["best"] in {sequence["name"] for sequence in report["sequences"]}
    text = page.read_text()
    assert "data:image/svg+xml" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    plain = CliRunner().invoke(cli, arguments)
    assert plain.exit_code == 0, plain.output
    assert "hold the last command" in plain.output


def test_a_bundle_without_a_map_says_how_to_get_one(
    linear_bundle: Path, calibrated_bundle: Path, runs: Path, tmp_path: Path
) -> None:
    arguments = ["imagine", str(linear_bundle), "--source", str(runs)]
    run = CliRunner().invoke(cli, arguments)
    assert isinstance(run.exception, InputError)
    assert "--data RECORDING" in str(run.exception)
    run = CliRunner().invoke(cli, [*arguments, "--data", str(runs), "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["samples"] == 0
    assert "not calibrated" in report["notes"][0]
    # An older calibration: everything but the map.
    older = tmp_path / "older.jepa"
    base = Bundle.open(calibrated_bundle)
    with staged_bundle(older, base=base) as staging:
        (staging / map_name("fp32")).unlink()
        seal(staging, base.manifest)
    run = CliRunner().invoke(cli, ["imagine", str(older), "--source", str(runs)])
    assert "calibrate" in str(run.exception)


def test_a_landscape_is_the_models_energy_over_the_grid(
    linear_bundle: Path, runs: Path, tmp_path: Path
) -> None:
    page, wide = tmp_path / "landscape.html", tmp_path / "wide.jepa"
    base = Bundle.open(linear_bundle)
    action = msgspec.structs.replace(
        base.manifest.require_action(), block=1, names=("x", "y", "z", "grip")
    )
    with staged_bundle(wide, base=base) as staging:
        seal(staging, msgspec.structs.replace(base.manifest, action=action))
    grid = ["--landscape", "--extent", "300", "--steps", "3", "--axes", "x,grip,y", "--json"]
    moment = ["--source", str(runs), "--episode", "1", "--frame", "10", "--goal", "12"]
    run = CliRunner().invoke(cli, ["imagine", str(wide), *grid, *moment, "--out", str(page)])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["axes"] == ["x", "grip", "y"]
    model = WorldModel.load(wide)
    scene, history = _moment(model, runs)
    goal = model.encode(read_run(runs, model.manifest, episode=1).frames[12:13])[0]
    energies = np.array(report["energies"], np.float64)
    for i, j, k in ((0, 0, 0), (1, 2, 0), (2, 1, 1)):
        newest = np.zeros((1, 4), np.float32)
        newest[0, [0, 3, 1]] = [(index - 1) * 300.0 for index in (i, j, k)]
        predicted = model.predict(history[None], np.concatenate([scene.past_actions, newest])[None])
        expected = np.sum((predicted[0].astype(np.float64) - goal) ** 2)
        assert energies[i, j, k] == pytest.approx(expected, rel=1e-4)
    assert report["best_energy"] == pytest.approx(energies.min())
    at = np.unravel_index(int(np.argmin(energies)), energies.shape)
    assert report["best"] == [report["values"][index] for index in at]
    assert page.read_text().count("data:image/svg+xml") == 2
    plain = CliRunner().invoke(cli, ["imagine", str(wide), *grid[:-1], *moment])
    assert "lowest energy" in plain.output


def test_a_landscape_needs_three_axes_and_a_goal(calibrated_bundle: Path, runs: Path) -> None:
    arguments = ["imagine", str(calibrated_bundle), "--landscape", "--source", str(runs)]
    run = CliRunner().invoke(cli, arguments)
    assert "needs --goal" in str(run.exception)
    run = CliRunner().invoke(cli, [*arguments, "--goal", "12"])  # blocks of two by two numbers
    assert "expected three of action 0, action 1" in str(run.exception)


def test_options_of_the_other_drawing_are_refused(calibrated_bundle: Path, runs: Path) -> None:
    base = ["imagine", str(calibrated_bundle), "--source", str(runs)]
    for extra in (["--landscape", "--horizon", "3"], ["--extent", "1.0"]):
        run = CliRunner().invoke(cli, [*base, *extra])
        assert "no use for" in str(run.exception)


def test_a_trajectory_as_upstreams_is_enough_where_one_frame_is(
    model: WorldModel, tmp_path: Path
) -> None:
    """The layout of V-JEPA 2's franka_example_traj.npz: a leading axis of 1, states, no actions."""
    manifest = msgspec.structs.replace(
        model.manifest,
        history=8,
        min_history=1,
        state=StateSpec(dim=7),
        latent=LatentSpec(tokens=5, dim=7, energy_tokens=4),
    )
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1, 2, 8, 8, 3), dtype=np.uint8)
    states = rng.normal(size=(1, 2, 7)).astype(np.float32)
    path = tmp_path / "traj.npz"
    np.savez(path, observations=frames, states=states)
    run = read_run(path, manifest)
    scene = scene_of(run, manifest, 0)
    assert scene.past_actions.shape == (0, 4)
    assert scene.last_action is None
    assert scene.states is not None
    np.testing.assert_array_equal(scene.states, states[0, :1])
    goal, state, _ = goal_frame(run, "1", manifest)
    np.testing.assert_array_equal(goal, frames[0, 1])
    np.testing.assert_array_equal(state, states[0, 1])
    np.save(tmp_path / "one.npy", frames[0, 1])
    _, state, _ = goal_frame(run, str(tmp_path / "one.npy"), manifest)
    np.testing.assert_array_equal(state, np.zeros(7))
    whole = msgspec.structs.replace(manifest, latent=LatentSpec(tokens=5, dim=7))
    with pytest.raises(InputError, match="energies compare it too"):
        goal_frame(run, str(tmp_path / "one.npy"), whole)
    with pytest.raises(InputError, match="give them with --state"):
        scene_of(read_run(tmp_path / "one.npy", manifest), manifest)
    given = read_run(tmp_path / "one.npy", manifest, state=states[0, 0])
    np.testing.assert_array_equal(scene_of(given, manifest).states, states[0, :1])


def _diverging(energies: list[float]) -> Imagined:
    def path(index: int, energy: float) -> Path2D:
        bad = not np.isfinite(energy)
        points = np.array([[0, 0], [index, np.nan if bad else 1]], np.float32)
        return Path2D(
            sequence=ActionSequence(
                name=f"$\\bad{index}\x1b[2J", actions=np.zeros((1, 3), np.float32)
            ),
            points=points,
            centers=points[1:].astype(np.float64),
            covariances=np.full((1, 2, 2), np.nan) if bad else np.eye(2)[None],
            spread=np.ones(1, np.float32),
            energies=np.array([energy], np.float32),
        )

    return Imagined(
        start=np.zeros(2, np.float32),
        goal=np.ones(2, np.float32),
        paths=tuple(path(index, energy) for index, energy in enumerate(energies)),
    )


def test_a_future_that_diverged_is_never_the_best(tmp_path: Path) -> None:
    found = _diverging([np.nan, 3.0, np.inf, 2.0])
    assert found.best is found.paths[3]
    latent_map = LatentMap.fit([_latents(30)], _SPEC)
    told = {"bundle": "b", "variant": "fp32", "source": "s", "goal_source": "g"}
    report = report_futures(found, latent_map, samples=3, notes=(), **told)
    assert report.best == found.paths[3].sequence.name
    # Neither NaN nor a name that matplotlib would take for a formula stops the page.
    write_imagine_page(tmp_path / "page.html", report, latent_map.cloud, [])
    for none in ([np.nan, np.nan], [np.nan, np.inf]):
        with pytest.raises(InputError, match="none of 2 energies is finite"):
            _ = _diverging(none).best


def test_the_lowest_energy_of_a_grid_is_a_number(tmp_path: Path) -> None:
    energies = np.arange(27, 0, -1, dtype=np.float32).reshape(3, 3, 3)
    energies[0], energies[2, 2, 2] = np.nan, np.nan
    found = Landscape(energies=energies, values=np.array([-1, 0, 1], np.float32), axes=(0, 1, 2))
    assert found.best == (1.0, 1.0, 0.0)
    report = report_landscape(
        found,
        ("$\\x$", "y", "z"),
        bundle="b",
        variant="fp32",
        source="s",
        goal_source="g",
        units="$",
    )
    assert report.best_energy == 2.0
    write_landscape_page(tmp_path / "page.html", report, [])
    nothing = Landscape(
        energies=np.full((2, 2, 2), np.nan, np.float32),
        values=np.array([-1, 1], np.float32),
        axes=(0, 1, 2),
    )
    with pytest.raises(InputError, match="none of 8 energies is finite"):
        _ = nothing.best


def test_a_model_whose_predictions_all_diverge_has_no_landscape(
    model: WorldModel, runs: Path
) -> None:
    scene, history = _moment(model, runs)
    broken = np.full_like(history, np.nan)
    with pytest.raises(InputError, match="none of 8 energies is finite"):
        energy_landscape(model, broken, scene.past_actions, history[0], steps=2)


@pytest.mark.parametrize("goal", ["²", "9" * 5000, "٣" * 2])
def test_a_goal_that_is_no_frame_is_told(model: WorldModel, runs: Path, goal: str) -> None:
    run = read_run(runs, model.manifest)
    with pytest.raises(InputError, match=r"(name one|frames 0 to)"):
        goal_frame(run, goal, model.manifest)


def test_files_that_hold_something_else_are_told(model: WorldModel, tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(model.manifest, state=StateSpec(dim=2))
    action = model.manifest.require_action()
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    path, archive = tmp_path / "file.npy", tmp_path / "file.npz"

    def refused(read: Callable[[], Any], match: str) -> None:
        with pytest.raises(InputError, match=match):
            read()

    def zipped(**arrays: Any) -> None:
        np.savez(archive, **arrays)
        path.write_bytes(archive.read_bytes())

    for values, match in (
        (np.float32(3.0), "expected \\(K, H, A\\)"),
        (np.zeros((4, 4)), "expected \\(K, H, A\\)"),
        (np.full((1, 2, 4), 1j), "real numbers"),
        (np.full((1, 2, 4), "one"), "real numbers"),
        (np.full((1, 2, 4), 1e300), "too large"),
        (np.zeros((1, MAX_HORIZON + 1, 4)), f"to {MAX_HORIZON} steps"),
    ):
        np.save(path, values)
        refused(lambda: read_sequences(path, action), match)
    zipped(actions=np.zeros((1, 2, 4)))
    refused(lambda: read_sequences(path, action), "archive of arrays")
    zipped(observations=frames)
    refused(lambda: read_run(path, manifest), "archive of arrays")
    path.write_bytes(b"PK\x03\x04 and then nothing of a zip")
    refused(lambda: read_run(path, manifest), "cannot read")
    for states in (np.full((3, 2), "left"), np.full((3, 2), 1j), np.full((3, 2), 1e300)):
        np.savez(archive, observations=frames, states=states)
        refused(lambda: read_run(archive, manifest), "states (are of type|hold NaN)")
    archive.write_bytes(b"\x93NUMPY")
    refused(lambda: read_run(archive, manifest), "cannot read")
    with archive.open("wb") as stream:
        np.save(stream, frames)
    refused(lambda: read_run(archive, manifest), "is one array")


def test_what_would_take_all_memory_is_refused(model: WorldModel, runs: Path) -> None:
    scene, history = _moment(model, runs)
    latent_map = LatentMap.read(model.bundle, "fp32")
    assert latent_map is not None
    action = model.manifest.require_action()

    class Never:
        def sample(self, *_: Any) -> Any:
            raise AssertionError

    def run(steps: int, samples: int = 2) -> None:
        actions = np.zeros((steps, 4), np.float32)
        imagine(
            model,
            latent_map,
            history,
            scene.past_actions,
            [ActionSequence(name="zero", actions=actions)],
            sampler=Never(),
            samples=samples,
        )

    for steps, samples in ((0, 2), (MAX_HORIZON + 1, 2), (1, 1), (1, MAX_SAMPLES + 1), (1, -3)):
        with pytest.raises(InputError, match="expected"):
            run(steps, samples)
    for horizon in (0, MAX_HORIZON + 1):
        with pytest.raises(InputError, match=f"1 to {MAX_HORIZON}"):
            builtin_sequences(action, horizon, None)
    for steps, extent in ((1, 1.0), (MAX_STEPS + 1, 1.0), (2, 1e39), (2, np.nan), (2, 0.0)):
        with pytest.raises(InputError, match="expected a positive extent"):
            energy_landscape(
                model, history, scene.past_actions, history[0], extent=extent, steps=steps
            )
    with pytest.raises(InputError, match="history has shape"):
        imagine(model, latent_map, history[0], scene.past_actions, [])


def test_large_latents_are_not_sampled_beyond_memory() -> None:
    from jepa_edge.imagine import _check_size

    _check_size(5, 64, 257 * 1408)
    with pytest.raises(InputError, match="ask for 29 samples"):
        _check_size(100, 64, 257 * 1408)


def test_names_of_a_bundle_do_not_reach_the_terminal_raw(linear_bundle: Path, runs: Path) -> None:
    wide = linear_bundle.parent / "wide.jepa"
    base = Bundle.open(linear_bundle)
    action = msgspec.structs.replace(
        base.manifest.require_action(),
        block=1,
        names=("x\x1b[2J", "y", "z", "grip"),
        units="m\x1b[31m",
    )
    with staged_bundle(wide, base=base) as staging:
        seal(staging, msgspec.structs.replace(base.manifest, action=action))
    where = ["imagine", str(wide), "--source", str(runs), "--frame", "10"]
    for more in (
        ["--landscape", "--goal", "12", "--extent", "300", "--steps", "2"],
        ["--data", str(runs), "--horizon", "2"],
    ):
        run = CliRunner().invoke(cli, [*where, *more])
        assert run.exit_code == 0, run.output
        assert "\x1b" not in run.output
        assert "x\\x1b[2J" in run.output
