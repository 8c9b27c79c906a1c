# SPDX-License-Identifier: Apache-2.0
"""How many multiplications and additions one CEM iteration needs, done plainly and done exactly.

Only matrix products and attention are counted, two operations per multiply-add; norms, softmax
and activations are a few percent on top and count for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from jepa_edge.export.families.lewm import LeWMConfig
from planning.problem import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFlops:
    """Operations per token of each part of the predictor."""

    action: int
    modulation: int
    query: int
    key_value: int
    rest: int
    alone: int
    attended: int
    ends: int
    head: int

    @classmethod
    def of(cls, config: LeWMConfig) -> TokenFlops:
        """Count from a model's sizes."""
        D, dim = config.latent_dim, config.predictor_dim
        inner = config.predictor_heads * config.predictor_dim_head
        smoothed, hidden = config.action_smoothed_dim, config.action_mlp_scale * D
        project = inner != dim or config.predictor_heads != 1
        widths = 2 * D * dim if dim != D else 0
        return cls(
            action=2 * (config.action_dim * smoothed + smoothed * hidden + hidden * D) + widths,
            modulation=2 * dim * 6 * dim,
            query=2 * dim * inner,
            key_value=2 * dim * 2 * inner,
            rest=2 * inner * dim * project + 2 * 2 * dim * config.predictor_mlp_dim,
            # One (dim, dim) matrix instead of the query and the output projection.
            alone=2 * dim * inner + 2 * inner * dim * project - 2 * dim * dim + 2 * 2 * inner,
            attended=2 * 2 * inner,  # per pair of a query with a key it sees
            ends=widths,
            head=2 * 2 * D * config.projector_dim + widths,
        )


def naive_flops(config: LeWMConfig, setting: Setting) -> int:
    """Every window recomputed at every step for every candidate, as stable-worldmodel does."""
    token, depth = TokenFlops.of(config), config.predictor_depth
    total = (setting.frames - 1 + setting.horizon) * token.action
    layer = token.modulation + token.query + token.key_value + token.rest
    for window in _windows(config, setting):
        pairs = window * (window + 1) // 2
        total += window * (depth * layer + token.ends + token.head)
        total += depth * pairs * token.attended
    return setting.candidates * total


def exact_flops(config: LeWMConfig, setting: Setting) -> int:
    """The same outputs without repeated work.

    Action embeddings and modulations once per action; keys and values kept while the window
    grows; frames before the newest observed one computed once for all candidates; past keys and
    values, the last layer computed for the newest token only; a token that sees only itself needs
    no query, and its attention is one matrix.
    """
    token, depth = TokenFlops.of(config), config.predictor_depth
    past = setting.frames - 1
    shared = past * (token.action + depth * token.modulation)
    each = setting.horizon * (token.action + depth * token.modulation)
    layer = token.query + token.key_value + token.rest
    for step, window in enumerate(_windows(config, setting)):
        end = setting.frames + step
        slid = end > window
        first = end - window if slid or step == 0 else end - 1  # the oldest frame computed now
        common = max(0, past - first)
        own = end - first - common
        shared += common * ((depth - 1) * layer + token.key_value + token.ends)
        shared += (depth - 1) * common * (common + 1) // 2 * token.attended
        seen = sum(range(window - own + 1, window + 1))
        each += (depth - 1) * (own * layer + seen * token.attended)
        each += own * (token.key_value + token.ends) + token.query + token.rest
        each += window * token.attended + token.head
        if own == window:  # the oldest frame is the candidate's own and sees only itself
            each -= (depth - 1 + (own == 1)) * token.alone
    return shared + setting.candidates * each


def _windows(config: LeWMConfig, setting: Setting) -> list[int]:
    """How many latents the predictor sees at each step."""
    return [min(config.history, setting.frames + step) for step in range(setting.horizon)]
