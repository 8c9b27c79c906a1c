# SPDX-License-Identifier: Apache-2.0
"""The executables: each node alone, and several of them in one process.

Only the standard library is imported before the signals have their handlers.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import threading

_KINDS = ("world_model", "planner", "safety_gate", "serial_bridge")
_MISSING = (
    "jepa_ros needs the Python package jepa-edge in {python}, and it is not there: install it with "
    "`{python} -m pip install jepa-edge`, in a venv made with --system-site-packages or with "
    "--break-system-packages (docs/ros.md)\n"
)


def world_model_node() -> int:
    """jepa_world_model: images in, embeddings, predictions and flags out."""
    return _main(["world_model"])


def planner_node() -> int:
    """jepa_planner: the action plan_latent."""
    return _main(["planner"])


def safety_gate_node() -> int:
    """jepa_safety_gate: passes commands on as far as the flag allows."""
    return _main(["safety_gate"])


def serial_bridge_node() -> int:
    """jepa_serial_bridge: the flag on a serial line."""
    return _main(["serial_bridge"])


def container() -> int:
    """Several nodes in one process: container world_model safety_gate --autostart."""
    return _main(None)


def _main(kinds: list[str] | None) -> int:
    """kinds: the nodes to run; None takes them from the command line."""
    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end.set())
    if importlib.util.find_spec("jepa_edge") is None:
        sys.stderr.write(_MISSING.format(python=sys.executable))
        return 1
    from jepa_edge.errors import InputError
    from jepa_ros.process import run, without_ros_arguments

    parser = argparse.ArgumentParser(
        epilog="after --ros-args: -p parameter:=value, -r topic:=topic, --params-file FILE"
    )
    if kinds is None:
        parser.add_argument("nodes", nargs="+", choices=_KINDS, help="what to run in this process")
    parser.add_argument(
        "--autostart",
        action="store_true",
        help="configure and activate the world model, again until it succeeds; "
        "without it a lifecycle manager does",
    )
    try:
        given = parser.parse_args(without_ros_arguments(sys.argv)[1:])
        chosen = list(dict.fromkeys(given.nodes)) if kinds is None else kinds
        return run(chosen, sys.argv, end, autostart=given.autostart)
    except InputError as error:
        sys.stderr.write(f"jepa_ros: {error}\n")
        return 2
    finally:  # ctrl-C under ros2 launch is two signals: the second finds all closed already
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
