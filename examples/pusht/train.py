# SPDX-License-Identifier: Apache-2.0
"""Train the small PushT world model that JEPA Edge ships, from the simulator to the weights.

One command repeats everything, data included (about an hour on two CPU cores):

    python examples/pusht/train.py --out examples/pusht/model
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data import PIXEL_MEAN, PIXEL_STD, Runs, load_runs, normalize_frames, sample_windows
from evaluate import HORIZONS, evaluate
from jepa_edge.export.checkpoint import save_checkpoint
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.sim.pusht import ENV_RATE_HZ, WORKSPACE
from losses import InverseDynamics, SIGReg, prediction_loss

log = logging.getLogger("pusht")

BLOCK = 2
"""Environment steps per action block: 5 model steps per second."""

MODEL = LeWMConfig(
    image_size=64,
    patch_size=16,
    encoder_dim=128,
    encoder_depth=4,
    encoder_heads=4,
    encoder_mlp_dim=512,
    latent_dim=64,
    projector_dim=512,
    predictor_dim=128,
    predictor_depth=4,
    predictor_heads=4,
    predictor_dim_head=32,
    predictor_mlp_dim=512,
    history=3,
    action_dim=4,
    action_smoothed_dim=4,
    dropout=0.1,
)


LENGTH = MODEL.history + HORIZONS
"""Frames per training window: what the model sees first, and five steps to predict."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything about a training run that is no model size.

    batch: windows of frames. cooldown: last share of the steps, over which the learning rate falls
    to zero; before it the rate is constant, so runs of different lengths begin alike.
    """

    steps: int = 3600
    batch: int = 24
    learning_rate: float = 7e-4
    warmup_steps: int = 200
    cooldown: float = 0.3
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    sigreg_weight: float = 0.15
    inverse_dynamics_weight: float = 1.0
    seed: int = 0


def widen_start(model: LeWM, frames: NDArray[np.uint8]) -> None:
    """Redraw the encoder's first weights so that images differ at its output from the start.

    PushT is nearly all white: with the usual start every patch token, and so the class token, is
    one constant plus a trace of the image. Batch norm blows the trace up, and its running
    statistics cannot follow the constant's drift. So the mean patch is mapped to zero, and the
    filters are the whitened principal components of the patches: smooth ones, to which the rare
    patch with the small agent in it is as loud as the block.

    frames: (B, H, W, 3) uint8, a sample of the training frames.
    """
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
    embeddings = model.encoder.embeddings
    projection = embeddings.patch_embeddings.projection
    size, dim = model.config.patch_size, model.config.encoder_dim
    with torch.no_grad():
        patches = torch.nn.functional.unfold(normalize_frames(frames), size, stride=size)
        flat = patches.transpose(1, 2).flatten(0, 1)
        variances, components = torch.linalg.eigh(torch.cov(flat.T))
        variances, components = variances[-dim:], components[:, -dim:]
        filters = (components / (variances + variances[0]).sqrt()).T
        mixed = torch.linalg.qr(torch.randn(dim, dim)).Q @ filters  # loudness spread over channels
        projection.weight.copy_(mixed.view_as(projection.weight))
        projection.bias.copy_(-mixed @ flat.mean(dim=0))
        embeddings.position_embeddings[0, 1:] = grid_positions(model.config.image_size // size, dim)


def grid_positions(side: int, dim: int) -> Tensor:
    """Return (side * side, dim) sines and cosines of row and column, slow ones first."""
    place = torch.linspace(-1.0, 1.0, side)
    frequency = 0.5 * math.pi * torch.linspace(0.5, side / 2, dim // 4)
    waves = torch.cat(
        [torch.sin(place[:, None] * frequency), torch.cos(place[:, None] * frequency)], 1
    )
    rows = waves[:, None].expand(side, side, -1)
    return torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)


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
            frames, actions = sample_windows(runs, rng, batch=recipe.batch, length=LENGTH)
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
    out: Path, model: LeWM, metrics: dict[str, Any], mean: NDArray[Any], std: NDArray[Any]
) -> None:
    """Write model.safetensors, config.json and metrics.json into `out`."""
    save_checkpoint(
        out,
        model,
        observation=ObservationSpec(
            height=model.config.image_size,
            width=model.config.image_size,
            mean=PIXEL_MEAN,
            std=PIXEL_STD,
            rate_hz=ENV_RATE_HZ / BLOCK,
        ),
        action=ActionSpec(
            dim=model.config.action_dim,
            block=BLOCK,
            mean=tuple(float(value) for value in mean),
            std=tuple(float(value) for value in std),
            low=(0.0,) * model.config.action_dim,
            high=(WORKSPACE,) * model.config.action_dim,
            units="pixels, absolute target of the agent",
            names=tuple(f"{axis}{step}" for step in range(BLOCK) for axis in "xy"),
        ),
    )
    staging = out / ".metrics.json.partial"
    staging.write_text(json.dumps(metrics, indent=2) + "\n")
    staging.replace(out / "metrics.json")


def train(
    out: Path,
    runs: Runs,
    val: Runs,
    probe: Runs,
    recipe: Recipe,
    *,
    eval_every: int,
    resume: Path | None = None,
    state_dir: Path | None = None,
) -> dict[str, Any]:
    """Train, saving a usable model at every evaluation; return the last figures.

    resume: a state file to go on from. state_dir: where to keep such files, None for nowhere.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    flat_actions = runs.actions.reshape(-1, runs.actions.shape[-1])
    mean, std = flat_actions.mean(0), flat_actions.std(0)

    model = LeWM(MODEL)
    widen_start(model, runs.frames[:1000, 0])
    inverse = InverseDynamics(latent_dim=MODEL.latent_dim, action_dim=MODEL.action_dim)
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
        frames, raw_actions = sample_windows(runs, rng, batch=recipe.batch, length=LENGTH)
        actions = torch.from_numpy((raw_actions - mean) / std)
        latents = model.encode(normalize_frames(frames.reshape(-1, *frames.shape[2:])))
        spread = sigreg(latents)
        latents = latents.unflatten(0, (recipe.batch, LENGTH))
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
            figures = evaluate(model, val, probe, mean=mean, std=std)
            figures["step"] = step
            figures["recipe"] = dataclasses.asdict(recipe)
            save_model(out, model, figures, mean, std)
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


def main() -> None:
    """Parse the command line, record what is missing, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument(
        "--data", type=Path, default=Path("data/pusht"), help="recordings (default: %(default)s)"
    )
    parser.add_argument(
        "--eval-every", type=int, default=500, help="steps between checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--resume", type=Path, help="go on from a state file that an earlier run left in --data"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help="%(default)s",
        )
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options["threads"])
    recipe = Recipe(**{field.name: options[field.name] for field in dataclasses.fields(Recipe)})
    splits = {name: load_runs(options["data"], name) for name in ("train", "val", "probe")}
    log.info("training on %d episodes: %s", len(splits["train"].frames), recipe)
    train(
        options["out"],
        splits["train"],
        splits["val"],
        splits["probe"],
        recipe,
        eval_every=options["eval_every"],
        resume=options["resume"],
        state_dir=options["data"],
    )


if __name__ == "__main__":
    main()
