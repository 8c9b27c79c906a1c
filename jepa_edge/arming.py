# SPDX-License-Identifier: Apache-2.0
"""Whether a calibration may be trusted on this machine: its own kind, or a self-test passed here.

A passed self-test leaves a record in the state directory of the machine. It is no secret and no
signature: whoever may write there may arm the monitor (docs/provenance.md).
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from jepa_edge.atomic import write_atomically
from jepa_edge.binding import Binding, current_binding, machine_mismatches
from jepa_edge.errors import InputError
from jepa_edge.json_text import json_bytes
from jepa_edge.manifest import Sha256
from jepa_edge.version import __version__

if TYPE_CHECKING:
    from jepa_edge.world_model import WorldModel

logger = logging.getLogger(__name__)


class ArmingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A self-test that passed. manifest_sha256: `Manifest.sha256` of the bundle, so of every file.

    binding: of the engine as it ran. checks: how many, all inside their intervals.
    """

    schema_version: Literal[1] = 1
    manifest_sha256: Sha256
    variant: str
    binding: Binding
    jepa_edge: str
    passed_utc: str
    checks: int


def disarmed_reason(model: WorldModel, calibrated: Binding, state: Path | None = None) -> str:
    """Return why a calibration must not be trusted here, in plain words; empty when it may be.

    calibrated: the binding it was made under; engine and preprocessing were compared when it was
    read. state: the state directory; None for the user's.
    """
    binding = current_binding(model)
    differing = machine_mismatches(calibrated, binding)
    if not differing:
        return ""
    record = read_record(model, binding, state)
    if record is not None:
        logger.info("armed by the self-test of %s: %s", record.passed_utc, "; ".join(differing))
        return ""
    return (
        f"{'; '.join(differing)}; no self-test passed here: run "
        f"`jepa-edge selftest {model.bundle.path} --variant {model.variant}{model.options}`"
    )


def read_record(
    model: WorldModel, binding: Binding, state: Path | None = None
) -> ArmingRecord | None:
    """Return the record of a self-test that passed for exactly this, or None.

    A record that cannot be read, or says something else than its name, is ignored with a warning;
    so is a state directory that there cannot be.
    """
    try:
        path = record_path(model, binding, state)
    except InputError as error:
        logger.warning("no record of a self-test is looked for: %s", error)
        return None
    try:
        record = msgspec.json.decode(path.read_bytes(), type=ArmingRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("record %s of a self-test not used (%s); run it again", path, error)
        return None
    expected = (model.manifest.sha256, model.variant, binding, __version__)
    if (record.manifest_sha256, record.variant, record.binding, record.jepa_edge) != expected:
        logger.warning("record %s is of another bundle, machine or version; not used", path)
        return None
    return record


def write_record(record: ArmingRecord, model: WorldModel, state: Path | None = None) -> Path:
    """Store the record of a passed self-test, atomically, and return its path.

    Raises InputError when there is no place for it.
    """
    path = record_path(model, record.binding, state)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json_bytes(record))
    return path


def remove_record(model: WorldModel, binding: Binding, state: Path | None = None) -> None:
    """Remove the record, if there is one: the monitor is not armed any more.

    Raises InputError when there is no place for a record.
    """
    record_path(model, binding, state).unlink(missing_ok=True)


def record_path(model: WorldModel, binding: Binding, state: Path | None = None) -> Path:
    """Return where the record lies: its name is a digest of bundle, variant and binding."""
    what = msgspec.json.encode((model.manifest.sha256, model.variant, binding))
    name = f"selftest-{hashlib.sha256(what).hexdigest()[:32]}.json"
    return (state_directory() if state is None else state) / name


def state_directory() -> Path:
    """Return $XDG_STATE_HOME/jepa-edge, by default ~/.local/state/jepa-edge.

    Raises InputError when neither is there: a service without a home directory.
    """
    home = os.environ.get("XDG_STATE_HOME", "")
    if Path(home).is_absolute():  # the XDG specification: a relative path is to be ignored
        return Path(home) / "jepa-edge"
    try:
        return Path.home() / ".local" / "state" / "jepa-edge"
    except RuntimeError as error:
        raise InputError(
            f"there is no state directory ({error}); pass --state DIR or set XDG_STATE_HOME to an "
            "absolute path"
        ) from error
