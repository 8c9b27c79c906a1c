# SPDX-License-Identifier: Apache-2.0
"""The serial line under damage, unplugged, and with a reader that stops; the C decoder fuzzed.

    python benchmarks/serial_link.py

Over pty pairs, with the reader in another process: no UART, no USB, no microcontroller.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.flags import Level
from jepa_edge.serial.config import LinkConfig, LinkFlag, LinkStatus
from jepa_edge.serial.frames import StatusFrame
from jepa_edge.serial.link import SerialLink
from jepa_edge.serial.receiver import Receiver

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "serial_link.json"
MCU = ROOT / "csrc/mcu"
SANITIZED = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LOOP_S = 0.005


def main() -> None:
    """Run all four and write the results."""
    parser = argparse.ArgumentParser(description="The serial line.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of damage, and of fuzzing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = {
            "1 % of bytes damaged": damaged(arguments.seconds, Path(scratch)),
            "reader stops": stalled(arguments.seconds / 3.0),
            "unplugged for 1 s": replugged(Path(scratch), 10),
            "C decoder fuzzed": fuzzed(arguments.seconds, Path(scratch)),
        }
    for name, rows in figures.items():
        print(name)
        for key, value in rows.items():
            print(f"  {key:42s} {value}")
    result = {
        "date": datetime.date.today().isoformat(),
        "rerun": "python benchmarks/serial_link.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, pty",
        "versions": {name: version(name) for name in ("jepa-edge", "pyserial", "cobs")},
        "seconds": arguments.seconds,
        "figures": figures,
    }
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def pty_pair() -> tuple[int, str]:
    """Return one end and the path of the other."""
    end, slave = os.openpty()
    tty.setraw(end)
    tty.setraw(slave)
    path = os.ttyname(slave)
    os.close(slave)
    return end, path


def damaged(seconds: float, scratch: Path) -> dict[str, Any]:
    """The default link, its bytes damaged and decoded in another process, and by the C decoder."""
    end, path = pty_pair()
    script = scratch / "script.txt"
    noisy = (str(ROOT / "tests/serial/noisy_reader.py"), str(end), str(seconds + 1.0), "0.01", "1")
    reader = subprocess.Popen(
        [sys.executable, *noisy, str(script)], stdout=subprocess.PIPE, text=True, pass_fds=(end,)
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    with SerialLink(LinkConfig(port=path), status=LinkStatus(variant="benchmark")) as link:
        end_s, count = time.monotonic() + seconds, 0
        while time.monotonic() < end_s:
            flag = LinkFlag(level=Level(count % 4), reasons=count, confidence=1 / (1 + count))
            link.update(flag, 0.5)
            count += 1
            time.sleep(LOOP_S)
    reader.wait()
    os.close(end)
    host = compiled("host", scratch, "cc")
    told = subprocess.run([host], stdin=script.open(), capture_output=True, text=True, check=True)
    lines = told.stdout.splitlines()
    by_c = sum(line.startswith(("flag ", "status ")) for line in lines)
    return {**json.loads(reader.stdout.read()), "frames_accepted_by_c": by_c}


def compiled(name: str, scratch: Path, compiler: str, *options: str) -> Path:
    """Compile a program of csrc/mcu/tests with sanitizers."""
    sources = (MCU / f"tests/{name}.c", MCU / "jepa_link.c")
    program = scratch / f"{name}-{compiler}"
    subprocess.run([compiler, *SANITIZED, *options, *sources, "-o", program], check=True)
    return program


@dataclass(slots=True)
class Times:
    """How late each turn of a loop came and how long each update took, ms; undisturbed: of the
    updates during which the scheduler gave the processor to nobody else against our will."""

    late_ms: list[float] = field(default_factory=list)
    update_ms: list[float] = field(default_factory=list)
    undisturbed_ms: list[float] = field(default_factory=list)

    def add(self, other: Times) -> None:
        """Append the times of another stretch."""
        self.late_ms += other.late_ms
        self.update_ms += other.update_ms
        self.undisturbed_ms += other.undisturbed_ms


def stalled(seconds: float) -> dict[str, Any]:
    """A loop of 200 Hz without a link, and beside links whose reader reads, or has stopped.

    They take turns, so that all see the same machine. A reader that has stopped leaves a line that
    is full from the start; at 1000 Hz it is full again after half a second, and so on.
    """
    times = {"no_link": Times()}
    stalls: dict[str, int] = {}
    for _ in range(max(1, round(seconds / 4.0))):
        times["no_link"].add(loop_times(4.0, None))
        for rate_hz, reads in ((20.0, True), (20.0, False), (1000.0, False)):
            name = f"{rate_hz:g}_hz_{'read' if reads else 'stopped'}"
            end, path = pty_pair()
            with contextlib.ExitStack() as stack:
                if reads:
                    stack.enter_context(reading(end))
                else:
                    fill(path)
                config = LinkConfig(port=path, baud=921600, rate_hz=rate_hz)
                link = stack.enter_context(SerialLink(config))
                while not link.stats.connected:
                    time.sleep(0.01)
                took = loop_times(4.0, link)
                stalls[name] = stalls.get(name, 0) + link.stats.stalls
            os.close(end)
            times.setdefault(name, Times()).add(took)
    figures: dict[str, Any] = {f"stalls_{name}": count for name, count in stalls.items()}
    for name, took in times.items():
        figures[f"loop_late_{name}"] = spread(took.late_ms)
        if took.update_ms:
            figures[f"update_{name}"] = {
                **spread(took.update_ms),
                "max_ms_unless_preempted": round(max(took.undisturbed_ms), 4),
            }
    return figures


def fill(path: str) -> None:
    """Write until nothing fits any more."""
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    for _ in range(10):  # the kernel moves some of it on meanwhile
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(slave, bytes(256))
        time.sleep(0.01)
    os.close(slave)


def loop_times(seconds: float, link: SerialLink | None) -> Times:
    """Time a loop, and its updates of the link if there is one."""
    times = Times()
    due_s = time.perf_counter()
    end_s = due_s + seconds
    while due_s < end_s:
        due_s += LOOP_S
        time.sleep(max(0.0, due_s - time.perf_counter()))
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        start_s = time.perf_counter()
        times.late_ms.append(1e3 * (start_s - due_s))
        if link is not None:
            link.update(LinkFlag(level=Level.NOMINAL), 0.5)
            took_ms = 1e3 * (time.perf_counter() - start_s)
            times.update_ms.append(took_ms)
            if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before:
                times.undisturbed_ms.append(took_ms)
        due_s = max(due_s, start_s - LOOP_S)
    return times


def spread(times_ms: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, ms."""
    ranked = sorted(times_ms)
    return {
        "p50_ms": round(ranked[len(ranked) // 2], 4),
        "p99_ms": round(ranked[int(0.99 * len(ranked))], 4),
        "max_ms": round(ranked[-1], 4),
    }


def replugged(scratch: Path, times: int) -> dict[str, Any]:
    """How long after the device is back until the first frame, which has to be the status."""
    device = scratch / "ttyJEPA"
    waits, status_first = [], 0
    end, path = pty_pair()
    device.symlink_to(path)
    with SerialLink(LinkConfig(port=str(device))) as link:
        for _ in range(times):
            while not link.stats.connected:
                time.sleep(0.01)
            with reading(end):
                time.sleep(1.5)  # the back-off starts anew
            os.close(end)
            device.unlink()
            time.sleep(1.0)
            end, path = pty_pair()
            device.symlink_to(path)
            back_s = time.monotonic()
            receiver = Receiver()
            first = None
            while first is None:
                try:
                    receptions = receiver.push(os.read(end, 4096), 0)
                except OSError:
                    time.sleep(0.001)
                    continue
                first = receptions[0].frame if receptions else None
            waits.append(time.monotonic() - back_s)
            status_first += isinstance(first, StatusFrame)
    return {
        "times": times,
        "status_first": status_first,
        "first_frame_after_median_s": round(statistics.median(waits), 3),
        "first_frame_after_max_s": round(max(waits), 3),
    }


@contextlib.contextmanager
def reading(end: int) -> Iterator[None]:
    """Read a line meanwhile."""
    ends = threading.Event()

    def drain() -> None:
        while not ends.is_set():
            if select.select([end], [], [], 0.05)[0]:
                try:
                    os.read(end, 4096)
                except OSError:
                    time.sleep(0.01)

    thread = threading.Thread(target=drain)
    thread.start()
    yield
    ends.set()
    thread.join()


def fuzzed(seconds: float, scratch: Path) -> dict[str, Any]:
    """The fuzz target with libFuzzer where clang is, and with its own random inputs."""
    plain = compiled("fuzz", scratch, "cc", "-DJEPA_LINK_FUZZ_MAIN")
    told = subprocess.run([plain, str(seconds), "1"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = {
        "sanitizers": "address, undefined",
        "random_inputs": int(told.stdout.split()[0]),
    }
    if shutil.which("clang"):
        program = compiled("fuzz", scratch, "clang", "-fsanitize=fuzzer")
        command = (
            program,
            f"-max_total_time={seconds:.0f}",
            "-max_len=1024",
            "-print_final_stats=1",
        )
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=scratch)
        inputs = re.search(r"number_of_executed_units: (\d+)", told.stderr)
        covered = re.findall(r"cov: (\d+)", told.stderr)
        found["libfuzzer_inputs"] = int(inputs.group(1)) if inputs else 0
        found["libfuzzer_edges_covered"] = int(covered[-1]) if covered else 0
    found["findings"] = 0  # a finding ends the run with an error
    return found


if __name__ == "__main__":
    main()
