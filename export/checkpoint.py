# SPDX-License-Identifier: Apache-2.0
"""Find a checkpoint's files, read them safely, and give them to the family that they are of."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.errors import CheckpointError, MissingDependencyError
from jepa_edge.export.families import find_family, lookalikes
from jepa_edge.export.families.base import Checkpoint, LoadedModel
from jepa_edge.export.shards import find_index, weights_sha256
from jepa_edge.export.weights import read_state_dict

CONFIG_NAME = "config.json"

_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".tar")
_SPEC_SECTIONS = ("model", "observation", "action", "state")


def open_checkpoint(path: Path, spec: Path | None = None) -> Checkpoint:
    """Read the tensors, the config beside them and the user's spec file; no pickled code is run.

    path: a directory or a weights file. spec: JSON or TOML with the sections model, observation,
    action and state, every one optional, that override what the checkpoint says.
    Raises CheckpointError when a file is missing, damaged, unsafe or not of this form.
    """
    weights, config = _locate(path)
    given: dict[str, Any] = {}
    if spec is not None:
        given = read_mapping(spec)
        check_sections({k: v for k, v in given.items() if k != "family"}, str(spec), _SPEC_SECTIONS)
    return Checkpoint(
        path=path,
        weights=weights,
        sha256=weights_sha256(weights),
        tensors=read_state_dict(weights),
        config={} if config is None else read_mapping(config),
        spec=given,
    )


def load_model(checkpoint: Checkpoint, wanted: str | None = None) -> LoadedModel:
    """Build the model of an opened checkpoint. wanted: its family, before what --spec says.

    Raises CheckpointError when it is of no family, or does not fit the one that it is of;
    InputError for a name that no family has.
    """
    stated: object = checkpoint.spec.get("family")
    if "family" in checkpoint.spec and not isinstance(stated, str):
        raise CheckpointError(
            f"--spec: family is {stated!r}, expected a name in quotes; correct it"
        )
    if wanted is None and isinstance(stated, str):
        wanted = stated
    family = find_family(checkpoint.tensors, checkpoint.config, str(checkpoint.weights), wanted)
    try:
        return family.load(checkpoint)
    except CheckpointError as error:
        likely = lookalikes(checkpoint.tensors, checkpoint.config, family)
        if not likely or any(f"--family {name}" in str(error) for name in likely):
            raise
        raise CheckpointError(
            f"{error}; it looks like {' or '.join(likely)}: pass --family {likely[0]}"
        ) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON or TOML file. Raises CheckpointError when it is missing or damaged."""
    try:
        # Some editors put a byte order mark in front.
        payload = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        if path.suffix == ".toml":
            return msgspec.toml.decode(payload, type=dict[str, Any])
        return msgspec.json.decode(payload, type=dict[str, Any])
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror}); pass a JSON or TOML file"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged or no JSON or TOML ({error}); restore or correct it"
        ) from error
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {path} needs tomli on Python 3.10; pip install tomli, or pass JSON"
        ) from error


def check_sections(values: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    """Raise CheckpointError unless every key is a known section and holds a table."""
    for name, section in values.items():
        if name not in known:
            raise CheckpointError(
                f"{where} has the unknown key {name!r}, expected {', '.join(known)}; "
                "remove it, or pass the config.json that belongs to these weights"
            )
        if not isinstance(section, dict):
            raise CheckpointError(
                f"{where}: {name!r} is {section!r}, expected a table of settings; correct it"
            )


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Return the weights file and the config beside it, if there is one."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; pass a checkpoint's directory or file")
    if path.is_file():
        config = path.parent / CONFIG_NAME
        return path, config if config.is_file() else None
    if (path / "manifest.json").is_file():
        raise CheckpointError(
            f"{path} is a bundle, expected a checkpoint; pass what the bundle was exported from"
        )
    config = path / CONFIG_NAME
    beside = config if config.is_file() else None
    index = find_index(path)
    if index is not None:
        return index, beside
    files = sorted(p for p in path.iterdir() if p.suffix in _WEIGHT_SUFFIXES and p.is_file())
    # A pickled module is only looked at when nothing better lies beside it.
    files = [p for p in files if not p.stem.endswith("_object")] or files
    if len(files) != 1:
        names = ", ".join(p.name for p in files) or "none"
        raise CheckpointError(
            f"{path} holds {len(files)} weights files ({names}), expected one of *.safetensors, "
            "*.pt, *.ckpt; pass the file itself"
        )
    return files[0], beside
