# SPDX-License-Identifier: Apache-2.0
"""The shipped PushT model, on episodes simulated here: it must still be what its card says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pymunk")

from jepa_edge.recording import Recording
from jepa_edge.sim import record_pusht

EXAMPLE = Path(__file__).parents[2] / "examples" / "pusht"
MODEL = EXAMPLE / "model"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every figure of the model card, measured on fresh episodes."""
    from jepa_edge.export.checkpoint import load_checkpoint

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        from data import Runs
        from evaluate import evaluate

        for name in ("data", "evaluate"):
            sys.modules.pop(name)
    root = tmp_path_factory.mktemp("pusht")
    runs = []
    for name, episodes, steps, seed in (("val", 20, 56, 20_001), ("probe", 120, 10, 20_002)):
        record_pusht(root / name, episodes, steps, seed)
        recorded = list(Recording(root / name))
        runs.append(
            Runs(
                frames=np.stack([episode.frames for episode in recorded]),
                actions=np.stack([episode.actions for episode in recorded]),
                states=np.stack([e.state for e in recorded if e.state is not None]),
            )
        )
    model, _, extras = load_checkpoint(MODEL)
    assert not extras.assumed
    mean, std = (np.float32(values) for values in (extras.action.mean, extras.action.std))
    return evaluate(model, *runs, mean=mean, std=std)


def test_beats_copying_the_last_latent_at_every_horizon(figures: dict[str, Any]) -> None:
    assert len(figures["ratio_to_copy"]) == 5
    assert max(figures["ratio_to_copy"]) < 0.6


def test_latents_know_where_agent_and_block_are(figures: dict[str, Any]) -> None:
    r2 = figures["probe_r2"]
    assert min(r2["agent_x"], r2["agent_y"]) > 0.9
    assert min(r2["block_x"], r2["block_y"]) > 0.8


def test_listens_to_its_actions(figures: dict[str, Any]) -> None:
    assert figures["action_sensitivity"] > 1.5


def test_has_not_collapsed(figures: dict[str, Any]) -> None:
    assert figures["latent_std"] > 0.5
    assert figures["effective_dims"] > 8


def test_card_states_what_the_metrics_file_says() -> None:
    metrics = json.loads((MODEL / "metrics.json").read_text())
    card = (EXAMPLE / "MODEL_CARD.md").read_text()
    for name in ("agent_x", "agent_y", "block_x", "block_y"):
        assert f"{metrics['probe_r2'][name]:.3f}" in card, name
    for ratio in metrics["ratio_to_copy"]:
        assert f"{ratio:.3f}" in card
    assert f"{metrics['action_sensitivity']:.2f}" in card
    assert f"{metrics['recipe']['steps']:,} steps" in card
