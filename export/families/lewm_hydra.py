# SPDX-License-Identifier: Apache-2.0
"""The `config.json` that stable-worldmodel saves beside `weights.pt`, read without Hydra.

Source: le-wm `config/train/model/lewm.yaml`; stable-worldmodel 0.1.1 `wm/lewm/module.py`;
stable-pretraining `backbone/utils.py` (`vit_hf`) over transformers `ViTConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jepa_edge.errors import CheckpointError
from jepa_edge.export.families.lewm import LeWMConfig

_VIT_SIZES = {  # width, depth, heads; the MLP is four times as wide
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}

_Zero = Annotated[float, Meta(ge=0, le=0)]
_LayerNormEps = Annotated[float, Meta(ge=1e-12, le=1e-12)]
_Probability = Annotated[float, Meta(ge=0, lt=1)]


def _target(name: str) -> Any:
    """Return the field for Hydra's `_target_`: a dotted path whose last part must match."""
    return msgspec.field(name="_target_", default=name)


class _Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of the config. Options that our module has built in accept that value only."""


class _Encoder(_Node, frozen=True, kw_only=True):
    target: Annotated[str, Meta(pattern=r"(^|\.)vit_hf$")] = _target("vit_hf")
    size: Literal["tiny", "small", "base", "large", "huge"] = "tiny"
    patch_size: int = 16
    image_size: int = 224
    pretrained: bool = False
    use_mask_token: bool = True
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: Literal["gelu"] = "gelu"
    hidden_dropout_prob: _Zero = 0.0
    attention_probs_dropout_prob: _Zero = 0.0
    layer_norm_eps: _LayerNormEps = 1e-12
    initializer_range: float = 0.02
    num_channels: Literal[3] = 3


class _Predictor(_Node, frozen=True, kw_only=True):
    target: Annotated[str, Meta(pattern=r"(^|\.)(AR)?Predictor$")] = _target("Predictor")
    num_frames: int
    depth: int
    heads: int
    mlp_dim: int
    input_dim: int
    hidden_dim: int
    output_dim: int | None = None
    dim_head: int = 64
    dropout: _Probability = 0.0
    emb_dropout: _Probability = 0.0


class _Embedder(_Node, frozen=True, kw_only=True):
    target: Annotated[str, Meta(pattern=r"(^|\.)Embedder$")] = _target("Embedder")
    input_dim: int = 10
    smoothed_dim: int = 10
    emb_dim: int = 10
    mlp_scale: int = 4


class _BatchNorm(_Node, frozen=True, kw_only=True):
    target: Annotated[str, Meta(pattern=r"(^|\.)BatchNorm1d$")] = _target("BatchNorm1d")
    partial: bool = msgspec.field(name="_partial_", default=True)


class _Gelu(_Node, frozen=True, kw_only=True):
    target: Annotated[str, Meta(pattern=r"(^|\.)GELU$")] = _target("GELU")
    partial: bool = msgspec.field(name="_partial_", default=True)


class _Mlp(_Node, frozen=True, kw_only=True):
    # Early releases leave norm_fn out although the weights are a batch norm's; what the weights
    # are is checked tensor by tensor.
    target: Annotated[str, Meta(pattern=r"(^|\.)MLP$")] = _target("MLP")
    input_dim: int
    hidden_dim: int
    output_dim: int | None = None
    norm_fn: _BatchNorm = _BatchNorm()
    act_fn: _Gelu = _Gelu()


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    """The whole config; LeWM takes and drops further keyword arguments, and so do we."""

    target: Annotated[str, Meta(pattern=r"(^|\.)(LeWM|JEPA)$")] = _target("LeWM")
    encoder: _Encoder
    predictor: _Predictor
    action_encoder: _Embedder
    projector: _Mlp
    pred_proj: _Mlp


def config_from_hydra(values: Mapping[str, Any], where: str) -> LeWMConfig:
    """Translate a released model's `config.json`.

    values: the decoded file. where: its path, for messages.
    Raises CheckpointError when it describes another model, or a variant that we do not have.
    """
    try:
        model = msgspec.convert(dict(values), _Model)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{where} does not describe a LeWorldModel that can be exported: {error}; pass the "
            "config.json that was saved with the weights, or write one in our own layout"
        ) from error
    dim, depth, heads = _VIT_SIZES[model.encoder.size]
    dim = model.encoder.hidden_size or dim
    D = model.predictor.input_dim
    _check_widths(model, encoder_dim=dim, latent_dim=D, where=where)
    return LeWMConfig(
        image_size=model.encoder.image_size,
        patch_size=model.encoder.patch_size,
        encoder_dim=dim,
        encoder_depth=model.encoder.num_hidden_layers or depth,
        encoder_heads=model.encoder.num_attention_heads or heads,
        encoder_mlp_dim=model.encoder.intermediate_size or 4 * _VIT_SIZES[model.encoder.size][0],
        latent_dim=D,
        projector_dim=model.projector.hidden_dim,
        predictor_dim=model.predictor.hidden_dim,
        predictor_depth=model.predictor.depth,
        predictor_heads=model.predictor.heads,
        predictor_dim_head=model.predictor.dim_head,
        predictor_mlp_dim=model.predictor.mlp_dim,
        history=model.predictor.num_frames,
        action_dim=model.action_encoder.input_dim,
        action_smoothed_dim=model.action_encoder.smoothed_dim,
        action_mlp_scale=model.action_encoder.mlp_scale,
        dropout=model.predictor.dropout,
        embedding_dropout=model.predictor.emb_dropout,
    )


def _check_widths(model: _Model, *, encoder_dim: int, latent_dim: int, where: str) -> None:
    """Raise CheckpointError where parts do not fit together as they do in the released models."""
    heads = {
        "projector": (model.projector, encoder_dim),
        "pred_proj": (model.pred_proj, latent_dim),
    }
    widths = {
        "predictor.output_dim": (model.predictor.output_dim or latent_dim, latent_dim),
        "action_encoder.emb_dim": (model.action_encoder.emb_dim, latent_dim),
        "pred_proj.hidden_dim": (model.pred_proj.hidden_dim, model.projector.hidden_dim),
    }
    for name, (mlp, input_dim) in heads.items():
        widths[f"{name}.input_dim"] = (mlp.input_dim, input_dim)
        widths[f"{name}.output_dim"] = (mlp.output_dim or mlp.input_dim, latent_dim)
    for name, (got, expected) in widths.items():
        if got != expected:
            raise CheckpointError(
                f"{where}: {name} is {got}, expected {expected} to fit the parts beside it; "
                "this variant of LeWorldModel is not supported"
            )
