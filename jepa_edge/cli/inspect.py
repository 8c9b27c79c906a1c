# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge inspect`: verify a bundle and say what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jepa_edge.cli.common import BUNDLE, JSON_OPTION, print_json
from jepa_edge.errors import InputError, printable

if TYPE_CHECKING:
    from jepa_edge.bundle import Bundle
    from jepa_edge.manifest import FitSpec

_SHOWN = 3

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
@click.option(
    "--engines",
    type=BUNDLE,
    metavar="DIR",
    help="Where `jepa-edge build --out` wrote engines.  [default: NAME.engines beside NAME.jepa]",
)
@JSON_OPTION
def command(bundle: Path, replay: bool, engines: Path | None, as_json: bool) -> None:
    """Verify the hashes of BUNDLE and show its model, variants and calibrations."""
    from jepa_edge.backends.onnxruntime import OnnxRuntimeBackend
    from jepa_edge.bundle import Bundle
    from jepa_edge.golden import Golden
    from jepa_edge.manifest import calibration_name
    from jepa_edge.world_model import WorldModel

    if engines is not None and not engines.is_dir():
        raise InputError(f"--engines is {engines}, which is no folder; check the path")
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    replays = {}
    if replay:
        backend, golden = OnnxRuntimeBackend(), Golden.read(opened)
        for name in [n for n, spec in manifest.variants.items() if not spec.needs_tensorrt]:
            replays[name] = WorldModel(opened, name, backend).replay_golden(golden)
    if as_json:
        found = list(_engines(opened, engines))
        print_json({"manifest": manifest, "replay": replays, "engines": found})
        return
    # A foreign bundle's text must not reach the terminal raw.
    title = printable(f"{bundle}: {manifest.family}")
    click.echo(f"{title}, all {len(manifest.files)} files verified")
    for name, told in _parts(opened):
        click.echo(f"  {name:<12} {printable(told)}")
    for name, variant in manifest.variants.items():
        calibrated = calibration_name(name) in manifest.files
        size_mb = sum(graph.size_bytes for graph in variant.graphs.values()) / 1e6
        line = f"  {name:<12} {size_mb:.2f} MB, {'' if calibrated else 'not '}calibrated"
        if variant.needs_tensorrt:
            line += ", for TensorRT only"
        if name in replays:
            done = replays[name]
            told = ", ".join(
                f"{part} {done.time_ms[part]:.2f} ms {done.sqnr_db[part]:.1f} dB"
                for part in done.time_ms
            )
            line += f", golden {'pass' if done.passed else 'FAIL'}: {told}"
        click.echo(line)
    for told in _engines(opened, engines):
        click.echo(f"  {'engine':<12} {printable(told)}")
    made = manifest.provenance
    click.echo(f"  {'made by':<12} {made.command!r} ({made.created_utc!r})")


def _engines(bundle: Bundle, root: Path | None) -> Iterator[str]:
    """What lies beside the bundle for TensorRT, a line per engine, and whether it runs here."""
    from jepa_edge.backends.choice import machine_here
    from jepa_edge.errors import BundleError, JepaEdgeError
    from jepa_edge.trt.store import EngineStore, read_record, stale

    store = EngineStore(bundle, root)
    records = store.records()
    if not records:
        return
    machine, nowhere = None, ""
    try:
        machine = machine_here()
    except JepaEdgeError as error:
        nowhere = str(error)
    for path in records:
        where = path.parent.relative_to(store.root)
        try:
            record = read_record(path)
        except BundleError as error:
            yield f"{where}: {error}"
            continue
        against = stale(record, bundle.manifest, path.parent.name)
        against += [nowhere] if machine is None else record.key.differences(machine)
        size_mb = sum(plan.bytes for plan in record.plans.values()) / 1e6
        told = "; ".join(against) if against else "runs here"
        yield f"{where}: {record.precision}, {size_mb:.2f} MB; {told}"


def _parts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """What the model sees, takes and gives, each with a name. Raises BundleError as masks do."""
    import numpy as np

    from jepa_edge.masked import read_patterns

    manifest = bundle.manifest
    observation, latent = manifest.observation, manifest.latent
    size = f"{observation.height} x {observation.width}"
    yield "observation", f"{size} {observation.color} uint8 at {observation.rate_hz:g} Hz"
    yield "fit", _fit(observation.fit)
    if observation.clip is not None:
        clip = observation.clip
        seen = f"{clip.frames} frames, tubelet {clip.tubelet}, stride {clip.stride}, hop {clip.hop}"
        yield "clip", f"{seen}: camera at {observation.camera_rate_hz:g} Hz"
    if manifest.action is not None:
        action = manifest.action
        told = f"{action.dim} numbers per block of {action.block}"
        yield "action", told + _named(action.units, action.names)
    else:
        yield "action", "none: the model predicts no step ahead"
    if manifest.state is not None:
        state = manifest.state
        yield "state", f"{state.dim} numbers of the robot" + _named(state.units, state.names)
    yield "latent", f"{latent.tokens} x {latent.dim}"
    if latent.compared != (latent.tokens, latent.dim):
        tokens, dim = latent.compared
        yield "compared", f"energies take the first {tokens} tokens and {dim} channels"
    if manifest.action is not None:
        fewest = manifest.min_history or manifest.history
        told = f"{fewest} to " if fewest != manifest.history else ""
        yield "history", f"{told}{manifest.history} frames"
    if manifest.masks is not None:
        masks = manifest.masks
        _, hidden = read_patterns(bundle.file(masks.file), latent.tokens)
        every, norm = np.unique(hidden).size, ", targets normalized" if masks.target_norm else ""
        told = f"{len(hidden)} patterns that hide {hidden.shape[1]} tokens each, {every} in all"
        yield "masks", f"{told}; compared by {masks.distance}{norm}"
    if manifest.text is not None:
        text = manifest.text
        shown = ", ".join(repr(label) for label in text.labels[:_SHOWN])
        more = ", ..." if len(text.labels) > _SHOWN else ""
        yield "labels", f"{len(text.labels)}: {shown}{more}"
        yield "text", f"embeddings of {text.dim} numbers, temperature {text.temperature:g}"


def _named(units: str, names: tuple[str, ...]) -> str:
    told = [part for part in (units, " ".join(names)) if part]
    return "".join(f", {part}" for part in told)


def _fit(fit: FitSpec | None) -> str:
    if fit is None:
        return "pictures of that size only"
    if fit.stretch:
        return f"the whole picture is scaled, {fit.filter}"
    if fit.short_side is not None:
        middle = f"scaled to a short side of {fit.short_side}, {fit.filter}, then the middle"
        return f"{middle} (offset {fit.offset})"
    return f"the largest middle part, then scaled, {fit.filter}"
