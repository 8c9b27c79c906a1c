# SPDX-License-Identifier: Apache-2.0
"""The predictor's rollout in plain numpy: what the C++ engine is tested against.

Written from the definition, for reading: every window is computed whole, nothing is cached or
shared. float64 unless asked otherwise; the tensors are those of docs/bundle.md. `Rounding` gives
what a number format must cost, so that tests need not take their bounds from the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.special import erf, expit

Array = NDArray[np.floating[Any]]
Tensors = dict[str, NDArray[np.float32]]
Rounding = Callable[[Array], Array]
"""Rounds the rows of one operand of a matrix product, (rows, numbers summed over)."""

FORMAT = "lewm-predictor-1"


def exact(rows: Array) -> Array:
    """No rounding."""
    return rows


def bfloat16(rows: Array) -> Array:
    """Round to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    return np.asarray(rounded, rows.dtype)


def int8(rows: Array) -> Array:
    """Round to 127 steps either side of zero, one scale per row."""
    step = np.abs(rows).max(axis=-1, keepdims=True) / 127.0
    step[step == 0.0] = 1.0
    return np.asarray(np.rint(rows / step) * step, rows.dtype)


ROUNDINGS: dict[str, Rounding] = {"float32": exact, "bfloat16": bfloat16, "int8": int8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Every size of a predictor; names as in docs/bundle.md."""

    window: int = 3
    tokens: int = 1
    latent_dim: int = 24
    action_dim: int = 4
    action_hidden: int = 19
    dim: int = 40
    depth: int = 2
    heads: int = 2
    head_dim: int = 16
    mlp_dim: int = 57
    head_hidden_dim: int = 45

    @property
    def has_output_projection(self) -> bool:
        """Whether attention ends with one: a single head of the full width has none."""
        return self.heads != 1 or self.head_dim != self.dim


def draw(sizes: Sizes, seed: int = 0) -> tuple[Tensors, dict[str, str]]:
    """Draw tensors and metadata of a predictor whose latents keep a size of order one."""
    rng = np.random.default_rng([31, seed])
    s, inner = sizes, sizes.heads * sizes.head_dim
    tensors: Tensors = {}

    def put(name: str, values: Array) -> None:
        tensors[name] = np.ascontiguousarray(values, np.float32)

    def linear(name: str, inputs: int, outputs: int, bias: float | None = 0.2) -> None:
        put(f"{name}.weight", rng.normal(0.0, inputs**-0.5, (outputs, inputs)))
        if bias is not None:
            put(f"{name}.bias", rng.normal(0.0, bias, outputs))

    def norm(name: str) -> None:
        put(f"{name}.weight", rng.normal(1.0, 0.2, s.dim))
        put(f"{name}.bias", rng.normal(0.0, 0.2, s.dim))

    put("action_mean", rng.normal(100.0, 30.0, s.action_dim))
    put("action_inv_std", 1.0 / rng.uniform(10.0, 40.0, s.action_dim))
    put("position", rng.normal(0.0, 0.3, (s.window * s.tokens, s.latent_dim)))
    put("causal_mask", np.triu(np.full((s.window, s.window), -1e4), 1))
    linear("action_in", s.action_dim, s.action_hidden)
    linear("condition", s.action_hidden, s.dim)
    if s.dim != s.latent_dim:
        linear("input_proj", s.latent_dim, s.dim)
    linear("modulation", s.dim, 6 * s.depth * s.dim)
    tensors["modulation.bias"].reshape(s.depth, 6, s.dim)[:, [1, 4]] += 1.0  # `1 + scale`
    for index in range(s.depth):
        block = f"blocks.{index}"
        query = s.head_dim**-0.5
        if index < s.depth - 1:
            linear(f"{block}.qkv", s.dim, 3 * inner, bias=None)
            tensors[f"{block}.qkv.weight"][:inner] *= np.float32(2.0 * query)
        else:
            linear(f"{block}.q", s.dim, inner, bias=None)
            tensors[f"{block}.q.weight"] *= np.float32(2.0 * query)
            linear(f"{block}.kv", s.dim, 2 * inner, bias=None)
        if s.has_output_projection:
            linear(f"{block}.out", inner, s.dim)
        norm(f"{block}.attention_norm")
        norm(f"{block}.mlp_norm")
        linear(f"{block}.fc1", s.dim, s.mlp_dim)
        linear(f"{block}.fc2", s.mlp_dim, s.dim)
    norm("norm")
    linear("head.fc1", s.dim, s.head_hidden_dim)
    linear("head.fc2", s.head_hidden_dim, s.latent_dim)
    metadata = {
        "format": FORMAT,
        "history": s.window,
        "latent_dim": s.latent_dim,
        "action_dim": s.action_dim,
        "dim": s.dim,
        "depth": s.depth,
        "heads": s.heads,
        "head_dim": s.head_dim,
        "mlp_dim": s.mlp_dim,
        "head_hidden_dim": s.head_hidden_dim,
        "adaln_norm_eps": 1e-6,
        "norm_eps": 1e-5,
    }
    if s.tokens != 1:
        metadata["tokens"] = s.tokens
    return tensors, {key: str(value) for key, value in metadata.items()}


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Path:
    """Store a predictor as predictor.safetensors; returns the path."""
    save_file(dict(tensors), path, metadata=dict(metadata))
    return path


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Read back what `write` or `jepa-edge export` stored."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def raw_actions(tensors: Mapping[str, Array], shape: tuple[int, ...], seed: int) -> Array:
    """Draw actions (*shape, A) float32 in raw units, spread as the predictor's statistics say."""
    mean, inv_std = tensors["action_mean"], tensors["action_inv_std"]
    z = np.random.default_rng([32, seed]).normal(size=(*shape, mean.size))
    return np.asarray(mean + z / inv_std, np.float32)


@dataclass(frozen=True, slots=True)
class Problem:
    """One batch to roll out, all float32; shapes as `RolloutEngine.rollout` wants them."""

    history: Array
    past_actions: Array
    actions: Array
    goal: Array
    start: Array | None = None

    @property
    def arguments(self) -> tuple[Array, Array, Array, Array | None]:
        """What `rollout` takes."""
        return self.history, self.past_actions, self.actions, self.start

    def rows(self, keep: Any) -> Problem:
        """The same problem for some candidates only: an index array or a slice."""
        own = {"actions": self.actions, "start": self.start}
        if self.history.ndim == 4:
            own |= {"history": self.history, "past_actions": self.past_actions}
        kept = {
            name: np.ascontiguousarray(array[keep])
            for name, array in own.items()
            if array is not None
        }
        return replace(self, **kept)


def draw_problem(
    tensors: Mapping[str, Array],
    sizes: Sizes,
    *,
    candidates: int,
    horizon: int,
    frames: int,
    seed: int = 0,
    start: bool = False,
    own: bool = False,
) -> Problem:
    """Draw a batch of S candidates over H steps from T observed frames.

    start: whether each candidate has its own newest latent. own: its own past altogether.
    """
    rng = np.random.default_rng([33, seed])
    latent = (sizes.tokens, sizes.latent_dim)

    def latents(*shape: int) -> Array:
        return rng.normal(size=(*shape, *latent)).astype(np.float32)

    past = (candidates,) if own else ()
    return Problem(
        history=latents(*past, frames),
        past_actions=raw_actions(tensors, (*past, frames - 1), seed),
        actions=raw_actions(tensors, (candidates, horizon), seed + 1),
        goal=latents(),
        start=latents(candidates) if start else None,
    )


class ReferencePredictor:
    """A predictor of given tensors. dtype: of all arithmetic. precision: a key of `ROUNDINGS`."""

    def __init__(
        self,
        tensors: Mapping[str, Array],
        metadata: Mapping[str, str],
        *,
        dtype: DTypeLike = np.float64,
        precision: str = "float32",
    ) -> None:
        assert metadata["format"] == FORMAT
        self._t = {name: np.asarray(tensor, dtype) for name, tensor in tensors.items()}
        self._round = ROUNDINGS[precision]
        self._dtype = np.dtype(dtype)
        self.window = int(metadata["history"])
        self.tokens = int(metadata.get("tokens", "1"))
        self._depth, self._heads = int(metadata["depth"]), int(metadata["heads"])
        self._adaln_eps = self._dtype.type(metadata["adaln_norm_eps"])
        self._eps = self._dtype.type(metadata["norm_eps"])

    @classmethod
    def load(cls, path: Path, **options: Any) -> ReferencePredictor:
        """Read predictor.safetensors. options: as the constructor's."""
        return cls(*read(path), **options)

    def predict(self, window: Array, actions: Array) -> Array:
        """Predict the next latents (B, N, D) from window (B, t, N, D), actions (B, t, A) raw."""
        batch, frames, tokens, _ = window.shape
        scored = (actions.astype(self._dtype) - self._t["action_mean"]) * self._t["action_inv_std"]
        hidden = _silu(self._linear("action_in", scored))
        condition = _silu(self._linear("condition", hidden))
        # Every token of a frame is modulated by the action that is taken at that frame.
        modulation = self._linear("modulation", condition).repeat(tokens, axis=1)
        x = window.astype(self._dtype).reshape(batch, frames * tokens, -1)
        x = x + self._t["position"][: frames * tokens]
        if "input_proj.weight" in self._t:
            x = self._linear("input_proj", x)
        frame = np.arange(frames).repeat(tokens)
        visible = frame[:, None] >= frame[None, :]
        for index, part in enumerate(np.split(modulation, self._depth, axis=-1)):
            x = self._block(f"blocks.{index}", x, part, visible)
        newest = self._norm("norm", x[:, -tokens:])
        return self._linear("head.fc2", _gelu(self._linear("head.fc1", newest)))

    def rollout(
        self, history: Array, past_actions: Array, actions: Array, start: Array | None = None
    ) -> Array:
        """Roll S candidates forward: (S, H, N, D). Arguments as `RolloutEngine.rollout`."""
        candidates, horizon = actions.shape[:2]
        if history.ndim == 3:  # one past for all candidates
            history = np.repeat(history[None], candidates, axis=0)
            past_actions = np.repeat(past_actions[None], candidates, axis=0)
        frames = history.shape[1]
        latents = list(history.swapaxes(0, 1))
        if start is not None:
            latents[-1] = start
        taken = np.concatenate([past_actions, actions], axis=1)
        for end in range(frames, frames + horizon):
            begin = max(0, end - self.window)
            window = np.stack(latents[begin:end], axis=1)
            latents.append(self.predict(window, taken[:, begin:end]))
        assert np.isfinite(latents[-1]).all()
        return np.stack(latents[frames:], axis=1)

    def goal_energies(
        self,
        history: Array,
        past_actions: Array,
        actions: Array,
        goal: Array,
        goal_steps: int = 1,
        start: Array | None = None,
    ) -> Array:
        """Squared distance to goal (N, D), averaged over the last goal_steps steps: (S,)."""
        latents = self.rollout(history, past_actions, actions, start)[:, -goal_steps:]
        return np.asarray(((latents - goal) ** 2).sum(axis=(2, 3)).mean(axis=1))

    def _block(self, name: str, x: Array, modulation: Array, visible: NDArray[np.bool_]) -> Array:
        """One AdaLN-zero block; `1 + scale` is in the stored numbers."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = np.split(
            modulation, 6, axis=-1
        )
        normed = _layer_norm(x, self._adaln_eps) * scale_attn + shift_attn
        x = x + gate_attn * self._attention(name, normed, visible)
        normed = _layer_norm(x, self._adaln_eps) * scale_mlp + shift_mlp
        hidden = _gelu(self._linear(f"{name}.fc1", self._norm(f"{name}.mlp_norm", normed)))
        return np.asarray(x + gate_mlp * self._linear(f"{name}.fc2", hidden))

    def _attention(self, name: str, x: Array, visible: NDArray[np.bool_]) -> Array:
        """Multi-head attention behind its own norm; 1 / sqrt(head_dim) is in the query weights."""
        x = self._norm(f"{name}.attention_norm", x)
        if f"{name}.qkv.weight" in self._t:
            q, k, v = np.split(self._linear(f"{name}.qkv", x), 3, axis=-1)
        else:
            q = self._linear(f"{name}.q", x)
            k, v = np.split(self._linear(f"{name}.kv", x), 2, axis=-1)
        q, k, v = (part.reshape(*part.shape[:2], self._heads, -1) for part in (q, k, v))
        logits = np.einsum("bihd,bjhd->bhij", q, k)
        logits = np.where(visible, logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("bhij,bjhd->bihd", weights, v).reshape(*x.shape[:2], -1)
        return self._linear(f"{name}.out", mixed) if f"{name}.out.weight" in self._t else mixed

    def _linear(self, name: str, x: Array) -> Array:
        # Some BLAS kernels raise the flag on lanes that they drop; `rollout` checks instead.
        with np.errstate(invalid="ignore"):
            out = self._round(x) @ self._round(self._t[f"{name}.weight"]).T
        return np.asarray(out + self._t.get(f"{name}.bias", self._dtype.type(0.0)))

    def _norm(self, name: str, x: Array) -> Array:
        normed = _layer_norm(x, self._eps)
        return np.asarray(normed * self._t[f"{name}.weight"] + self._t[f"{name}.bias"])


def _layer_norm(x: Array, eps: np.floating[Any]) -> Array:
    centered = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + eps))


def _silu(x: Array) -> Array:
    return np.asarray(x * expit(x))


def _gelu(x: Array) -> Array:
    half, root = x.dtype.type(0.5), x.dtype.type(np.sqrt(0.5))
    return np.asarray(half * x * (1 + erf(x * root)))
