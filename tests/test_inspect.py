# SPDX-License-Identifier: Apache-2.0
"""`jepa-edge inspect`: all of what a bundle is judged by, and no stranger's control characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from jepa_edge.bundle import Bundle, seal, staged_bundle
from jepa_edge.cli.app import cli
from jepa_edge.errors import BundleError
from jepa_edge.manifest import ClipSpec, FitSpec, LatentSpec, Manifest, StateSpec, TextSpec

from .passive_world import DIM, TOKENS, make_passive_bundle

EVIL = "\x1b[2J\x9b31m\u202e"


def inspected(bundle: Path, *options: str) -> str:
    done = CliRunner().invoke(cli, ["inspect", str(bundle), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def line(told: str, name: str) -> str:
    (found,) = [row for row in told.splitlines() if row.split()[0] == name]
    return found.split(maxsplit=1)[1]


def changed(bundle: Path, files: dict[str, bytes], **changes: Any) -> Path:
    """Seal the bundle again with further files and another manifest."""
    opened = Bundle.open(bundle)
    with staged_bundle(bundle, base=opened) as staging:
        for name, content in files.items():
            (staging / name).unlink(missing_ok=True)
            (staging / name).write_bytes(content)
        seal(staging, msgspec.structs.replace(opened.manifest, **changes))
    return bundle


def with_observation(manifest: Manifest, **changes: Any) -> dict[str, Any]:
    return {"observation": msgspec.structs.replace(manifest.observation, **changes)}


def test_what_a_model_without_actions_is_judged_by(tmp_path: Path) -> None:
    clip = ClipSpec(frames=4, tubelet=2, stride=1, hop=2)
    bundle = make_passive_bundle(tmp_path / "passive.jepa", clip=clip)
    told = inspected(bundle, "--replay")
    assert line(told, "masks") == "3 patterns that hide 4 tokens each, 10 in all; compared by l1"
    assert line(told, "action").startswith("none")
    assert line(told, "clip") == "4 frames, tubelet 2, stride 1, hop 2: camera at 10 Hz"
    assert line(told, "fit") == "pictures of that size only"
    assert "history" not in told
    assert "compared " not in told.replace("compared by", "")
    assert "mask_predictor" in line(told, "fp32")
    assert "masks" not in inspected(make_passive_bundle(tmp_path / "bare.jepa", masks=False))


def test_every_part_of_the_manifest_has_its_line(tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa")
    manifest = Bundle.open(bundle).manifest
    head, texts = b"no graph, and none is needed", ("red", "a cup", "left", "right")
    save_file({"embeddings": np.eye(4, dtype=np.float32)}, tmp_path / "bank")
    changed(
        bundle,
        {"head.onnx": head, "bank.safetensors": (tmp_path / "bank").read_bytes()},
        **with_observation(manifest, fit=FitSpec(short_side=292, filter="bicubic")),
        latent=LatentSpec(tokens=TOKENS, dim=DIM, energy_tokens=12, energy_dim=6),
        state=StateSpec(dim=2, units="rad", names=("elbow", "wrist")),
        text=TextSpec(
            file="head.onnx", bank="bank.safetensors", labels=texts, dim=4, temperature=0.02
        ),
    )
    told = inspected(bundle)
    assert (
        line(told, "fit")
        == "scaled to a short side of 292, bicubic, then the middle (offset round)"
    )
    assert line(told, "compared") == "energies take the first 12 tokens and 6 channels"
    assert line(told, "state") == "2 numbers of the robot, rad, elbow wrist"
    assert line(told, "labels") == "4: 'red', 'a cup', 'left', ..."
    assert line(told, "text") == "embeddings of 4 numbers, temperature 0.02"


@pytest.mark.parametrize(
    ("fit", "told"),
    [
        (FitSpec(stretch=True), "the whole picture is scaled, bilinear"),
        (FitSpec(), "the largest middle part, then scaled, bilinear"),
    ],
)
def test_how_pictures_are_fitted(tmp_path: Path, fit: FitSpec, told: str) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa")
    changed(bundle, {}, **with_observation(Bundle.open(bundle).manifest, fit=fit))
    assert line(inspected(bundle), "fit") == told


def test_how_many_latents_a_predictor_takes(linear_bundle: Path) -> None:
    assert line(inspected(linear_bundle), "history") == "3 frames"
    assert line(inspected(changed(linear_bundle, {}, min_history=1)), "history") == "1 to 3 frames"


def test_a_strangers_text_does_not_reach_the_terminal(tmp_path: Path, linear_bundle: Path) -> None:
    action = Bundle.open(linear_bundle).manifest.require_action()
    strange = msgspec.structs.replace(action, units=EVIL, names=(EVIL,) * action.dim)
    made = msgspec.structs.replace(Bundle.open(linear_bundle).manifest.provenance, command=EVIL)
    told = inspected(changed(linear_bundle, {}, family=EVIL, action=strange, provenance=made))
    passive = changed(
        make_passive_bundle(tmp_path / "passive.jepa"),
        {"head.onnx": b"", "bank": b""},
        state=StateSpec(dim=1, units=EVIL, names=(EVIL,)),
        text=TextSpec(file="head.onnx", bank="bank", labels=(EVIL, EVIL + "b"), dim=4),
    )
    for output in (told, inspected(passive)):
        assert all(row.isprintable() for row in output.splitlines())
        assert "\\x1b[2J\\x9b31m\\u202e" in output
    assert json.loads(inspected(linear_bundle, "--json"))["manifest"]["family"] == EVIL


def test_damaged_patterns_are_told(tmp_path: Path) -> None:
    bundle = make_passive_bundle(tmp_path / "passive.jepa")
    changed(bundle, {"masks.safetensors": b"no"})
    done = CliRunner().invoke(cli, ["inspect", str(bundle)])
    assert isinstance(done.exception, BundleError)
    assert "holds no mask patterns" in str(done.exception)
