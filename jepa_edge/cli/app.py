# SPDX-License-Identifier: Apache-2.0
"""The command group and its error rule: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from jepa_edge.cli import stop
from jepa_edge.errors import JepaEdgeError, printable
from jepa_edge.version import __version__

EXIT_USER_ERROR = 2
_VERBS = (
    "record",
    "export",
    "labels",
    "import-onnx",
    "calibrate",
    "evaluate",
    "selftest",
    "build",
    "keygen",
    "sign",
    "verify",
    "run",
    "serve",
    "replay",
    "serial",
    "imagine",
    "inspect",
)

_EPILOG = """\b
From a checkpoint to flags:
  jepa-edge record sim:pusht --episodes 300 --steps 40 --out data/nominal
  jepa-edge export examples/pusht/model --out pusht.jepa \\
      --precision fp32,int8 --calibration-data data/nominal
  jepa-edge calibrate pusht.jepa --data data/nominal --alpha 0.05
  jepa-edge evaluate pusht.jepa --nominal data/held-out --faults all --out evaluation
  jepa-edge run pusht.jepa --source sim:pusht --fault occlusion@20

\b
On the robot, with ROS 2 or without it:
  jepa-edge build pusht.jepa
  jepa-edge serve pusht.jepa --image-topic /camera/image_raw --with safety_gate
  jepa-edge replay incident.bag --bundle pusht.jepa
  jepa-edge serial monitor /dev/ttyUSB0

\b
Exit codes:
  0  done
  1  a defect in jepa-edge; please report it
  2  input that you can fix: the one line on stderr says how
  130  interrupted; 143 terminated, at the next safe point
"""


class _LazyGroup(click.Group):
    """Imports a verb's module only when the verb is used, so that --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"jepa_edge.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(
    cls=_LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="jepa-edge")
@click.option("-v", "--verbose", count=True, help="Log to stderr: -v decisions, -vv everything.")
def cli(verbose: int) -> None:
    """Put a trained JEPA world model on a robot, with uncertainty that can be trusted."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    stop.install()
    try:
        cli.main(args=arguments, prog_name="jepa-edge", standalone_mode=False)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        hint = f"; see `{where} --help`" if where else ""
        click.echo(f"error: {' '.join(error.format_message().split())}{hint}", err=True)
        sys.exit(EXIT_USER_ERROR)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; a second complaint at exit is muted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (JepaEdgeError, OSError) as error:
        click.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
        sys.exit(EXIT_USER_ERROR)
