# SPDX-License-Identifier: Apache-2.0
"""What a calibration is valid for: engine, preprocessing, scoring, runtime, kind of machine."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from jepa_edge.channels import scoring_sha256
from jepa_edge.engine import instruction_sets
from jepa_edge.manifest import Manifest, Sha256

if TYPE_CHECKING:
    from jepa_edge.world_model import WorldModel

FRAME_PATH = "frame uint8 (height, width, 3) as delivered, batched; action float32, raw units; 1"
"""What a Session does to its input before the graphs see it. Change the number at the end, and
every calibration is refused, whenever that changes what the graphs get."""

_FEATURES = {
    # x86_64, as Linux names them: what ONNX Runtime and the C++ core choose their kernels by.
    "avx2": "avx2",
    "fma": "fma",
    "avx_vnni": "avxvnni",
    "avx512f": "avx512",
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "amx_int8": "amxint8",
    "amx_bf16": "amxbf16",
    # aarch64
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sme": "sme",
}

Words = Annotated[str, Meta(min_length=1, max_length=200)]


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What moves the scores of a model.

    engine_sha256: `Manifest.variant_sha256` of the graphs. preprocessing_sha256: of the
    observation, action, state, latent and mask specs, and of what a Session does to a frame.
    scoring_sha256: of the constants and the number of the formulas that turn latents into scores
    (`channels.scoring_sha256`). runtime: inference library, version and provider; the digest of an
    engine that was compiled on the device belongs in it. device_class: architecture and the
    instruction sets that kernels are chosen by, or a GPU's name and compute capability.
    """

    engine_sha256: Sha256
    preprocessing_sha256: Sha256
    scoring_sha256: Sha256
    runtime: Words
    device_class: Words


def current_binding(model: WorldModel) -> Binding:
    """Return the binding of a loaded model, here and now."""
    return Binding(
        engine_sha256=model.manifest.variant_sha256(model.variant),
        preprocessing_sha256=preprocessing_sha256(model.manifest),
        scoring_sha256=scoring_sha256(),
        runtime=model.runtime,
        device_class=model.device_class,
    )


def preprocessing_sha256(manifest: Manifest) -> str:
    """Return the digest of all that happens to frames, actions and the robot's state on their way
    to the graphs, and of what is hidden and compared of the latents."""
    masks = manifest.masks
    canonical = msgspec.json.encode(
        {
            "observation": manifest.observation,
            "action": manifest.action,
            "state": manifest.state,
            "latent": manifest.latent,
            "masks": None if masks is None else [masks, manifest.files.get(masks.file)],
            "path": FRAME_PATH,
        },
        order="sorted",
    )
    return hashlib.sha256(canonical).hexdigest()


def model_mismatches(expected: Binding, actual: Binding) -> list[str]:
    """Say where engine, preprocessing or scoring differ: no self-test mends that. Empty if none."""
    told = []
    if expected.engine_sha256 != actual.engine_sha256:
        told.append(
            f"the graphs are {actual.engine_sha256[:12]}, calibrated were "
            f"{expected.engine_sha256[:12]} (quantization moves the scores)"
        )
    if expected.preprocessing_sha256 != actual.preprocessing_sha256:
        told.append(
            f"the preprocessing is {actual.preprocessing_sha256[:12]}, calibrated was "
            f"{expected.preprocessing_sha256[:12]} (frame size, color, rate, actions, masks)"
        )
    if expected.scoring_sha256 != actual.scoring_sha256:
        told.append(
            f"the scoring is {actual.scoring_sha256[:12]}, calibrated was "
            f"{expected.scoring_sha256[:12]} (formulas and constants of another jepa-edge)"
        )
    return told


def machine_mismatches(expected: Binding, actual: Binding) -> list[str]:
    """Say where runtime or device class differ: a self-test here decides. Empty if they agree."""
    told = []
    if expected.runtime != actual.runtime:
        told.append(f"the runtime is {actual.runtime!r}, calibrated was {expected.runtime!r}")
    if expected.device_class != actual.device_class:
        told.append(
            f"the device is {actual.device_class!r}, calibrated was {expected.device_class!r}"
        )
    return told


@functools.cache
def processor_class() -> str:
    """Return the architecture and its instruction sets, such as "x86_64 avx2+fma+avx512"."""
    machine = platform.machine()
    try:
        features = read_features(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        features = []
    if not features:  # no Linux: what the C++ core found out by itself
        features = [name for name in instruction_sets() if name != "portable"][:1]
    return " ".join(filter(None, (machine, "+".join(features))))


def gpu_class(device: int = 0) -> str:
    """Return a GPU's name, with its board's where that says it, and its compute capability, such as
    "Orin (NVIDIA Jetson Orin Nano Developer Kit) sm_87".

    Raises MissingDependencyError where there is no driver or no such GPU.
    """
    from jepa_edge.trt.device import find_device

    found = find_device(device)
    return f"{found.name} sm_{found.compute_capability.replace('.', '')}"


def read_features(cpuinfo: str) -> list[str]:
    """Return the instruction sets that every core in the text of /proc/cpuinfo has."""
    cores = [
        set(line.partition(":")[2].split())
        for line in cpuinfo.splitlines()
        if line.partition(":")[0].strip() in ("flags", "Features")
    ]
    common = set.intersection(*cores) if cores else set()
    return [name for flag, name in _FEATURES.items() if flag in common]
