# SPDX-License-Identifier: Apache-2.0
"""What the verbs share: progress bars, JSON output, missing extras."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from jepa_edge.backends import PROVIDERS
from jepa_edge.cli import stop
from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.json_text import json_bytes
from jepa_edge.progress import Progress, silent

BUNDLE = click.Path(path_type=Path)
SEED = click.IntRange(min=0)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def provider_options(command: _Command) -> _Command:
    """Add --provider and --engines, which `WorldModel.load` takes by these names."""
    engines = click.option(
        "--engines",
        type=BUNDLE,
        metavar="DIR",
        help="Where `jepa-edge build --out` wrote engines.  [default: NAME.engines beside "
        "NAME.jepa]",
    )
    provider = click.option(
        "--provider",
        type=click.Choice(PROVIDERS),
        default="auto",
        show_default=True,
        help="What computes. auto: a TensorRT engine of `jepa-edge build` that fits this machine, "
        "else cpu; cpu, cuda, tensorrt-ep: ONNX Runtime; tensorrt: such an engine, or an error.",
    )
    return provider(engines(command))


@contextlib.contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a Progress that draws one bar per stage on stderr; silent without rich or a terminal.

    Off a terminal every stage that took a second or more gets one line when it is done.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield _stoppable(silent)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _stoppable(_log_stages())
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield _stoppable(show)


def _stoppable(progress: Progress) -> Progress:
    """Make every sign of progress a point at which the work can be stopped."""

    def report(stage: str, done: int, total: int) -> None:
        stop.check()
        progress(stage, done, total)

    return report


def _log_stages() -> Progress:
    begun: dict[str, float] = {}

    def log(stage: str, done: int, total: int) -> None:
        taken_s = time.monotonic() - begun.setdefault(stage, time.monotonic())
        if done >= total:
            del begun[stage]  # the same stage may come again
            if taken_s >= 1.0:
                click.echo(f"{stage}: {done}/{total} in {taken_s:.0f} s", err=True)

    return log


def print_json(value: Any) -> None:
    """Print any msgspec-encodable value as indented JSON on stdout."""
    sys.stdout.write(json_bytes(value).decode())


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing third-party package into one line that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"this verb needs the package {error.name}; "
            f"install it with `pip install 'jepa-edge[{extra}]'`"
        ) from error


def refuse_options(what: str, options: Collection[str]) -> None:
    """Raise InputError when one of these options was given where nothing listens to it."""
    context = click.get_current_context()
    default = (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
    given = [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name in options and context.get_parameter_source(option.name) not in default
    ]
    if given:
        raise InputError(f"{what} has no use for {', '.join(given)}; leave it out")
