# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge inspect`: verify a bundle and say what is in it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, print_json

_EPILOG = """\b
Example:
  jepa-edge inspect pusht.jepa --replay

\b
Exit codes: 0 whole; 2 damaged, or not a bundle: the line on stderr says which file.
"""


@click.command("inspect", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--replay", is_flag=True, help="Also replay the golden inputs of every variant on this machine."
)
@JSON_OPTION
def command(bundle: Path, replay: bool, as_json: bool) -> None:
    """Verify the hashes of BUNDLE and show its model, variants and calibrations."""
    from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
    from jepa_edge.bundle import Bundle
    from jepa_edge.golden import Golden
    from jepa_edge.manifest import calibration_name
    from jepa_edge.world_model import WorldModel

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    replays = {}
    if replay:
        backend, golden = OnnxRuntimeBackend(), Golden.read(opened)
        for name in manifest.variants:
            replays[name] = WorldModel(opened, name, backend).replay_golden(golden)
    if as_json:
        print_json({"manifest": manifest, "replay": replays})
        return
    observation, action = manifest.observation, manifest.action
    click.echo(f"{bundle}: {manifest.family}, all {len(manifest.files)} files verified")
    click.echo(
        f"  observation  {observation.height} x {observation.width} {observation.color} uint8 "
        f"at {observation.rate_hz:g} Hz"
    )
    if observation.clip is not None:
        clip = observation.clip
        click.echo(
            f"  clip         {clip.frames} frames, tubelet {clip.tubelet}, stride {clip.stride}, "
            f"hop {clip.hop}: camera at {observation.camera_rate_hz:g} Hz"
        )
    if action is not None:
        units = f", {action.units}" if action.units else ""
        click.echo(f"  action       {action.dim} numbers per block of {action.block}{units}")
    if manifest.state is not None:
        click.echo(
            f"  state        {manifest.state.dim} numbers of the robot, {manifest.state.units}"
        )
    click.echo(f"  latent       {manifest.latent.tokens} x {manifest.latent.dim}")
    if action is not None:
        click.echo(f"  history      {manifest.history} frames")
    if manifest.text is not None:
        click.echo(f"  labels       {len(manifest.text.labels)}")
    for name, variant in manifest.variants.items():
        calibrated = calibration_name(name) in manifest.files
        size_mb = sum(graph.size_bytes for graph in variant.graphs.values()) / 1e6
        line = f"  {name:<12} {size_mb:.2f} MB, {'' if calibrated else 'not '}calibrated"
        if name in replays:
            done = replays[name]
            told = ", ".join(
                f"{part} {done.time_ms[part]:.2f} ms {done.sqnr_db[part]:.1f} dB"
                for part in done.time_ms
            )
            line += f", golden {'pass' if done.passed else 'FAIL'}: {told}"
        click.echo(line)
    provenance = msgspec.to_builtins(manifest.provenance)
    # A foreign bundle's text must not reach the terminal raw.
    click.echo(f"  made by      {provenance['command']!r} ({provenance['created_utc']!r})")
