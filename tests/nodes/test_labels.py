# SPDX-License-Identifier: Apache-2.0
"""Selective publishing of the world model node: flags always, the rest on change, and labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from jepa_edge.export.text import attach_text, write_bank
from jepa_edge.recording import Episode

from ..text_head import write_head
from .rig import running, stamp_of

FRAMES = 20
CALM = {"max_age_s": 60.0}
"""However slow this machine is, no frame is late."""


@pytest.fixture
def still(make_episode: Callable[..., Episode]) -> Episode:
    """An episode that stands still from its sixth frame on."""
    episode = make_episode(9002, FRAMES)
    episode.frames[6:] = episode.frames[6]
    return episode


def test_embeddings_go_out_on_change_and_flags_always(
    calibrated_bundle: Path, still: Episode
) -> None:
    with running(calibrated_bundle, **CALM) as rig:
        assert len(rig.play(still, 0, FRAMES)) == FRAMES
        rig.bus.settle()
        assert len(rig.embeddings) == FRAMES
        assert float(rig.diagnose()[2]["embeddings_saved_share"]) == 0.0
    with running(calibrated_bundle, on_change=0.001, on_change_keepalive_s=1.5, **CALM) as rig:
        flags = rig.play(still, 0, FRAMES)
        rig.bus.settle()
        assert len(flags) == FRAMES
        sent = [(stamp_of(m) - stamp_of(flags[0])) // 200_000_000 for m in rig.embeddings]
        # Moving until the sixth, then every 1.5 s of 0.2 s steps.
        assert sent[:7] == [0, 1, 2, 3, 4, 5, 6]
        assert sent[7:] == [14]
        assert len(rig.predictions) <= len(rig.embeddings)
        share = float(rig.diagnose()[2]["embeddings_saved_share"])
        assert share == pytest.approx(1 - 8 / FRAMES, abs=1e-3)


def test_labels_are_a_topic_of_a_bundle_with_a_text_head(
    calibrated_bundle: Path, still: Episode, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)
    texts = ["bright", "dark", "grün"]
    write_bank(tmp_path / "bank.safetensors", rng.normal(size=(3, 8)), texts)
    head = write_head(tmp_path / "head.onnx", rng.normal(size=(6, 8)).astype(np.float32))
    labelled = tmp_path / "labelled.jepa"
    attach_text(calibrated_bundle, labelled, head=head, bank=tmp_path / "bank.safetensors")
    with running(labelled, labels=2, on_change=0.001, on_change_keepalive_s=60.0, **CALM) as rig:
        heard = rig.bus.record("jepa/labels", "std_msgs/msg/String")
        flags = rig.play(still, 0, FRAMES)
        rig.bus.settle()
        told = [json.loads(message.data) for message in heard]
    assert len(flags) == FRAMES
    assert 2 <= len(told) <= 7
    for message in told:
        flag = flags[message["seq"]]
        stamp = message["stamp"]
        assert stamp["sec"] * 10**9 + stamp["nanosec"] == stamp_of(flag)
        assert message["frame_id"] == "camera_optical"
        assert [label["text"] in texts for label in message["labels"]] == [True, True]
        assert message["labels"][0]["probability"] >= message["labels"][1]["probability"]
    for bundle, labels in ((labelled, 0), (calibrated_bundle, 3)):
        with running(bundle, labels=labels, **CALM) as rig:
            heard = rig.bus.record("jepa/labels", "std_msgs/msg/String")
            rig.play(still, 0, 4)
            rig.bus.settle()
            assert not heard
