# SPDX-License-Identifier: Apache-2.0
"""The monitor: streaming equals batch, thresholds are levels, foreign calibrations refused."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from jepa_edge.binding import current_binding
from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.calibration_file import (
    Calibration,
    ChannelScale,
    Domain,
    Radius,
    Thresholds,
)
from jepa_edge.channels import CHANNELS, LONG, Observer, Whitener, available, first_step
from jepa_edge.density import FLOW_STEPS, Flow
from jepa_edge.drift import DriftReference
from jepa_edge.errors import CalibrationError, InputError
from jepa_edge.flags import Level, Reason
from jepa_edge.latent_variable import LatentVariable
from jepa_edge.manifest import calibration_name, heads_name
from jepa_edge.mlp import MLP
from jepa_edge.monitor import Monitor
from jepa_edge.spread import SpreadCalibration
from jepa_edge.world_model import WorldModel

D, A, R, K, H = 6, 4, 2, 3, 5  # D and A are those of the linear bundle
STEPS = 14


def head(rng: np.random.Generator, *sizes: int, members: int = 0) -> MLP:
    """A random head of one hidden layer."""
    lead = (members,) if members else ()
    bias = (members, 1) if members else ()
    return MLP(
        center=np.zeros(sizes[0], np.float32),
        scale=np.full(sizes[0], 3.0, np.float32),
        weights=tuple(
            rng.normal(0.0, 0.3, (*lead, i, o)).astype(np.float32)
            for i, o in itertools.pairwise(sizes)
        ),
        biases=tuple(rng.normal(0.0, 0.3, (*bias, o)).astype(np.float32) for o in sizes[1:]),
    )


def whitener(rng: np.random.Generator, size: int) -> Whitener:
    matrix = rng.normal(size=(size, size)) + 2.0 * np.eye(size)
    return Whitener(mean=np.zeros(size, np.float32), whiten=matrix.astype(np.float32))


def make_observer(seed: int = 0) -> Observer:
    """An observer with random heads: nothing fitted, but every part at work."""
    rng = np.random.default_rng(seed)
    inputs = 2 * D + A + H
    variable = LatentVariable(
        base=rng.uniform(0.2, 1.0, (H, D)).astype(np.float32),
        factor=rng.normal(size=(D, R)).astype(np.float32),
        scale_head=head(rng, inputs, 7, D + R),
        mean_heads=head(rng, inputs, 7, D, members=K),
        gain=np.ones(H, np.float32),
    )
    return Observer(
        latent_variable=variable,
        recorded=whitener(rng, D),
        flow=Flow(
            center=np.zeros(D, np.float32),
            scale=np.full(D, 2.0, np.float32),
            velocity=head(rng, D + 2, 9, D),
        ),
        motion=whitener(rng, D),
        inverse=head(rng, 3 * D, 8, A),
        action_mean=np.full(A, 256.0, np.float32),
        action_std=np.full(A, 100.0, np.float32),
        action_whiten=whitener(rng, A),
    )


def make_calibration(bundle: Bundle, heads: bytes) -> Calibration:
    """A calibration of the right shape, bound to the bundle's fp32 variant."""
    return Calibration(
        variant="fp32",
        binding=current_binding(WorldModel.load(bundle, "fp32")),
        heads_sha256=hashlib.sha256(heads).hexdigest(),
        alpha=0.1,
        seed=0,
        episodes={"conformal": 19},
        data_sha256="0" * 64,
        channels=tuple(
            ChannelScale(name=c.name, center=0.1, high=5.0, low=4.0 if c.low_tail else None)
            for c in available(bundle.manifest)
        ),
        thresholds=Thresholds(
            caution=1.0,
            reject=2.0,
            caution_alpha=0.1,
            reject_alpha=0.05,
            nominal=(*(0.05 * k for k in range(1, 18)), 1.0, 2.0),
        ),
        radii=(Radius(alpha=0.1, energies=(1.0, 2.0)),),
        groups=None,
        drift=DriftReference(
            nominal=tuple(0.001 * k for k in range(200)),
            block_steps=4,
            alpha=0.05,
            seed=0,
            capacity=1000,
        ),
        risk=None,
        domain=Domain(
            rate_hz=5.0, steps_min=14, steps_max=14, action_low=(0.0,) * A, action_high=(512.0,) * A
        ),
        created_utc="2026-01-01T00:00:00+00:00",
        tools={},
    )


def install(path: Path, calibration: Calibration, heads: bytes) -> None:
    """Put a calibration into a bundle the way the bench does."""
    bundle = Bundle.open(path)
    with staged_bundle(path, base=bundle) as staging:
        (staging / "calibration").mkdir(exist_ok=True)
        (staging / calibration_name("fp32")).write_bytes(msgspec.json.encode(calibration))
        (staging / heads_name("fp32")).write_bytes(heads)
        seal(staging, bundle.manifest)


@pytest.fixture
def monitor(linear_bundle: Path) -> Monitor:
    heads = save(make_observer().to_arrays())
    install(linear_bundle, make_calibration(Bundle.open(linear_bundle), heads), heads)
    return Monitor.load(WorldModel.load(linear_bundle))


def episode(seed: int = 1, steps: int = STEPS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(steps + 1, 1, D)).astype(np.float32)
    return latents, rng.uniform(0.0, 512.0, (steps, A)).astype(np.float32)


def stream(
    monitor: Monitor, latents: NDArray[np.float32], actions: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Scores of all steps, one `update` at a time; NaN where there was none."""
    rows = []
    for index, latent in enumerate(latents):
        scores = monitor.update(latent, actions[index - 1] if index else None)
        rows.append(np.full(len(CHANNELS), np.nan) if scores is None else scores.scores)
    return np.stack(rows)


def test_streaming_gives_what_the_batch_gives(monitor: Monitor) -> None:
    latents, actions = episode()
    expected = monitor.episode(latents, actions)
    np.testing.assert_allclose(stream(monitor, latents, actions), expected, rtol=1e-4, atol=1e-5)
    first = first_step(3)
    assert np.isnan(expected[:first]).all()
    absent = np.isneginf(expected)
    names = [CHANNELS[c].name for c in np.flatnonzero(absent.any(axis=0))]
    local = ["innovation_local", "innovation_local_mean"]  # of one token there is no local energy
    assert names == ["innovation_long", "spread", *local]
    assert absent[first : first + LONG - 1, [1, 6]].all()
    there = [index for index, channel in enumerate(CHANNELS) if channel.name not in local]
    assert not absent[first + LONG - 1 :, there].any()
    assert absent[first:, 8].all()


def test_reset_forgets_the_episode(monitor: Monitor) -> None:
    latents, actions = episode()
    stream(monitor, *episode(seed=2))
    monitor.reset()
    np.testing.assert_allclose(
        stream(monitor, latents, actions), monitor.episode(latents, actions), rtol=1e-4, atol=1e-5
    )


def test_energies_follow_their_formulas(monitor: Monitor) -> None:
    latents, actions = episode()
    scores = None
    for index, latent in enumerate(latents[:4]):
        scores = monitor.update(latent, actions[index - 1] if index else None)
    assert scores is not None
    observer = monitor.observer
    predicted = monitor.model.predict(latents[None, :3], actions[None, :3])[0, 0]
    moved = (latents[3] - latents[2])[0].astype(np.float64) @ observer.motion.whiten
    by_name = dict(zip((c.name for c in CHANNELS), scores.values, strict=True))
    assert by_name["motion"] == pytest.approx(np.log(np.mean(moved**2)), rel=1e-4)
    assert by_name["motion_mean"] == pytest.approx(0.2 * (by_name["motion"] - 0.1), rel=1e-4)
    variable = observer.latent_variable
    inputs = np.concatenate(
        [latents[2, 0], predicted - latents[2, 0], actions[2], np.eye(H)[0]]
    ).astype(np.float32)
    logs = 3.0 * np.tanh(variable.scale_head(inputs[None])[0].astype(np.float64) / 3.0)
    base = variable.base[0].astype(np.float64)
    factor = base[:, None] * variable.factor * np.exp(0.5 * logs[D:])
    covariance = np.diag(base**2 * np.exp(logs[:D])) + factor @ factor.T
    residual = (latents[3, 0] - predicted).astype(np.float64)
    energy = residual @ np.linalg.solve(covariance, residual) / D
    assert by_name["innovation"] == pytest.approx(np.log(energy), rel=1e-4)


def test_delay_compares_the_command_with_those_before_it(monitor: Monitor) -> None:
    latents, actions = episode()
    scores = None
    for index, latent in enumerate(latents[:4]):
        scores = monitor.update(latent, actions[index - 1] if index else None)
    assert scores is not None
    by_name = dict(zip((c.name for c in CHANNELS), scores.values, strict=True))
    observer = monitor.observer
    first, second, third = (latents[t, 0].astype(np.float64) for t in (1, 2, 3))
    inputs = np.concatenate([second, third - second, second - first]).astype(np.float32)
    told = observer.inverse(inputs[None])[0].astype(np.float64)

    def energy(action: NDArray[np.float32]) -> float:
        error = (action.astype(np.float64) - 256.0) / 100.0 - told
        return float(np.mean((error @ observer.action_whiten.whiten.astype(np.float64)) ** 2))

    now, late = energy(actions[2]), min(energy(actions[1]), energy(actions[0]))
    assert by_name["action"] == pytest.approx(np.log(now), rel=1e-4)
    assert by_name["delay"] == pytest.approx(np.log((now + 0.05) / (late + 0.05)), rel=1e-4)


def test_familiarity_is_the_norm_of_the_noise_behind_the_latent(monitor: Monitor) -> None:
    latents, actions = episode()
    scores = None
    for index, latent in enumerate(latents[:4]):
        scores = monitor.update(latent, actions[index - 1] if index else None)
    assert scores is not None
    by_name = dict(zip((c.name for c in CHANNELS), scores.values, strict=True))
    flow = monitor.observer.flow
    assert isinstance(flow, Flow)
    weights = [w.astype(np.float64) for w in flow.velocity.weights]
    biases = [b.astype(np.float64) for b in flow.velocity.biases]

    def velocity(state: NDArray[np.float64], time: float) -> NDArray[np.float64]:
        inputs = np.clip(np.array([*state, time, time**2]) / 3.0, -6.0, 6.0)
        return np.maximum(inputs @ weights[0] + biases[0], 0.0) @ weights[1] + biases[1]

    state = latents[3, 0].astype(np.float64) / 2.0
    for step in range(FLOW_STEPS, 0, -1):
        middle = state - velocity(state, step / FLOW_STEPS) / (2 * FLOW_STEPS)
        state = state - velocity(middle, (step - 0.5) / FLOW_STEPS) / FLOW_STEPS
    assert by_name["familiarity"] == pytest.approx(np.log(np.mean(state**2)), rel=1e-4)


def test_drift_is_betted_on_block_by_block_and_outlives_a_reset(monitor: Monitor) -> None:
    assert not monitor.drift_alarmed
    for seed in range(40):  # random latents score far above the reference's blocks
        stream(monitor, *episode(seed=seed))
        monitor.reset()
        if monitor.drift_alarmed:
            break
        assert monitor.drift.blocks == seed + 1  # the first steps of every episode
    assert monitor.drift_alarmed
    monitor.drift.reset()
    assert not monitor.drift_alarmed


def test_only_the_start_of_an_episode_is_a_drift_block(monitor: Monitor) -> None:
    stream(monitor, *episode(steps=5))  # 3 judged steps; a block has 4
    monitor.reset(new_episode=False)
    stream(monitor, *episode(seed=2))
    assert monitor.drift.blocks == 0, "the input had a gap"
    monitor.reset()
    monitor.reset(new_episode=False)  # nothing had come yet
    stream(monitor, *episode(seed=3))
    assert monitor.drift.blocks == 1


def test_a_monitor_that_was_not_loaded_is_not_armed(monitor: Monitor) -> None:
    assert monitor.armed
    built = Monitor(monitor.model, monitor.observer, monitor.calibration)
    assert not built.armed
    assert "not checked against this machine" in built.disarmed_reason
    with pytest.raises(AttributeError):
        built.disarmed_reason = ""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda z, a: (z[:, 0], a), "latents has shape"),
        (lambda z, a: (z[:, :, :-1], a), "latents has shape"),
        (lambda z, a: (z, a[:-1]), "actions has shape"),
        (lambda z, a: (z, a[:, :-1]), "actions has shape"),
        (lambda z, a: (np.where(z == z[3], np.nan, z), a), "finite"),
        (lambda z, a: (z, np.where(a == a[3], np.inf, a)), "finite"),
    ],
)
def test_a_bad_episode_is_refused(monitor: Monitor, change: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        monitor.episode(*change(*episode()))


def test_an_episode_is_cast_as_a_stream_is(monitor: Monitor) -> None:
    latents, actions = episode()
    np.testing.assert_array_equal(
        monitor.episode(latents.astype(np.float64), actions.astype(np.float64)),
        monitor.episode(latents, actions),
    )


def test_scores_become_levels_reasons_and_p_values(monitor: Monitor) -> None:
    quiet = np.full(len(CHANNELS), 0.1)
    nominal = monitor.scores(quiet)
    assert (nominal.level, nominal.reasons, nominal.score) == (Level.NOMINAL, Reason(0), 0.0)
    assert nominal.confidence == 1.0
    names = [channel.name for channel in CHANNELS]
    surprised = quiet.copy()
    surprised[names.index("innovation")] = 0.1 + 1.5 * 5.0
    caution = monitor.scores(surprised)
    assert (caution.level, caution.reasons) == (Level.CAUTION, Reason.INNOVATION)
    by_channel = caution.by_channel()
    assert max(by_channel, key=lambda name: by_channel[name]) == "innovation"
    assert caution.confidence == pytest.approx(2 / 20)
    frozen = quiet.copy()
    frozen[names.index("motion")] = np.log(1e-12)
    frozen[names.index("familiarity")] = 0.1 + 1.01 * 5.0
    rejected = monitor.scores(frozen)
    assert rejected.level is Level.REJECT
    assert rejected.reasons == Reason.INNOVATION | Reason.OUT_OF_DISTRIBUTION
    low = quiet.copy()
    low[names.index("familiarity")] = -100.0
    assert monitor.scores(low).level is Level.NOMINAL
    absent = quiet.copy()
    absent[names.index("innovation_long")] = np.nan
    assert "innovation_long" not in monitor.scores(absent).by_channel()
    assert monitor.scores(absent).level is Level.NOMINAL


@pytest.mark.parametrize("wrong", [np.nan, 1e30])
def test_a_broken_prediction_rejects_and_is_forgotten(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    latents, actions = episode(steps=30)
    healthy = monitor.model.predict

    def broken(history: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full_like(healthy(history, actions), wrong)

    level = []
    for index, latent in enumerate(latents):
        with monkeypatch.context() as patch:
            if index == 8:
                patch.setattr(monitor.model, "predict", broken)
            scores = monitor.update(latent, actions[index - 1] if index else None)
        level.append(None if scores is None else scores)
    assert level[8] is not None
    assert level[8].level is Level.REJECT
    assert level[8].score == np.inf
    assert level[-1] is not None
    expected = monitor.episode(latents, actions)[-1]
    np.testing.assert_allclose(level[-1].scores, expected, atol=0.2)


@pytest.mark.parametrize(
    ("latent", "action", "match"),
    [
        (np.zeros((1, D + 1), np.float32), np.zeros(A, np.float32), "latent has shape"),
        (np.full((1, D), np.nan, np.float32), np.zeros(A, np.float32), "finite"),
        (np.zeros((1, D), np.float32), np.zeros(A + 1, np.float32), "action has shape"),
        (np.zeros((1, D), np.float32), np.full(A, np.inf, np.float32), "finite"),
        (np.zeros((1, D), np.float32), None, "no action came"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(
    monitor: Monitor,
    latent: NDArray[np.float32],
    action: NDArray[np.float32] | None,
    match: str,
) -> None:
    latents, actions = episode()
    expected = monitor.episode(latents, actions)
    half = 7
    stream(monitor, latents[:half], actions)
    with pytest.raises(InputError, match=match):
        monitor.update(latent, action)
    after = monitor.update(latents[half], actions[half - 1])
    assert after is not None
    np.testing.assert_allclose(after.scores, expected[half], rtol=1e-4, atol=1e-5)


def test_a_missing_calibration_is_refused(linear_bundle: Path) -> None:
    with pytest.raises(CalibrationError, match=r"jepa-edge calibrate .* --variant fp32"):
        Monitor.load(WorldModel.load(linear_bundle))


def test_a_calibration_of_other_graphs_is_refused(linear_bundle: Path) -> None:
    heads = save(make_observer().to_arrays())
    calibration = make_calibration(Bundle.open(linear_bundle), heads)
    other = msgspec.structs.replace(calibration.binding, engine_sha256="ab" * 32)
    foreign = msgspec.structs.replace(calibration, binding=other)
    install(linear_bundle, foreign, heads)
    with pytest.raises(CalibrationError, match=r"calibrated were abababababab .*calibrate"):
        Monitor.load(WorldModel.load(linear_bundle))


def test_foreign_heads_are_refused(linear_bundle: Path) -> None:
    heads = save(make_observer().to_arrays())
    calibration = make_calibration(Bundle.open(linear_bundle), heads)
    install(linear_bundle, calibration, save(make_observer(seed=9).to_arrays()))
    with pytest.raises(CalibrationError, match="belongs to heads"):
        Monitor.load(WorldModel.load(linear_bundle))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spread.scale": np.array(1.0, np.float32)}, "spread.scale"),
        ({"spread.recency": np.zeros(0, np.float32)}, "spread.recency"),
        ({"gain": np.full(H, -1.0, np.float32)}, "gain is -1"),
    ],
)
def test_misshapen_heads_are_refused(
    linear_bundle: Path, change: dict[str, NDArray[np.float32]], message: str
) -> None:
    fitted = SpreadCalibration(
        scale=np.ones(H, np.float32), growth=np.ones(H, np.float32), recency=0.0
    )
    heads = save({**make_observer().to_arrays(), **fitted.to_arrays(), **change})
    install(linear_bundle, make_calibration(Bundle.open(linear_bundle), heads), heads)
    with pytest.raises(CalibrationError, match=message):
        Monitor.load(WorldModel.load(linear_bundle))


def test_a_calibration_with_other_channels_is_refused(linear_bundle: Path) -> None:
    heads = save(make_observer().to_arrays())
    calibration = make_calibration(Bundle.open(linear_bundle), heads)
    fewer = msgspec.structs.replace(calibration, channels=calibration.channels[:3])
    install(linear_bundle, fewer, heads)
    with pytest.raises(CalibrationError, match="has channels innovation, innovation_long"):
        Monitor.load(WorldModel.load(linear_bundle))


def test_a_damaged_calibration_is_refused(linear_bundle: Path) -> None:
    bundle = Bundle.open(linear_bundle)
    with staged_bundle(linear_bundle, base=bundle) as staging:
        (staging / "calibration").mkdir()
        (staging / calibration_name("fp32")).write_bytes(b'{"variant": "fp32"}')
        (staging / heads_name("fp32")).write_bytes(b"")
        seal(staging, bundle.manifest)
    with pytest.raises(CalibrationError, match="does not fit the format"):
        Monitor.load(WorldModel.load(linear_bundle))


def test_an_uncalibrated_radius_is_refused(monitor: Monitor) -> None:
    assert monitor.calibration.radius(0.1).energies == (1.0, 2.0)
    with pytest.raises(CalibrationError, match=r"has 0\.1"):
        monitor.calibration.radius(0.01)


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("gain", np.zeros(0, np.float32), r"gain is float32 with shape \(0,\)"),
        ("gain", np.ones(H, np.float64), "gain is F64, expected F32"),
        ("gain", np.full(H, np.nan, np.float32), "gain holds numbers that are not finite"),
        ("base", np.zeros((H, D), np.float32), "base holds numbers that are not positive"),
        ("base", np.float32(1.0), "0 steps, rank 2"),
        ("factor", np.ones((D, 0), np.float32), "rank 0"),
        ("factor", np.ones((D + 1, R), np.float32), r"expected float32 with \(6, 2\)"),
        ("flow.center", np.zeros(D + 1, np.float32), r"flow.center .* with \(6,"),
        ("flow.scale", np.zeros(D, np.float32), "flow.scale holds .* not positive"),
        ("flow.velocity.0.weight", np.zeros((D, 9), np.float32), "velocity.0.weight"),
        ("motion.whiten", np.zeros((D, 1), np.float32), "motion.whiten"),
        ("inverse.center", np.zeros(3, np.float32), r"inverse.center .* expected .*\(18,\)"),
        ("inverse.1.bias", np.zeros(A + 1, np.float32), "inverse.1.bias"),
        ("scale_head.0.weight", np.zeros(3, np.float32), "scale_head.0.weight"),
        ("mean_heads.1.bias", np.zeros((K, D), np.float32), "mean_heads.1.bias"),
        ("mean_heads.0.weight", np.zeros((1, 21, 7), np.float32), "1 mean heads"),
        ("action_std", np.zeros(A, np.float32), "action_std holds numbers that are not positive"),
        ("action.mean", None, "lacks the array 'action.mean'"),
    ],
)
def test_heads_that_do_not_fit_the_model_are_refused(
    linear_bundle: Path, name: str, array: NDArray[np.float32] | None, match: str
) -> None:
    arrays = make_observer().to_arrays()
    assert name in arrays
    del arrays[name]
    if array is not None:
        arrays[name] = np.asarray(array)
    heads = save(arrays)
    install(linear_bundle, make_calibration(Bundle.open(linear_bundle), heads), heads)
    with pytest.raises(CalibrationError, match=match) as caught:
        Monitor.load(WorldModel.load(linear_bundle))
    assert "\n" not in str(caught.value)
    assert "run `jepa-edge calibrate` again" in str(caught.value)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_heads_of_a_type_that_numpy_may_not_know_are_refused(
    linear_bundle: Path, dtype: str
) -> None:
    header = json.dumps({"gain": {"dtype": dtype, "shape": [H], "data_offsets": [0, 2 * H]}})
    heads = len(header).to_bytes(8, "little") + header.encode() + bytes(2 * H)
    install(linear_bundle, make_calibration(Bundle.open(linear_bundle), heads), heads)
    with pytest.raises(CalibrationError, match=f"gain is {dtype}, expected F32"):
        Monitor.load(WorldModel.load(linear_bundle))


def test_a_calibration_for_other_actions_is_refused(linear_bundle: Path) -> None:
    heads = save(make_observer().to_arrays())
    calibration = make_calibration(Bundle.open(linear_bundle), heads)
    domain = msgspec.structs.replace(calibration.domain, action_low=(0.0,), action_high=(1.0,))
    install(linear_bundle, msgspec.structs.replace(calibration, domain=domain), heads)
    with pytest.raises(CalibrationError, match="1 numbers per action, the model takes 4"):
        Monitor.load(WorldModel.load(linear_bundle))


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("schema_version", 99, "schema_version is 99, this jepa-edge reads 3"),
        ("thresholds.nominal", [], "nominal holds 0 scores"),
        ("thresholds.nominal", [2.0, 1.0], "expected one or more, ascending"),
        ("thresholds.reject", 0.5, "reject is 0.5, expected caution 1 or more"),
        ("thresholds.caution", 1e30, "reject is 2, expected caution"),
        ("thresholds.reject", 1e30, "reject is 1e.30, expected one of the nominal scores"),
        ("thresholds.caution", 0.85, "caution is 0.85, .* at most 1 of 19 exceed"),
        ("thresholds.caution", 1e999, "does not fit the format"),
        ("radii", [], "radii has "),
        ("radii.0.energies", [], "one or more radii"),
        ("radii.0.energies", [-1.0, 2.0], "none negative"),
        ("radii.1.energies", [1.0], r"radii has \[2, 1\] steps per alpha"),
        ("domain.steps_min", 15, "15 to 14 steps"),
        ("drift.nominal", [1.0, 0.5], "not ascending"),
        ("drift.alpha", 0.0, "drift.alpha"),
        ("domain.rate_hz", 0.0, "0 Hz"),
        ("domain.action_low", [], "action_low has 0 numbers and action_high 4"),
    ],
)
def test_a_calibration_of_impossible_numbers_is_refused(
    linear_bundle: Path, path: str, value: object, match: str
) -> None:
    heads = save(make_observer().to_arrays())
    calibration = make_calibration(Bundle.open(linear_bundle), heads)
    radii = (*calibration.radii, Radius(alpha=0.05, energies=(2.0, 3.0)))
    install(linear_bundle, msgspec.structs.replace(calibration, radii=radii), heads)
    assert Monitor.load(WorldModel.load(linear_bundle)).calibration.radii == radii
    bundle = Bundle.open(linear_bundle)
    document = json.loads((linear_bundle / calibration_name("fp32")).read_text())
    *outer, last = (int(key) if key.isdigit() else key for key in path.split("."))
    inner = document
    for key in outer:
        inner = inner[key]
    inner[last] = value
    with staged_bundle(linear_bundle, base=bundle) as staging:
        text = json.dumps(document).replace("Infinity", "1e999")
        (staging / calibration_name("fp32")).write_text(text)
        seal(staging, bundle.manifest)
    with pytest.raises(CalibrationError, match=match) as caught:
        Monitor.load(WorldModel.load(linear_bundle))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_thresholds_that_are_not_finite_cannot_be_made(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        Thresholds(caution=bad, reject=bad, caution_alpha=0.5, reject_alpha=0.5, nominal=(0.0, bad))
    with pytest.raises(ValueError, match="NaN or infinity"):
        Radius(alpha=0.1, energies=(bad,))
