# SPDX-License-Identifier: Apache-2.0
"""From image in to flag out over real DDS, beside the model's own share and the wire's.

    python benchmarks/node_latency.py

`jepa-edge serve` runs in processes of their own, on the loopback interface; this one publishes
images at the model's rate and waits for the flag of each. The wire alone is measured by a process
that answers every image at once. All take turns in rounds; medians and 99th percentiles in ms.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from nodes.bundle import full_size_bundle
from nodes.client import Answer, Client, echo
from numpy.typing import NDArray

from jepa_edge.bundle import Bundle
from jepa_edge.dds.participant import DdsParticipant
from jepa_edge.image_fit import fit_image
from jepa_edge.json_text import json_bytes
from jepa_edge.recording import Episode, Recording
from jepa_edge.sim import record

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "node_latency.json"
DOMAIN = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A node under test, or the wire alone (bundle None)."""

    name: str
    namespace: str
    bundle: Path | None
    size: tuple[int, int]
    episode: Episode
    rate_hz: float


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "runs/demo/pusht.jepa")
    parser.add_argument("--full-size", type=Path, help="folder to keep the drawn bundle in")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--frames", type=int, default=20, help="judged frames per round")
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        echo(arguments.echo, DOMAIN)
    with ExitStack() as stack:
        folder = arguments.full_size
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        conditions = _conditions(arguments.bundle, folder)
        for condition in conditions:
            stack.enter_context(_process(condition))
        participant = stack.enter_context(DdsParticipant(DOMAIN, localhost=True))
        clients = {c.name: Client(participant, c.namespace) for c in conditions}
        for client in clients.values():
            client.wait_for_node()
        answers: dict[str, list[Answer]] = {name: [] for name in clients}
        for _ in range(arguments.rounds):
            for condition in conditions:
                answers[condition.name] += _round(
                    clients[condition.name], condition, arguments.frames
                )
        for client in clients.values():
            client.close()
    rows = {c.name: _row(c, answers[c.name], answers) for c in conditions}
    for name, row in rows.items():
        print(name)
        for quantity, value in row.items():
            print(f"    {quantity:42s} {value}")
    RESULT.write_bytes(
        json_bytes(
            {
                "date": datetime.date.today().isoformat(),
                "rerun": "python benchmarks/run_all.py node_latency",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "load_average": os.getloadavg()[0],
                "versions": {n: version(n) for n in ("jepa-edge", "cyclonedds", "onnxruntime")},
                "rounds": arguments.rounds,
                "figures": rows,
            }
        )
    )


def _conditions(pusht: Path, folder: Path) -> list[Condition]:
    full = full_size_bundle(folder)
    drawn = Recording(folder / "runs").load(0)
    if not (folder / "pusht").is_dir():
        record("pusht", folder / "pusht", 1, 40, 77)
    pushed = Recording(folder / "pusht").load(0)
    slow = Bundle.open(full).manifest.observation.rate_hz
    fast = Bundle.open(pusht).manifest.observation.rate_hz
    small, vga = (224, 224), (480, 640)
    rows: list[tuple[str, Path | None, tuple[int, int], Episode, float]] = [
        ("LeWM at full size, camera 224 x 224", full, small, drawn, slow),
        ("LeWM at full size, camera 640 x 480", full, vga, drawn, slow),
        ("PushT (64 pixels), camera 224 x 224", pusht, small, pushed, fast),
        ("PushT (64 pixels), camera 640 x 480", pusht, vga, pushed, fast),
        ("wire alone, 224 x 224", None, small, drawn, slow),
        ("wire alone, 640 x 480", None, vga, drawn, slow),
    ]
    return [
        Condition(
            name=name,
            namespace=f"/bench{index}",
            bundle=bundle,
            size=size,
            episode=episode,
            rate_hz=rate_hz,
        )
        for index, (name, bundle, size, episode, rate_hz) in enumerate(rows)
    ]


@contextmanager
def _process(condition: Condition) -> Iterator[None]:
    """Run the node, or the echo, while the context lasts."""
    command: list[str | Path] = [sys.executable, __file__, "--echo", condition.namespace]
    if condition.bundle is not None:
        command = [Path(sys.executable).with_name("jepa-edge"), "serve", condition.bundle]
        command += ["--namespace", condition.namespace, "--domain", str(DOMAIN), "--localhost"]
        command += ["--param", "image_fit=crop", "--param", "latch=none"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def _round(client: Client, condition: Condition, count: int) -> list[Answer]:
    """Answers of `count` frames after the warm-up, fed at the model's rate."""
    answers: list[Answer] = []
    episode, warm_up = condition.episode, 8
    frames = [_scaled(frame, condition.size) for frame in episode.frames]
    due_s = time.monotonic()
    for index in range(warm_up + count):
        step = index % len(frames)
        answer = client.ask(frames[step])
        if index >= warm_up and answer is not None:
            answers.append(answer)
        client.act(episode.actions[step % len(episode.actions)])
        due_s += 1.0 / condition.rate_hz
        time.sleep(max(0.0, due_s - time.monotonic()))
    return answers


def _scaled(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A camera's picture of that size whose middle shows the frame."""
    return np.ascontiguousarray(fit_image(frame, *size, "stretch"))


def _row(
    condition: Condition, answers: list[Answer], all_answers: dict[str, list[Answer]]
) -> dict[str, Any]:
    wire = np.array([answer.wire_s for answer in answers])
    row: dict[str, Any] = {"frames": len(answers), "image to flag": _percentiles(wire)}
    if condition.bundle is None:
        return row
    model = np.array([answer.model_s for answer in answers])
    side = f"{condition.size[1]} x {condition.size[0]}"
    alone = np.array([answer.wire_s for answer in all_answers[f"wire alone, {side}"]])
    row |= {
        "judged": sum(answer.level > 0 for answer in answers),
        "model and flag (Session.step)": _percentiles(model),
        "everything else": _percentiles(wire - model),
        "of which the node (less the wire's median)": _percentiles(
            wire - model - float(np.median(alone))
        ),
    }
    return row


def _percentiles(seconds: NDArray[np.floating]) -> dict[str, float]:
    return {
        "p50_ms": round(1e3 * float(np.median(seconds)), 3),
        "p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)), 3),
    }


if __name__ == "__main__":
    main()
