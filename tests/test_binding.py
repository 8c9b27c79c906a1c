# SPDX-License-Identifier: Apache-2.0
"""Bindings: every part of what moves the scores shows, and nothing else does."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import pytest

from jepa_edge import channels
from jepa_edge.binding import (
    Binding,
    current_binding,
    machine_mismatches,
    model_mismatches,
    preprocessing_sha256,
    processor_class,
    read_features,
)
from jepa_edge.bundle import Bundle
from jepa_edge.manifest import ClipSpec, FitSpec, Manifest, StateSpec
from jepa_edge.world_model import WorldModel

EXPECTED = Binding(
    engine_sha256="a" * 64,
    preprocessing_sha256="b" * 64,
    scoring_sha256="d" * 64,
    runtime="onnxruntime 1.31.0 CPUExecutionProvider",
    device_class="x86_64 avx2+fma+avx512",
)


@pytest.fixture
def manifest(linear_bundle: Path) -> Manifest:
    return Bundle.open(linear_bundle).manifest


def test_a_loaded_model_tells_its_binding(linear_bundle: Path) -> None:
    import onnxruntime

    model = WorldModel.load(linear_bundle, "fp32")
    binding = current_binding(model)
    assert binding.engine_sha256 == model.manifest.variant_sha256("fp32")
    assert binding.runtime == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"
    assert binding.device_class.split()[0] == platform.machine()
    assert binding == current_binding(WorldModel.load(linear_bundle, "fp32", threads=2))
    assert msgspec.json.decode(msgspec.json.encode(binding), type=Binding) == binding


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("engine_sha256", "c" * 64, "graphs"),
        ("preprocessing_sha256", "c" * 64, "preprocessing"),
        ("scoring_sha256", "c" * 64, "scoring"),
        ("runtime", "tensorrt 10.3", "runtime"),
        ("device_class", "aarch64 neon+dotprod", "device"),
    ],
)
def test_each_difference_is_told_in_words(field: str, value: str, word: str) -> None:
    other = msgspec.structs.replace(EXPECTED, **{field: value})
    told = [*model_mismatches(EXPECTED, other), *machine_mismatches(EXPECTED, other)]
    assert len(told) == 1
    assert word in told[0]
    assert value[:12] in told[0]
    of_model = field.endswith("_sha256")
    assert bool(model_mismatches(EXPECTED, other)) is of_model
    assert bool(machine_mismatches(EXPECTED, other)) is not of_model
    assert model_mismatches(EXPECTED, EXPECTED) == machine_mismatches(EXPECTED, EXPECTED) == []


def test_preprocessing_follows_every_field_of_observation_and_action(manifest: Manifest) -> None:
    digests = {preprocessing_sha256(manifest)}
    observation, action = manifest.observation, manifest.action
    changes = (
        [
            {"observation": msgspec.structs.replace(observation, **{name: value})}
            for name, value in (
                ("height", 9),
                ("width", 9),
                ("color", "bgr"),
                ("mean", (0.0, 0.0, 0.1)),
                ("std", (1.0, 1.0, 1.1)),
                ("rate_hz", 6.0),
                ("clip", ClipSpec(frames=2)),
                ("fit", FitSpec()),
            )
        ]
        + [
            {"state": StateSpec(dim=2)},
            {"latent": msgspec.structs.replace(manifest.latent, energy_dim=1)},
        ]
        + [
            {"action": msgspec.structs.replace(action, **{name: value})}
            for name, value in (
                ("block", 1),
                ("mean", (1.0,) * action.dim),
                ("std", (1.0,) * action.dim),
                ("low", (-1.0,) * action.dim),
                ("high", (600.0,) * action.dim),
                ("units", "m"),
                ("names", ("x", "y")),
            )
        ]
    )
    for change in changes:
        digests.add(preprocessing_sha256(msgspec.structs.replace(manifest, **change)))
    assert len(digests) == len(changes) + 1
    other = msgspec.structs.replace(manifest, family="another", history=2)
    assert preprocessing_sha256(other) == preprocessing_sha256(manifest)


@pytest.mark.parametrize(
    "constant",
    ["SCORING", "LONG", "_DECAY", "_FLOOR", "_ACTION_FLOOR", "_CLIP", "FLOW_STEPS", "LOG_LIMIT"],
)
def test_scoring_follows_every_constant_of_the_channels(
    monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    before = channels.scoring_sha256()
    monkeypatch.setattr(channels, constant, 2 * getattr(channels, constant))
    assert channels.scoring_sha256() != before


def test_a_class_is_what_all_cores_have() -> None:
    big = "processor\t: 0\nFeatures\t: fp asimd aes asimdhp asimddp i8mm bf16 sve\n"
    little = "processor\t: 1\nFeatures\t: fp asimd aes asimddp\n"
    assert read_features(big) == ["neon", "fp16", "dotprod", "i8mm", "bf16", "sve"]
    assert read_features(big + little) == ["neon", "dotprod"]
    assert read_features("flags\t\t: fpu avx2 avx512f avx512_vnni\n") == [
        "avx2",
        "avx512",
        "avx512vnni",
    ]
    assert read_features("power management:\n") == []


def test_this_machine_has_a_class() -> None:
    assert processor_class() == processor_class()
    assert processor_class().startswith(platform.machine())


@pytest.mark.parametrize(
    "change", [{"engine_sha256": "A" * 64}, {"runtime": ""}, {"surplus": 1}, {"device_class": 3}]
)
def test_a_binding_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    document = {**msgspec.to_builtins(EXPECTED), **change}
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(document), type=Binding)
