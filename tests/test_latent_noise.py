# SPDX-License-Identifier: Apache-2.0
"""The core's latent variable against jepa_edge/latent_variable.py, which says what it means."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from jepa_edge import _core
from jepa_edge.latent_variable import LatentVariable, Transitions
from jepa_edge.mlp import MLP

from .reference_predictor import ReferencePredictor, Sizes, draw, draw_problem, write

Array = NDArray[np.float32]

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""Sums of some hundred float32 products of order one, in another order."""


def _head(
    rng: np.random.Generator, inputs: int, hidden: tuple[int, ...], outputs: int, members: int
) -> MLP:
    """A head whose outputs are of order one. members: 0 for a head without the leading axis."""
    stack = (members,) if members else ()
    widths = (inputs, *hidden, outputs)
    weights, biases = [], []
    for width, out in itertools.pairwise(widths):
        weights.append(rng.normal(0.0, (2.0 / width) ** 0.5, (*stack, width, out)))
        biases.append(rng.normal(0.0, 0.3, (*stack, *((1,) if stack else ()), out)))
    return MLP(
        center=rng.normal(0.0, 0.5, inputs).astype(np.float32),
        scale=rng.uniform(0.1, 2.0, inputs).astype(np.float32),  # some inputs are cut
        weights=tuple(weight.astype(np.float32) for weight in weights),
        biases=tuple(bias.astype(np.float32) for bias in biases),
    )


def _variable(
    seed: int = 0,
    *,
    dim: int = 13,
    rank: int = 3,
    action: int = 4,
    steps: int = 3,
    hidden: tuple[int, ...] = (17,),
    members: int = 4,
) -> LatentVariable:
    rng = np.random.default_rng([41, seed])
    inputs = 2 * dim + action + steps
    return LatentVariable(
        base=rng.uniform(0.1, 0.5, (steps, dim)).astype(np.float32),
        factor=rng.normal(0.0, 0.5, (dim, rank)).astype(np.float32),
        scale_head=_head(rng, inputs, hidden, dim + rank, 0),
        mean_heads=_head(rng, inputs, hidden, dim, members),
        gain=rng.uniform(0.5, 1.5, steps).astype(np.float32),
    )


def _noise(variable: LatentVariable, tokens: int, *, isa: str = "auto", **limits: Any) -> Any:
    return _core.LatentNoise(_core.LatentVariable(variable.to_arrays(), isa), tokens, **limits)


def _step(
    rng: np.random.Generator, variable: LatentVariable, step: int, shape: tuple[int, int, int]
) -> tuple[Array, Array, Array]:
    """Latents before, actions and predictions of (candidates, rows, tokens); one each at step 0."""
    candidates, rows, tokens = shape
    dim = variable.factor.shape[0]
    action = len(variable.scale_head.center) - 2 * dim - variable.horizon
    own = 1 if step == 0 else rows
    before = rng.normal(size=(candidates, own, tokens, dim)).astype(np.float32)
    change = rng.normal(size=(candidates, own, tokens, dim)).astype(np.float32)
    predicted = np.broadcast_to(before + change, (candidates, rows, tokens, dim)).copy()
    return before, rng.normal(size=(candidates, action)).astype(np.float32), predicted


def _transitions(before: Array, actions: Array, predicted: Array, step: int) -> Transitions:
    """The same as Python wants it: one row per candidate and sample."""
    rows = predicted.shape[1]
    return Transitions(
        previous=np.broadcast_to(before, predicted.shape).reshape(-1, *predicted.shape[2:]),
        predicted=predicted.reshape(-1, *predicted.shape[2:]),
        action=np.repeat(actions, rows, axis=0),
        step=np.full(predicted.shape[0] * rows, step, np.int64),
    )


@pytest.mark.parametrize("isa", _core.available_isas())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_step_is_that_of_the_python_class(isa: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32))
    variable = _variable(
        seed,
        dim=data.draw(st.integers(1, 33)),
        rank=data.draw(st.integers(1, _core.MAX_RANK)),
        action=data.draw(st.integers(1, 6)),
        steps=data.draw(st.integers(1, 5)),
        hidden=tuple(data.draw(st.lists(st.integers(1, 40), max_size=3))),
        members=data.draw(st.integers(2, 5)),
    )
    candidates, samples = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 9))
    tokens, step = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 6))
    limits = {"candidates": candidates, "horizon": 7, "samples": samples + 1}
    noise = _noise(variable, tokens, isa=isa, **limits)
    given_step = _step(
        np.random.default_rng(seed), variable, step, (candidates, samples + 1, tokens)
    )
    before, actions, predicted = given_step
    noise.draw(seed, samples + 1, 7, noise_free_first=True)
    got = noise.apply(step, before, actions, predicted)

    gain = variable.gain[min(step, variable.horizon - 1)]
    drawn = variable.noise(_transitions(*given_step, step=1), samples, seed, stream=step)
    expected = predicted + gain * drawn.reshape(predicted.shape)
    np.testing.assert_allclose(got, expected, **CLOSE)
    np.testing.assert_array_equal(got[:, 0], predicted[:, 0])

    rows = (before[:, :1], actions, predicted[:, :1])
    epistemic = variable.disagreement(_transitions(*rows, step=step + 1))
    np.testing.assert_allclose(noise.disagreement()[:, step], epistemic, **CLOSE)

    # Without the noise-free row the others are the same.
    noise.draw(seed, samples, 7)
    own = slice(None) if step == 0 else slice(1, None)
    again = noise.apply(
        step,
        np.ascontiguousarray(before[:, own]),
        actions,
        np.ascontiguousarray(predicted[:, 1:]),
    )
    np.testing.assert_array_equal(again, got[:, 1:])


def test_the_released_sizes_agree() -> None:
    variable = _variable(dim=192, rank=8, action=10, steps=5, hidden=(64, 64), members=5)
    noise = _noise(variable, 1, candidates=20, horizon=5, samples=33)
    noise.draw(3, 33, 5, noise_free_first=True)
    for step in range(5):
        given_step = _step(np.random.default_rng(step), variable, step, (20, 33, 1))
        drawn = variable.noise(_transitions(*given_step, step=1), 32, 3, stream=step)
        expected = given_step[2] + variable.gain[step] * drawn.reshape(given_step[2].shape)
        np.testing.assert_allclose(noise.apply(step, *given_step), expected, **CLOSE)


class _Damped:
    """z' = 0.5 z + a @ push, whatever came before."""

    def __init__(self, dim: int, action: int) -> None:
        self.push = np.random.default_rng(1).normal(size=(action, dim)).astype(np.float32)

    def predict(self, history: Array, actions: Array) -> Array:
        """Predict (B, N, D)."""
        return np.float32(0.5) * history[:, -1] + (actions[:, -1] @ self.push)[:, None]


def test_rollouts_are_those_of_the_python_class() -> None:
    variable, tokens, horizon, samples, batch = _variable(), 2, 6, 8, 5
    world = _Damped(13, 4)
    rng = np.random.default_rng(2)
    history = rng.normal(size=(batch, 1, tokens, 13)).astype(np.float32)
    actions = rng.normal(size=(batch, horizon, 4)).astype(np.float32)
    expected, mean, epistemic = variable.rollouts(world, history, actions, samples, seed=9)

    noise = _noise(variable, tokens, candidates=batch, horizon=horizon, samples=samples + 1)
    noise.draw(9, samples + 1, horizon, noise_free_first=True)
    before = history
    for step in range(horizon):
        rows = np.repeat(before, samples + 1, axis=1) if step == 0 else before
        taken = np.repeat(actions[:, step], samples + 1, axis=0)
        predicted = world.predict(rows.reshape(-1, 1, tokens, 13), taken[:, None])
        latents = noise.apply(
            step, before, np.ascontiguousarray(actions[:, step]), predicted.reshape(rows.shape)
        )
        np.testing.assert_allclose(latents[:, 1:], expected[:, :, step], **CLOSE)
        np.testing.assert_allclose(latents[:, 0], mean[:, step], **CLOSE)
        before = latents
    np.testing.assert_allclose(noise.disagreement(), epistemic, **CLOSE)


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_candidates_do_not_depend_on_their_company(step: int, samples: int) -> None:
    variable = _variable()
    noise = _noise(variable, 3, candidates=11, horizon=4, samples=samples)
    noise.draw(5, samples, 4)
    before, actions, predicted = _step(np.random.default_rng(6), variable, step, (11, samples, 3))
    together = noise.apply(step, before, actions, predicted)
    assert np.isfinite(together).all()
    assert np.abs(together - predicted).min(axis=(1, 2, 3)).max() > 0.0
    for part in (slice(0, 1), slice(4, 9), slice(10, 11)):
        alone = noise.apply(step, before[part], actions[part], predicted[part])
        np.testing.assert_array_equal(alone, together[part])


def test_a_single_noise_free_future_has_its_disagreement_taken() -> None:
    variable = _variable()
    noise = _noise(variable, 1, candidates=3, horizon=2, samples=1)
    noise.draw(0, 1, 2, noise_free_first=True)
    given_step = _step(np.random.default_rng(7), variable, 1, (3, 1, 1))
    np.testing.assert_array_equal(noise.apply(1, *given_step), given_step[2])
    expected = variable.disagreement(_transitions(*given_step, step=2))
    np.testing.assert_allclose(noise.disagreement()[:, 1], expected, **CLOSE)


def test_z_is_common_to_steps_of_equal_number_and_fixed_by_the_seed() -> None:
    variable = _variable()
    noise = _noise(variable, 1, candidates=2, horizon=3, samples=4)
    given_step = _step(np.random.default_rng(8), variable, 0, (2, 4, 1))
    drawn = {}
    for seed, horizon in ((1, 3), (2, 3), (1, 2), (1, 3)):
        noise.draw(seed, 4, horizon)
        latents = noise.apply(0, *given_step)
        if seed in drawn:
            np.testing.assert_array_equal(latents, drawn[seed])
        drawn[seed] = latents
    assert np.abs(drawn[1] - drawn[2]).max() > 0.01


def test_rows_that_nothing_was_drawn_for_become_nan() -> None:
    variable = _variable()
    noise = _noise(variable, 1, candidates=2, horizon=3, samples=4)
    given_step = _step(np.random.default_rng(9), variable, 0, (2, 4, 1))
    assert np.isnan(noise.apply(0, *given_step)).all()  # nothing drawn yet
    noise.draw(1, 4, 2)
    assert np.isfinite(noise.apply(1, *given_step)).all()
    assert np.isnan(noise.apply(2, *given_step)).all()
    noise.draw(1, 3, 2)
    assert np.isnan(noise.apply(0, *given_step)).all()


def test_a_prediction_that_is_not_finite_stays_visible_and_harms_no_other() -> None:
    variable = _variable()
    noise = _noise(variable, 1, candidates=5, horizon=3, samples=4)
    noise.draw(1, 4, 3)
    before, actions, predicted = _step(np.random.default_rng(9), variable, 1, (5, 4, 1))
    expected = noise.apply(1, before, actions, predicted)
    predicted[2, 1, 0, 3] = np.nan
    got = noise.apply(1, before, actions, predicted)
    assert np.isnan(got[2, 1]).all()
    got[2, 1] = expected[2, 1]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("samples", "horizon", "free", "words"),
    [
        (0, 3, False, "0 samples"),
        (5, 3, False, "1 to 4"),
        (4, 0, False, "0 steps"),
        (4, 4, False, "1 to 3"),
        (0, 3, True, "0 samples"),
    ],
)
def test_drawing_beyond_the_limits_is_refused(
    samples: int, horizon: int, free: bool, words: str
) -> None:
    noise = _noise(_variable(), 1, candidates=2, horizon=3, samples=4)
    with pytest.raises(ValueError, match=words):
        noise.draw(0, samples, horizon, noise_free_first=free)


def test_without_mean_heads_there_is_no_disagreement() -> None:
    arrays = _variable().to_arrays()
    kept = {name: array for name, array in arrays.items() if not name.startswith("mean_heads")}
    variable = _core.LatentVariable(kept)
    assert variable.members == 0
    noise = _core.LatentNoise(variable, 1, candidates=2, horizon=3, samples=4)
    noise.draw(0, 4, 3, noise_free_first=True)
    assert noise.disagreement().size == 0
    with pytest.raises(ValueError, match="free of noise"):
        noise.draw(0, 1, 3, noise_free_first=True)


def test_files_are_read_as_arrays_are(tmp_path: Path) -> None:
    variable, path = _variable(), tmp_path / "heads.safetensors"
    save_file(variable.to_arrays(), path)
    loaded = _core.LatentVariable.load(path)
    assert (loaded.horizon, loaded.latent_dim, loaded.rank) == (3, 13, 3)
    assert (loaded.action_dim, loaded.members) == (4, 4)
    given_step = _step(np.random.default_rng(3), variable, 0, (2, 4, 1))
    results = []
    for each in (loaded, _core.LatentVariable(variable.to_arrays())):
        noise = _core.LatentNoise(each, 1, candidates=2, horizon=3, samples=4)
        noise.draw(0, 4, 3)
        results.append(noise.apply(0, *given_step))
    np.testing.assert_array_equal(*results)


def _damages(arrays: dict[str, Array], name: str) -> dict[str, dict[str, Array]]:
    array = arrays[name]
    rest = {other: kept for other, kept in arrays.items() if other != name}
    poisoned = array.copy()
    poisoned.flat[-1] = np.inf
    return {
        "missing": rest,
        "longer": {**rest, name: np.concatenate([array, array[:1]])},
        "deeper": {**rest, name: array[None]},
        "empty": {**rest, name: array[:0]},
        "not finite": {**rest, name: poisoned},
    }


@pytest.mark.parametrize("name", sorted(_variable(hidden=(7, 6)).to_arrays()))
def test_damaged_arrays_are_refused_by_name(tmp_path: Path, name: str) -> None:
    arrays = _variable(hidden=(7, 6)).to_arrays()
    for what, damaged in _damages(arrays, name).items():
        # Where a size is read from, the message names the array that disagrees with it.
        sizes = {"base": r"gain|scale_head", "scale_head.center": r"scale_head"}
        sizes["mean_heads.0.weight"] = r"mean_heads\.0\.bias"
        if what == "longer":
            expected = sizes.get(name, name)
        elif what == "missing" and name.endswith("weight"):
            expected = name.split(".")[0]
        else:
            expected = name
        with pytest.raises(ValueError, match=expected):
            _core.LatentVariable(damaged)
        path = tmp_path / "heads.safetensors"
        save_file(damaged, path)
        with pytest.raises(_core.FileError, match=rf"heads\.safetensors.*({expected})"):
            _core.LatentVariable.load(path)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="sse9"):
        _core.LatentVariable(_variable().to_arrays(), "sse9")


def test_a_scale_of_zero_is_refused() -> None:
    for name in ("base", "scale_head.scale", "mean_heads.scale"):
        arrays = _variable().to_arrays()
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = 0.0
        with pytest.raises(ValueError, match=f"{name}.*positive"):
            _core.LatentVariable(arrays)


# in the engine


class _Model:
    """The numpy predictor, as `LatentVariable.rollouts` wants a model."""

    def __init__(self, reference: ReferencePredictor) -> None:
        self.reference = reference

    def predict(self, history: Array, actions: Array) -> Array:
        """Predict (B, N, D)."""
        return np.asarray(self.reference.predict(history, actions), np.float32)


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 6])
def test_sampled_rollouts_of_the_engine_are_those_of_the_python_class(
    tmp_path: Path, tokens: int, threads: int, batch: int
) -> None:
    sizes, samples, horizon = Sizes(tokens=tokens), 5, 4
    tensors, metadata = draw(sizes)
    path = write(tmp_path / "predictor.safetensors", tensors, metadata)
    variable = _variable(dim=sizes.latent_dim, action=sizes.action_dim)
    # The features' actions are raw: bring the heads' inputs near them.
    dims = slice(2 * sizes.latent_dim, 2 * sizes.latent_dim + sizes.action_dim)
    for head in (variable.scale_head, variable.mean_heads):
        head.center[dims], head.scale[dims] = tensors["action_mean"], 30.0
    p = draw_problem(tensors, sizes, candidates=batch, horizon=horizon, frames=3, own=True)
    taken = np.concatenate([p.past_actions, p.actions], axis=1)
    model = _Model(ReferencePredictor(tensors, metadata))
    expected, mean, epistemic = variable.rollouts(model, p.history, taken, samples, seed=4)

    predictor = _core.Predictor(path, _core.Precision.FLOAT32)
    engine = _core.Engine(predictor, batch, horizon, samples + 1, threads)
    noise = _noise(
        variable,
        tokens,
        candidates=batch,
        horizon=horizon,
        samples=samples + 1,
        threads=threads,
    )
    status, latents, told = noise.rollout(
        engine,
        p.history,
        p.past_actions,
        p.actions,
        samples=samples + 1,
        seed=4,
        noise_free_first=True,
    )
    assert status == _core.Status.OK
    tolerance = {"rtol": 1e-4, "atol": 1e-4}  # float32 errors that the model carries forward
    np.testing.assert_allclose(latents[:, 0], mean, **tolerance)
    np.testing.assert_allclose(latents[:, 1:], expected, **tolerance)
    np.testing.assert_allclose(told, epistemic, **tolerance)
    assert np.abs(latents[:, 1:] - latents[:, :1]).mean() > 0.1

    # Each start replaces the newest latent, here by itself.
    start = np.ascontiguousarray(p.history[:, -1])
    again = noise.rollout(
        engine, p.history, p.past_actions, p.actions, samples=samples, seed=4, start=start
    )
    np.testing.assert_allclose(again[1], expected, **tolerance)


def test_sampled_rollouts_do_not_depend_on_threads_or_company(tmp_path: Path) -> None:
    sizes, samples, horizon, batch = Sizes(tokens=2), 6, 4, 23
    tensors, metadata = draw(sizes)
    path = write(tmp_path / "predictor.safetensors", tensors, metadata)
    variable = _variable(dim=sizes.latent_dim, action=sizes.action_dim)
    p = draw_problem(tensors, sizes, candidates=batch, horizon=horizon, frames=2)
    limits = {"candidates": batch, "horizon": horizon, "samples": samples}
    expected: Array | None = None
    for precision in (_core.Precision.FLOAT32, _core.Precision.INT8):
        expected = None
        predictor = _core.Predictor(path, precision)
        for threads in (1, 2, 4):
            engine = _core.Engine(predictor, batch, horizon, samples, threads)
            noise = _noise(variable, 2, threads=threads, **limits)
            _, latents, _ = noise.rollout(
                engine, p.history[None], p.past_actions[None], p.actions, samples=samples
            )
            expected = latents if expected is None else expected
            np.testing.assert_array_equal(latents, expected)
            part = np.ascontiguousarray(p.actions[5:12])
            _, latents, _ = noise.rollout(
                engine, p.history[None], p.past_actions[None], part, samples=samples
            )
            np.testing.assert_array_equal(latents, expected[5:12])


def test_an_engine_of_another_model_or_more_threads_is_refused(tmp_path: Path) -> None:
    sizes = Sizes()
    tensors, metadata = draw(sizes)
    path = write(tmp_path / "predictor.safetensors", tensors, metadata)
    p = draw_problem(tensors, sizes, candidates=3, horizon=2, frames=2)
    arguments = (p.history[None], p.past_actions[None], p.actions)
    predictor = _core.Predictor(path, _core.Precision.FLOAT32)
    limits = {"candidates": 3, "horizon": 2, "samples": 4}
    engine = _core.Engine(predictor, 3, 2, 4, 2)
    foreign = _noise(_variable(), 1, threads=2, **limits)
    with pytest.raises(ValueError, match="another model"):
        foreign.rollout(engine, *arguments, samples=4)
    variable = _variable(dim=sizes.latent_dim, action=sizes.action_dim)
    for bad in ({"threads": 1}, {"candidates": 2}, {"horizon": 1}, {"samples": 3}):
        noise = _noise(variable, 1, **{**limits, "threads": 2, **bad})
        assert noise.rollout(engine, *arguments, samples=4)[0] == _core.Status.BAD_SHAPE
