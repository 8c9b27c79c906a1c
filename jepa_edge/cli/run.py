# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge run`: stream frames through a bundle and publish flags."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from jepa_edge.backends import Provider
from jepa_edge.change_gate import KEEPALIVE_S
from jepa_edge.cli import stop
from jepa_edge.cli.bag_options import BAG_OPTIONS, bag_options, read_bag_options
from jepa_edge.cli.common import BUNDLE, SEED, provider_options, refuse_options
from jepa_edge.errors import CalibrationError, InputError

_EPILOG = """\b
Examples:
  jepa-edge run pusht.jepa --source sim:pusht --fault friction@20
  jepa-edge run pusht.jepa --source data/nominal --episode 3 --rate 0 --json
  jepa-edge run pusht.jepa --source data/nominal --rate 0 --latch none --fall-after 5
  jepa-edge run pusht.jepa --source flight.mcap --image-topic /camera/image_raw --mcap flags.mcap
  jepa-edge run labelled.jepa --source data/nominal --on-change 0.1 --labels 2 --json

\b
Levels: UNKNOWN (0, never act on it), NOMINAL, CAUTION, REJECT. See docs/flags.md.
Exit codes: 0 the source ended; 2 bad input, one line on stderr.
"""


@click.command("run", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--source",
    required=True,
    metavar="DIR|VIDEO|BAG|sim:NAME",
    help="Recording directory, video file, rosbag2 directory or .mcap file, or a simulator: "
    "sim:pusht, sim:reacher.",
)
@click.option(
    "--variant", default="auto", show_default=True, help="Variant to run; auto takes the fastest."
)
@provider_options
@click.option(
    "--rate",
    type=click.FloatRange(min=0.0, max=1e4),
    help="Frames per second of playback, 0 for as fast as it goes.  [default: the model's rate]",
)
@click.option(
    "--require-signature",
    type=BUNDLE,
    metavar="PUB.PEM",
    help="Refuse the bundle unless this key signed it.",
)
@click.option(
    "--state",
    type=BUNDLE,
    metavar="DIR",
    help="Where `jepa-edge selftest` left its result.  [default: $XDG_STATE_HOME/jepa-edge]",
)
@click.option("--uncalibrated", is_flag=True, help="Run without calibration; flags stay UNKNOWN.")
@click.option("--horizon", default=5, show_default=True, help="Steps predicted ahead.")
@click.option("--samples", default=32, show_default=True, help="Futures sampled per frame.")
@click.option(
    "--latch",
    type=click.Choice(["none", "caution", "reject"]),
    default="reject",
    show_default=True,
    help="Lowest level that stays until the run ends.",
)
@click.option(
    "--fall-after",
    default=3,
    show_default=True,
    help="Calmer frames in a row that lower the level.",
)
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of samples and simulator."
)
@click.option(
    "--on-change",
    type=float,
    metavar="X",
    help="Publish embeddings and predictions only when the latent has moved this far, and labels "
    "when the text embedding has, e.g. 0.1; 1 is another scene. Flags always go out.",
)
@click.option(
    "--keepalive",
    default=KEEPALIVE_S,
    show_default=True,
    help="With --on-change: publish at least every so many seconds.",
)
@click.option(
    "--labels",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Labels per published frame, of a bundle with a text head; 0 for none.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, one per frame.")
@click.option("--jsonl", type=BUNDLE, help="Also write JSON lines to this file.")
@click.option("--mcap", type=BUNDLE, help="Also write frames, actions and flags to this MCAP file.")
@click.option("--serial", metavar="PORT", help="Also send flags to this port, e.g. /dev/ttyACM0.")
@click.option("--baud", default=115200, show_default=True, help="Serial: bits per second.")
@click.option(
    "--serial-protocol",
    type=click.Choice(["jepa", "mavlink"]),
    default="jepa",
    show_default=True,
    help="Serial: our own frames (docs/serial.md) or MAVLink (docs/autopilot.md).",
)
@click.option("--episode", default=0, show_default=True, help="Recording: which episode.")
@click.option("--steps", default=40, show_default=True, help="Simulator: model steps to run.")
@click.option(
    "--fault",
    metavar="NAME[:SEVERITY][@STEP]",
    help="Simulator: a fault of `jepa-edge record --list-faults`, e.g. occlusion@20.",
)
@click.option("--actions", type=BUNDLE, help="Video: .npy file (T, A) of the commanded actions.")
@click.option("--resize", is_flag=True, help="Video: scale frames to the model's size.")
@bag_options
def command(
    bundle: Path,
    source: str,
    variant: str,
    provider: Provider,
    engines: Path | None,
    rate: float | None,
    require_signature: Path | None,
    state: Path | None,
    uncalibrated: bool,
    horizon: int,
    samples: int,
    latch: str,
    fall_after: int,
    seed: int,
    on_change: float | None,
    keepalive: float,
    labels: int,
    as_json: bool,
    jsonl: Path | None,
    mcap: Path | None,
    serial: str | None,
    baud: int,
    serial_protocol: str,
    episode: int,
    steps: int,
    fault: str | None,
    actions: Path | None,
    resize: bool,
    **bag: Any,
) -> None:
    """Stream SOURCE through BUNDLE: encode, predict, compare, flag."""
    from jepa_edge.bags.reader import is_bag
    from jepa_edge.bundle import Bundle
    from jepa_edge.flags import Level
    from jepa_edge.keys import load_public_key
    from jepa_edge.monitor import Monitor
    from jepa_edge.selective import selective
    from jepa_edge.session import Session, SessionConfig
    from jepa_edge.sinks import Sink
    from jepa_edge.sinks.jsonl import json_lines
    from jepa_edge.sinks.terminal import Tally, live_table, plain_lines
    from jepa_edge.sources import SourceOptions, open_source
    from jepa_edge.world_model import WorldModel

    # Everything that can be refused is refused before anything is opened or written.
    if is_bag(Path(source)):
        refuse_options(f"{source}, which is a bag,", ("episode", "steps", "fault"))
    else:
        refuse_options(f"{source}, which is no bag,", BAG_OPTIONS)
    config = SessionConfig(
        horizon=horizon,
        samples=samples,
        seed=seed,
        fall_after=fall_after,
        latch=None if latch == "none" else Level[latch.upper()],
    )
    if jsonl is not None and jsonl.exists():
        raise InputError(f"{jsonl} exists already; remove it or choose another --jsonl")
    if rate is not None and math.isnan(rate):
        raise InputError("--rate is not a number; expected frames per second")
    if serial is None:
        refuse_options("a run without --serial", ("baud", "serial_protocol"))
    if on_change is None:
        refuse_options("a run without --on-change", ("keepalive",))
    trusted = None if require_signature is None else load_public_key(require_signature)
    opened = Bundle.open(bundle, trusted_key=trusted)
    model = WorldModel.load(
        opened, variant, calibrated_only=not uncalibrated, provider=provider, engines=engines
    )
    try:
        monitor = None if uncalibrated else Monitor.load(model, state=state)
    except CalibrationError as error:
        raise CalibrationError(f"{error}; or pass --uncalibrated") from error
    stream = open_source(
        source,
        model.manifest,
        SourceOptions(
            episode=episode,
            actions=actions,
            resize=resize,
            bag=read_bag_options(**bag),
            fault=fault,
            steps=steps,
            seed=seed,
        ),
    )
    period_s = 1.0 / (model.manifest.observation.rate_hz if rate is None else rate or float("inf"))
    if period_s > 0.0:  # as in real time: a machine that cannot keep up shall say so
        config = replace(config, max_latency_s=period_s)
    session = Session(model, monitor, config)
    if model.manifest.text is None:
        refuse_options(f"{bundle}, which has no text head,", ("labels",))
    publish = selective(model, on_change=on_change, keepalive_s=keepalive, labels=labels)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        if serial is not None:  # first: a flag's time runs on while another sink writes
            from jepa_edge.serial.config import LinkConfig, LinkProtocol
            from jepa_edge.serial.sink import link_status, serial_sink

            link = LinkConfig(port=serial, baud=baud, protocol=LinkProtocol(serial_protocol))
            sinks.append(stack.enter_context(serial_sink(link, link_status(model, monitor))))
        sinks.append(tally)
        if as_json:
            sinks.append(json_lines(sys.stdout.buffer))
        elif sys.stdout.isatty() and importlib.util.find_spec("rich"):
            title = f"{bundle.name} ({model.variant}) on {source}"
            sinks.append(stack.enter_context(live_table(title)))
        else:
            sinks.append(plain_lines())
        if mcap is not None:
            from jepa_edge.sinks.mcap import mcap_sink

            sinks.append(stack.enter_context(mcap_sink(mcap, model, monitor, config)))
        if jsonl is not None:
            sinks.append(json_lines(stack.enter_context(jsonl.open("wb"))))
        due_s = time.monotonic()
        for observation in stream:
            stop.check()
            time.sleep(max(0.0, due_s - time.monotonic()))
            due_s += period_s
            update = publish(session.step(observation))
            for sink in sinks:
                sink(observation, update)
    if not as_json:
        click.echo("; ".join(part for part in (tally.line(), publish.told()) if part))
