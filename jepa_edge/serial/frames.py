# SPDX-License-Identifier: Apache-2.0
"""Frames of the serial line, byte by byte as docs/serial.md says; csrc/mcu decodes the same.

A frame on the wire: 0x00, the payload stuffed with COBS (no zero in it), 0x00. The last four bytes
of a payload are the CRC-32 of those before it. Little endian.
"""

from __future__ import annotations

import enum
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

from jepa_edge.errors import MissingDependencyError
from jepa_edge.flags import Level

VERSION = 1
MAX_PAYLOAD = 128
"""Longer payloads are no frame of any type, known or to come."""

_FLAG = struct.Struct("<BBBBIIIIfIHH")
_STATUS = struct.Struct("<BBBBIIIHHf8s8s16s16s")
_HEADER_SIZE = 16
_CRC = struct.Struct("<I")
_WORD = 0xFFFFFFFF
_LATCHED, _EXPIRED = 1, 2
_ARMED, _CALIBRATED = 1, 2
FLAG_WIRE_SIZE = _FLAG.size + _CRC.size + 3
"""Bytes of a flag on the wire: payload, one byte of COBS, two delimiters."""
STATUS_WIRE_SIZE = _STATUS.size + _CRC.size + 3


class FrameType(enum.IntEnum):
    """What a payload holds."""

    FLAG = 1
    STATUS = 2


class Refusal(enum.Enum):
    """Why a payload is no frame: damaged, of another version, or of a type not known here."""

    CORRUPT = enum.auto()
    VERSION = enum.auto()
    UNKNOWN_TYPE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagFrame:
    """How far to trust the world model.

    session: drawn at random when the sender starts. seq: frames of the session, counted from 0.
    time_ms: since the sender's start, when the frame was handed to the port. level UNKNOWN with
    expired: the sender has no flag, or one whose time is over. flag_seq: the flag's own number.
    valid_for_ms: how long the level may be acted on from here; after it counts as UNKNOWN.
    Numbers wrap at 2^32, valid_for_ms is at most 65535.
    """

    session: int
    seq: int
    time_ms: int
    level: Level
    latched: bool
    expired: bool
    reasons: int
    confidence: float
    flag_seq: int
    valid_for_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFrame:
    """Who is speaking: first after every connect, and once a second.

    period_ms: time between two flag frames. alpha: share of nominal episodes that may reach
    CAUTION, NaN without a calibration. model, calibration: first eight bytes of the SHA-256 of the
    variant and of its calibration; zeros when not known. variant, software: at most 16 bytes.
    """

    session: int
    seq: int
    time_ms: int
    armed: bool
    calibrated: bool
    period_ms: int
    alpha: float
    model: bytes
    calibration: bytes
    variant: str
    software: str


Frame: TypeAlias = FlagFrame | StatusFrame


def encode(frame: Frame) -> bytes:
    """Return a frame's bytes for the wire, delimiters and all."""
    body = _pack_flag(frame) if isinstance(frame, FlagFrame) else _pack_status(frame)
    stuffed: bytes = codec().encode(body + _CRC.pack(zlib.crc32(body)))
    # A delimiter on both sides: a damaged one costs the frame it belongs to and no other.
    return b"\0" + stuffed + b"\0"


def decode(stuffed: bytes) -> Frame | Refusal:
    """Return the frame in what lay between two delimiters, or why there is none."""
    cobs = codec()
    try:
        payload: bytes = cobs.decode(stuffed)
    except cobs.DecodeError:
        return Refusal.CORRUPT
    if not _HEADER_SIZE + _CRC.size <= len(payload) <= MAX_PAYLOAD:
        return Refusal.CORRUPT
    body = payload[: -_CRC.size]
    if zlib.crc32(body) != _CRC.unpack(payload[-_CRC.size :])[0]:
        return Refusal.CORRUPT
    if body[0] != VERSION:
        return Refusal.VERSION
    if body[1] == FrameType.FLAG and len(body) == _FLAG.size:
        return _unpack_flag(body)
    if body[1] == FrameType.STATUS and len(body) == _STATUS.size:
        return _unpack_status(body)
    return Refusal.UNKNOWN_TYPE


def _pack_flag(frame: FlagFrame) -> bytes:
    return _FLAG.pack(
        VERSION,
        FrameType.FLAG,
        frame.level,
        _LATCHED * frame.latched | _EXPIRED * frame.expired,
        frame.session & _WORD,
        frame.seq & _WORD,
        frame.time_ms & _WORD,
        frame.reasons & _WORD,
        _float32(frame.confidence),
        frame.flag_seq & _WORD,
        min(max(frame.valid_for_ms, 0), 0xFFFF),
        0,
    )


def _pack_status(frame: StatusFrame) -> bytes:
    return _STATUS.pack(
        VERSION,
        FrameType.STATUS,
        _ARMED * frame.armed | _CALIBRATED * frame.calibrated,
        0,
        frame.session & _WORD,
        frame.seq & _WORD,
        frame.time_ms & _WORD,
        min(max(frame.period_ms, 0), 0xFFFF),
        0,
        _float32(frame.alpha),
        frame.model[:8],
        frame.calibration[:8],
        _clipped(frame.variant),
        _clipped(frame.software),
    )


def _unpack_flag(body: bytes) -> FlagFrame:
    _, _, level, bits, session, seq, time_ms, reasons, confidence, flag_seq, valid_for_ms, _ = (
        _FLAG.unpack(body)
    )
    return FlagFrame(
        session=session,
        seq=seq,
        time_ms=time_ms,
        # A value that is not in the table counts as the worst one (docs/flags.md).
        level=Level(level) if level <= Level.REJECT else Level.REJECT,
        latched=bool(bits & _LATCHED),
        expired=bool(bits & _EXPIRED),
        reasons=reasons,
        confidence=confidence,
        flag_seq=flag_seq,
        valid_for_ms=valid_for_ms,
    )


def _unpack_status(body: bytes) -> StatusFrame:
    _, _, bits, _, session, seq, time_ms, period_ms, _, alpha, model, calibration, variant, soft = (
        _STATUS.unpack(body)
    )
    return StatusFrame(
        session=session,
        seq=seq,
        time_ms=time_ms,
        armed=bool(bits & _ARMED),
        calibrated=bool(bits & _CALIBRATED),
        period_ms=period_ms,
        alpha=alpha,
        model=model,
        calibration=calibration,
        variant=_text(variant),
        software=_text(soft),
    )


def _float32(number: float) -> float:
    """Return number, or the infinity that it is as a float32: struct raises there."""
    return math.copysign(math.inf, number) if abs(number) > 3.4028234e38 else number


def _clipped(text: str) -> bytes:
    """Return at most 16 bytes of UTF-8, cut between characters."""
    return text.encode()[:16].decode(errors="ignore").encode()


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="replace")


def codec() -> Any:
    """Return the module that stuffs. Raises MissingDependencyError without it."""
    try:
        from cobs import cobs
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the serial line needs the package cobs; install it with `pip install "
            "'jepa-edge[serial]'`"
        ) from error
    return cobs
