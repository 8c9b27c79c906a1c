# SPDX-License-Identifier: Apache-2.0
"""The C++ rollout engine against the float64 numpy predictor, over sizes, formats and processors.

Bounds come from the number formats, through the reference: float32 from the depth of the sums,
bfloat16 and int8 from what rounding the same operands costs in an otherwise exact rollout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jepa_edge import _core
from jepa_edge.engine import RolloutEngine
from jepa_edge.errors import InputError

from .reference_predictor import (
    Problem,
    ReferencePredictor,
    Sizes,
    draw,
    draw_problem,
    write,
)

ISAS = tuple(_core.available_isas())
PRECISIONS = ("float32", "bfloat16", "int8")

FLOAT32_ERROR = 3e-5
"""Largest error in units of the latents' standard deviation: 500 roundings of 2^-24. The same
rollout in float32 numpy stays below 1e-5 over 150 random models and 8 steps."""

FLOAT32_NOISE = 1e-5
"""Its root mean square where sizes are drawn: some models of few numbers amplify single errors."""

FORMAT_MARGIN_DB = 6.0
"""One bit: other roundings of the same operands must cost about the same, whatever their order."""

# Signal to noise of one matrix product whose two operands are rounded. bfloat16: steps of 2^-7 of
# the power of two below, uniform error, mantissas log-uniform: 0.54 (2^-7)^2 / 12 per operand.
# int8: steps of max / 127, and rows whose largest number is 3.5 deviations: (3.5 / 127)^2 / 12.
PRODUCT_DB = {"bfloat16": 52.6, "int8": 39.0}

FULL_SIZE = Sizes(
    window=3,
    latent_dim=192,
    action_dim=10,
    action_hidden=768,
    dim=192,
    depth=6,
    heads=16,
    head_dim=64,
    mlp_dim=2048,
    head_hidden_dim=2048,
)
CASES = {
    "as drawn": Sizes(),
    "several tokens": Sizes(tokens=3),
    "one block": Sizes(depth=1),
    "one block, several tokens": Sizes(depth=1, tokens=2),
    "one full head": Sizes(heads=1, head_dim=40),
    "one narrow head": Sizes(heads=1, head_dim=8),
    "same widths": Sizes(dim=24),
    "same widths, one full head": Sizes(dim=24, heads=1, head_dim=24),
    "window of one": Sizes(window=1),
    "window of five": Sizes(window=5, tokens=2),
    "nothing is even": Sizes(
        latent_dim=13,
        action_dim=3,
        action_hidden=7,
        dim=29,
        heads=3,
        head_dim=5,
        mlp_dim=31,
        head_hidden_dim=17,
        depth=3,
    ),
    "wider than a register": Sizes(dim=72, heads=5, head_dim=33, mlp_dim=193),
}

Load = Callable[..., RolloutEngine]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a function that draws a predictor of these sizes and loads it."""
    folder = tmp_path_factory.mktemp("engine")

    def made(sizes: Sizes, seed: int = 0, **options: Any) -> RolloutEngine:
        path = write(folder / "predictor.safetensors", *draw(sizes, seed))
        return RolloutEngine.load(path, **options)

    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small predictor's file."""
    folder = tmp_path_factory.mktemp("engine")
    return write(folder / "predictor.safetensors", *draw(Sizes()))


@pytest.fixture(scope="module")
def full_size(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Problem, dict[str, NDArray[np.float64]]]:
    """The released model's sizes: file, problem, the reference's latents by precision."""
    tensors, metadata = draw(FULL_SIZE)
    path = write(tmp_path_factory.mktemp("full") / "predictor.safetensors", tensors, metadata)
    problem = draw_problem(tensors, FULL_SIZE, candidates=8, horizon=5, frames=3)
    latents = {
        precision: ReferencePredictor(tensors, metadata, precision=precision).rollout(
            *problem.arguments
        )
        for precision in PRECISIONS
    }
    return path, problem, latents


def _problem(sizes: Sizes, *, seed: int = 0, **options: Any) -> Problem:
    defaults: dict[str, Any] = {"candidates": 7, "horizon": 5, "frames": sizes.window}
    return draw_problem(draw(sizes, seed)[0], sizes, seed=seed, **{**defaults, **options})


@st.composite
def _sizes(draw_from: st.DrawFn, least: int = 8) -> Sizes:
    """Draw sizes. least: of the widths; a norm over fewer numbers amplifies any rounding."""
    dim = draw_from(st.integers(least, 48))
    heads, head_dim = draw_from(
        st.one_of(
            st.just((1, dim)),
            st.tuples(st.integers(1, 5), st.sampled_from([3, 8, 11, 16, 32])),
        )
    )
    return Sizes(
        window=draw_from(st.integers(1, 5)),
        tokens=draw_from(st.integers(1, 4)),
        latent_dim=draw_from(st.one_of(st.just(dim), st.integers(least, 40))),
        action_dim=draw_from(st.integers(1, 9)),
        action_hidden=draw_from(st.integers(4, 40)),
        dim=dim,
        depth=draw_from(st.integers(1, 3)),
        heads=heads,
        head_dim=head_dim,
        mlp_dim=draw_from(st.integers(least, 100)),
        head_hidden_dim=draw_from(st.integers(least, 80)),
    )


def _error(got: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / expected.std())


def _sqnr_db(got: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]]) -> float:
    """Signal to noise, both whole: a mean that all candidates share is signal here."""
    assert got.shape == expected.shape
    noise = np.mean((got.astype(np.float64) - expected) ** 2)
    return float(10.0 * np.log10(np.mean(expected**2) / noise))


# float32


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_float32_is_the_reference(load: Load, isa: str, data: st.DataObject) -> None:
    sizes = data.draw(_sizes())
    seed = data.draw(st.integers(0, 2**16))
    tensors, metadata = draw(sizes, seed)
    problem = draw_problem(
        tensors,
        sizes,
        candidates=data.draw(st.integers(1, 70)),
        horizon=data.draw(st.integers(1, 8)),
        frames=data.draw(st.integers(1, sizes.window)),
        start=data.draw(st.booleans()),
        own=data.draw(st.booleans()),
        seed=seed,
    )
    engine = load(sizes, seed, isa=isa, threads=data.draw(st.integers(1, 2)))
    expected = ReferencePredictor(tensors, metadata).rollout(*problem.arguments)
    got = engine.rollout(*problem.arguments)
    # Norms over a few numbers amplify rounding: some drawn models lose a digit or two to it.
    assert _error(got, expected) < 100 * FLOAT32_ERROR
    assert np.sqrt(np.mean((got - expected) ** 2)) < 10 * FLOAT32_NOISE * expected.std()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES)
def test_float32_is_the_reference_at_every_length_of_the_past(
    load: Load, isa: str, sizes: Sizes
) -> None:
    engine, reference = load(sizes, isa=isa), ReferencePredictor(*draw(sizes))
    for frames in range(1, sizes.window + 1):
        for start, own in itertools.product((False, True), repeat=2):
            problem = _problem(sizes, frames=frames, start=start, own=own, horizon=sizes.window + 2)
            expected = reference.rollout(*problem.arguments)
            assert _error(engine.rollout(*problem.arguments), expected) < FLOAT32_ERROR


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_full_size_stays_within_its_format(
    full_size: tuple[Path, Problem, dict[str, NDArray[np.float64]]], isa: str, precision: str
) -> None:
    path, problem, latents = full_size
    expected = latents["float32"]
    got = RolloutEngine.load(path, isa=isa, precision=precision).rollout(*problem.arguments)
    if precision == "float32":
        assert _error(got, expected) < FLOAT32_ERROR
    else:
        bound = _sqnr_db(latents[precision], expected) - FORMAT_MARGIN_DB
        assert _sqnr_db(got, expected) > bound


# bfloat16 and int8


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rounded_formats_cost_what_rounding_their_operands_costs(
    load: Load, isa: str, precision: str, data: st.DataObject
) -> None:
    sizes = data.draw(_sizes(least=16))
    seed = data.draw(st.integers(0, 2**16))
    tensors, metadata = draw(sizes, seed)
    # Enough numbers that the noise's power is known to a fraction of the margin.
    problem = draw_problem(
        tensors,
        sizes,
        candidates=data.draw(st.integers(20, 70)),
        horizon=data.draw(st.integers(1, 6)),
        frames=data.draw(st.integers(1, sizes.window)),
        start=data.draw(st.booleans()),
        own=data.draw(st.booleans()),
        seed=seed,
    )
    engine = load(sizes, seed, isa=isa, precision=precision)
    expected = ReferencePredictor(tensors, metadata).rollout(*problem.arguments)
    rounded = ReferencePredictor(tensors, metadata, precision=precision)
    bound = _sqnr_db(rounded.rollout(*problem.arguments), expected) - FORMAT_MARGIN_DB
    assert _sqnr_db(engine.rollout(*problem.arguments), expected) > bound


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES)
def test_the_first_step_in_rounded_formats_meets_the_textbook(
    load: Load, isa: str, precision: str, sizes: Sizes
) -> None:
    """Noise of serial products adds: condition, modulation, four per block, two in the head."""
    engine = load(sizes, isa=isa, precision=precision)
    problem = _problem(sizes, candidates=64, horizon=1)
    expected = ReferencePredictor(*draw(sizes)).rollout(*problem.arguments)
    serial = 5 + 4 * sizes.depth
    bound = PRODUCT_DB[precision] - 10.0 * np.log10(serial) - FORMAT_MARGIN_DB
    assert _sqnr_db(engine.rollout(*problem.arguments), expected) > bound


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_rounded_formats_are_in_use(load: Load, precision: str) -> None:
    """Far better than its format allows means that another one ran."""
    sizes = Sizes()
    problem = _problem(sizes, candidates=64, horizon=1)
    expected = ReferencePredictor(*draw(sizes)).rollout(*problem.arguments)
    rounded = ReferencePredictor(*draw(sizes), precision=precision).rollout(*problem.arguments)
    got = load(sizes, precision=precision).rollout(*problem.arguments)
    assert _sqnr_db(got, expected) < _sqnr_db(rounded, expected) + 2 * FORMAT_MARGIN_DB


# energies


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("goal_steps", [1, 2, 5])
@pytest.mark.parametrize("tokens", [1, 3])
def test_energies_are_squared_distances_to_the_goal(
    load: Load, isa: str, frames: int, goal_steps: int, tokens: int
) -> None:
    sizes = Sizes(tokens=tokens)
    engine, reference = load(sizes, isa=isa), ReferencePredictor(*draw(sizes))
    p = _problem(sizes, frames=frames, candidates=33)
    energies = engine.goal_energies(p.history, p.past_actions, p.actions, p.goal, goal_steps)
    expected = reference.goal_energies(p.history, p.past_actions, p.actions, p.goal, goal_steps)
    assert energies.dtype == np.float32
    np.testing.assert_allclose(energies, expected, rtol=FLOAT32_ERROR)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_energies_are_those_of_the_rollout(load: Load, precision: str) -> None:
    engine = load(Sizes(tokens=2), precision=precision)
    p = _problem(Sizes(tokens=2), candidates=9)
    latents = engine.rollout(p.history, p.past_actions, p.actions).astype(np.float64)
    expected = ((latents - p.goal) ** 2).sum(axis=(2, 3))
    for steps in (1, 3):
        got = engine.goal_energies(p.history, p.past_actions, p.actions, p.goal, steps)
        np.testing.assert_allclose(got, expected[:, -steps:].mean(axis=1), rtol=2e-6)


# what a result may not depend on


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("candidates", [1, 2, 63, 130])
@pytest.mark.parametrize("own", [False, True])
def test_results_do_not_depend_on_threads(
    load: Load, isa: str, precision: str, candidates: int, own: bool
) -> None:
    sizes = Sizes(tokens=2)
    problem = _problem(sizes, candidates=candidates, frames=2, own=own, start=not own)
    one, *others = (load(sizes, isa=isa, precision=precision, threads=n) for n in (1, 2, 3, 5))
    expected = one.rollout(*problem.arguments)
    energies = one.goal_energies(*problem.arguments[:3], problem.goal, 2)
    for engine in others:
        np.testing.assert_array_equal(engine.rollout(*problem.arguments), expected)
        again = engine.goal_energies(*problem.arguments[:3], problem.goal, 2)
        np.testing.assert_array_equal(again, energies)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_results_do_not_depend_on_the_company_of_a_row(
    load: Load, isa: str, precision: str, data: st.DataObject
) -> None:
    sizes = data.draw(st.sampled_from(list(CASES.values())))
    candidates = data.draw(st.integers(2, 70))
    problem = _problem(
        sizes,
        candidates=candidates,
        frames=data.draw(st.integers(1, sizes.window)),
        start=data.draw(st.booleans()),
        own=data.draw(st.booleans()),
        horizon=4,
    )
    engine = load(sizes, isa=isa, precision=precision)
    together = engine.rollout(*problem.arguments)
    order = np.array(data.draw(st.permutations(range(candidates))))
    np.testing.assert_array_equal(engine.rollout(*problem.rows(order).arguments), together[order])
    first = data.draw(st.integers(0, candidates - 1))
    last = data.draw(st.integers(first + 1, candidates))
    part = problem.rows(slice(first, last))
    np.testing.assert_array_equal(engine.rollout(*part.arguments), together[first:last])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_results_do_not_depend_on_what_was_asked_before(load: Load, precision: str) -> None:
    sizes = Sizes(tokens=2)
    problem = _problem(sizes, candidates=5, frames=2)
    engine = load(sizes, precision=precision)
    expected = engine.rollout(*problem.arguments)
    for candidates, horizon, frames in ((70, 8, 3), (1, 1, 1), (3, 2, 3)):
        other = _problem(
            sizes, seed=candidates, candidates=candidates, horizon=horizon, frames=frames
        )
        engine.rollout(*other.arguments)
        np.testing.assert_array_equal(engine.rollout(*problem.arguments), expected)


def test_earlier_steps_do_not_depend_on_the_horizon(load: Load) -> None:
    engine = load(Sizes())
    p = _problem(Sizes(), horizon=8)
    long = engine.rollout(p.history, p.past_actions, p.actions)
    for horizon in range(1, 8):
        short = engine.rollout(p.history, p.past_actions, p.actions[:, :horizon])
        np.testing.assert_array_equal(short, long[:, :horizon])


def test_starting_every_candidate_at_the_observed_latent_changes_nothing(load: Load) -> None:
    engine = load(Sizes())
    p = _problem(Sizes())
    shared = engine.rollout(p.history, p.past_actions, p.actions)
    start = np.repeat(p.history[-1:], len(p.actions), axis=0)
    own = engine.rollout(p.history, p.past_actions, p.actions, start)
    np.testing.assert_allclose(own, shared, atol=FLOAT32_ERROR * shared.std())


@pytest.mark.parametrize("start", [False, True])
def test_a_past_of_its_own_is_a_call_of_its_own(load: Load, start: bool) -> None:
    engine = load(Sizes(tokens=2))
    problem = _problem(Sizes(tokens=2), own=True, start=start)
    together = engine.rollout(*problem.arguments)
    for index in range(len(together)):
        alone = problem.rows(slice(index, index + 1))
        latents = engine.rollout(
            alone.history[0], alone.past_actions[0], alone.actions, alone.start
        )
        np.testing.assert_array_equal(latents[0], together[index])


def test_memory_layout_and_float64_do_not_matter(load: Load) -> None:
    engine = load(Sizes(tokens=2))
    p = _problem(Sizes(tokens=2), start=True)
    assert p.start is not None
    expected = engine.rollout(*p.arguments)
    arguments = [
        np.asfortranarray(part) for part in (p.history, p.past_actions, p.actions, p.start)
    ]
    np.testing.assert_array_equal(engine.rollout(*arguments), expected)
    arguments = [np.repeat(part, 2, axis=-1)[..., ::2] for part in p.arguments if part is not None]
    np.testing.assert_array_equal(engine.rollout(*arguments), expected)
    arguments = [part.astype(np.float64) for part in p.arguments if part is not None]
    np.testing.assert_array_equal(engine.rollout(*arguments), expected)


def test_inputs_are_left_alone_and_results_are_ours(load: Load) -> None:
    engine = load(Sizes())
    p = _problem(Sizes(), start=True)
    inputs = [part for part in p.arguments if part is not None]
    before = [part.copy() for part in inputs]
    for part in inputs:
        part.flags.writeable = False
    first = engine.rollout(*p.arguments)
    kept = first.copy()
    engine.rollout(p.history, p.past_actions, p.actions[::-1])
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable
    for part, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(part, copy)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shared", [False, True], ids=["a sibling each", "one engine"])
def test_several_threads_may_call_at_once(path: Path, precision: str, shared: bool) -> None:
    """Also while the engine's memory still grows: every round starts with a fresh one."""
    problems = [_problem(Sizes(), candidates=5 + 13 * i, horizon=2 + i) for i in range(4)]
    first = RolloutEngine.load(path, precision=precision, threads=2)
    expected = [first.rollout(*problem.arguments) for problem in problems]

    def matches(index: int, engine: RolloutEngine) -> bool:
        return all(
            np.array_equal(engine.rollout(*problems[index].arguments), expected[index])
            for _ in range(5)
        )

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            fresh = first.sibling()
            engines = [fresh if shared else first.sibling() for _ in range(4)]
            assert all(pool.map(matches, range(4), engines))


# inputs that are refused


def _call(engine: RolloutEngine, arrays: dict[str, Any], name: str) -> None:
    """Call the method that takes the array of this name."""
    shared = (arrays["history"], arrays["past_actions"], arrays["actions"])
    if name == "goal":
        engine.goal_energies(*shared, arrays["goal"])
    else:
        engine.rollout(*shared, arrays["start"])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["history", "past_actions", "actions", "start", "goal"])
@pytest.mark.parametrize("last", [False, True])
def test_numbers_that_are_not_finite_are_named(
    path: Path, precision: str, bad: float, name: str, last: bool
) -> None:
    engine = RolloutEngine.load(path, precision=precision)
    p = _problem(Sizes(), start=True)
    arrays = {
        "history": p.history,
        "past_actions": p.past_actions,
        "actions": p.actions,
        "start": p.start,
    }
    expected = engine.rollout(**arrays)
    poisoned = {**arrays, "goal": p.goal}
    poisoned[name] = poisoned[name].copy()
    poisoned[name].flat[-1 if last else 0] = bad
    with pytest.raises(InputError, match=rf"(?<![a-z_]){name}(?![a-z_])"):
        _call(engine, poisoned, name)
    np.testing.assert_array_equal(engine.rollout(**arrays), expected)


def test_a_future_that_diverges_leaves_the_others_alone(path: Path) -> None:
    engine = RolloutEngine.load(path)
    p = _problem(Sizes(), candidates=9, start=True)
    assert p.start is not None
    expected = engine.rollout(*p.arguments)
    p.start[4] = np.finfo(np.float32).max
    got = engine.rollout(*p.arguments)
    keep = np.arange(9) != 4
    np.testing.assert_array_equal(got[keep], expected[keep])


WRONG_SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "no history": ("history", (0, 1, 24)),
    "history longer than the window": ("history", (4, 1, 24)),
    "history of other tokens": ("history", (3, 2, 24)),
    "history of another width": ("history", (3, 1, 23)),
    "history without tokens": ("history", (3, 24)),
    "histories of other candidates": ("history", (6, 3, 1, 24)),
    "one past action too many": ("past_actions", (3, 4)),
    "one past action too few": ("past_actions", (1, 4)),
    "past actions of another width": ("past_actions", (2, 5)),
    "flat past actions": ("past_actions", (8,)),
    "actions of another width": ("actions", (7, 5, 3)),
    "actions of one candidate": ("actions", (5, 4)),
    "no steps": ("actions", (7, 0, 4)),
    "no candidates": ("actions", (0, 5, 4)),
    "start of other candidates": ("start", (6, 1, 24)),
    "start of another width": ("start", (7, 1, 25)),
    "start without tokens": ("start", (7, 24)),
    "goal of another width": ("goal", (1, 25)),
    "goal without tokens": ("goal", (24,)),
    "goal per candidate": ("goal", (7, 1, 24)),
}


@pytest.mark.parametrize(("name", "shape"), WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_wrong_shapes_are_told_with_the_right_ones(
    path: Path, name: str, shape: tuple[int, ...]
) -> None:
    engine = RolloutEngine.load(path)
    p = _problem(Sizes(), start=True)
    arrays = {"history": p.history, "past_actions": p.past_actions, "actions": p.actions}
    arrays |= {"start": p.start, "goal": p.goal}
    arrays[name] = np.zeros(shape, np.float32)
    if name == "actions":
        arrays["start"] = None  # its first size follows the actions'
    with pytest.raises(InputError, match=rf"(?<![a-z_]){name}(?![a-z_]).*expected") as told:
        _call(engine, arrays, name)
    assert str(shape) in str(told.value)


@pytest.mark.parametrize("goal_steps", [0, -1, 6])
def test_goal_steps_stay_within_the_horizon(path: Path, goal_steps: int) -> None:
    p = _problem(Sizes())
    with pytest.raises(InputError, match=f"goal_steps.*{goal_steps}.*expected"):
        RolloutEngine.load(path).goal_energies(
            p.history, p.past_actions, p.actions, p.goal, goal_steps
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "float8"}, "precision.*float8.*float32.*bfloat16.*int8"),
        ({"precision": "FLOAT32"}, "precision.*FLOAT32"),
        ({"isa": "sse9"}, "sse9.*portable"),
        ({"isa": ""}, "instruction set"),
        ({"threads": 0}, "threads.*0"),
        ({"threads": -2}, "threads.*-2"),
    ],
)
def test_unknown_options_are_refused(path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        RolloutEngine.load(path, **options)


def test_isas_end_with_the_portable_one() -> None:
    assert ISAS[-1] == "portable"
    assert len(set(ISAS)) == len(ISAS)
