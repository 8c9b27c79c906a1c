# SPDX-License-Identifier: Apache-2.0
"""The whole plan as one torch module, original and rewritten: what compilers and exports get.

Both take history (T, D), actions (S, H, A), goal (D,) and, for T > 1, past (T - 1, A), and return
costs (S,). History and goal are inputs, not constants: they change with every plan.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from jepa_edge.export.families.lewm import LeWM
from jepa_edge.export.graphs import PredictorBlock, PredictorGraph

KeyValues = list[tuple[Tensor, Tensor]]


class OriginalPlan(nn.Module):
    """The model as published: each step recomputes its whole window for each candidate."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.encoder = nn.Identity()
        self.model.projector = nn.Identity()

    def forward(
        self, history: Tensor, actions: Tensor, goal: Tensor, past: Tensor | None = None
    ) -> Tensor:
        S = actions.shape[0]
        if past is not None:
            actions = torch.cat((past.expand(S, -1, -1), actions), dim=1)
        predicted = self.model.rollout(history.expand(S, -1, -1), actions)
        return self.model.cost(predicted, goal)


class RewrittenRollout(nn.Module):
    """The same outputs without repeated work, arranged for graph compilers.

    Modulations of all candidates and steps up front; frames before the newest observed one run
    once, at batch 1; keys and values are kept while the window grows (once it slides, positions
    move and all is computed anew); the last block for the newest token only; batch norm folded.
    Time comes before candidates, (n, S, dim), and there is one linear layer per part instead of
    one split into parts: slices and joins along time are then contiguous, and nothing is split.
    """

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        A = model.config.action_dim
        # Not named `graph`: torch.export keeps that name for itself.
        self.net = PredictorGraph(model, (0.0,) * A, (1.0,) * A)
        self.window = model.config.history
        self.blocks = nn.ModuleList()
        parts = _split_rows(self.net.modulation, 6 * len(self.net.blocks))
        for index, block in enumerate(cast("list[PredictorBlock]", list(self.net.blocks))):
            self.blocks.append(_SplitBlock(block, parts[6 * index : 6 * index + 6]))

    def latents(
        self, history: Tensor, start: Tensor, actions: Tensor, past: Tensor | None
    ) -> list[Tensor]:
        """Roll out. start: (1, S or 1, D), the newest latents. Returns H latents (1, S, D)."""
        own = self._modulations(actions.transpose(0, 1))
        known = history.shape[0] - 1
        shared = self._modulations(past[:, None]) if past is not None else own
        frames = [start]  # frame `known + i` of the plan is frames[i]
        cache: KeyValues = []
        for end in range(known + 1, known + 1 + actions.shape[1]):
            first = max(0, end - self.window)
            if first > 0 or end == known + 1:  # a new window
                cache = []
                if known > first:
                    span = slice(first, known)
                    self._run(history[span, None], shared, span, 0, cache, read=False)
            begin = max(first, known) if first > 0 else end - 1
            span = slice(begin - known, end - known)
            x = _side_by_side(frames[span])
            frames.append(self._run(x, own, span, begin - first, cache, read=True))
        return frames[1:]

    def _modulations(self, actions: Tensor) -> list[list[Tensor]]:
        """Each block's six modulations of all actions, (n, S, dim)."""
        condition = F.silu(self.net.condition(F.silu(self.net.action_in(actions))))
        return [[linear(condition) for linear in block.modulation] for block in self._split()]

    def _split(self) -> list[_SplitBlock]:
        return cast("list[_SplitBlock]", list(self.blocks))

    def _run(
        self,
        latents: Tensor,
        modulations: list[list[Tensor]],
        span: slice,
        first: int,
        cache: KeyValues,
        *,
        read: bool,
    ) -> Tensor:
        """Run new tokens (n, S, D) at positions first.. through all blocks; extend the cache.

        span: where their modulations lie. read: compute the newest token's output too, and return
        it, (1, S, D).
        """
        n = latents.shape[0]
        x = self.net.input_proj(latents + self.net.position[first : first + n, None])
        for index, (block, parts) in enumerate(zip(self._split(), modulations, strict=True)):
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (part[span] for part in parts)
            normed = block.attention_norm(block.norm1(x) * scale + shift)
            k, v = block.k(normed), block.v(normed)
            if index < len(cache):
                S = k.shape[1]
                k = torch.cat((cache[index][0].expand(-1, S, -1), k))
                v = torch.cat((cache[index][1].expand(-1, S, -1), v))
                cache[index] = (k, v)
            else:
                cache.append((k, v))
            if block.last_token_only:
                if not read:
                    break
                normed, x, gate, shift_mlp, scale_mlp, gate_mlp = (
                    part[-1:] for part in (normed, x, gate, shift_mlp, scale_mlp, gate_mlp)
                )
            mixed = v  # a token that sees only itself
            if k.shape[0] > 1:
                mixed = _attend(block.q(normed), k, v, block.heads, self.net.causal_mask)
            x = x + gate * (block.out(mixed) if block.out is not None else mixed)
            hidden = block.mlp_norm(block.norm2(x) * scale_mlp + shift_mlp)
            x = x + gate_mlp * block.fc2(F.gelu(block.fc1(hidden)))
        return cast("Tensor", self.net.head(self.net.norm(x))) if read else x


class _SplitBlock(nn.Module):
    """A block with one linear layer each for query, key, value and the six modulations."""

    def __init__(self, block: PredictorBlock, modulation: list[nn.Linear]) -> None:
        super().__init__()
        self.heads, self.last_token_only = block.heads, block.last_token_only
        if block.qkv is not None:
            self.q, self.k, self.v = _split_rows(block.qkv, 3)
        else:
            assert block.q is not None
            assert block.kv is not None
            self.q = block.q
            self.k, self.v = _split_rows(block.kv, 2)
        self.modulation = nn.ModuleList(modulation)
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.out, self.fc1, self.fc2 = block.out, block.fc1, block.fc2


class RewrittenPlan(RewrittenRollout):
    """Costs (S,) of all candidates."""

    def forward(
        self, history: Tensor, actions: Tensor, goal: Tensor, past: Tensor | None = None
    ) -> Tensor:
        last = self.latents(history, history[-1:, None], actions, past)[-1]
        return (last[0] - goal).square().sum(dim=-1)


class RewrittenStep(RewrittenRollout):
    """One step from S samples of the newest latent (S, D). Returns (S, D)."""

    def forward(self, history: Tensor, start: Tensor, actions: Tensor, past: Tensor) -> Tensor:
        return self.latents(history, start[None], actions, past)[0][0]


class WindowStep(nn.Module):
    """The repository's deployed step graph, for any window up to the model's history."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        A = model.config.action_dim
        self.net = PredictorGraph(model, (0.0,) * A, (1.0,) * A)

    def forward(self, window: Tensor, actions: Tensor) -> Tensor:
        """window: (S, T, D); actions: (S, T, A). Returns (S, D)."""
        graph, n = self.net, window.shape[1]
        condition = F.silu(graph.condition(F.silu(graph.action_in(actions))))
        modulation = graph.modulation(condition).chunk(len(graph.blocks), dim=-1)
        x = graph.input_proj(window + graph.position[:n])
        for block, part in zip(graph.blocks, modulation, strict=True):
            x = block(x, part, graph.causal_mask[:n, :n])
        return cast("Tensor", graph.head(graph.norm(x)))[:, 0]


def _split_rows(linear: nn.Linear, parts: int) -> list[nn.Linear]:
    """Cut a linear layer's outputs into equal parts."""
    rows = linear.out_features // parts
    split = []
    for index in range(parts):
        part = nn.Linear(linear.in_features, rows, bias=linear.bias is not None)
        span = slice(index * rows, (index + 1) * rows)
        part.weight = nn.Parameter(linear.weight[span].detach().clone(), requires_grad=False)
        if linear.bias is not None:
            part.bias = nn.Parameter(linear.bias[span].detach().clone(), requires_grad=False)
        split.append(part)
    return split


def _side_by_side(frames: list[Tensor]) -> Tensor:
    """Join latents (1, S or 1, D) into (n, S, D); a single one stays as it is."""
    if len(frames) == 1:
        return frames[0]
    S = max(frame.shape[1] for frame in frames)
    return torch.cat([frame.expand(-1, S, -1) for frame in frames])


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor) -> Tensor:
    """Causal attention of the newest tokens; q (n, S, inner), k and v (m, S, inner), n <= m."""
    n, m = q.shape[0], k.shape[0]
    q = q.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    k = k.unflatten(-1, (heads, -1)).permute(1, 2, 3, 0)
    v = v.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    logits = q @ k
    if n > 1:
        logits = logits + mask[m - n : m, :m]
    return (logits.softmax(dim=-1) @ v).permute(2, 0, 1, 3).flatten(-2)
