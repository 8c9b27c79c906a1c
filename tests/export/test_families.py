# SPDX-License-Identifier: Apache-2.0
"""Which family a checkpoint is of, and one of the user's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa_edge.errors import CheckpointError, InputError
from jepa_edge.export import families, register_family
from jepa_edge.export.checkpoint import load_model
from jepa_edge.export.exporter import export_bundle
from jepa_edge.export.families import find_family
from jepa_edge.export.families.base import Checkpoint, GraphModule, LoadedModel
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.loading import fill
from jepa_edge.export.options import ExportOptions
from jepa_edge.manifest import ActionSpec, LatentSpec, ObservationSpec
from jepa_edge.world_model import WorldModel

SIZE, DIM, ACTION = 8, 5, 2


class Encoder(nn.Module):
    """Mean color, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, DIM)

    def forward(self, frames: Tensor) -> Tensor:
        out: Tensor = self.out(frames.to(torch.float32).mean(dim=(1, 2)) / 255.0)
        return out.unsqueeze(1)


class Predictor(nn.Module):
    """The newest latent, moved by its action."""

    def __init__(self) -> None:
        super().__init__()
        self.move = nn.Linear(ACTION, DIM)

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        moved: Tensor = history[:, -1] + self.move(actions[:, -1:])
        return moved


class Mine:
    """A user's own family."""

    name = "mine"

    def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
        return "enc.out.weight" in names

    def load(self, checkpoint: Checkpoint) -> LoadedModel:
        with torch.device("meta"):
            parts = nn.ModuleDict({"enc": Encoder(), "pred": Predictor()})
        fill(parts, checkpoint.tensors, str(checkpoint.path))
        frames = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)
        return LoadedModel(
            family=self.name,
            observation=ObservationSpec(
                height=SIZE, width=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3, rate_hz=5.0
            ),
            action=ActionSpec(dim=ACTION, block=1, mean=(0.0,) * ACTION, std=(1.0,) * ACTION),
            latent=LatentSpec(tokens=1, dim=DIM),
            history=2,
            min_history=1,
            graphs={
                "encoder": GraphModule(
                    module=parts["enc"], example={"frames": frames}, output="latents"
                ),
                "predictor": GraphModule(
                    module=parts["pred"],
                    example={
                        "history": torch.zeros(2, 2, 1, DIM),
                        "actions": torch.zeros(2, 2, ACTION),
                    },
                    output="prediction",
                    windowed=("history", "actions"),
                ),
            },
        )


@pytest.fixture
def mine() -> Iterator[None]:
    register_family(Mine())
    yield
    families._registered.clear()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    shapes = {
        "enc.out.weight": (DIM, 3),
        "enc.out.bias": (DIM,),
        "pred.move.weight": (DIM, ACTION),
        "pred.move.bias": (DIM,),
    }
    drawn = {n: torch.tensor(rng.normal(size=s), dtype=torch.float32) for n, s in shapes.items()}
    save_file(drawn, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.mark.usefixtures("mine")
def test_a_family_of_ones_own_becomes_a_bundle_that_computes_it(
    weights: Path, tmp_path: Path
) -> None:
    report = export_bundle(weights, tmp_path / "mine.jepa", ExportOptions(precisions=("fp32",)))
    assert any("no recording was given" in warning for warning in report.warnings)
    model = WorldModel.load(tmp_path / "mine.jepa")
    assert model.manifest.family == "mine"
    tensors = load_file(weights)
    rng = np.random.default_rng(5)
    frames = rng.integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    colors = frames.mean(axis=(1, 2)) / 255.0
    latents = colors @ tensors["enc.out.weight"].T.astype(np.float64) + tensors["enc.out.bias"]
    np.testing.assert_allclose(model.encode(frames)[:, 0], latents, rtol=1e-5, atol=1e-5)

    # The window grows from one latent to two, and then slides.
    actions = rng.normal(size=(3, 4, ACTION)).astype(np.float32)
    rolled = model.rollout(latents[:, None, None].astype(np.float32), actions)
    moves = actions @ tensors["pred.move.weight"].T.astype(np.float64) + tensors["pred.move.bias"]
    expected = latents[:, None] + moves.cumsum(axis=1)
    np.testing.assert_allclose(rolled[:, :, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "model.", "model._orig_mod."])
def test_a_leworldmodel_is_of_no_other_family(prefix: str) -> None:
    with torch.device("meta"):
        names = [prefix + name for name in LeWM(LeWMConfig()).state_dict()]
    assert [n for n, one in families.families().items() if one.matches(names, {})] == ["lewm"]


def test_a_checkpoint_of_no_family_is_told_its_names_and_the_ways_out() -> None:
    with pytest.raises(CheckpointError, match=r"no family .*lewm.* conv1\.weight.*import-onnx"):
        find_family(["conv1.weight", "fc.bias"], {}, "x.pt")
    with pytest.raises(InputError, match="family is 'jeppa', expected one of"):
        find_family([], {}, "x.pt", "jeppa")


@pytest.mark.usefixtures("mine")
def test_a_family_is_asked_for_where_two_could_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Mine):
        name = "other"

    register_family(Other())
    with pytest.raises(CheckpointError, match=r"families mine, other .*pass --family"):
        find_family(["enc.out.weight"], {}, "x.pt")
    assert find_family(["enc.out.weight"], {}, "x.pt", "other").name == "other"
    assert find_family(["enc.out.weight"], {"family": "mine"}, "x.pt").name == "mine"


class _Entry:
    name = "broken"

    def load(self) -> Any:
        raise ImportError("no module named foo")


def test_a_broken_package_of_somebody_elses_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(families, "_broken", {})
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [_Entry()])
    assert "broken" not in families.families()
    assert "lewm" in families.families()
    assert caplog.text.count("no module named foo") == 1
    with pytest.raises(InputError, match=r"'broken' cannot be loaded \(.*no module named foo"):
        find_family([], {}, "x.pt", "broken")


@pytest.mark.usefixtures("mine")
def test_a_config_with_another_tools_family_is_passed_over_where_tensors_tell() -> None:
    assert find_family(["enc.out.weight"], {"family": "bert"}, "x.pt").name == "mine"
    for said in ("bert", 5):
        with pytest.raises(CheckpointError, match=f"says family {said!r}, expected one of mine, "):
            find_family(["conv1.weight"], {"family": said}, "x.pt")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        find_family([], {}, "x.pt")


def _checkpoint(tensors: dict[str, Tensor], **spec: Any) -> Checkpoint:
    path = Path("x.pt")
    return Checkpoint(path=path, weights=path, sha256="", tensors=tensors, config={}, spec=spec)


@pytest.mark.usefixtures("mine")
def test_a_wrong_family_is_told_the_right_one() -> None:
    tensors = {"enc.out.weight": torch.zeros(DIM, 3)}
    for wanted in ("dino_wm", "jepa_wm", "vjepa2_ac"):
        with pytest.raises(CheckpointError, match="it looks like mine: pass --family mine"):
            load_model(_checkpoint(tensors), wanted)
    with pytest.raises(CheckpointError) as told:
        load_model(_checkpoint(tensors), "mine")
    assert "looks like" not in str(told.value)
    for name in (5, None, ["a"]):
        with pytest.raises(CheckpointError, match=r"--spec: family is .*, expected a name"):
            load_model(_checkpoint(tensors, family=name))


def test_what_is_no_family_is_refused() -> None:
    class Nameless:
        pass

    class Halfway:
        name = "halfway"

        def matches(self, names: Collection[str], config: Mapping[str, Any]) -> bool:
            return False

    with pytest.raises(InputError, match="name is None"):
        register_family(Nameless())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'halfway' has no method load"):
        register_family(Halfway())  # type: ignore[arg-type]
