# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge replay`: a recorded bag through a bundle again; the flags must come out the same."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from jepa_edge.backends import Provider
from jepa_edge.cli import stop
from jepa_edge.cli.bag_options import bag_options, fields_of, read_bag_options
from jepa_edge.cli.common import (
    BUNDLE,
    JSON_OPTION,
    needs_extra,
    print_json,
    provider_options,
    refuse_options,
)
from jepa_edge.cli.replay_report import print_report, tell_identity
from jepa_edge.errors import CalibrationError, InputError, printable

if TYPE_CHECKING:
    from jepa_edge.bags.recorded import Recorded, Run
    from jepa_edge.bags.rerun import Redone
    from jepa_edge.bags.topics import BagOptions
    from jepa_edge.monitor import Monitor
    from jepa_edge.nodes.world_model_parameters import Settings
    from jepa_edge.session import SessionConfig
    from jepa_edge.sinks import Sink
    from jepa_edge.world_model import WorldModel

EXIT_DIFFERS = 3
EXIT_NOT_SHOWN = 4

_OF_A_REPLAY = frozenset(
    {
        "image_fit",
        "action_fields",
        "action_timeout_s",
        "state_type",
        "state_fields",
        "sync_slop_s",
        "max_age_s",
        "min_gap_periods",
        "max_gap_periods",
        "max_latency_s",
        "fall_after",
        "latch",
        "domain_tolerance",
        "horizon",
        "samples",
        "seed",
        "threads",
    }
)
"""Parameters of the node that change what a replay does."""

_EPILOG = """\b
Examples:
  jepa-edge replay incident --bundle pusht.jepa
  jepa-edge replay incident.mcap --bundle pusht.jepa --out again.mcap --json
  jepa-edge replay incident --bundle pusht.jepa --params-file robot.yaml
  jepa-edge replay incident --bundle newer.jepa --no-compare --out flags.jsonl

\b
With recorded flags each is made again from its frame, its action and its times, and compared bit by
bit. Without them every frame goes through the inputs of the node, without a clock.
The node's settings: defaults, then what the bag tells (ModelInfo, /parameter_events), then
--params-file, then --param.
Exit codes: 0 the same, or no flags to compare with; 3 the flags differ; 4 nothing differs, but not
every flag could be compared in full; 2 bad input.
"""


@click.command("replay", epilog=_EPILOG)
@click.argument("bag", type=BUNDLE)
@click.option("--bundle", type=BUNDLE, required=True, help="Bundle to run.")
@click.option(
    "--variant", help="Variant to run.  [default: the recorded one, else the fastest here]"
)
@provider_options
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter as the node had it, e.g. latch=caution; may be repeated.",
)
@click.option("--params-file", type=BUNDLE, help="ROS parameter file (YAML) of the node.")
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
@click.option("--no-compare", is_flag=True, help="Ignore recorded flags: run all frames.")
@click.option("--uncalibrated", is_flag=True, help="With no flags: run without calibration.")
@click.option("--flag-topic", help="Bag: topic of the flags, if there are several.")
@click.option("--plan-topic", help="Bag: topic of planned actions, Float32MultiArray.")
@click.option(
    "--out", type=BUNDLE, metavar="FILE", help="Write the flags made here: .mcap or .jsonl."
)
@bag_options
@JSON_OPTION
def command(
    bag: Path,
    bundle: Path,
    variant: str | None,
    provider: Provider,
    engines: Path | None,
    params: tuple[str, ...],
    params_file: Path | None,
    require_signature: Path | None,
    state: Path | None,
    no_compare: bool,
    uncalibrated: bool,
    flag_topic: str | None,
    plan_topic: str | None,
    out: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Run BAG through a bundle; where it holds flags, make them again and compare."""
    with needs_extra("mcap"):
        from jepa_edge.bags.identity import was_uncalibrated
        from jepa_edge.bags.reader import Bag
        from jepa_edge.bags.recorded import read_recorded
        from jepa_edge.bags.replay import Verdict, replay
        from jepa_edge.bags.settings import file_parameters, make_settings, told_parameters
        from jepa_edge.bags.topics import find_topics
    from jepa_edge.bundle import Bundle
    from jepa_edge.dds.parameter_values import parse_assignment
    from jepa_edge.keys import load_public_key
    from jepa_edge.monitor import Monitor
    from jepa_edge.world_model import WorldModel

    if out is not None and (out.suffix not in (".mcap", ".jsonl") or out.exists()):
        raise InputError(f"--out is {out}, expected a new file that ends in .mcap or .jsonl")
    if no_compare:
        refuse_options("replay --no-compare", ("flag_topic",))
    given = _used(dict(parse_assignment(text) for text in params))
    trusted = None if require_signature is None else load_public_key(require_signature)
    opened = Bundle.open(bundle, trusted_key=trusted)
    source = Bag(bag)
    options = read_bag_options(**how, flag_topic=flag_topic, plan_topic=plan_topic)
    topics = find_topics(source, options)
    recorded = None
    if topics.flag is not None and not no_compare:
        recorded = read_recorded(source, topics)
        if not recorded.runs:
            raise InputError(
                f"{bag} holds no flag on {printable(topics.flag)} that can be made again; "
                "--image-topic names the images that the node had, --no-compare runs all frames"
            )
        refuse_options("replay of recorded flags", ("uncalibrated",))
    in_file = {} if params_file is None else file_parameters(params_file, topics.flag)

    def settings_of(run: Run | None) -> Settings:
        told = {} if recorded is None else told_parameters(recorded, run)
        return make_settings(bundle, told, in_file, given, _given_inputs(how))

    def config_of(run: Run | None) -> SessionConfig:
        config = settings_of(run).session
        # Without a file nobody would see the futures, and flags do not depend on them.
        return config if out is not None else dataclasses.replace(config, samples=0)

    settings = settings_of(None if recorded is None else recorded.runs[0])
    options = dataclasses.replace(
        options,
        action_fields=settings.inputs.action_fields,
        action_timeout_s=settings.inputs.action_timeout_s,
        state_type=settings.inputs.state_type,
        state_fields=settings.inputs.state_fields,
        sync_slop_s=settings.inputs.sync_slop_s,
        image_fit=settings.inputs.image_fit,
        min_gap_periods=settings.inputs.min_gap_periods,
        max_gap_periods=settings.inputs.max_gap_periods,
        max_age_s=settings.inputs.max_age_s,
    )
    topics = find_topics(source, options)  # the node may have said which type its state has
    judged = not (uncalibrated if recorded is None else all(map(was_uncalibrated, recorded.runs)))
    model = WorldModel.load(
        opened,
        variant
        or _recorded_variant(recorded, model_variants=list(opened.manifest.variants))
        or str(settings.values["variant"]),
        threads=int(settings.values["threads"]),
        calibrated_only=judged,
        provider=provider,
        engines=engines,
    )
    monitor: Monitor | None = None
    if judged and (recorded is None or out is not None):
        try:
            monitor = Monitor.load(model, state=state)
        except CalibrationError as error:
            why = "or pass --uncalibrated" if recorded is None else "the recorded flags had one"
            raise CalibrationError(f"{error}; {why}") from error
    if recorded is None:
        _all_frames(bag, model, monitor, options, config_of(None), out, as_json)
        return
    with _output(out, model, monitor, config_of(recorded.runs[0])) as write:
        report = replay(
            source,
            topics,
            recorded,
            model,
            options,
            config_of,
            state=state,
            on_step=write,
            on_identity=tell_identity,
        )
    if as_json:
        told = {"same": report.same, "verdict": report.verdict}
        print_json({**told, **msgspec.to_builtins(report)})
    else:
        print_report(report)
    if not report.same:
        differs = report.verdict is Verdict.DIFFERS
        raise click.exceptions.Exit(EXIT_DIFFERS if differs else EXIT_NOT_SHOWN)


def _used(given: dict[str, Any]) -> dict[str, Any]:
    """Return what --param gives. Raises InputError for what a replay makes no use of."""
    from jepa_edge.nodes.world_model_parameters import PARAMETERS

    known = {parameter.name for parameter in PARAMETERS}
    idle = sorted((given.keys() & known) - _OF_A_REPLAY)
    if idle:
        raise InputError(
            f"replay makes no use of --param {', '.join(idle)}; leave it out: bundle and variant "
            "have options of their own, and topics and most types are the bag's"
        )
    return given


def _given_inputs(how: dict[str, Any]) -> dict[str, Any]:
    """What the options say of the inputs, by the names of the node's parameters."""
    given = {
        "action_fields": fields_of(how["action_fields"]),
        "action_timeout_s": how["action_timeout"],
        "state_type": how["state_type"],
        "state_fields": fields_of(how["state_fields"]),
        "sync_slop_s": how["state_slop"],
        "image_fit": how["image_fit"],
        "max_age_s": how["max_age"],
    }
    return {name: value for name, value in given.items() if value not in (None, ())}


def _recorded_variant(recorded: Recorded | None, model_variants: list[str]) -> str:
    """The variant that made the flags, if the bag tells and the bundle has it."""
    infos = [] if recorded is None else [run.info for run in recorded.runs if run.info is not None]
    told = str(infos[0].variant) if infos else ""
    return told if told in model_variants else ""


def _all_frames(
    bag: Path,
    model: WorldModel,
    monitor: Monitor | None,
    options: BagOptions,
    config: SessionConfig,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run every frame that the model gets, without a clock: flags come out, none is compared."""
    from jepa_edge.session import Session
    from jepa_edge.sinks.jsonl import json_lines
    from jepa_edge.sinks.mcap import mcap_sink
    from jepa_edge.sinks.terminal import Tally, plain_lines
    from jepa_edge.sources.bag import BagSource

    source = BagSource(bag, model.manifest, options)
    session = Session(model, monitor, config)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        shown = json_lines(sys.stdout.buffer) if as_json else plain_lines()
        sinks: list[Sink] = [tally, shown]
        if out is not None and out.suffix == ".jsonl":
            sinks.append(json_lines(stack.enter_context(_staged(out))))
        elif out is not None:
            sinks.append(
                stack.enter_context(mcap_sink(out, model, monitor, config, option="--out"))
            )
        for observation in source:
            stop.check()
            update = session.step(observation)
            for sink in sinks:
                sink(observation, update)
    if not as_json:
        click.echo(tally.line())


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears under its name when all went well."""
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no directory; make it first")
    with tempfile.TemporaryDirectory(prefix=".jsonl.", dir=out.resolve().parent) as staging:
        part = Path(staging) / out.name
        with part.open("xb") as stream:
            yield stream
        os.replace(part, out)


@contextlib.contextmanager
def _output(
    out: Path | None, model: WorldModel, monitor: Monitor | None, config: SessionConfig
) -> Iterator[Callable[[Redone], None]]:
    """Yield what writes a flag that was made again, to the file that --out names."""
    from jepa_edge.session import Update
    from jepa_edge.sinks.jsonl import flag_record
    from jepa_edge.sinks.mcap import mcap_sink

    if out is None:
        yield lambda redone: stop.check()
        return
    with contextlib.ExitStack() as stack:
        if out.suffix == ".mcap":
            sink = stack.enter_context(mcap_sink(out, model, monitor, config, option="--out"))
        else:
            stream = stack.enter_context(_staged(out))

        def write(redone: Redone) -> None:
            stop.check()
            if redone.flag is None:
                return
            update = Update(flag=redone.flag)
            if redone.update is not None:
                update = dataclasses.replace(redone.update, flag=redone.flag)
            if out.suffix == ".jsonl":
                stream.write(msgspec.json.encode(flag_record(update)) + b"\n")
            elif redone.observation is not None:
                sink.write(redone.observation, update, redone.recorded.stamp_ns)
            else:
                sink.write_flag(redone.flag, redone.recorded.stamp_ns)

        yield write
