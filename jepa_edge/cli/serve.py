# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge serve`: the nodes over DDS, on a machine where ROS was never installed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import click

from jepa_edge.cli import stop
from jepa_edge.cli.common import BUNDLE, needs_extra
from jepa_edge.errors import InputError

_NODES = ("world_model", "planner", "safety_gate", "serial_bridge")
_POLL_S = 0.1

_EPILOG = """\b
Examples:
  jepa-edge serve pusht.jepa --image-topic /camera/image_raw
  jepa-edge serve pusht.jepa --param provider=tensorrt --param engines=/opt/engines
  jepa-edge serve pusht.jepa --image-topic /camera/image_raw --with safety_gate \\
      --remap cmd_in:=/cmd_vel_raw --remap cmd_out:=/cmd_vel
  jepa-edge serve --only serial_bridge --param port=/dev/ttyACM0
  jepa-edge serve pusht.jepa --namespace /robot1 --params-file robot.yaml --use-sim-time

\b
To any ROS 2 system these are ordinary nodes: ros2 node list, ros2 topic echo, ros2 param,
ros2 lifecycle. Services, parameters and actions need rmw_cyclonedds on the other side; topics
work with every RMW. docs/dds.md says more.
Exit codes: 0 stopped by SIGINT or SIGTERM; 1 a defect, with its trace; 2 bad input.
"""


@click.command("serve", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE, required=False)
@click.option("--image-topic", metavar="TOPIC", help="Camera images.  [default: image]")
@click.option("--action-topic", metavar="TOPIC", help="Commanded actions.  [default: action]")
@click.option("--state-topic", metavar="TOPIC", help="The robot's state.  [default: state]")
@click.option(
    "--with",
    "extra",
    multiple=True,
    type=click.Choice(_NODES[1:]),
    help="Run this node too; may be repeated.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(_NODES),
    help="Run this node and no world model; may be repeated.",
)
@click.option("--namespace", default="/", show_default=True, help="Namespace of the nodes.")
@click.option("--node-name", help="Name of the node, if it is only one.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of every node that has it; may be repeated.",
)
@click.option(
    "--params-file",
    "params_files",
    multiple=True,
    type=BUNDLE,
    help="ROS parameter file (YAML); may be repeated, later ones win, --param wins over all.",
)
@click.option(
    "--remap",
    "remaps",
    multiple=True,
    metavar="FROM:=TO",
    help="Rename a topic, service or action; may be repeated.",
)
@click.option("--domain", type=int, help="DDS domain.  [default: $ROS_DOMAIN_ID, else 0]")
@click.option("--use-sim-time", is_flag=True, help="Take the time from /clock.")
@click.option(
    "--localhost", is_flag=True, help="Stay on this machine, whatever the environment says."
)
def command(
    bundle: Path | None,
    image_topic: str | None,
    action_topic: str | None,
    state_topic: str | None,
    extra: tuple[str, ...],
    only: tuple[str, ...],
    namespace: str,
    node_name: str | None,
    params: tuple[str, ...],
    params_files: tuple[Path, ...],
    remaps: tuple[str, ...],
    domain: int | None,
    use_sim_time: bool,
    localhost: bool,
) -> None:
    """Run the nodes as a ROS 2 peer: images in, embeddings, predictions and flags out."""
    with needs_extra("dds"):
        from jepa_edge.dds.parameter_values import parse_assignment
        from jepa_edge.dds.peer import Peer, PeerConfig

    if only and extra:
        raise InputError("--only and --with were both given; --only names all the nodes")
    names = tuple(dict.fromkeys(only or ("world_model", *extra)))
    if bundle is None and "world_model" in names and not params_files:
        raise InputError("the world model needs a bundle: jepa-edge serve NAME.jepa")
    rules = dict(_rule(text) for text in remaps)
    topics = {"image": image_topic, "action": action_topic, "state": state_topic}
    rules |= {inner: outer for inner, outer in topics.items() if outer is not None}
    if {"world_model", "planner"} <= set(names):  # the model predicts along the planner's plan
        rules.setdefault("planned_actions", "jepa/planned_actions")
    values = dict(parse_assignment(text) for text in params)
    if bundle is not None:
        values["bundle"] = os.fspath(bundle)
    if use_sim_time:
        values["use_sim_time"] = True
    config = PeerConfig(
        nodes=names,
        namespace=namespace,
        node_name=node_name,
        remaps=rules,
        values=values,
        files=params_files,
        domain=domain,
        localhost=True if localhost else None,
    )
    # A shell starts background jobs with SIGINT ignored; launch files send it to them all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Being stopped is how serving ends well: the nodes close in order and the exit code is 0.
    with (
        _info_for_rosout(),
        contextlib.suppress(KeyboardInterrupt, SystemExit),
        Peer(config) as peer,
    ):
        click.echo(f"serving {', '.join(peer.node_names)} in domain {peer.domain}", err=True)
        while True:
            stop.check()
            peer.check()
            time.sleep(_POLL_S)


@contextlib.contextmanager
def _info_for_rosout() -> Iterator[None]:
    """Let our records from INFO on reach /rosout, and no more of them reach stderr than before."""
    root, ours = logging.getLogger(), logging.getLogger("jepa_edge")
    before, level = ours.level, ours.getEffectiveLevel()
    levels = {handler: handler.level for handler in root.handlers}
    for handler in root.handlers:
        handler.setLevel(max(handler.level, level))
    ours.setLevel(min(logging.INFO, level))
    try:
        yield
    finally:
        ours.setLevel(before)
        for handler, own in levels.items():
            handler.setLevel(own)


def _rule(text: str) -> tuple[str, str]:
    old, sign, new = text.partition(":=")
    if not (old and sign and new):
        raise InputError(f"--remap is {text!r}, expected FROM:=TO, e.g. image:=/camera/image_raw")
    return old, new
