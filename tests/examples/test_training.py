# SPDX-License-Identifier: Apache-2.0
"""The examples' training code against sums done by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"


def _training_module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(f"training.{name}")


def test_inverse_dynamics_lines_actions_up_with_the_frames_around_them() -> None:
    """With weights that take the second difference, an action that is one is guessed exactly."""
    losses = _training_module("losses")
    head = losses.InverseDynamics(latent_dim=2, action_dim=2, frames=3, hidden=0)
    eye = torch.eye(2)
    with torch.no_grad():
        head.net.weight.copy_(torch.cat([eye, -2 * eye, eye], dim=1))
        head.net.bias.zero_()
    latents = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
    actions = torch.full((4, 7, 2), 99.0)  # the first has one frame too few before it
    actions[:, 1:] = latents[:, 2:] - 2 * latents[:, 1:-1] + latents[:, :-2]
    assert head.loss(latents, actions).item() < 1e-10
    assert head.loss(latents, actions.roll(1, dims=1)).item() > 1


def test_inverse_dynamics_of_two_frames_uses_every_action() -> None:
    losses = _training_module("losses")
    head = losses.InverseDynamics(latent_dim=2, action_dim=2, frames=2, hidden=0)
    with torch.no_grad():
        head.net.weight.copy_(torch.cat([-torch.eye(2), torch.eye(2)], dim=1))
        head.net.bias.zero_()
    latents = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))
    assert head.loss(latents, latents.diff(dim=1)).item() < 1e-10
    wrong = latents.diff(dim=1)
    wrong[:, 0, 0] += 0.5
    # 0.5 off in one of four actions, in one of its two numbers
    assert head.loss(latents, wrong).item() == pytest.approx(0.5**2 / 8)


def test_sigreg_prefers_a_normal_cloud() -> None:
    losses = _training_module("losses")
    sigreg = losses.SIGReg()
    torch.manual_seed(0)
    normal = torch.randn(200, 8)
    values = [sigreg(cloud).item() for cloud in (normal, 0.3 * normal, 3 * normal, normal + 1)]
    assert values[0] < 0.3 * min(values[1:])


def test_probe_finds_what_is_linear_and_nothing_else() -> None:
    evaluate = _training_module("evaluate")
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(200, 6, 5)).astype(np.float32)
    states = np.stack([latents @ np.arange(5.0), latents[..., 0] ** 2], axis=-1)
    r2 = evaluate.probe_figures(latents, states.astype(np.float32), ("linear", "square"))
    assert r2["linear"] > 0.999
    assert r2["square"] < 0.1


def test_windows_keep_frames_and_actions_together() -> None:
    data = _training_module("data")
    count = np.arange(6)[:, None] * 10 + np.arange(9)  # episode and time of every frame
    runs = data.Runs(
        frames=np.broadcast_to(count[..., None, None, None], (6, 9, 2, 2, 3)).astype(np.uint8),
        actions=count[:, :-1, None].astype(np.float32),
        states=count[..., None].astype(np.float32),
        state_names=("count",),
    )
    rng = np.random.default_rng(0)
    frames, actions = data.sample_windows(runs, rng, batch=200, length=4)
    first = frames[:, :, 0, 0, 0].astype(int)
    assert (np.diff(first, axis=1) == 1).all()
    assert (first // 10 == first[:, :1] // 10).all()
    np.testing.assert_array_equal(actions[..., 0], first[:, :-1])
    assert {int(value) for value in first[:, 0] % 10} == set(range(6))  # every start is drawn
