# SPDX-License-Identifier: Apache-2.0
"""The map of latents that a calibration leaves in the bundle, for `jepa-edge imagine`."""

from __future__ import annotations

from collections.abc import Sequence

from jepa_edge.calibration.dataset import EncodedEpisode, encode_recording
from jepa_edge.errors import InputError
from jepa_edge.latent_map import LatentMap
from jepa_edge.manifest import LatentSpec
from jepa_edge.progress import Progress, silent
from jepa_edge.recording import Recording, check_fits
from jepa_edge.world_model import WorldModel

_LATENTS = 20_000
"""More latents than these do not move the axes, and their singular values take long."""


def calibrated_map(episodes: Sequence[EncodedEpisode], spec: LatentSpec) -> bytes | None:
    """Fit the map on the calibration's episodes, and return its file; None where no plane fits.

    spec: the manifest's latent.
    """
    count = sum(len(episode.latents) for episode in episodes)
    stride = max(1, -(-count // _LATENTS))
    try:
        return LatentMap.fit([episode.latents[::stride] for episode in episodes], spec).to_bytes()
    except InputError:  # latents of one number: thresholds make sense without a map
        return None


def map_of_recording(
    model: WorldModel, recording: Recording, progress: Progress = silent
) -> LatentMap:
    """Fit a map on a recording, for a bundle whose calibration has none.

    Raises InputError when the recording does not fit the model.
    """
    manifest = model.manifest
    check_fits(recording, manifest.observation, manifest.action, manifest.state)
    encoded = encode_recording(model, recording, progress)
    return LatentMap.fit([episode.latents for episode in encoded], manifest.latent)
