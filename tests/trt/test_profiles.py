# SPDX-License-Identifier: Apache-2.0
"""Profiles: the shapes of every kind of model, from its manifest alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.errors import BundleError, InputError
from jepa_edge.manifest import GraphSpec, MaskSpec, TensorSpec
from jepa_edge.trt.key import InputProfile
from jepa_edge.trt.profiles import ENCODER_BATCH, make_profiles

Shape = tuple[int, ...]


def spans(low: Shape, best: Shape, high: Shape) -> InputProfile:
    return InputProfile(low=low, best=best, high=high)


def test_a_predictor_is_tuned_for_one_window_and_for_a_whole_plan(linear_bundle: Path) -> None:
    profiles = make_profiles(Bundle.open(linear_bundle), "fp32", 300)
    picture = (8, 8, 3)
    assert profiles == {
        "encoder.onnx": (
            {"frames": spans((1, *picture), (1, *picture), (ENCODER_BATCH, *picture))},
        ),
        "predictor.onnx": (
            {
                "history": spans(*[(1, 3, 1, 6)] * 3),
                "actions": spans(*[(1, 3, 4)] * 3),
            },
            {
                "history": spans((1, 3, 1, 6), (300, 3, 1, 6), (300, 3, 1, 6)),
                "actions": spans((1, 3, 4), (300, 3, 4), (300, 3, 4)),
            },
        ),
    }


def test_one_candidate_needs_one_profile(linear_bundle: Path) -> None:
    bundle = Bundle.open(linear_bundle)
    assert len(make_profiles(bundle, "fp32", 1)["predictor.onnx"]) == 1
    with pytest.raises(InputError, match="candidates is 0, expected 1 or more"):
        make_profiles(bundle, "fp32", 0)


def altered(path: Path, graph: str, inputs: tuple[TensorSpec, ...], **fields: object) -> Bundle:
    """The bundle with another manifest; its graphs are not asked."""
    base = Bundle.open(path)
    spec = base.manifest.variants["fp32"]
    changed: GraphSpec = msgspec.structs.replace(getattr(spec, graph), inputs=inputs)
    variant = msgspec.structs.replace(spec, **{graph: changed})
    manifest = msgspec.structs.replace(base.manifest, variants={"fp32": variant}, **fields)
    with staged_bundle(path, base=base) as staging:
        seal(staging, manifest)
    return Bundle.open(path)


def test_a_window_that_grows_is_tuned_for_its_full_length(linear_bundle: Path) -> None:
    inputs = (
        TensorSpec(name="history", dtype="float32", shape=(-1, -1, 1, 6)),
        TensorSpec(name="actions", dtype="float32", shape=(-1, -1, 4)),
        TensorSpec(name="z", dtype="float32", shape=(-1, 2)),
    )
    bundle = altered(linear_bundle, "predictor", inputs, min_history=2)
    one, many = make_profiles(bundle, "fp32", 64)["predictor.onnx"]
    assert one["history"] == spans((1, 2, 1, 6), (1, 3, 1, 6), (1, 3, 1, 6))
    assert many["history"] == spans((1, 2, 1, 6), (64, 3, 1, 6), (64, 3, 1, 6))
    assert many["actions"] == spans((1, 2, 4), (64, 3, 4), (64, 3, 4))
    assert many["z"] == spans((1, 2), (64, 2), (64, 2))


def test_an_axis_that_nobody_knows_is_named(linear_bundle: Path) -> None:
    inputs = (TensorSpec(name="frames", dtype="uint8", shape=(-1, -1, 8, 3)),)
    bundle = altered(linear_bundle, "encoder", inputs)
    with pytest.raises(BundleError, match=r"encoder\.onnx: axis 1 of input 'frames' has no fixed"):
        make_profiles(bundle, "fp32", 64)


def test_a_fixed_batch_stays_fixed(linear_bundle: Path) -> None:
    inputs = (TensorSpec(name="frames", dtype="uint8", shape=(2, 8, 8, 3)),)
    (profile,) = make_profiles(altered(linear_bundle, "encoder", inputs), "fp32", 64)[
        "encoder.onnx"
    ]
    assert profile["frames"] == spans(*[(2, 8, 8, 3)] * 3)


def masked(path: Path, visible: int, hidden: int) -> Bundle:
    """A passive model of 16 tokens with mask patterns."""
    base = Bundle.open(path)
    tokens = base.manifest.latent.tokens
    graph = base.manifest.variants["fp32"].encoder
    frames = graph.inputs[0]
    encoder = msgspec.structs.replace(
        graph, inputs=(frames, TensorSpec(name="visible", dtype="int64", shape=(-1,)))
    )
    dim = base.manifest.latent.dim
    predictor = msgspec.structs.replace(
        graph,
        file="predictor.onnx",
        inputs=(
            TensorSpec(name="context", dtype="float32", shape=(-1, -1, dim)),
            TensorSpec(name="visible", dtype="int64", shape=(-1,)),
            TensorSpec(name="hidden", dtype="int64", shape=(-1,)),
        ),
    )
    variant = msgspec.structs.replace(
        base.manifest.variants["fp32"], encoder=encoder, predictor=None, mask_predictor=predictor
    )
    with staged_bundle(path, base=base) as staging:
        save_file(
            {
                "visible": np.arange(visible)[None],
                "hidden": np.arange(tokens - hidden, tokens)[None],
            },
            str(staging / "masks.safetensors"),
        )
        seal(
            staging,
            msgspec.structs.replace(
                base.manifest,
                action=None,
                masks=MaskSpec(file="masks.safetensors"),
                variants={"fp32": variant},
            ),
        )
    return Bundle.open(path)


@pytest.fixture
def tokens_bundle(linear_bundle: Path) -> Path:
    base = Bundle.open(linear_bundle)
    latent = msgspec.structs.replace(base.manifest.latent, tokens=16)
    with staged_bundle(linear_bundle, base=base) as staging:
        seal(staging, msgspec.structs.replace(base.manifest, latent=latent))
    return linear_bundle


def test_a_masked_model_encodes_all_tokens_or_the_visible_ones(tokens_bundle: Path) -> None:
    profiles = make_profiles(masked(tokens_bundle, 10, 6), "fp32", 300)
    whole, part = profiles["encoder.onnx"]
    assert whole["visible"] == spans((16,), (16,), (16,))
    assert part["visible"] == spans((10,), (10,), (10,))
    assert part["frames"].high[0] == ENCODER_BATCH
    (predictor,) = profiles["predictor.onnx"]
    assert predictor == {
        "context": spans((1, 10, 6), (1, 10, 6), (ENCODER_BATCH, 10, 6)),
        "visible": spans((10,), (10,), (10,)),
        "hidden": spans((6,), (6,), (6,)),
    }
