# SPDX-License-Identifier: Apache-2.0
"""Hostile and damaged predictor.safetensors: each is refused, and the message names the culprit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.engine import RolloutEngine
from jepa_edge.errors import BundleError

from .reference_predictor import Sizes, draw, draw_problem, write

WHOLE = safetensors.numpy.save(*draw(Sizes()))
HEADER = 8 + int.from_bytes(WHOLE[:8], "little")
NOT_SAFETENSORS = {
    "empty": b"",
    "seven bytes": WHOLE[:7],
    "length only": WHOLE[:8],
    "half a header": WHOLE[: HEADER // 2],
    "header only": WHOLE[:HEADER],
    "one byte short": WHOLE[:-1],
    "one byte long": WHOLE + b"\0",
    "endless header": (2**63).to_bytes(8, "little") + WHOLE[8:],
    "header past the end": len(WHOLE).to_bytes(8, "little") + WHOLE[8:],
    "deep nesting": (10**5).to_bytes(8, "little") + b'{"a":' + b"[" * (10**5 - 5),
    "a pickle": b"\x80\x04\x95" + WHOLE,
}


@pytest.mark.parametrize("name", sorted(draw(Sizes())[0].keys() - {"causal_mask"}))
def test_a_file_without_a_tensor_or_with_a_damaged_one_is_refused(
    tmp_path: Path, name: str
) -> None:
    tensors, metadata = draw(Sizes())
    target = tmp_path / "predictor.safetensors"
    tensor = tensors.pop(name)
    poisoned = tensor.copy()
    poisoned.flat[tensor.size // 2] = np.nan
    damages = {
        "missing": None,
        "longer": np.concatenate([tensor, tensor[:1]]),
        "shorter": np.ascontiguousarray(tensor[:-1]),
        "flat or deep": tensor.ravel() if tensor.ndim > 1 else tensor[None],
        "of doubles": tensor.astype(np.float64),
        "of halves": tensor.astype(np.float16),
        "not finite": poisoned,
    }
    # A size is read from one tensor; the message may name the one that disagrees with it.
    words = {"action_in.bias": r"action_in\.", "blocks.0.qkv.weight": r"blocks\.0\.q"}
    for damaged in damages.values():
        kept = tensors if damaged is None else {**tensors, name: damaged}
        with pytest.raises(BundleError, match=words.get(name, name)):
            RolloutEngine.load(write(target, kept, metadata))


@pytest.mark.parametrize("key", sorted(draw(Sizes())[1]))
def test_a_file_without_a_size_or_with_a_wrong_one_is_refused(tmp_path: Path, key: str) -> None:
    tensors, metadata = draw(Sizes())
    target = tmp_path / "predictor.safetensors"
    kept = {name: value for name, value in metadata.items() if name != key}
    with pytest.raises(BundleError, match=key):
        RolloutEngine.load(write(target, tensors, kept))
    values = ["", "x", "-1", "nan", "1e999"]
    if not key.endswith("_eps"):
        values += ["0", "2.5", "1000000000000", "99999999999999999999999", "3 ", "0x3"]
    for value in values:
        with pytest.raises(BundleError):
            RolloutEngine.load(write(target, tensors, {**metadata, key: value}))


@pytest.mark.parametrize("tokens", ["0", "2", "x", "-1"])
def test_tokens_that_the_positions_contradict_are_refused(tmp_path: Path, tokens: str) -> None:
    tensors, metadata = draw(Sizes())
    target = write(tmp_path / "predictor.safetensors", tensors, {**metadata, "tokens": tokens})
    with pytest.raises(BundleError, match=r"tokens|position"):
        RolloutEngine.load(target)


def test_another_format_is_named_with_the_fix(tmp_path: Path) -> None:
    tensors, metadata = draw(Sizes())
    target = tmp_path / "predictor.safetensors"
    write(target, tensors, {**metadata, "format": "lewm-predictor-99"})
    with pytest.raises(BundleError, match=r"lewm-predictor-99.*lewm-predictor-1"):
        RolloutEngine.load(target)


@pytest.mark.parametrize("content", NOT_SAFETENSORS.values(), ids=NOT_SAFETENSORS)
def test_files_that_are_not_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "predictor.safetensors"
    target.write_bytes(content)
    with pytest.raises(BundleError, match=r"predictor\.safetensors"):
        RolloutEngine.load(target)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.safetensors"):
        RolloutEngine.load(tmp_path / "none.safetensors")
    with pytest.raises(BundleError):
        RolloutEngine.load(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_harmless(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, HEADER - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "predictor.safetensors"
        target.write_bytes(damaged)
        try:
            engine = RolloutEngine.load(target)
        except BundleError:
            return
    problem = draw_problem(draw(Sizes())[0], Sizes(), candidates=2, horizon=2, frames=3)
    engine.rollout(*problem.arguments)
