# SPDX-License-Identifier: Apache-2.0
"""Find the frozen image encoder of a world model, in the checkpoint itself or beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.base import Checkpoint
from jepa_edge.export.families.dino_wm_specs import ModelSettings
from jepa_edge.export.families.loading import strip, unwrapped
from jepa_edge.export.shards import find_index
from jepa_edge.export.weights import read_state_dict

_PARTS = ("predictor", "action_encoder", "proprio_encoder", "encoder")
_TRAINING = ("decoder", "opt", "scaler", "epoch", "heads")
"""Entries of training checkpoints that inference never reads."""
_NAMES = ("model.safetensors", "pytorch_model.bin")
_SHOWN = 80
"""Letters of a path in a message, where it may be of any length."""
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")

Parts = dict[str, dict[str, Tensor]]


def plain_name(name: str) -> str:
    """Return a tensor's name without DDP's and torch.compile's prefixes."""
    return unwrapped(unwrapped(name, ("module.", "model.")), ("module.",), _PARTS)


def split_parts(tensors: Mapping[str, Tensor], where: str) -> Parts:
    """Return the tensors of each part under their `plain_name` within it.

    Parts: predictor, action_encoder, proprio_encoder, encoder; one that is not there is empty.
    Raises CheckpointError for tensors that belong to none, apart from decoders and optimizers, and
    for two of one name.
    """
    parts: Parts = {name: {} for name in _PARTS}
    strange = []
    plain = strip(strip(tensors, where, ("module.", "model.")), where, ("module.",), _PARTS)
    for full, tensor in plain.items():
        part, _, name = full.partition(".")
        if part in parts:
            parts[part][name] = tensor
        elif part not in _TRAINING and not part.endswith("_optimizer"):
            strange.append(full)
    if strange:
        raise CheckpointError(
            f"{where} has {len(strange)} tensors outside {', '.join(_PARTS)}, the first "
            f"{min(strange)!r}; it is another model's, or its parts were renamed"
        )
    return parts


def encoder_tensors(
    checkpoint: Checkpoint, parts: Parts, settings: ModelSettings
) -> tuple[Mapping[str, Tensor], str]:
    """Return the image encoder's tensors, in any layout, and where they are from.

    Raises CheckpointError when there are none, or when there are two sets.
    """
    if settings.encoder is None:
        if parts["encoder"]:
            return parts["encoder"], f"{checkpoint.path} (encoder)"
        raise CheckpointError(
            f"{checkpoint.path} has no image encoder (no tensors under 'encoder.'): it is frozen, "
            "and training does not store it; fetch facebook/dinov2-small, or what it was trained "
            'on, and name its directory in --spec: [model] encoder = "dinov2-small"'
        )
    if parts["encoder"]:
        raise CheckpointError(
            f"{checkpoint.path} has an image encoder of its own, and --spec names another, "
            f"{settings.encoder!r}; remove [model] encoder, or drop the tensors under 'encoder.'"
        )
    path = _encoder_file(checkpoint.path, settings.encoder)
    return read_state_dict(path), str(path)


def _encoder_file(checkpoint: Path, encoder: str) -> Path:
    beside = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / encoder
    try:
        path = beside if beside.exists() else Path(encoder)
        is_file, is_directory = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a NUL
        raise CheckpointError(
            f"[model] encoder is {encoder[:_SHOWN]!r}, which no file can be called ({error}); "
            "give the path of the encoder's weights, or of their directory"
        ) from error
    if is_file:
        return path
    if not is_directory:
        raise CheckpointError(
            f"[model] encoder names {encoder!r}, which is neither beside {checkpoint} nor here; "
            "give the path of the encoder's weights, or of their directory"
        )
    if index := find_index(path):
        return index
    for name in _NAMES:
        if (path / name).is_file():
            return path / name
    files = sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if len(files) != 1:
        raise CheckpointError(
            f"{path} holds {len(files)} weights files, expected {_NAMES[0]} or a single one; name "
            "the file itself in [model] encoder"
        )
    return files[0]
