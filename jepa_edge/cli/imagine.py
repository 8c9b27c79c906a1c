# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge imagine`: what the model expects of several actions, on a map or as a landscape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from jepa_edge.backends import Provider
from jepa_edge.cli.common import (
    BUNDLE,
    JSON_OPTION,
    SEED,
    needs_extra,
    print_json,
    progress_bars,
    provider_options,
    refuse_options,
)
from jepa_edge.errors import InputError, printable
from jepa_edge.goals import encode_goal
from jepa_edge.image_fit import FITS, MODEL_FIT
from jepa_edge.imagine import (
    MAX_SAMPLES,
    ActionSequence,
    axis_names,
    builtin_sequences,
    imagine,
    read_sequences,
)
from jepa_edge.imagine_inputs import Scene, goal_frame, read_run, scene_of
from jepa_edge.imagine_report import (
    ImagineReport,
    LandscapeReport,
    report_futures,
    report_landscape,
)
from jepa_edge.latent_map import LatentMap
from jepa_edge.latent_variable import Sampler
from jepa_edge.manifest import ActionSpec, calibration_name
from jepa_edge.world_model import AUTO, WorldModel

_EPILOG = """\b
Examples:
  jepa-edge imagine pusht.jepa --source data/held-out --episode 3 --out futures.html
  jepa-edge imagine pusht.jepa --source data/held-out --actions plans.csv --goal 35 --json
  jepa-edge imagine ac.jepa --landscape --source franka.npz --frame 0 --goal 1 --out energy.html

\b
--actions: .npy (K, H, A), or .csv with a header and rows of a name and A numbers. Without it the
last command is held, zero is commanded, and each axis moves by one standard deviation.
The map is fitted by `jepa-edge calibrate`; --data fits one on a recording instead.
"""

_FUTURES_ONLY = ("actions", "horizon", "samples", "data")
_LANDSCAPE_ONLY = ("axes", "extent", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """The scene and the goal, encoded. goal_frame: (H, W, 3) or None."""

    scene: Scene
    history: NDArray[np.float32]
    goal: NDArray[np.float32] | None
    goal_frame: NDArray[np.uint8] | None
    goal_told: str


@click.command("imagine", epilog=_EPILOG)
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--source",
    type=BUNDLE,
    required=True,
    metavar="PATH",
    help="Recording, .npz trajectory, .npy or picture that holds the present frame.",
)
@click.option("--episode", type=int, default=0, show_default=True, help="Of a recording.")
@click.option("--frame", type=int, help="Number of the present frame; default: the middle.")
@click.option("--state", metavar="NUMBERS", help="The robot's state at a picture: 0.1,0.2,...")
@click.option(
    "--fit",
    type=click.Choice(FITS),
    default=MODEL_FIT,
    show_default=True,
    help="How a picture of another size is fitted.",
)
@click.option("--goal", metavar="NUMBER|FILE", help="Frame of the source, or a picture.")
@click.option("--actions", type=BUNDLE, metavar="FILE", help="Sequences: .csv or .npy (K, H, A).")
@click.option("--horizon", default=5, show_default=True, help="Steps of the built-in sequences.")
@click.option("--samples", default=64, show_default=True, help="Futures per sequence; 0 for none.")
@click.option("--data", type=BUNDLE, metavar="DIR", help="Recording to fit the map on.")
@click.option("--landscape", is_flag=True, help="Energy over a grid of actions instead.")
@click.option("--axes", metavar="A,B,C", help="Axes of the grid by name; default: the first 3.")
@click.option("--extent", default=0.05, show_default=True, help="Grid: -extent to extent, raw.")
@click.option("--steps", default=5, show_default=True, help="Grid: values per axis.")
@click.option("--variant", default=AUTO, show_default=True, help="Precision to run.")
@provider_options
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the sampled futures.")
@click.option("--out", type=BUNDLE, metavar="PAGE.html", help="Write the page with its drawings.")
@JSON_OPTION
def command(
    bundle: Path,
    source: Path,
    episode: int,
    frame: int | None,
    state: str | None,
    fit: str,
    goal: str | None,
    actions: Path | None,
    horizon: int,
    samples: int,
    data: Path | None,
    landscape: bool,
    axes: str | None,
    extent: float,
    steps: int,
    variant: str,
    provider: Provider,
    engines: Path | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show where BUNDLE's model expects actions to lead, from one frame on."""
    refuse_options(
        "imagine with --landscape" if landscape else "imagine without --landscape",
        _FUTURES_ONLY if landscape else _LANDSCAPE_ONLY,
    )
    model = WorldModel.load(bundle, variant, provider=provider, engines=engines)
    action = model.manifest.require_action()
    moment = _moment(model, source, episode, frame, state, fit, goal)
    pictures = _pictures(model, moment)
    report: ImagineReport | LandscapeReport
    if landscape:
        report = _landscape(model, moment, axes, extent, steps)
        if out is not None:
            with needs_extra("calibration"):
                from jepa_edge.calibration.imagine_page import write_landscape_page

                write_landscape_page(out, report, pictures)
    else:
        latent_map = _latent_map(model, data)
        if actions is None:
            sequences = builtin_sequences(action, horizon, moment.scene.last_action)
        else:
            sequences = read_sequences(actions, action)
        report = _futures(model, moment, latent_map, sequences, samples, seed)
        if out is not None:
            with needs_extra("calibration"):
                from jepa_edge.calibration.imagine_page import write_imagine_page

                write_imagine_page(out, report, latent_map.cloud, pictures)
    if as_json:
        print_json(report)
    elif isinstance(report, LandscapeReport):
        _print_landscape(report)
    else:
        _print_futures(report)
    if out is not None and not as_json:
        click.echo(f"page: {out}")


def _moment(
    model: WorldModel,
    source: Path,
    episode: int,
    frame: int | None,
    state: str | None,
    fit: str,
    goal: str | None,
) -> _Moment:
    manifest = model.manifest
    run = read_run(source, manifest, episode=episode, fit=fit, state=_numbers(state))
    scene = scene_of(run, manifest, frame)
    history = model.encode(scene.frames, scene.states)
    if goal is None:
        return _Moment(scene=scene, history=history, goal=None, goal_frame=None, goal_told="")
    wanted, wanted_state, told = goal_frame(run, goal, manifest, fit)
    latent = encode_goal(model, wanted, wanted_state)
    return _Moment(scene=scene, history=history, goal=latent, goal_frame=wanted, goal_told=told)


def _numbers(text: str | None) -> NDArray[np.float32] | None:
    if text is None:
        return None
    try:
        return np.array([float(number) for number in text.split(",")], np.float32)
    except ValueError as error:
        raise InputError(f"--state is {text!r}, expected numbers with commas between") from error


def _latent_map(model: WorldModel, data: Path | None) -> LatentMap:
    if data is not None:
        with needs_extra("calibration"):
            from jepa_edge.calibration.latent_map import map_of_recording
        from jepa_edge.recording import Recording

        with progress_bars() as progress:
            return map_of_recording(model, Recording(data), progress)
    found = LatentMap.read(model.bundle, model.variant)
    if found is None:
        raise InputError(
            f"{model.bundle.path} has no map of latents for variant {model.variant!r}; run "
            "`jepa-edge calibrate` on it, or fit one with --data RECORDING"
        )
    return found


def _sampler(model: WorldModel, moment: _Moment, samples: int) -> tuple[Sampler | None, list[str]]:
    """What draws the futures, or None and why."""
    if samples != 0 and not 2 <= samples <= MAX_SAMPLES:
        raise InputError(f"--samples is {samples}, expected 2 to {MAX_SAMPLES}, or 0 for none")
    if not samples:
        return None, []
    if len(moment.history) < model.manifest.history:
        return None, [
            (
                f"the source gives {len(moment.history)} frame, futures are sampled from "
                f"{model.manifest.history}: there are no ellipses"
            )
        ]
    if calibration_name(model.variant) in model.bundle.manifest.files:
        from jepa_edge.futures import make_sampler
        from jepa_edge.monitor import Monitor

        return make_sampler(model, Monitor.load(model).latent_variable), []
    if model.z_dim:
        from jepa_edge.futures import NativeSampler

        return NativeSampler(model), []
    return None, ["the bundle is not calibrated: there are no ellipses"]


def _futures(
    model: WorldModel,
    moment: _Moment,
    latent_map: LatentMap,
    sequences: list[ActionSequence],
    samples: int,
    seed: int,
) -> ImagineReport:
    sampler, notes = _sampler(model, moment, samples)
    found = imagine(
        model,
        latent_map,
        moment.history,
        moment.scene.past_actions,
        sequences,
        sampler=sampler,
        samples=samples,
        seed=seed,
        goal=moment.goal,
    )
    return report_futures(
        found,
        latent_map,
        bundle=str(model.bundle.path),
        variant=model.variant,
        source=moment.scene.told,
        goal_source=moment.goal_told,
        samples=samples if sampler is not None else 0,
        notes=tuple(notes),
    )


def _landscape(
    model: WorldModel, moment: _Moment, axes: str | None, extent: float, steps: int
) -> LandscapeReport:
    from jepa_edge.energy_landscape import energy_landscape

    if moment.goal is None:
        raise InputError("--landscape needs --goal: the energy is the distance to it")
    action = model.manifest.require_action()
    chosen = _axes(action, axes)
    found = energy_landscape(
        model,
        moment.history,
        moment.scene.past_actions,
        moment.goal,
        axes=chosen,
        extent=extent,
        steps=steps,
    )
    names = axis_names(action)
    first, second, third = (names[axis] for axis in chosen)
    return report_landscape(
        found,
        (first, second, third),
        bundle=str(model.bundle.path),
        variant=model.variant,
        source=moment.scene.told,
        goal_source=moment.goal_told,
        units=action.units,
    )


def _axes(action: ActionSpec, text: str | None) -> tuple[int, int, int]:
    """Numbers of three axes from their names."""
    names = axis_names(action)
    wanted = names[:3] if text is None else [name.strip() for name in text.split(",")]
    unknown = [name for name in wanted if name not in names]
    if unknown or len(wanted) != 3:
        raise InputError(
            f"--axes names {', '.join(wanted)}, expected three of {', '.join(names)}; a landscape "
            "is drawn over three axes of the action"
        )
    first, second, third = (names.index(name) for name in wanted)
    return first, second, third


def _pictures(model: WorldModel, moment: _Moment) -> list[tuple[str, NDArray[np.uint8]]]:
    """The frames of the page, in RGB."""
    shown = [(f"Now: {moment.scene.told}.", moment.scene.frames[-1])]
    if moment.goal_frame is not None:
        shown.append((f"Goal: {moment.goal_told}.", moment.goal_frame))
    if model.manifest.observation.color == "bgr":
        shown = [(told, np.ascontiguousarray(frame[:, :, ::-1])) for told, frame in shown]
    return shown


def _print_futures(report: ImagineReport) -> None:
    share = 100.0 * sum(report.explained)
    _say(f"{report.bundle} {report.variant}, from {report.source}")
    _say(f"  the map shows {share:.0f} % of the recorded variance")
    names = [printable(sequence.name) for sequence in report.sequences]
    width = max(map(len, names))
    for name, sequence in zip(names, report.sequences, strict=True):
        end = sequence.points[-1]
        told = f"  {name:<{width}}  ends at ({end[0]:+.3g}, {end[1]:+.3g})"
        if sequence.spread:
            told += f"  spread {sequence.spread[-1]:.3g}"
        if sequence.energies:
            told += f"  energy to the goal {sequence.energies[-1]:.4g}"
        _say(told + ("  nearest" if sequence.name == report.best else ""))
    for note in report.notes:
        click.echo(f"note: {printable(note)}", err=True)


def _print_landscape(report: LandscapeReport) -> None:
    _say(f"{report.bundle} {report.variant}, from {report.source}")
    best = ", ".join(
        f"{name} {value:+.4g}" for name, value in zip(report.axes, report.best, strict=True)
    )
    unit = f" ({report.units})" if report.units else ""
    _say(
        f"  lowest energy {report.best_energy:.5g} at {best}{unit}, of a grid of "
        f"{len(report.values)} x {len(report.values)} x {len(report.values)}"
    )


def _say(line: str) -> None:
    """Print a line; names of a bundle and of files are a stranger's text."""
    click.echo(printable(line))
