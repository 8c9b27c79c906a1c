# SPDX-License-Identifier: Apache-2.0
"""The shipped models, on episodes simulated here: they must still be what their cards say."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from jepa_edge.errors import MissingDependencyError
from jepa_edge.sim import make_simulator, record

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A shipped model and what its card promises.

    worst_ratio: its error over that of copying the last latent stays below this at every horizon.
    probe: R2 of the linear probe, by state column, stays above these.
    """

    name: str
    worst_ratio: float
    probe: dict[str, float]

    @property
    def model(self) -> Path:
        """Folder of the checkpoint."""
        return EXAMPLES / self.name / "model"


MODELS = (
    Shipped(
        name="pusht",
        worst_ratio=0.6,
        probe={"agent_x": 0.9, "agent_y": 0.9, "block_x": 0.8, "block_y": 0.8},
    ),
    Shipped(
        name="reacher",
        worst_ratio=0.6,
        probe={
            "shoulder_sin": 0.9,
            "shoulder_cos": 0.9,
            "wrist_sin": 0.8,
            "wrist_cos": 0.9,
        },
    ),
)


def _training_module(name: str) -> ModuleType:
    """Import a module of examples/training, which is no installed package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(f"training.{name}")


def _task(name: str) -> Any:
    """The TASK of an example; both examples call the module `task`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        patch.syspath_prepend(str(EXAMPLES / name))
        task = importlib.import_module("task").TASK
        sys.modules.pop("task")
    return task


@pytest.fixture(scope="module", params=MODELS, ids=lambda shipped: shipped.name)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    return request.param


@pytest.fixture(scope="module")
def figures(shipped: Shipped, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every figure of the model card, measured on fresh episodes."""
    from jepa_edge.export.families.lewm_checkpoint import load_checkpoint

    try:
        make_simulator(shipped.name, size=8)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp(shipped.name)
    runs = []
    for name, episodes, steps, seed in (("val", 20, 56, 20_001), ("probe", 120, 10, 20_002)):
        record(shipped.name, root / name, episodes, steps, seed)
        runs.append(_training_module("data").Runs.read(root / name))
    model, _, extras = load_checkpoint(shipped.model)
    assert not extras.assumed
    mean, std = (np.float32(values) for values in (extras.action.mean, extras.action.std))
    return _training_module("evaluate").evaluate(model, *runs, mean=mean, std=std)


def test_beats_copying_the_last_latent_at_every_horizon(
    shipped: Shipped, figures: dict[str, Any]
) -> None:
    assert len(figures["ratio_to_copy"]) == 5
    assert max(figures["ratio_to_copy"]) < shipped.worst_ratio


def test_latents_know_where_things_are(shipped: Shipped, figures: dict[str, Any]) -> None:
    for name, least in shipped.probe.items():
        assert figures["probe_r2"][name] > least, name


def test_listens_to_its_actions(figures: dict[str, Any]) -> None:
    assert figures["action_sensitivity"] > 1.5


def test_has_not_collapsed(figures: dict[str, Any]) -> None:
    assert figures["latent_std"] > 0.5
    assert figures["effective_dims"] > 8


def test_card_states_what_the_metrics_file_says(shipped: Shipped) -> None:
    metrics = json.loads((shipped.model / "metrics.json").read_text())
    card = (shipped.model.parent / "MODEL_CARD.md").read_text()
    for name in shipped.probe:
        assert f"{metrics['probe_r2'][name]:.3f}" in card, name
    for ratio in metrics["ratio_to_copy"]:
        assert f"{ratio:.3f}" in card
    assert f"{metrics['action_sensitivity']:.2f}" in card
    assert f"{metrics['recipe']['steps']:,} steps" in card


def test_model_is_the_one_that_the_recipe_trains(shipped: Shipped) -> None:
    from jepa_edge.export.families.lewm import LeWMConfig

    task = _task(shipped.name)
    config = json.loads((shipped.model / "config.json").read_text())
    metrics = json.loads((shipped.model / "metrics.json").read_text())
    assert LeWMConfig(**config["model"]) == task.model
    assert config["action"]["block"] == task.block
    assert metrics["recipe"] == asdict(task.recipe)
    assert metrics["step"] == task.recipe.steps  # trained to the end
