# SPDX-License-Identifier: Apache-2.0
"""Measures a world model on episodes that it was not trained on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.families.lewm_checkpoint import load_checkpoint
from training.data import Runs, load_runs, normalize_frames
from training.task import Task

HORIZONS = 5
SENSITIVITY_HORIZON = 4


@torch.no_grad()
def encode_runs(model: LeWM, runs: Runs, *, batch: int = 256) -> Tensor:
    """Return the latents (E, T + 1, D) of all frames."""
    flat = runs.frames.reshape(-1, *runs.frames.shape[2:])
    parts = [
        model.encode(normalize_frames(flat[start : start + batch]))
        for start in range(0, len(flat), batch)
    ]
    return torch.cat(parts).unflatten(0, runs.frames.shape[:2])


@torch.no_grad()
def prediction_figures(
    model: LeWM, latents: Tensor, actions: Tensor, *, seed: int = 0
) -> dict[str, Any]:
    """Compare rollouts with copying the last latent and with rollouts under wrong actions.

    latents: (E, T + 1, D). actions: (E, T, A), z-scored. Windows do not overlap.
    Returns mean squared errors per horizon and their ratios: `ratio_to_copy` (below 1 is better
    than copying) and `action_sensitivity` (error at horizon 4 with the future actions of another
    window over the error with the commanded ones).
    """
    history = model.config.history
    span = history + HORIZONS
    starts = range(0, latents.shape[1] - span + 1, span)
    windows = torch.cat([latents[:, start : start + span] for start in starts])
    acts = torch.cat([actions[:, start : start + span - 1] for start in starts])
    known, future = windows[:, :history], windows[:, history:]

    order = torch.randperm(len(acts), generator=torch.Generator().manual_seed(seed))
    shuffled = acts.clone()
    shuffled[:, history - 1 :] = acts[order, history - 1 :]  # what has happened stays as it was

    error = (model.rollout(known, acts) - future).square().mean(dim=(0, 2))
    wrong = (model.rollout(known, shuffled) - future).square().mean(dim=(0, 2))
    copy = (known[:, -1:] - future).square().mean(dim=(0, 2))
    return {
        "windows": len(windows),
        "error": error.tolist(),
        "copy_error": copy.tolist(),
        "ratio_to_copy": (error / copy).tolist(),
        "shuffled_error": wrong.tolist(),
        "action_sensitivity": float(
            wrong[SENSITIVITY_HORIZON - 1] / error[SENSITIVITY_HORIZON - 1]
        ),
    }


def probe_figures(
    latents: NDArray[np.float32],
    states: NDArray[np.float32],
    names: Sequence[str],
    *,
    ridge: float = 1.0,
) -> dict[str, float]:
    """Return R2 per state column, by name, of a ridge regression from latents.

    latents: (E, T + 1, D). states: (E, T + 1, S). The first half of the episodes fits the probe,
    the second half scores it.
    """
    half = len(latents) // 2
    x_fit, x_test = (part.reshape(-1, part.shape[-1]) for part in (latents[:half], latents[half:]))
    y_fit, y_test = (part.reshape(-1, part.shape[-1]) for part in (states[:half], states[half:]))
    center, offset = x_fit.mean(0), y_fit.mean(0)
    x = (x_fit - center).astype(np.float64)
    gram = x.T @ x + ridge * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y_fit - offset))
    residual = y_test - ((x_test - center) @ weights + offset)
    r2 = 1.0 - np.square(residual).mean(0) / y_test.var(0)
    return dict(zip(names, (float(value) for value in r2), strict=True))


def evaluate(
    model: LeWM, val: Runs, probe: Runs, *, mean: NDArray[np.float32], std: NDArray[np.float32]
) -> dict[str, Any]:
    """Return every figure of the model card. mean, std: (A,), for z-scoring the actions."""
    model.eval()
    latents = encode_runs(model, val)
    figures = prediction_figures(model, latents, torch.from_numpy((val.actions - mean) / std))
    flat = latents.flatten(0, 1)
    spectrum = torch.linalg.eigvalsh(torch.cov(flat.T)).clamp(min=0)
    share = spectrum / spectrum.sum()
    figures["latent_std"] = float(flat.std(dim=0).mean())
    # exp of the spectrum's entropy: D for an isotropic cloud, near 1 for a collapsed one
    figures["effective_dims"] = float(torch.exp(-(share * (share + 1e-12).log()).sum()))
    figures["probe_r2"] = probe_figures(
        encode_runs(model, probe).numpy(), probe.states, probe.state_names
    )
    return figures


def main(task: Task) -> None:
    """Load a model, record the held-out episodes where they are missing, print the figures."""
    parser = argparse.ArgumentParser(description=f"Measure a world model of {task.name}.")
    parser.add_argument("model", type=Path, help="folder with model.safetensors and config.json")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data") / task.name,
        help="recordings (default: %(default)s)",
    )
    options = parser.parse_args()
    model, _, extras = load_checkpoint(options.model)
    mean, std = (np.float32(values) for values in (extras.action.mean, extras.action.std))
    val, probe = (load_runs(task, options.data, name) for name in ("val", "probe"))
    figures = evaluate(model, val, probe, mean=mean, std=std)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
