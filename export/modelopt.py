# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Model-Optimizer in its own environment: found, given files, killed with its parent's work.

It pins other versions of onnx and ONNX Runtime than ours, so that it never shares an environment
with us. `modelopt_worker.py` is what runs there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from jepa_edge.errors import ExportError, MissingDependencyError
from jepa_edge.export.onnx_graph import UNBATCHED, prune, sort_nodes

Feeds = Mapping[str, NDArray[np.generic]]

VERSION = "0.47"
VARIABLE = "JEPA_EDGE_MODELOPT"
"""Names the Python of an environment with Model-Optimizer."""
DEFAULT_PLACE = Path(".cache/jepa-edge/modelopt")
"""Of that environment, in the home folder, where the variable is not set."""

_WORKER = Path(__file__).with_name("modelopt_worker.py")
_REQUIREMENTS = Path(__file__).with_name("modelopt_requirements.txt")
_SECONDS_TO_STOP = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """model: ModelProto. layers: nodes that Model-Optimizer quantized. versions: by package."""

    model: Any
    layers: tuple[str, ...]
    versions: dict[str, str]


def find_python() -> Path:
    """Return the Python of Model-Optimizer's environment.

    Raises MissingDependencyError, with the commands that make one, where there is none or where it
    has another version.
    """
    named = os.environ.get(VARIABLE)
    default = Path.home() / DEFAULT_PLACE / "bin" / "python"
    python = Path(named) if named else default
    if not python.is_file():
        where = f"{VARIABLE} names {python}, which is no file" if named else f"{default} is missing"
        raise MissingDependencyError(
            f"fp8, int4 and nvfp4 are made by NVIDIA Model-Optimizer {VERSION} in an environment "
            f"of its own, but {where}; {_how_to_install()}"
        )
    asked = "import importlib.metadata as m; print(m.version('nvidia-modelopt'))"
    try:
        told = subprocess.run(
            [python, "-I", "-c", asked], capture_output=True, text=True, check=False, timeout=60.0
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(
            f"{python} does not run: {error}; {_how_to_install()}"
        ) from error
    version = told.stdout.strip()
    if told.returncode != 0 or not f"{version}.".startswith(f"{VERSION}."):
        raise MissingDependencyError(
            f"{python} has {f'nvidia-modelopt {version}' if version else 'no nvidia-modelopt'}, "
            f"expected {VERSION}; {_how_to_install()}"
        )
    return python


def _how_to_install() -> str:
    place = Path.home() / DEFAULT_PLACE
    pip = shlex.quote(str(place / "bin" / "pip"))
    return (
        f"python3 -m venv {shlex.quote(str(place))} && {pip} install --no-deps "
        f"nvidia-modelopt=={VERSION} && {pip} install -r {shlex.quote(str(_REQUIREMENTS))}, or set "
        f"{VARIABLE} to the python of an environment that has it"
    )


def quantize_with_modelopt(
    model: Any, mode: str, feeds: Feeds, layers: Sequence[str], *, block: int = 32
) -> Quantized:
    """Quantize the named layers of a graph.

    model: float32 for the modes fp8 and int4, float16 (`to_fp16`) for nvfp4. feeds: calibration
    inputs by name. block: inputs per scale with int4.
    Raises MissingDependencyError without the environment, ExportError when Model-Optimizer fails.
    An interrupt ends it, too.
    """
    python = find_python()
    with tempfile.TemporaryDirectory(prefix="jepa-edge-modelopt-") as folder:
        place = Path(folder)
        onnx.save(model, place / "model.onnx")
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in feeds.items()}
        np.savez(place / "data.npz", **arrays)
        report_file = place / "report.json"
        job = {
            "mode": mode,
            "model": str(place / "model.onnx"),
            "data": str(place / "data.npz"),
            "output": str(place / "quantized.onnx"),
            "report": str(report_file),
            "layers": list(layers),
            "unbatched": list(UNBATCHED),
            "block": block,
        }
        (place / "job.json").write_text(json.dumps(job))
        _run(python, place / "job.json", mode)
        report = json.loads(report_file.read_text())
        quantized = onnx.load(place / "quantized.onnx")
    del quantized.metadata_props[:]
    quantized.producer_name, quantized.producer_version = "jepa-edge", ""
    for node in quantized.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    # Its own inference misreads I-JEPA's patches, and stores that shape with the outputs.
    del quantized.graph.output[:]
    quantized.graph.output.extend(model.graph.output)
    sort_nodes(quantized)
    prune(quantized)
    return Quantized(
        model=quantized, layers=tuple(report["layers"]), versions=dict(report["versions"])
    )


def _run(python: Path, job: Path, mode: str) -> None:
    """Run the worker; what it says goes to a file, and its last line into the error."""
    log = job.with_name("log.txt")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as told:
        process = subprocess.Popen(
            # Isolated: neither the worker's folder nor PYTHONPATH may hide its packages.
            [python, "-I", _WORKER, job],
            cwd=job.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            _stop(process)
            raise
    if status != 0 or not job.with_name("report.json").is_file():
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise ExportError(
            f"Model-Optimizer {VERSION} cannot make {mode}: "
            f"{lines[-1].strip() if lines else f'it ended with status {status}'}; "
            f"leave {mode} out of --precision, or try it on another machine"
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(_SECONDS_TO_STOP)
            return
        except subprocess.TimeoutExpired:
            continue
