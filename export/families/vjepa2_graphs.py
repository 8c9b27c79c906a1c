# SPDX-License-Identifier: Apache-2.0
"""The torch modules that become V-JEPA 2's ONNX files: encoder and mask predictor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_edge.errors import InputError
from jepa_edge.export.families.pixels import PIXEL_SCALE, frozen_linear, patch_linear
from jepa_edge.export.families.vjepa2_model import (
    VJepa2Config,
    VJepa2Encoder,
    VJepa2Predictor,
    rope_table,
)


class EncoderGraph(nn.Module):
    """Clips, or single images where the config has 1 frame, to latents.

    mean, std: per channel, of pixels scaled to [0, 1]. all_levels: 2.1, whether a latent is the
    layer-normed outputs of all levels, the last level first; else of the last level alone.
    """

    rope: Tensor

    def __init__(
        self,
        encoder: VJepa2Encoder,
        config: VJepa2Config,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        all_levels: bool = False,
    ) -> None:
        super().__init__()
        self._made_of = (encoder, config, tuple(mean), tuple(std), all_levels)
        self.config = config
        image = config.frames == 1
        shift = None
        if config.modality:
            shift = encoder.img_mod_embed if image else encoder.video_mod_embed
        conv = (encoder.patch_embed_img if image else encoder.patch_embed).proj
        self.tubelet = 1 if image else config.tubelet
        self.patch_embed = patch_linear(conv, mean, std, shift)
        self.blocks = encoder.blocks
        if config.version == "2":
            self.levels = {config.depth - 1: encoder.norm}
        else:
            norms = [cast(nn.LayerNorm, norm) for norm in encoder.norms_block]
            every = dict(zip(config.levels, norms, strict=True))
            self.levels = every if all_levels else {config.depth - 1: norms[-1]}
        # The dict is not seen by torch; the list keeps the norms in the module.
        self.norms = nn.ModuleList(self.levels.values())
        rope = rope_table(config, config.dim // config.heads, rescale=config.version == "2.1")
        self.register_buffer("rope", rope, persistent=False)

    def forward(self, frames: Tensor, visible: Tensor | None = None) -> Tensor:
        """frames: uint8 (B, F, H, W, 3), or (B, H, W, 3) for images. visible: int64 (V,).

        Returns float32 (B, V, D), the tokens `visible` encoded without the others; None: all N.
        """
        times, rows, columns = self.config.grid
        patch = self.config.patch
        # The cast comes first: TensorRT takes uint8 nowhere else.
        x = frames.to(torch.float32)
        x = x.reshape(-1, times, self.tubelet, rows, patch, columns, patch, 3)
        x = x.permute(0, 1, 3, 5, 2, 4, 6, 7)
        x = x.reshape(-1, times * rows * columns, self.tubelet * patch * patch * 3)
        rope = self.rope
        if visible is not None:
            x, rope = x.index_select(1, visible), rope.index_select(1, visible)
        x = self.patch_embed(x * (1.0 / PIXEL_SCALE) - 1.0)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x, rope)
            if index in self.levels:
                levels.append(self.levels[index](x))
        return levels[0] if len(levels) == 1 else torch.cat((levels[-1], *levels[:-1]), dim=-1)

    def of_newest_tubelet(self) -> EncoderGraph:
        """The same weights as an encoder of clips of one tubelet."""
        encoder, config, mean, std, all_levels = self._made_of
        short = dataclasses.replace(config, frames=config.tubelet)
        return EncoderGraph(encoder, short, mean, std, all_levels=all_levels).eval()


class MaskPredictorGraph(nn.Module):
    """Hidden tokens from the latents of visible ones.

    mask_token: which of the learned mask tokens stands for hidden ones. Upstream numbers them by
    the clip length of the training batch, so that 0 is the only trained one of most checkpoints.
    """

    mask_token: Tensor
    rope: Tensor

    def __init__(
        self, predictor: VJepa2Predictor, config: VJepa2Config, *, mask_token: int = 0
    ) -> None:
        super().__init__()
        self.embed, self.proj = predictor.predictor_embed, predictor.predictor_proj
        if config.predictor_levels > 1:
            assert isinstance(self.embed, nn.Sequential)
            first = self.embed[0]
            assert isinstance(first, nn.Linear)
            # Upstream's latents have the last level last, ours first.
            self.embed = nn.Sequential(
                frozen_linear(first.weight.detach().roll(config.dim, 1), first.bias),
                *list(self.embed.children())[1:],
            )
            out = self.proj
            self.proj = frozen_linear(
                out.weight.detach().roll(config.dim, 0), out.bias.detach().roll(config.dim, 0)
            )
        self.blocks, self.norm = predictor.predictor_blocks, predictor.predictor_norm
        self.shift: nn.Parameter | None = None
        if config.predictor_modality:
            image = config.frames == 1
            self.shift = predictor.img_mod_embed if image else predictor.video_mod_embed
        self.register_buffer("mask_token", predictor.mask_tokens[mask_token].detach())
        head_dim = config.predictor_dim // config.predictor_heads
        rope = rope_table(config, head_dim, rescale=config.rescale_predictor)
        self.register_buffer("rope", rope, persistent=False)

    def forward(self, context: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """context: float32 (B, V, D). visible: int64 (V,). hidden: int64 (M,).

        Returns float32 (B, M, D), the layer-normed latents of the hidden tokens as predicted.
        """
        x = self.embed(context)
        masked = self.mask_token.expand(context.shape[0], hidden.shape[0], -1)
        x = torch.cat((x, masked), dim=1)
        if self.shift is not None:
            x = x + self.shift
        rope = self.rope.index_select(1, torch.cat((visible, hidden)))
        for block in self.blocks:
            x = block(x, rope)
        out: Tensor = self.proj(self.norm(x[:, context.shape[1] :]))
        return out


def newest_tubelet_error(encoder: EncoderGraph, clips: NDArray[np.uint8]) -> float:
    """Relative RMS error of encoding the newest tubelet alone, instead of within its clip.

    clips: (n, F, H, W, 3) uint8, n >= 1, of the encoder's own size. The latents of the newest
    tubelet are layer-normed over D (those of the last level in 2.1) before they are compared.
    Raises InputError when the encoder takes single images, or clips of another shape.
    """
    config = encoder.config
    expected = (config.frames, config.height, config.width, 3)
    fits = clips.dtype == np.uint8 and clips.shape == (len(clips), *expected) and len(clips)
    if config.frames == 1 or not fits:
        raise InputError(
            f"clips are {clips.dtype} {clips.shape}, expected uint8 (n, F, H, W, 3) with n >= 1, F "
            f"above 1 and (F, H, W, 3) = {expected}; pass clips of the model's own size"
        )
    newest = config.grid[1] * config.grid[2]
    alone = encoder.of_newest_tubelet()
    apart, size = 0.0, 0.0
    with torch.no_grad():
        for clip in torch.from_numpy(clips)[:, None]:
            whole = _normed(encoder(clip)[:, -newest:, : config.dim])
            short = _normed(alone(clip[:, -config.tubelet :])[..., : config.dim])
            apart += float((whole - short).square().sum())
            size += float(whole.square().sum())
    return float(np.sqrt(apart / size))


def _normed(latents: Tensor) -> Tensor:
    return F.layer_norm(latents, latents.shape[-1:]).double()
