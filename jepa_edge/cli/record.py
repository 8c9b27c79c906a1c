# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge record`: a recording from a simulator, one with a fault, or a bag from the wire."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jepa_edge.cli.common import (
    BUNDLE,
    JSON_OPTION,
    SEED,
    print_json,
    progress_bars,
    refuse_options,
)
from jepa_edge.cli.record_dds import record_dds, topics_of
from jepa_edge.errors import InputError

if TYPE_CHECKING:
    from jepa_edge.faults import Injection

DDS = "dds"
_SIMULATED = ("recorded", "episodes", "steps", "seed", "fault", "size", "block", "workers")
_LIVE = (
    "image_topic",
    "action_topic",
    "state_topic",
    "namespace",
    "topics",
    "everything",
    "storage",
    "duration",
    "domain",
    "localhost",
)

_EPILOG = """\b
Examples:
  jepa-edge record sim:pusht --episodes 300 --steps 40 --out data/nominal
  jepa-edge record sim:pusht --episodes 20 --fault stuck@15 --seed 7 --out data/stuck
  jepa-edge record sim:reacher --size 64 --block 1 --fault mass:3@15 --out data/heavy
  jepa-edge record --from data/nominal --fault blur:0.05@15 --out data/blur
  jepa-edge record --list-faults
  jepa-edge record dds --image-topic /camera/image_raw --action-topic /cmd --out run_1

\b
record dds takes topics from a ROS 2 system, without ROS here, until SIGINT or SIGTERM: what the
world model node hears and says, so that `jepa-edge replay` can make its flags again (docs/bags.md).
Exit codes: 0 done; 2 bad input, nothing is left behind but what a full
disk took of live topics.
"""


@click.command("record", epilog=_EPILOG)
@click.argument("source", required=False)
@click.option("--out", type=BUNDLE, help="Directory to create.")
@click.option("--from", "recorded", type=BUNDLE, help="Recording to put a fault into.")
@click.option("--episodes", default=100, show_default=True, help="Number of episodes.")
@click.option("--steps", default=40, show_default=True, help="Action blocks per episode.")
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed; different seeds share no randomness.",
)
@click.option(
    "--fault",
    metavar="NAME[:SEVERITY][@STEP]",
    help="Fault from a step on, e.g. occlusion@15 or blur:0.05@15.",
)
@click.option("--list-faults", is_flag=True, help="Print the fault library and stop.")
@click.option("--size", default=64, show_default=True, help="Side of the frames in pixels.")
@click.option(
    "--block",
    type=int,
    help="Environment steps (0.1 s) per action; actuator faults need it with --from.  "
    "[simulators: 2 for pusht, 1 for reacher]",
)
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--image-topic", metavar="TOPIC", help="dds: the camera's.  [default: image]")
@click.option("--action-topic", metavar="TOPIC", help="dds: the commands'.  [default: action]")
@click.option("--state-topic", metavar="TOPIC", help="dds: the robot's state.  [default: state]")
@click.option("--namespace", default="/", show_default=True, help="dds: namespace of the node.")
@click.option("--topic", "topics", multiple=True, help="dds: one more topic; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="dds: all topics of known types.")
@click.option(
    "--storage",
    type=click.Choice(["mcap", "sqlite3"]),
    default="mcap",
    show_default=True,
    help="dds: file format of the bag.",
)
@click.option("--duration", type=float, metavar="S", help="dds: end after so many seconds.")
@click.option("--domain", type=int, help="dds: DDS domain.  [default: $ROS_DOMAIN_ID, else 0]")
@click.option("--localhost", is_flag=True, help="dds: stay on this machine.")
@JSON_OPTION
def command(
    source: str | None,
    out: Path | None,
    recorded: Path | None,
    episodes: int,
    steps: int,
    seed: int,
    fault: str | None,
    list_faults: bool,
    size: int,
    block: int | None,
    workers: int,
    image_topic: str | None,
    action_topic: str | None,
    state_topic: str | None,
    namespace: str,
    topics: tuple[str, ...],
    everything: bool,
    storage: str,
    duration: float | None,
    domain: int | None,
    localhost: bool,
    as_json: bool,
) -> None:
    """Record nominal or faulty episodes of SOURCE (sim:pusht, sim:reacher) under its policy.

    With --from, put a fault into the episodes of an existing recording instead. With SOURCE dds,
    record live topics into a rosbag2 directory.
    """
    if list_faults:
        _list_faults(as_json)
        return
    if out is None:
        raise InputError("record needs --out, the directory to create")
    if source == DDS:
        refuse_options(f"record {DDS}", _SIMULATED)
        record_dds(
            out,
            None
            if everything
            else topics_of(namespace, image_topic, action_topic, state_topic, topics),
            storage=storage,
            duration_s=duration,
            domain=domain,
            localhost=localhost,
            as_json=as_json,
        )
        return
    refuse_options("record without dds", _LIVE)
    if (source is None) == (recorded is None):
        raise InputError(
            f"record got source {source} and --from {recorded}; expected one of them: "
            "a simulator such as sim:pusht, dds for live topics, or a recording"
        )
    from jepa_edge.faults import parse_fault

    injection = None if fault is None else parse_fault(fault)
    if recorded is not None:
        if injection is None:
            raise InputError("record --from needs --fault; see record --list-faults")
        refuse_options("record --from", ("episodes", "steps", "size", "workers"))
        episodes, longest = _inject(recorded, out, injection, seed, block)
        done = f"{out}: {episodes} episodes of up to {longest} steps with {injection}"
        result = {"out": str(out), "episodes": episodes, "steps": longest, "seed": seed}
    else:
        _simulate(source or "", out, episodes, steps, seed, injection, size, block, workers)
        done = f"{out}: {episodes} episodes of {steps} steps"
        result = {"out": str(out), "episodes": episodes, "steps": steps, "seed": seed}
    if as_json:
        print_json({**result, "fault": injection})
    else:
        click.echo(done)


def _simulate(
    source: str,
    out: Path,
    episodes: int,
    steps: int,
    seed: int,
    injection: Injection | None,
    size: int,
    block: int | None,
    workers: int,
) -> None:
    """Record a simulator, with progress."""
    from jepa_edge.sim import SIMULATORS, record

    known = [f"sim:{name}" for name in SIMULATORS]
    if source not in known:
        raise InputError(f"cannot record {source!r}; expected {' or '.join(known)}")
    with progress_bars() as progress:
        record(
            source.removeprefix("sim:"),
            out,
            episodes,
            steps,
            seed,
            injection=injection,
            size=size,
            block=block,
            workers=workers,
            on_progress=lambda done: progress(f"record {out.name}", done, episodes),
        )


def _inject(
    recorded: Path, out: Path, injection: Injection, seed: int, block: int | None
) -> tuple[int, int]:
    """Write a recording with a fault; return its number of episodes and their largest length."""
    from jepa_edge.faults import inject_recording
    from jepa_edge.recording import Recording

    recording = Recording(recorded)
    with progress_bars() as progress:
        longest = inject_recording(
            recording,
            out,
            injection,
            seed=seed,
            block=block,
            on_progress=lambda done: progress(f"record {out.name}", done, len(recording)),
        )
    return len(recording), longest


def _list_faults(as_json: bool) -> None:
    """Print the fault library as a table, or as JSON."""
    from jepa_edge.faults import FAULTS

    if as_json:
        print_json(list(FAULTS.values()))
        return
    layout = "{:<10} {:<9} {:>7}  {:<12} {:<4} {}"
    click.echo(layout.format("fault", "kind", "default", "severity", "rec.", "what breaks"))
    for fault in FAULTS.values():
        degrees = (
            ("-", "-")
            if fault.low == fault.high
            else (f"{fault.severity:g}", f"{fault.low:g} to {fault.high:g}")
        )
        means = "" if fault.low == fault.high else f"; severity: {fault.meaning}"
        recorded = "no" if fault.simulator_only else "yes"
        said = fault.description + means
        click.echo(layout.format(fault.name, fault.kind.value, *degrees, recorded, said))
    click.echo("rec.: whether a recording can be given the fault (--from), or only a simulator")
