# SPDX-License-Identifier: Apache-2.0
"""Optimization profiles: which input shapes an engine takes, and which it is tuned for."""

from __future__ import annotations

from jepa_edge.bundle import Bundle
from jepa_edge.errors import BundleError, InputError
from jepa_edge.manifest import GraphSpec, Manifest, TensorSpec
from jepa_edge.masked import read_patterns
from jepa_edge.trt.key import InputProfile

ENCODER_BATCH = 8
"""Frames that the encoder takes at once: a camera gives one, a recording many."""

Profile = dict[str, InputProfile]


def make_profiles(bundle: Bundle, variant: str, candidates: int) -> dict[str, tuple[Profile, ...]]:
    """Return the profiles of a variant's graphs, by graph file.

    The encoder takes 1 to 8 frames, tuned for one; of a masked model it has a profile for all
    tokens and one for the visible tokens of a pattern. The predictor has a profile for one window
    and one for `candidates`, tuned for all of them; a window of variable length is tuned for the
    longest. The mask predictor takes as many frames as the encoder.
    Raises InputError where candidates is below 1, BundleError for an input of unknown shape.
    """
    if candidates < 1:
        raise InputError(f"candidates is {candidates}, expected 1 or more")
    manifest = bundle.manifest
    visible = hidden = 0
    if manifest.masks is not None:
        patterns = read_patterns(bundle.file(manifest.masks.file), manifest.latent.tokens)
        visible, hidden = (part.shape[1] for part in patterns)
    spec = manifest.variants[variant]
    frames = (1, 1, ENCODER_BATCH)
    counts = {"visible": visible, "context": visible, "hidden": hidden}
    tokens = manifest.latent.tokens
    lengths = [{**counts, "visible": tokens}, counts] if visible else [{}]
    if visible == tokens:
        lengths = lengths[:1]
    profiles = {
        spec.encoder.file: tuple(
            _profile(manifest, spec.encoder, frames, length) for length in lengths
        )
    }
    if spec.predictor is not None:
        batches = [(1, 1, 1)] + ([(1, candidates, candidates)] if candidates > 1 else [])
        profiles[spec.predictor.file] = tuple(
            _profile(manifest, spec.predictor, batch, {}) for batch in batches
        )
    if spec.mask_predictor is not None:
        graph = spec.mask_predictor
        profiles[graph.file] = (_profile(manifest, graph, frames, counts),)
    return profiles


def _profile(
    manifest: Manifest, graph: GraphSpec, batch: tuple[int, int, int], counts: dict[str, int]
) -> Profile:
    """One profile of a graph. counts: how many tokens an input of tokens has."""
    shapes = {}
    for spec in graph.inputs:
        low, best, high = (
            tuple(
                _length(manifest, graph, spec, axis, which, batch, counts)
                for axis in range(len(spec.shape))
            )
            for which in range(3)
        )
        shapes[spec.name] = InputProfile(low=low, best=best, high=high)
    return shapes


def _length(
    manifest: Manifest,
    graph: GraphSpec,
    spec: TensorSpec,
    axis: int,
    which: int,
    batch: tuple[int, int, int],
    counts: dict[str, int],
) -> int:
    """Length of one axis in the smallest, the best or the largest shape: which is 0, 1 or 2."""
    if spec.shape[axis] >= 0:
        return spec.shape[axis]
    if len(spec.shape) == 1 and spec.name in counts:
        return counts[spec.name]
    if axis == 0:
        return batch[which]
    if axis == 1 and spec.name in ("history", "actions"):
        return (manifest.min_history or manifest.history) if which == 0 else manifest.history
    if axis == 1 and spec.name in counts:
        return counts[spec.name]
    raise BundleError(
        f"{graph.file}: axis {axis} of input {spec.name!r} has no fixed length in the manifest, "
        "expected a batch, a window or tokens; export the bundle again"
    )
