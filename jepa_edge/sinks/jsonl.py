# SPDX-License-Identifier: Apache-2.0
"""Flags as JSON lines, one object per frame."""

from __future__ import annotations

from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from jepa_edge.session import Observation, Update


def flag_record(update: Update) -> dict[str, Any]:
    """Return an update as JSON-ready values; NaN becomes null, the level is spelled out.

    spread is the predicted one per step of the horizon: aleatoric and epistemic, latent units.
    """
    record: dict[str, Any] = msgspec.to_builtins(update.flag)
    record["level"] = update.flag.level.name
    if update.futures is not None:
        record["spread"] = {
            "aleatoric": update.futures.aleatoric.tolist(),
            "epistemic": update.futures.epistemic.tolist(),
        }
    return record


class JsonLinesSink:
    """Writes one line per frame to an open binary stream, flushed, so that a pipe sees it live."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __enter__(self) -> JsonLinesSink:
        return self

    def write(self, observation: Observation, update: Update) -> None:
        """Append one line."""
        self._stream.write(msgspec.json.encode(flag_record(update)) + b"\n")
        self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.flush()
