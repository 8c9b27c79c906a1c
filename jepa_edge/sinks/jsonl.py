# SPDX-License-Identifier: Apache-2.0
"""Flags as JSON lines, one object per frame."""

from __future__ import annotations

from typing import Any, BinaryIO

import msgspec

from jepa_edge.selective import Published
from jepa_edge.session import Observation, Update
from jepa_edge.sinks import Sink


def flag_record(update: Update) -> dict[str, Any]:
    """Return an update as JSON-ready values; NaN becomes null, levels are spelled out.

    spread is the predicted variance per step of the horizon, squared latent units. changed and
    labels are there where an update went through `jepa_edge.selective`; labels are empty where
    they had not changed, or there is no text head.
    """
    record: dict[str, Any] = msgspec.to_builtins(update.flag)
    record["level"] = update.flag.level.name
    record["raw_level"] = update.flag.raw_level.name
    if update.futures is not None:
        record["spread"] = {
            "aleatoric": update.futures.aleatoric.tolist(),
            "epistemic": update.futures.epistemic.tolist(),
        }
    if isinstance(update, Published):
        record["changed"] = update.changed
        record["labels"] = msgspec.to_builtins(update.labels)
    return record


def json_lines(stream: BinaryIO) -> Sink:
    """Return a sink that writes a line per frame, flushed, so that a pipe sees it live."""

    def write(observation: Observation, update: Update) -> None:
        stream.write(msgspec.json.encode(flag_record(update)) + b"\n")
        stream.flush()

    return write
