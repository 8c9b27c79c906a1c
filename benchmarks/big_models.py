# SPDX-License-Identifier: Apache-2.0
"""Memory and time of models of over a billion parameters: export, load, one encoding, one step.

    python benchmarks/big_models.py

V-JEPA 2 ViT-g and V-JEPA 2-AC at their true size with random weights (random_checkpoint.py), one
after the other, each step in a process of its own. Wants 12 GB of memory and 30 GB of disk. What is
compared with torch are the graphs; accuracy on frames of a task it cannot tell.

peak_rss: the largest resident set, as the kernel counts it (wait4), with every page of mapped files
in it, which the system may drop when memory is short. peak_anonymous: what cannot be dropped
without swap (RssAnon, sampled every 50 ms).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "big_models.json"
RANDOM = Path(__file__).parent / "random_checkpoint.py"
MAX_RATIO = 2.5
_PACKAGES = ("jepa-edge", "torch", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "safetensors")
_CLI = "from jepa_edge.cli import main; main()"

_USE = """
import json, sys, time
import numpy as np
from jepa_edge.world_model import WorldModel
begun = time.perf_counter()
model = WorldModel.load(sys.argv[1], sys.argv[2], threads=int(sys.argv[3]))
told = {"load_s": time.perf_counter() - begun}
manifest = model.manifest
rng = np.random.default_rng(0)
shape = (1, *manifest.observation.frame_shape)
frames = rng.integers(0, 256, shape, dtype=np.uint8)
state = manifest.state
states = None if state is None else np.zeros((1, state.dim), np.float32)
begun = time.perf_counter()
latents = model.encode(frames, states)
told["encode_s"] = time.perf_counter() - begun
outputs = [latents]
if model.takes_actions:
    actions = np.zeros((1, 1, manifest.action.dim), np.float32)
    history = latents[:, None]
    begun = time.perf_counter()
    outputs.append(model.predict(history, actions))
    told["predict_s"] = time.perf_counter() - begun
elif model.has_masks:
    begun = time.perf_counter()
    outputs.append(np.nan_to_num(model.masked_energy(frames)))
    told["masked_energy_s"] = time.perf_counter() - begun
told["latents"] = list(latents.shape)
told["finite"] = bool(all(np.isfinite(output).all() for output in outputs))
print(json.dumps(told))
"""


def run(command: list[str]) -> tuple[dict[str, Any], str]:
    """Run a command, and return its seconds and peak memory in bytes, and what it printed."""
    print(
        "$", shlex.join([*command[:1], "-c", "...", *command[3:]] if "-c" in command else command)
    )
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    anonymous = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal anonymous
        status = Path(f"/proc/{process.pid}/status")
        while not done.wait(0.05):
            text = status.read_text()
            if "RssAnon:" in text:
                anonymous = max(anonymous, 1024 * int(text.split("RssAnon:")[1].split()[0]))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    assert process.stdout is not None
    printed = process.stdout.read()
    # WNOWAIT keeps the process listed until the sampler has stopped.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    done.set()
    sampler.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed with {process.returncode}: {shlex.join(command)}\n{printed}")
    measured = {
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_rss": 1024 * usage.ru_maxrss,
        "peak_anonymous": anonymous,
    }
    return measured, printed


MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # One tubelet: the 2048 tokens of 16 pictures take minutes on a processor.
    "vjepa2-vitg": ("safetensors", "fp16,int8w", {"model": {"clip_frames": 2}}),
    "vjepa2-ac-vitg": ("torch", "fp16,int8w", {}),
}
"""Layout of the checkpoint, precisions, and --spec."""


def measure(name: str, folder: Path, threads: int, *, keep: bool) -> dict[str, Any]:
    """Write a checkpoint, export it, and use every precision of the bundle."""
    layout, precisions, spec = MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / ("model.pt" if layout == "torch" else "model")
    bundle = folder / f"{name}.jepa"
    made = None
    if not checkpoint.exists():
        made, _ = run(
            [sys.executable, str(RANDOM), name, "--layout", layout, "--out", str(checkpoint)]
        )
    files = [checkpoint] if checkpoint.is_file() else list(checkpoint.glob("*.safetensors"))
    weights = sum(file.stat().st_size for file in files)
    options = ["--precision", precisions, "--no-fp32", "--max-latent-error", "0.99", "--json"]
    if spec:
        (folder / "spec.json").write_text(json.dumps(spec))
        options += ["--spec", str(folder / "spec.json")]
    arguments = ["export", str(checkpoint), "--out", str(bundle), *options]
    exported, printed = run([sys.executable, "-c", _CLI, *arguments])
    exported["peak_rss_over_weights"] = round(exported["peak_rss"] / weights, 3)
    exported["peak_anonymous_over_weights"] = round(exported["peak_anonymous"] / weights, 3)
    report = json.loads(printed)
    uses = {}
    for precision in precisions.split(","):
        used, told = run([sys.executable, "-c", _USE, str(bundle), precision, str(threads)])
        uses[precision] = {**used, **json.loads(told)}
        parts = next(v for v in report["variants"] if v["precision"] == precision)
        uses[precision]["realized"] = parts["realized"]
        uses[precision]["graphs"] = {
            graph["part"]: {key: graph[key] for key in ("size_bytes", "sqnr_db")}
            for graph in parts["graphs"]
        }
    if not keep:
        shutil.rmtree(folder)
    return {
        "weights_bytes": weights,
        "layout": layout,
        "spec": spec,
        "command": shlex.join(part.replace(f"{folder}/", "") for part in ("jepa-edge", *arguments)),
        "checkpoint": made,
        "export": exported,
        "export_warnings": report["warnings"],
        "use": uses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="(default: %(default)s)")
    parser.add_argument("--scratch", type=Path, default=Path("runs/big"), help="30 GB free")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime, in use")
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument(
        "--keep", action="store_true", help="keep what was made, and use checkpoints that are there"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    versions = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
    result: dict[str, Any] = {}
    if arguments.out.is_file():  # --only replaces one entry
        result = json.loads(arguments.out.read_text())
    result |= {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg()[0],
        # Where this machine keeps its scratch is nobody's business.
        "command": shlex.join(["python", "benchmarks/big_models.py", *sys.argv[1:]]).replace(
            str(arguments.scratch), "runs/big"
        ),
        "versions": {name: versions[name] for name in _PACKAGES if name in versions},
    }
    for name in MODELS:
        if arguments.only in (None, name):
            folder = arguments.scratch / name
            if not arguments.keep:
                shutil.rmtree(folder, ignore_errors=True)
            result[name] = measure(name, folder, arguments.threads, keep=arguments.keep)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    for name in MODELS:
        if name in result:
            show(name, result[name])


def show(name: str, found: dict[str, Any]) -> None:
    """Print one model's figures, and whether the export kept to the bound."""
    weights, export = found["weights_bytes"], found["export"]
    ratio = export["peak_rss_over_weights"]
    print(
        f"{name}: weights {weights / 1e9:.2f} GB; export {export['seconds']:.0f} s, peak "
        f"{export['peak_rss'] / 1e9:.2f} GB ({ratio:.2f} x weights, "
        f"{'met' if ratio <= MAX_RATIO else 'NOT met'}: at most {MAX_RATIO} x), of it anonymous "
        f"{export['peak_anonymous'] / 1e9:.2f} GB"
    )
    for precision, used in found["use"].items():
        size = sum(graph["size_bytes"] for graph in used["graphs"].values())
        times = ", ".join(f"{k[:-2]} {v:.1f} s" for k, v in used.items() if k.endswith("_s"))
        print(
            f"  {precision:<6} {size / 1e9:5.2f} GB on disk, peak {used['peak_rss'] / 1e9:5.2f} GB "
            f"(anonymous {used['peak_anonymous'] / 1e9:5.2f}); {times}"
        )


if __name__ == "__main__":
    main()
