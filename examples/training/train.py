# SPDX-License-Identifier: Apache-2.0
"""Trains an example's world model, from the simulator to the weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.sim import make_simulator
from training.data import PIXEL_MEAN, PIXEL_STD, Runs, load_runs, normalize_frames, sample_windows
from training.evaluate import HORIZONS, evaluate
from training.losses import InverseDynamics, SIGReg, prediction_loss
from training.start import widen_start
from training.task import Recipe, Task

log = logging.getLogger(__name__)


def refresh_batch_norm(model: LeWM, runs: Runs, recipe: Recipe, *, batches: int = 25) -> None:
    """Replace batch norm's running averages, which lag behind the weights, by plain averages."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: average all batches alike
    rng = np.random.default_rng(recipe.seed + 1)
    flat = runs.actions.reshape(-1, runs.actions.shape[-1])
    mean, std = flat.mean(0), flat.std(0)
    model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for _ in range(batches):
            frames, actions = sample_windows(
                runs, rng, batch=recipe.batch, length=model.config.history + HORIZONS
            )
            latents = model.encode(normalize_frames(frames.reshape(-1, *frames.shape[2:])))
            prediction_loss(
                model,
                latents.unflatten(0, frames.shape[:2]),
                torch.from_numpy((actions - mean) / std),
            )
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def schedule(step: int, recipe: Recipe) -> float:
    """Return the learning rate's factor: linear warm-up, constant, then linear down to zero."""
    left = (recipe.steps - step) / max(1.0, recipe.cooldown * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup_steps, left)


def optimizer_groups(modules: list[torch.nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into matrices, which decay, and vectors and positions, which don't."""
    decay, keep = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            flat = parameter.ndim < 2 or "position" in name or "pos_embedding" in name
            (keep if flat else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def save_model(
    out: Path,
    task: Task,
    model: LeWM,
    metrics: dict[str, Any],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
) -> None:
    """Write model.safetensors, config.json and metrics.json into `out`."""
    robot = make_simulator(task.name, size=task.model.image_size, block=task.block)
    save_checkpoint(
        out,
        model,
        observation=ObservationSpec(
            height=robot.size,
            width=robot.size,
            mean=PIXEL_MEAN,
            std=PIXEL_STD,
            rate_hz=robot.rate_hz,
        ),
        action=ActionSpec(
            dim=robot.action_dim,
            block=robot.block,
            mean=tuple(float(value) for value in mean),
            std=tuple(float(value) for value in std),
            low=robot.action_low,
            high=robot.action_high,
            units=robot.action_units,
            names=robot.action_names,
        ),
    )
    staging = out / ".metrics.json.partial"
    staging.write_text(json.dumps(metrics, indent=2) + "\n")
    staging.replace(out / "metrics.json")


def train(
    out: Path,
    task: Task,
    recipe: Recipe,
    splits: Mapping[str, Runs],
    *,
    eval_every: int,
    resume: Path | None = None,
    state_dir: Path | None = None,
) -> dict[str, Any]:
    """Train, saving a usable model at every evaluation; return the last figures.

    splits: the recordings named train, val and probe. resume: a state file to go on from.
    state_dir: where to keep such files, None for nowhere.
    """
    runs = splits["train"]
    length = task.model.history + HORIZONS
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    flat_actions = runs.actions.reshape(-1, runs.actions.shape[-1])
    mean, std = flat_actions.mean(0), flat_actions.std(0)

    model = LeWM(task.model)
    widen_start(model, runs.frames[:1000, 0])
    inverse = InverseDynamics(
        latent_dim=task.model.latent_dim,
        action_dim=task.model.action_dim,
        frames=task.inverse_frames,
        hidden=task.inverse_hidden,
    )
    sigreg = SIGReg()
    optimizer = torch.optim.AdamW(
        optimizer_groups([model, inverse], recipe.weight_decay),
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        eps=1e-7,
    )
    parameters = [*model.parameters(), *inverse.parameters()]
    figures: dict[str, Any] = {}
    start = 0
    if resume is not None:
        saved = torch.load(resume, weights_only=True)
        for name, part in (("model", model), ("inverse", inverse), ("optimizer", optimizer)):
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["torch_rng"])
        rng.bit_generator.state = saved["numpy_rng"]
        start = saved["step"]
    began = time.monotonic()
    for step in range(start + 1, recipe.steps + 1):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step - 1, recipe)
        frames, raw_actions = sample_windows(runs, rng, batch=recipe.batch, length=length)
        actions = torch.from_numpy((raw_actions - mean) / std)
        latents = model.encode(normalize_frames(frames.reshape(-1, *frames.shape[2:])))
        spread = sigreg(latents)
        latents = latents.unflatten(0, (recipe.batch, length))
        one_step, multi_step = prediction_loss(model, latents, actions)
        guess = inverse.loss(latents, actions)
        loss = (
            one_step
            + multi_step
            + recipe.sigreg_weight * spread
            + recipe.inverse_dynamics_weight * guess
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_gradient_norm)
        optimizer.step()
        if step % 50 == 0:
            log.info(
                "step %d/%d  one-step %.4f  multi-step %.4f  sigreg %.3f  inverse %.4f  %.2f s",
                step, recipe.steps, one_step.item(), multi_step.item(), spread.item(), guess.item(),
                (time.monotonic() - began) / (step - start),
            )  # fmt: skip
        if step % eval_every == 0 or step == recipe.steps:
            refresh_batch_norm(model, runs, recipe)
            figures = evaluate(model, splits["val"], splits["probe"], mean=mean, std=std)
            figures["step"] = step
            figures["recipe"] = dataclasses.asdict(recipe)
            save_model(out, task, model, figures, mean, std)
            if state_dir is not None:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "inverse": inverse.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "torch_rng": torch.get_rng_state(),
                        "numpy_rng": rng.bit_generator.state,
                        "step": step,
                    },
                    state_dir / f"state_{step:05d}.pt",
                )
            log.info(
                "held out: ratio to copy %s  sensitivity %.2f  probe %s  dims %.1f  std %.2f",
                [round(value, 3) for value in figures["ratio_to_copy"]],
                figures["action_sensitivity"],
                {name: round(value, 3) for name, value in figures["probe_r2"].items()},
                figures["effective_dims"],
                figures["latent_std"],
            )
    return figures


def main(task: Task) -> None:
    """Parse the command line, record what is missing, train, save."""
    parser = argparse.ArgumentParser(description=f"Train the small world model of {task.name}.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data") / task.name,
        help="recordings (default: %(default)s)",
    )
    parser.add_argument(
        "--eval-every", type=int, default=500, help="steps between checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--resume", type=Path, help="go on from a state file that an earlier run left in --data"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    for name, value in dataclasses.asdict(task.recipe).items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(value), default=value, help="%(default)s")
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options["threads"])
    recipe = Recipe(**{field.name: options[field.name] for field in dataclasses.fields(Recipe)})
    splits = {name: load_runs(task, options["data"], name) for name in task.splits}
    log.info("training on %d episodes: %s", len(splits["train"].frames), recipe)
    train(
        options["out"],
        task,
        recipe,
        splits,
        eval_every=options["eval_every"],
        resume=options["resume"],
        state_dir=options["data"],
    )
