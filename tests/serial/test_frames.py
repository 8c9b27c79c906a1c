# SPDX-License-Identifier: Apache-2.0
"""Frames are what docs/serial.md says, byte by byte, and damage is never taken for one."""

from __future__ import annotations

import binascii
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.flags import Level
from jepa_edge.serial.frames import (
    FLAG_WIRE_SIZE,
    MAX_PAYLOAD,
    STATUS_WIRE_SIZE,
    FlagFrame,
    Refusal,
    StatusFrame,
    decode,
    encode,
)

PAGE = Path(__file__).parents[2] / "docs/serial.md"
FORMATS = {"u8": "B", "u16": "H", "u32": "I", "f32": "f", "bytes": "{}s", "text": "{}s"}
WORD = st.integers(0, 2**32 - 1)

FLAG = FlagFrame(
    session=0x11223344,
    seq=5,
    time_ms=0xFFFFFFFE,
    level=Level.CAUTION,
    latched=True,
    expired=False,
    reasons=0x4020,
    confidence=0.0078125,
    flag_seq=9,
    valid_for_ms=300,
)
STATUS = StatusFrame(
    session=0x11223344,
    seq=4,
    time_ms=17,
    armed=True,
    calibrated=True,
    period_ms=50,
    alpha=0.0625,
    model=bytes(range(1, 9)),
    calibration=bytes(range(9, 17)),
    variant="int8",
    software="0.1.0",
)


def unstuffed(wire: bytes) -> bytes:
    """Payload of a frame, by the definition of COBS."""
    assert wire[0] == wire[-1] == 0
    assert 0 not in wire[1:-1]
    blocks, rest = [], wire[1:-1]
    while rest:
        blocks.append(rest[1 : rest[0]])
        rest = rest[rest[0] :]
    return b"\0".join(blocks)


def stuffed(payload: bytes) -> bytes:
    """A payload below 254 bytes with COBS, by its definition."""
    return b"".join(bytes([len(block) + 1]) + block for block in payload.split(b"\0"))


def with_crc(body: bytes) -> bytes:
    return body + struct.pack("<I", binascii.crc32(body))


def by_the_page(wire: bytes, title: str) -> dict[str, object]:
    """Read a payload with the offsets, sizes and types of a table of the page."""
    payload, fields, size = unstuffed(wire), {}, 0
    rows = PAGE.read_text().split(f"### {title}")[1].split("\n#")[0].splitlines()
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == 5 and cells[0].isdecimal():
            offset, length = int(cells[0]), int(cells[1])
            assert offset == size, "the table has a gap"
            size += length
            packed = "<" + FORMATS[cells[2]].format(length)
            assert struct.calcsize(packed) == length
            fields[cells[3]] = struct.unpack_from(packed, payload, offset)[0]
    assert len(payload) == size
    assert fields.pop("crc") == binascii.crc32(payload[:-4])
    assert f"{size} bytes, {len(wire)} on the wire" in rows[0]
    return fields


def test_a_flag_is_laid_out_as_the_page_says() -> None:
    assert by_the_page(encode(FLAG), "Type 1: flag") == {
        "version": 1,
        "type": 1,
        "level": 2,
        "bits": 1,
        "session": 0x11223344,
        "seq": 5,
        "time_ms": 0xFFFFFFFE,
        "reasons": 0x4020,
        "confidence": 0.0078125,
        "flag_seq": 9,
        "valid_for_ms": 300,
        "reserved": 0,
    }


def test_a_status_is_laid_out_as_the_page_says() -> None:
    assert by_the_page(encode(STATUS), "Type 2: status") == {
        "version": 1,
        "type": 2,
        "bits": 3,
        "reserved": 0,
        "session": 0x11223344,
        "seq": 4,
        "time_ms": 17,
        "period_ms": 50,
        "alpha": 0.0625,
        "model": bytes(range(1, 9)),
        "calibration": bytes(range(9, 17)),
        "variant": b"int8".ljust(16, b"\0"),
        "software": b"0.1.0".ljust(16, b"\0"),
    }


def test_the_bytes_of_version_1_do_not_change() -> None:
    assert encode(FLAG).hex() == (
        "000a010102014433221105010107feffffff204001010101033c090101032c010105447e953c00"
    )


@given(
    session=WORD,
    seq=WORD,
    time_ms=WORD,
    level=st.sampled_from(Level),
    latched=st.booleans(),
    expired=st.booleans(),
    reasons=WORD,
    confidence=st.floats(width=32, allow_nan=False),
    flag_seq=WORD,
    valid_for_ms=st.integers(0, 65535),
)
def test_a_flag_comes_back_as_it_was(**fields: object) -> None:
    frame = FlagFrame(**fields)  # type: ignore[arg-type]
    wire = encode(frame)
    assert len(wire) == FLAG_WIRE_SIZE
    assert wire == b"\0" + stuffed(unstuffed(wire)) + b"\0"
    assert decode(wire[1:-1]) == frame


def test_a_status_comes_back_as_it_was() -> None:
    wire = encode(STATUS)
    assert len(wire) == STATUS_WIRE_SIZE
    assert decode(wire[1:-1]) == STATUS


def test_numbers_that_do_not_fit_are_held_or_wrap() -> None:
    frame = FlagFrame(
        session=7,
        seq=2**32 + 3,
        time_ms=2**33 + 4,
        level=Level.NOMINAL,
        latched=False,
        expired=True,
        reasons=0,
        confidence=math.nan,
        flag_seq=2**40 + 5,
        valid_for_ms=70_000,
    )
    got = decode(encode(frame)[1:-1])
    assert isinstance(got, FlagFrame)
    assert (got.seq, got.time_ms, got.flag_seq, got.valid_for_ms) == (3, 4, 5, 65535)
    assert math.isnan(got.confidence)


def test_long_names_are_cut_between_characters() -> None:
    frame = decode(encode(StatusFrame(**{**fields_of(STATUS), "variant": "é" * 20}))[1:-1])
    assert isinstance(frame, StatusFrame)
    assert frame.variant == "é" * 8


def fields_of(frame: StatusFrame) -> dict[str, object]:
    return {name: getattr(frame, name) for name in frame.__slots__}


@pytest.mark.parametrize("frame", [FLAG, STATUS])
def test_a_changed_missing_or_added_byte_is_noticed(frame: FlagFrame | StatusFrame) -> None:
    inner = encode(frame)[1:-1]
    damaged = [inner[:i] + inner[i + 1 :] for i in range(len(inner))]
    for at in range(len(inner)):
        changed = (bytes([value]) for value in range(1, 256) if value != inner[at])
        damaged += [inner[:at] + byte + inner[at + 1 :] for byte in changed]
        damaged.append(inner[:at] + b"\x55" + inner[at:])
    assert {decode(piece) for piece in damaged if piece != inner} == {Refusal.CORRUPT}


@given(st.binary(max_size=300).map(lambda data: data.replace(b"\0", b"\1")))
def test_noise_is_no_frame(noise: bytes) -> None:
    assert decode(noise) is Refusal.CORRUPT


def test_what_is_not_for_us_is_told_apart_from_damage() -> None:
    flag = unstuffed(encode(FLAG))[:-4]
    assert decode(stuffed(with_crc(b"\2" + flag[1:]))) is Refusal.VERSION
    assert decode(stuffed(with_crc(b"\1\3" + flag[2:]))) is Refusal.UNKNOWN_TYPE
    assert decode(stuffed(with_crc(flag + b"\0"))) is Refusal.UNKNOWN_TYPE
    longest = with_crc(b"\1\x09" + bytes(MAX_PAYLOAD - 6))
    assert decode(stuffed(longest)) is Refusal.UNKNOWN_TYPE
    assert decode(stuffed(with_crc(b"\1\x09" + bytes(MAX_PAYLOAD - 5)))) is Refusal.CORRUPT
    assert decode(stuffed(with_crc(flag[:15]))) is Refusal.CORRUPT


def test_a_level_that_is_not_in_the_table_is_the_worst() -> None:
    flag = bytearray(unstuffed(encode(FLAG))[:-4])
    flag[2] = 4
    got = decode(stuffed(with_crc(bytes(flag))))
    assert isinstance(got, FlagFrame)
    assert got.level is Level.REJECT
