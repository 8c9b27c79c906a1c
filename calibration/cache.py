# SPDX-License-Identifier: Apache-2.0
"""Encoded episodes on disk, so that a second evaluation does not encode again.

One file per (graphs, recording, injection): 32 bytes of sha256, then safetensors. A file that is
damaged, or was made for something else, is as good as none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jepa_edge.binding import Binding, current_binding
from jepa_edge.calibration.dataset import EncodedEpisode, data_sha256, encode_recording
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording
from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)

_FORMAT = 2
_DIGEST_BYTES = 32
_LARGEST = 1 << 31
"""Bytes of arrays beyond which nothing is stored: files are read and written as a whole."""


class CacheKey(msgspec.Struct, frozen=True, kw_only=True):
    """What latents depend on. binding: of the model that encoded. episodes: how many, from the
    recording's first. injection: fault, severity, onset and seed, or empty."""

    binding: Binding
    data_sha256: str
    episodes: int
    injection: str = ""
    format: int = _FORMAT

    @property
    def digest(self) -> str:
        """One hex sha256 for the whole key."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentCache:
    """directory: made when something is stored; None stores nothing, nor are patches by GB."""

    directory: Path | None = None

    def get(
        self, key: CacheKey, encode: Callable[[], list[EncodedEpisode]]
    ) -> list[EncodedEpisode]:
        """Return the episodes stored under the key, else encode and store them."""
        if self.directory is None:
            return encode()
        path = self.directory / f"latents_{key.digest}.bin"
        found = _read(path)
        if found is None:
            found = encode()
            size = sum(_bytes_of(episode) for episode in found)
            if size > _LARGEST:
                told = "%.1f GB of latents and masked energies are too many for the cache"
                logger.warning(told, size / 1e9)
                return found
            self.directory.mkdir(parents=True, exist_ok=True)
            _write(path, found)
        return found

    def encoded(
        self, model: WorldModel, recording: Recording, progress: Progress = silent
    ) -> list[EncodedEpisode]:
        """Return all episodes of a recording as the model encodes them, stored or fresh.

        Raises InputError when an episode is damaged, misshapen, or encodes to non-finite numbers.
        """
        key = CacheKey(
            binding=current_binding(model),
            data_sha256=data_sha256(recording),
            episodes=len(recording),
        )
        stage = f"encode {recording.path.name} ({model.variant})"
        return self.get(key, lambda: encode_recording(model, recording, progress, stage))


def _bytes_of(episode: EncodedEpisode) -> int:
    masked = 0 if episode.masked is None else episode.masked.nbytes
    return episode.latents.nbytes + episode.actions.nbytes + masked


def _read(path: Path) -> list[EncodedEpisode] | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        logger.warning("%s is damaged; encoding again", path)
        return None
    try:
        arrays = load(payload)
        names = msgspec.json.decode(arrays["names"].tobytes(), type=list[str])
        ends = np.cumsum(arrays["steps"])
        frames = (ends + np.arange(1, len(ends) + 1))[:-1]
        latents = np.split(arrays["latents"], frames)
        actions = np.split(arrays["actions"], ends[:-1])
        masked: Sequence[NDArray[np.float32] | None] = [None] * len(ends)
        if "masked" in arrays:
            masked = np.split(arrays["masked"], frames)
    except (KeyError, SafetensorError, msgspec.DecodeError) as error:
        logger.warning("%s is not a cache of ours (%s); encoding again", path, error)
        return None
    return [
        EncodedEpisode(name=name, latents=latent, actions=action, masked=energies)
        for name, latent, action, energies in zip(names, latents, actions, masked, strict=True)
    ]


def _write(path: Path, episodes: Sequence[EncodedEpisode]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "names": np.frombuffer(msgspec.json.encode([e.name for e in episodes]), np.uint8),
        "steps": np.array([len(e.actions) for e in episodes], np.int64),
        "latents": np.concatenate([e.latents for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
    }
    masked = [e.masked for e in episodes if e.masked is not None]
    if masked:
        arrays["masked"] = np.concatenate(masked)
    payload = save(arrays)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
