# SPDX-License-Identifier: Apache-2.0
"""The Franka clip of V-JEPA 2-AC's notebook through a bundle: encode, predict, landscape, plan.

    python benchmarks/franka_clip.py franka_example_traj.npz vjepa2-ac.jepa --out runs/franka.json

The clip is notebooks/franka_example_traj.npz of facebookresearch/vjepa2 (MIT), not part of this
repository: two pictures of 256 x 256 and the poses, 13 cm apart. With random weights the figures
say that the pipeline runs, nothing about the model. `jepa-edge imagine --landscape` draws the grid.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import datetime
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from jepa_edge.energy_landscape import energy_landscape
from jepa_edge.errors import InputError
from jepa_edge.json_text import json_bytes
from jepa_edge.planner import Planner, PlannerConfig, goal_energy
from jepa_edge.world_model import WorldModel

EXTENT_M = 0.075
"""As in upstream's notebook."""
SEARCH = PlannerConfig(horizon=1, candidates=25, elites=10, iterations=2, held=(3, 4, 5))
"""As few as in upstream's notebook, which runs on a CPU too."""


def read_clip(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return pictures (2, 256, 256, 3) and poses (2, 7)."""
    with np.load(path, allow_pickle=False) as file:
        frames, poses = file["observations"][0], file["states"][0]
    if frames.shape != (2, 256, 256, 3) or poses.shape != (2, 7):
        raise InputError(
            f"{path} holds pictures {frames.shape} and poses {poses.shape}, expected "
            "(2, 256, 256, 3) and (2, 7); pass franka_example_traj.npz"
        )
    return np.ascontiguousarray(frames), poses.astype(np.float32)


def action_between(start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the action (7,) that composes one pose into the other."""
    before, after = (Rotation.from_euler("xyz", pose[3:6]) for pose in (start, end))
    turn = (after * before.inv()).as_euler("xyz")
    return np.concatenate([end[:3] - start[:3], turn, end[6:] - start[6:]]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("clip", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="auto")
    parser.add_argument("--steps", type=int, default=5, help="grid values along each axis")
    parser.add_argument("--plan", action="store_true", help="search an action, too")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    model = WorldModel.load(asked.bundle, asked.variant)
    spec = model.manifest.latent
    frames, poses = read_clip(asked.clip)
    taken = action_between(*poses)
    times: dict[str, float] = {}
    begun = time.perf_counter()
    latents = np.concatenate([model.encode(frames[i : i + 1], poses[i : i + 1]) for i in range(2)])
    times["encode_two_frames_s"] = time.perf_counter() - begun
    history, past, goal = latents[:1], np.zeros((0, 7), np.float32), latents[1]
    begun = time.perf_counter()
    predicted = model.predict(history[None], taken[None, None])
    times["predict_s"] = time.perf_counter() - begun
    begun = time.perf_counter()
    landscape = energy_landscape(model, history, past, goal, extent=EXTENT_M, steps=asked.steps)
    times["landscape_s"] = time.perf_counter() - begun
    pose_error = np.abs(predicted[0, -1, :7] - poses[1]).max()
    result: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "onnxruntime": version("onnxruntime"),
        "bundle": asked.bundle.name,
        "variant": model.variant,
        "latents": list(latents.shape),
        "finite": bool(np.isfinite(latents).all() and np.isfinite(landscape.energies).all()),
        "composed_pose_error": float(pose_error),
        "action_taken": taken.tolist(),
        "energy_of_action_taken": float(goal_energy(predicted[:, None], goal, spec=spec)[0]),
        "energy_without_motion": float(goal_energy(latents[None, :1], goal, spec=spec)[0]),
        "landscape_shape": list(landscape.energies.shape),
        "landscape_best": list(landscape.best),
        "landscape": landscape.energies.tolist(),
        "landscape_least": float(landscape.energies.min()),
        "landscape_most": float(landscape.energies.max()),
    }
    if asked.plan:
        plan = Planner(model, SEARCH).plan(history, past, goal)
        times["plan_s"] = plan.time_s
        result["plan"] = plan.actions.tolist()
    result["times"] = times
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_bytes(json_bytes(result))
    print(json_bytes(result).decode())


if __name__ == "__main__":
    main()
