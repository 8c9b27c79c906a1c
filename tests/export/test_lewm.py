# SPDX-License-Identifier: Apache-2.0
"""Our LeWorldModel against the authors' own code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jepa_edge.errors import InputError
from jepa_edge.export.families.lewm import LeWM, LeWMConfig

Builder = Callable[..., nn.Module]

AGREEMENT = 1e-4
"""Largest difference allowed in float32, with outputs of order one."""

FULL_SIZE = LeWMConfig()


@pytest.fixture(scope="module")
def full_pair(build_upstream: Builder) -> tuple[nn.Module, LeWM]:
    return _pair(build_upstream, FULL_SIZE)


def _pair(build: Builder, config: LeWMConfig) -> tuple[nn.Module, LeWM]:
    upstream = build(config, seed=3)
    ours = LeWM(config)
    ours.load_state_dict(upstream.state_dict(), strict=True)
    return upstream, ours.eval()


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assert_agree(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert expected.std() > 0.05, "the reference is nearly constant: the comparison shows nothing"
    torch.testing.assert_close(got, expected, atol=AGREEMENT, rtol=0)


def test_released_size() -> None:
    state = LeWM(FULL_SIZE).state_dict()
    assert len(state) == 303
    assert sum(tensor.numel() for tensor in state.values()) == 18_042_672


def test_released_keys(build_upstream: Builder) -> None:
    upstream = {k: v.shape for k, v in build_upstream(FULL_SIZE).state_dict().items()}
    assert {k: v.shape for k, v in LeWM(FULL_SIZE).state_dict().items()} == upstream


@torch.no_grad()
def test_encoder_agrees(full_pair: tuple[nn.Module, LeWM]) -> None:
    upstream, ours = full_pair
    pixels = _normal(2, 3, 224, 224, seed=0)
    expected = upstream.encode({"pixels": pixels.unsqueeze(0)})["emb"][0]
    _assert_agree(ours.encode(pixels), expected)
    assert not torch.allclose(expected[0], expected[1], atol=0.01), "the encoder ignores its input"


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, 3])
def test_predictor_agrees(full_pair: tuple[nn.Module, LeWM], window: int) -> None:
    upstream, ours = full_pair
    latents, actions = _normal(5, window, 192, seed=1), _normal(5, window, 10, seed=2)
    embedded = upstream.action_encoder(actions)
    _assert_agree(ours.encode_actions(actions), embedded)
    _assert_agree(ours.predict(latents, embedded), upstream.predict(latents, embedded))


@torch.no_grad()
@pytest.mark.parametrize("observed", [1, 2, 3, 5])
def test_rollout_and_cost_agree(full_pair: tuple[nn.Module, LeWM], observed: int) -> None:
    """Through upstream's own planner interface: B = 2 states, S = 3 candidates, horizon 5."""
    upstream, ours = full_pair
    history = _normal(2, observed, 192, seed=4)
    actions = _normal(2, 3, observed + 4, 10, seed=5)
    goal = _normal(2, 192, seed=6)
    info = {
        "pixels": torch.zeros(2, 3, observed, 1),  # only its length is read: "emb" is cached
        "goal": torch.zeros(1),
        "emb": history.unsqueeze(1).expand(2, 3, -1, -1),
        "goal_emb": goal[:, None, None].expand(2, 3, -1, -1),
    }
    expected_cost = upstream.get_cost(info, actions)
    expected = info["predicted_emb"][:, :, observed:]

    flat = history.unsqueeze(1).expand(2, 3, -1, -1).flatten(0, 1)
    predicted = ours.rollout(flat, actions.flatten(0, 1)).unflatten(0, (2, 3))
    _assert_agree(predicted, expected)
    cost = ours.cost(predicted, goal.unsqueeze(1))
    assert cost.shape == (2, 3)
    torch.testing.assert_close(cost, expected_cost, atol=AGREEMENT, rtol=AGREEMENT)


@torch.no_grad()
def test_planning_from_pixels_agrees(full_pair: tuple[nn.Module, LeWM]) -> None:
    """One call from images to costs, encoders included on both sides."""
    upstream, ours = full_pair
    pixels, goal = _normal(1, 1, 3, 224, 224, seed=7), _normal(1, 1, 3, 224, 224, seed=8)
    actions = _normal(1, 2, 3, 10, seed=9)
    info = {
        "pixels": pixels.unsqueeze(1).expand(1, 2, -1, -1, -1, -1),
        "goal": goal.unsqueeze(1).expand(1, 2, -1, -1, -1, -1),
        "action": torch.zeros(1, 2, 1, 10),
    }
    expected = upstream.get_cost(info, actions)[0]

    history = ours.encode(pixels[0]).expand(2, 1, -1)
    predicted = ours.rollout(history, actions[0])
    torch.testing.assert_close(
        ours.cost(predicted, ours.encode(goal[0])), expected, atol=AGREEMENT, rtol=AGREEMENT
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"predictor_dim": 24},
        {"predictor_heads": 5, "predictor_dim_head": 8},
        # One head of the full width: upstream drops the attention's output projection.
        {"predictor_dim": 24, "predictor_dim_head": 24},
        {"history": 1},
    ],
    ids=["all sizes differ", "no projections", "many heads", "one full head", "history 1"],
)
def test_other_sizes_agree(
    build_upstream: Builder, small_config: LeWMConfig, changes: dict[str, int]
) -> None:
    config = dataclasses.replace(small_config, **changes)
    upstream, ours = _pair(build_upstream, config)
    pixels = _normal(4, 3, 32, 32, seed=10)
    _assert_agree(ours.encode(pixels), upstream.encode({"pixels": pixels[None]})["emb"][0])
    history = _normal(2, 2, config.latent_dim, seed=11)
    actions = _normal(2, 7, config.action_dim, seed=12)
    info = {"pixels": torch.zeros(2, 1, 2, 1), "emb": history.unsqueeze(1)}
    expected = upstream.rollout(info, actions.unsqueeze(1))["predicted_emb"][:, 0, 2:]
    _assert_agree(ours.rollout(history, actions), expected)


def test_training_mode_agrees(build_upstream: Builder, small_config: LeWMConfig) -> None:
    """Batch statistics and gradients, with dropout off since its draws differ."""
    config = dataclasses.replace(small_config, dropout=0.0)
    upstream, ours = _pair(build_upstream, config)
    upstream.train()
    ours.train()
    latents, actions = _normal(6, 3, 24, seed=13), _normal(6, 3, 6, seed=14)
    expected = upstream.predict(latents, upstream.action_encoder(actions))
    got = ours.predict(latents, ours.encode_actions(actions))
    _assert_agree(got, expected)
    expected.square().sum().backward()
    got.square().sum().backward()
    theirs = dict(upstream.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            expected_grad = theirs[name].grad
            scale = expected_grad.abs().max().clamp(min=1.0)
            torch.testing.assert_close(
                parameter.grad / scale, expected_grad / scale, atol=AGREEMENT, rtol=0, msg=name
            )


def test_dropout_is_live_in_training_only(small_config: LeWMConfig) -> None:
    model = LeWM(small_config)
    for block in model.predictor.transformer.layers:
        nn.init.normal_(block.adaLN_modulation[1].weight, std=0.3)  # zero gates would hide dropout
    latents, embedded = _normal(3, 2, 24, seed=15), _normal(3, 2, 24, seed=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(
            model.predictor(latents, embedded), model.predictor(latents, embedded)
        )
    model.eval()
    assert torch.equal(model.predictor(latents, embedded), model.predictor(latents, embedded))


def test_goal_receives_no_gradient(small_config: LeWMConfig) -> None:
    predicted = _normal(2, 3, 24, seed=17).requires_grad_()
    goal = _normal(2, 24, seed=18).requires_grad_()
    LeWM(small_config).cost(predicted, goal).sum().backward()
    assert predicted.grad is not None
    assert goal.grad is None


def test_programs_export_with_a_dynamic_batch(small_config: LeWMConfig) -> None:
    """The encoder and the predictor trace into one graph each, whatever the batch."""
    model = LeWM(small_config).eval()

    class Verb(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.model, self.name = model, name

        def forward(self, *inputs: Tensor) -> Tensor:
            result: Tensor = getattr(self.model, self.name)(*inputs)
            return result

    latents, embedded = _normal(2, 4, 24, seed=19), _normal(2, 4, 24, seed=20)
    for name, inputs in (
        ("encode", (_normal(2, 3, 32, 32, seed=21),)),
        ("predict", (latents, embedded)),
    ):
        batch = torch.export.Dim("batch", min=1, max=1024)
        shapes = {"inputs": tuple({0: batch} for _ in inputs)}
        program = torch.export.export(Verb(name), inputs, dynamic_shapes=shapes)
        wider = tuple(tensor.repeat(3, *[1] * (tensor.ndim - 1)) for tensor in inputs)
        torch.testing.assert_close(program.module()(*wider), Verb(name)(*wider))


def test_config_round_trip(small_config: LeWMConfig) -> None:
    assert LeWMConfig.from_dict(small_config.to_dict()) == small_config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"latent_dims": 3}, "unknown key 'latent_dims'"),
        ({"history": 0}, "history is 0, expected a positive integer"),
        ({"history": 2.5}, "history is 2.5"),
        ({"history": True}, "history is True"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": "0.1"}, "dropout is '0.1'"),
        ({"patch_size": 15}, "patch_size 15 does not divide image_size 224"),
        ({"encoder_heads": 5}, "encoder_heads 5 does not divide encoder_dim 192"),
    ],
)
def test_config_refuses(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LeWMConfig.from_dict(values)


def test_wrong_shapes_are_named(small_config: LeWMConfig) -> None:
    model = LeWM(small_config).eval()
    with pytest.raises(InputError, match=r"expected \(B, 3, 32, 32\)"):
        model.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(InputError, match="5 latents, expected at most history = 4"):
        model.predict(torch.zeros(1, 5, 24), torch.zeros(1, 5, 24))
    with pytest.raises(InputError, match="3 latents and 2 actions"):
        model.rollout(torch.zeros(1, 3, 24), torch.zeros(1, 2, 6))
