# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2 at its true layer sizes against transformers' `VJEPA2Model`, seeded random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .vjepa2_fixtures import indices, load, normalized, pictures, relative_error

LIMIT = 1e-4

SIZES = {
    "L": {"hidden_size": 1024, "num_attention_heads": 16},
    "H": {"hidden_size": 1280, "num_attention_heads": 16},
    "g": {"hidden_size": 1408, "num_attention_heads": 22, "mlp_ratio": 48 / 11},
}


def _theirs(depth: int, size: int, **sizes: Any) -> Any:
    """Their model without its own slow initialization, its weights spread wide: logits of scale 1
    and more, so that attention is uneven and positions count."""
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=size,
        frames_per_clip=4,
        num_hidden_layers=depth,
        pred_num_hidden_layers=2,
        **sizes,
    )
    with torch.device("meta"):
        model = VJEPA2Model(config)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, slot in model.state_dict().items():
            if slot.ndim == 1:
                slot.normal_(std=0.2, generator=generator)
                slot.add_(float("norm" in name and name.endswith("weight")))
            else:
                fan_in = slot.shape[1:].numel()
                slot.normal_(std=1.2 * fan_in**-0.5, generator=generator)
        # Theirs always predicts with mask token 1, which training with clips of one length leaves
        # at zero; ours with 0.
        tokens = model.predictor.embeddings.mask_tokens
        tokens.normal_(generator=generator)
        tokens[1] = tokens[0]
    return model


def _compare(model: Any, size: int) -> None:
    state = dict(model.state_dict())
    ours = load(state, {"model": {"clip_frames": 4}}, config=model.config.to_dict())
    clips = pictures("clip", 2, 4, size, size, 3)
    tokens, visible, hidden = indices(ours)
    encoder, predictor = ours.graphs["encoder"].module, ours.graphs["mask_predictor"].module
    with torch.no_grad():
        wanted = model(
            normalized(clips),
            context_mask=[visible.expand(2, -1)],
            target_mask=[hidden.expand(2, -1)],
        )
        latents = encoder(torch.from_numpy(clips), tokens)
        predicted = predictor(latents[:, visible], visible, hidden)
    assert relative_error(latents, wanted.last_hidden_state) < LIMIT
    assert relative_error(predicted, wanted.predictor_output.last_hidden_state) < LIMIT


@pytest.mark.parametrize("size", SIZES)
def test_true_layer_sizes(size: str) -> None:
    _compare(_theirs(1, 64, **SIZES[size]), 64)


def test_full_depth_vit_l() -> None:
    _compare(_theirs(24, 64, **SIZES["L"]), 64)


def test_attention_of_these_weights_is_uneven() -> None:
    """Else a wrong rotation would hide: the largest share of attention is far above 1 / N."""
    model = _theirs(1, 64, **SIZES["L"])
    model.set_attn_implementation("eager")
    shares: list[torch.Tensor] = []
    attention = model.encoder.layer[0].attention
    attention.register_forward_hook(lambda *args: shares.append(args[2][1]))
    with torch.no_grad():
        model(normalized(pictures("clip", 1, 4, 64, 64, 3)), skip_predictor=True)
    tokens = shares[0].shape[-1]
    assert float(shares[0].amax(-1).mean()) > 4 / tokens
