# SPDX-License-Identifier: Apache-2.0
"""The C decoder for microcontrollers: strict C99, nothing but memcpy and memset behind it, the same
verdicts as the Python receiver, and no sanitizer finds anything."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from jepa_edge.flags import Level
from jepa_edge.serial import receiver
from jepa_edge.serial.frames import FlagFrame, StatusFrame, encode
from jepa_edge.serial.receiver import Receiver

from .lines import flag_frame

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc/mcu"
TOOLS_REQUIRED = bool(os.environ.get("JEPA_EDGE_REQUIRE_TOOLS"))
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FUZZ_SECONDS = "1"


def tool(*names: str) -> str:
    """Where the first of these programs is; without one skip the test, or fail it in CI."""
    for name in names:
        if found := shutil.which(name):
            return found
    if TOOLS_REQUIRED:
        pytest.fail(f"none of {', '.join(names)} is here; run .ci/apt")
    pytest.skip(f"none of {', '.join(names)} is here")


def run(*command: str | Path, text: str = "") -> str:
    """Run a command; fail the test with its output on an error."""
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of csrc/mcu/tests/host.c, with sanitizers."""
    return built_host(tmp_path_factory.mktemp("mcu") / "host")


def built_host(program: Path, *options: str) -> Path:
    sources = (SOURCES / "tests/host.c", SOURCES / "jepa_link.c")
    run(tool("cc", "gcc", "clang"), *STRICT, *SANITIZED, *options, *sources, "-o", program)
    return program


def test_a_firmware_needs_memcpy_and_memset_alone(tmp_path: Path) -> None:
    built = tmp_path / "jepa_link.o"
    run(tool("cc", "gcc", "clang"), *STRICT, "-Os", "-c", SOURCES / "jepa_link.c", "-o", built)
    undefined = run(tool("nm"), "--undefined-only", "--format=posix", built).split("\n")
    assert {line.split()[0] for line in undefined if line} <= {"memcpy", "memset"}


def test_other_processors_and_cpp_take_it(tmp_path: Path) -> None:
    program = tmp_path / "link.cpp"
    program.write_text(
        '#include "jepa_link.h"\nint main() { static jepa_link link; jepa_link_init(&link);\n'
        "return jepa_link_level(&link, 0) == JEPA_LINK_UNKNOWN ? 0 : 1; }\n"
    )
    strict = [option for option in STRICT if option != "-std=c99"]
    built = tmp_path / "jepa_link.o"
    run(tool("cc", "gcc"), *STRICT, "-c", SOURCES / "jepa_link.c", "-o", built)
    run(tool("c++", "g++"), *strict, f"-I{SOURCES}", program, built, "-o", tmp_path / "link")
    run(tmp_path / "link")
    cross = tool("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++")
    language = ("-x", "c") if cross.endswith("gcc") else ("-x", "c++")
    options = STRICT if cross.endswith("gcc") else strict
    run(cross, *options, *language, "-c", SOURCES / "jepa_link.c", "-o", tmp_path / "cross.o")


def test_the_firmware_of_the_page_compiles(tmp_path: Path) -> None:
    code = (ROOT / "docs/serial.md").read_text().split("```c\n")[1].split("```")[0]
    actions = "".join(f"void {name}(void);\n" for name in ("go_on", "slow_down", "recover"))
    program = tmp_path / "firmware.c"
    program.write_text(
        '#include "jepa_link.h"\nbool uart_get(uint8_t *byte);\nuint32_t millis(void);\n'
        f"{actions}void firmware(void);\nvoid firmware(void) {{\nuint8_t byte;\n{code}}}\n"
    )
    compiler = tool("cc", "gcc", "clang")
    run(compiler, *STRICT, f"-I{SOURCES}", "-c", program, "-o", tmp_path / "firmware.o")


def told_by_python(script: list[tuple[int, bytes]]) -> list[str]:
    """What csrc/mcu/tests/host.c prints for the script, by the Python receiver."""
    listener, lines = Receiver(), []
    for now_ms, data in script:
        lines += [told(reception.frame) for reception in listener.push(data, now_ms)]
        lines.append(
            f"level {listener.level(now_ms):d} " + " ".join(map(str, astuple(listener.counts)))
        )
    return lines


def told(frame: FlagFrame | StatusFrame) -> str:
    if isinstance(frame, FlagFrame):
        numbers = (
            frame.seq,
            frame.time_ms,
            frame.level,
            frame.latched,
            frame.expired,
            frame.reasons,
        )
        head = " ".join(str(int(number)) for number in numbers)
        return f"flag {head} {bits(frame.confidence)} {frame.flag_seq} {frame.valid_for_ms}"
    return (
        f"status {frame.armed:d} {frame.calibrated:d} {frame.period_ms} {bits(frame.alpha)} "
        f"{frame.model.hex()} {frame.calibration.hex()} {frame.variant}|{frame.software}"
    )


def bits(number: float) -> str:
    return struct.pack(">f", number).hex()


def told_by_c(host: Path, script: list[tuple[int, bytes]]) -> list[str]:
    text = "".join(f"{now_ms % 2**32} {data.hex()}\n" for now_ms, data in script)
    return run(host, text=text).splitlines()


def test_the_vectors_decode_to_what_they_were_made_of(host: Path) -> None:
    flag = FlagFrame(
        session=0xFFFFFFFF,
        seq=0x80000001,
        time_ms=0xFFFFFF00,
        level=Level.REJECT,
        latched=True,
        expired=False,
        reasons=0xF0F0F0F0,
        confidence=0.015625,
        flag_seq=77,
        valid_for_ms=65535,
    )
    status = StatusFrame(
        session=0xFFFFFFFF,
        seq=0x80000000,
        time_ms=0,
        armed=True,
        calibrated=True,
        period_ms=50,
        alpha=0.05,
        model=b"\0\1\2\3\4\5\6\7",
        calibration=b"\xff" * 8,
        variant="sixteen-letters!",
        software="0.1.0",
    )
    assert told_by_c(host, [(5, encode(status)), (6, b""), (7, encode(flag))]) == [
        "status 1 1 50 3d4ccccd 0001020304050607 ffffffffffffffff sixteen-letters!|0.1.0",
        "level 0 0 1 0 0 0 0 0 0 0",
        "level 0 0 1 0 0 0 0 0 0 0",
        "flag 2147483649 4294967040 3 1 0 4042322160 3c800000 77 65535",
        "level 0 1 1 0 0 0 0 0 0 0",
    ]


def damaged_stream(rng: random.Random, start_ms: int) -> list[tuple[int, bytes]]:
    """A hard life: damage, replays, gaps, restarts, pauses, backlogs, foreign frames."""
    sent_ms, now_ms, seq, session = rng.choice([0, 2**32 - 5_000]), start_ms, 0, 1
    script: list[tuple[int, bytes]] = []
    wires: list[bytes] = []
    for _ in range(400):
        step = rng.choice([1, 1, 1, 1, 1, 1, 2, 2**31])
        if rng.random() < 0.02:
            session, seq, sent_ms = session + 1, 0, 0
        seq += step if rng.random() < 0.9 else 0
        valid = rng.choice([0, 60, 200, 500])
        frame = flag_frame(
            seq=seq % 2**32,
            time_ms=sent_ms % 2**32,
            session=session,
            level=rng.choice(list(Level)),
            valid_for_ms=valid,
        )
        frame = replace(frame, expired=rng.random() < 0.1)
        wire = bytearray(encode(frame))
        if rng.random() < 0.2:
            at = rng.randrange(len(wire))
            wire[at : at + rng.randrange(2)] = rng.choice([b"", b"\0", rng.randbytes(3)])
        wires.append(bytes(wire))
        if rng.random() < 0.05:
            wires.append(rng.choice(wires))
        if rng.random() < 0.02:
            wires.append(rng.randbytes(rng.randrange(300)))
        pause = rng.choice([49, 50, 50, 50, 51, 55, 3000 if rng.random() < 0.05 else 50])
        sent_ms += pause
        now_ms += pause + rng.choice([0, 0, 0, 1, -1])
        if rng.random() < 0.9:  # else they wait, and come together
            script.append((now_ms, b"".join(wires)))
            wires.clear()
    return script


def test_a_level_that_is_already_over_is_not_believed(host: Path) -> None:
    script = [
        (50 * step, encode(replace(flag_frame(seq=step, time_ms=50 * step), expired=step > 12)))
        for step in range(20)
    ]
    told = told_by_c(host, script)
    assert told == told_by_python(script)
    levels = [line.split()[1] for line in told if line.startswith("level")]
    assert levels == ["0"] * 10 + ["1"] * 3 + ["0"] * 7


def test_a_clock_that_is_no_crystal_needs_a_wider_drift(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.9 % fast or slow: bare, 0.1 % is allowed for, with the define 1 %."""
    wide = built_host(tmp_path / "wide", "-DJEPA_LINK_DRIFT_MS=100")
    for share in (0.991, 1.009):
        script = [
            (int(50 * step * share), encode(flag_frame(seq=step, time_ms=50 * step)))
            for step in range(2400)
        ]
        told = told_by_c(host, script)
        assert told == told_by_python(script)
        if share > 1.0:  # taken for a growing delay
            assert "level 0" in {line[:7] for line in told[1000:]}
        with monkeypatch.context() as patched:
            patched.setattr(receiver, "DRIFT_MS", 100)
            told = told_by_c(wide, script)
            assert told == told_by_python(script)
        levels = [line.split()[1] for line in told if line.startswith("level")]
        assert set(levels[11:]) == {"1"}


def test_where_int_has_16_bits_no_shift_can_overflow(tmp_path: Path) -> None:
    clang = shutil.which("clang")  # a second compiler: nothing else here needs it
    if clang is None or "msp430" not in run(clang, "--print-targets"):
        pytest.skip("there is no clang here that knows a processor whose int has 16 bits")
    (tmp_path / "string.h").write_text(
        "void *memcpy(void *, const void *, unsigned);\nvoid *memset(void *, int, unsigned);\n"
    )
    options = ("--target=msp430", "-ffreestanding", f"-I{tmp_path}", "-S", "-emit-llvm", "-O2")
    checks = ("-fsanitize=shift,signed-integer-overflow", "-fsanitize-trap=all")
    built = tmp_path / "jepa_link.ll"
    run(clang, *options, *checks, *STRICT, SOURCES / "jepa_link.c", "-o", built)
    assert "ubsantrap" not in built.read_text()


@pytest.mark.parametrize("start_ms", [100, 2**32 - 7_000])
def test_c_and_python_say_the_same_about_everything(host: Path, start_ms: int) -> None:
    levels = set()
    for seed in range(25):
        script = damaged_stream(random.Random(1000 * start_ms + seed), start_ms)
        expected = told_by_python(script)
        assert told_by_c(host, script) == expected
        levels |= {line.split()[1] for line in expected if line.startswith("level")}
    counts = [int(number) for number in expected[-1].split()[2:]]
    assert levels == {"0", "1", "2", "3"}
    assert all(counts[i] > 0 for i in (0, 2, 3, 4)), "the streams exercise too little"


def test_whatever_bytes_come_no_sanitizer_complains(tmp_path: Path) -> None:
    """A short run of the fuzz target without libFuzzer; benchmarks/serial_link.py has a minute."""
    program = tmp_path / "fuzz"
    sources = (SOURCES / "tests/fuzz.c", SOURCES / "jepa_link.c")
    compiler = tool("cc", "gcc", "clang")
    run(compiler, *STRICT, *SANITIZED, "-DJEPA_LINK_FUZZ_MAIN", *sources, "-o", program)
    inputs = int(run(program, FUZZ_SECONDS, "2026").split()[0])
    assert inputs > 1000


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("!= read_u32(at + length - CRC_SIZE)", "== 0 && length == 0"),
        ("now_ms - link->received_ms >= link->remaining_ms", "now_ms == link->received_ms + 5"),
        ("link->settled && link->remaining_ms > 0", "link->remaining_ms > 0"),
        ("flag->expired ? 0 : flag->valid_for_ms", "flag->valid_for_ms"),
        ("now_ms - link->clock_anchored_ms >= JEPA_LINK_SETTLE_MS", "true"),
    ],
    ids=["crc", "time", "settled", "expired", "settle time"],
)
def test_the_fuzz_target_finds_a_decoder_that_forgets(
    right: str, wrong: str, tmp_path: Path
) -> None:
    text = (SOURCES / "jepa_link.c").read_text()
    assert text.count(right) == 1
    broken = text.replace(right, wrong)
    (tmp_path / "tests").mkdir()
    shutil.copy(SOURCES / "tests/fuzz.c", tmp_path / "tests")
    shutil.copy(SOURCES / "jepa_link.h", tmp_path)
    (tmp_path / "jepa_link.c").write_text(broken)
    sources = (tmp_path / "tests/fuzz.c", tmp_path / "jepa_link.c")
    options = ("-O1", "-DJEPA_LINK_FUZZ_MAIN")
    run(tool("cc", "gcc", "clang"), *options, *sources, "-o", tmp_path / "fuzz")
    done = subprocess.run(
        [tmp_path / "fuzz", "5", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "does not hold" in done.stderr
