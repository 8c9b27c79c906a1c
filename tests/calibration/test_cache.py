# SPDX-License-Identifier: Apache-2.0
"""Cached latents: found again, never trusted when damaged or foreign, never half written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from jepa_edge.binding import Binding
from jepa_edge.calibration import cache as cache_module
from jepa_edge.calibration.cache import CacheKey, LatentCache
from jepa_edge.calibration.dataset import EncodedEpisode

KEY = CacheKey(
    binding=Binding(
        engine_sha256="1" * 64,
        preprocessing_sha256="2" * 64,
        scoring_sha256="3" * 64,
        runtime="a runtime",
        device_class="a machine",
    ),
    data_sha256="3" * 64,
    episodes=2,
)


class Encoder:
    """Encodes two episodes of unlike length, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> list[EncodedEpisode]:
        self.calls += 1
        rng = np.random.default_rng(0)
        return [
            EncodedEpisode(
                name=f"episode {steps}",
                latents=rng.normal(size=(steps + 1, 2, 3)).astype(np.float32),
                actions=rng.normal(size=(steps, 4)).astype(np.float32),
            )
            for steps in (5, 3)
        ]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_what_was_stored_comes_back_without_encoding(tmp_path: Path, encoder: Encoder) -> None:
    cache = LatentCache(directory=tmp_path / "cache")
    first, second = cache.get(KEY, encoder), cache.get(KEY, encoder)
    assert encoder.calls == 1
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.latents, b.latents)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def _with_masks() -> list[EncodedEpisode]:
    rng = np.random.default_rng(1)
    return [
        EncodedEpisode(
            name=f"episode {steps}",
            latents=rng.normal(size=(steps + 1, 1, 3)).astype(np.float32),
            actions=np.zeros((steps, 0), np.float32),
            masked=np.where(rng.random((steps + 1, 500)) < 0.1, np.nan, 1.0).astype(np.float32),
        )
        for steps in (5, 3)
    ]


def test_masked_energies_come_back(tmp_path: Path) -> None:
    expected = _with_masks()
    cache = LatentCache(directory=tmp_path)
    cache.get(KEY, lambda: expected)
    for found, episode in zip(cache.get(KEY, list), expected, strict=True):
        assert found.masked is not None
        np.testing.assert_array_equal(found.masked, episode.masked)
        assert found.actions.shape == episode.actions.shape


def test_masked_energies_count_as_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    episodes = _with_masks()
    assert sum(e.latents.nbytes for e in episodes) < 1000 < 10 * 500 * 4 - 1
    monkeypatch.setattr(cache_module, "_LARGEST", 10 * 500 * 4 - 1)
    LatentCache(directory=tmp_path).get(KEY, lambda: episodes)
    assert list(tmp_path.iterdir()) == []
    assert "too many for the cache" in caplog.text


def test_without_a_directory_nothing_is_stored(encoder: Encoder) -> None:
    cache = LatentCache()
    cache.get(KEY, encoder)
    cache.get(KEY, encoder)
    assert encoder.calls == 2


@pytest.mark.parametrize(
    "change",
    [
        {"data_sha256": "4" * 64},
        {"episodes": 1},
        {"injection": "blur:0.1@15 seed 0"},
        {"binding": msgspec.structs.replace(KEY.binding, engine_sha256="5" * 64)},
        {"binding": msgspec.structs.replace(KEY.binding, device_class="another")},
    ],
)
def test_another_key_misses(tmp_path: Path, encoder: Encoder, change: dict[str, object]) -> None:
    cache = LatentCache(directory=tmp_path)
    cache.get(KEY, encoder)
    cache.get(msgspec.structs.replace(KEY, **change), encoder)
    assert encoder.calls == 2


def _flip(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def _foreign(content: bytes) -> bytes:
    return hashlib.sha256(b"not safetensors").digest() + b"not safetensors"


@pytest.mark.parametrize(
    "damage", [_flip, _foreign, lambda content: content[:-40], lambda content: b""]
)
def test_a_damaged_file_is_encoded_again_and_mended(
    tmp_path: Path, encoder: Encoder, damage: Callable[[bytes], bytes]
) -> None:
    cache = LatentCache(directory=tmp_path)
    cache.get(KEY, encoder)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    cache.get(KEY, encoder)
    assert encoder.calls == 2
    assert file.read_bytes() == whole
    cache.get(KEY, encoder)
    assert encoder.calls == 2


def test_an_encoder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> list[EncodedEpisode]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        LatentCache(directory=tmp_path / "cache").get(KEY, fail)
    assert not (tmp_path / "cache").exists()
