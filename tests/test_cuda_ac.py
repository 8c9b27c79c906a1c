# SPDX-License-Identifier: Apache-2.0
"""V-JEPA 2-AC's predictor on the GPU, run by the emulation of CUDA, against torch."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from jepa_edge import cuda  # noqa: E402
from jepa_edge.engine import RolloutEngine  # noqa: E402
from jepa_edge.errors import BundleError, ExportError  # noqa: E402
from jepa_edge.export.ac_predictor_weights import write_ac_predictor  # noqa: E402
from jepa_edge.export.checkpoint import load_model, open_checkpoint  # noqa: E402
from jepa_edge.export.exporter import export_bundle  # noqa: E402
from jepa_edge.export.families.vjepa2_ac_predictor import (  # noqa: E402
    Predictor,
    PredictorConfig,
    PredictorGraph,
)
from jepa_edge.export.options import ExportOptions  # noqa: E402

from .cuda_module import use_emulated  # noqa: E402
from .export.families import vjepa2_ac_fixtures as fixtures  # noqa: E402
from .export.families.dino_wm_fixtures import tiny_dino_wm_checkpoint  # noqa: E402

CANDIDATES, WINDOW, HORIZON = 3, 3, 3
CONFIG = PredictorConfig(latent_dim=20, grid=2, dim=48, depth=2, heads=3, mlp_dim=60)
LEAST_DB = {"FLOAT32": 110.0, "FLOAT16": 52.0, "BFLOAT16": 34.0, "INT8": 27.0, "FLOAT8": 14.0}
"""Of three steps of this model with drawn weights: about 5 dB below what was measured."""


@pytest.fixture
def cuda_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return use_emulated(monkeypatch)


@pytest.fixture(scope="module")
def graph() -> PredictorGraph:
    predictor = Predictor(CONFIG)
    with torch.no_grad():
        for name, tensor in predictor.state_dict().items():
            tensor.copy_(fixtures.weight(name, tuple(tensor.shape)))
    return PredictorGraph(predictor.make_tables()).eval()


@pytest.fixture(scope="module")
def weights(graph: PredictorGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ac") / "predictor.safetensors"
    write_ac_predictor(graph, path, history=WINDOW)
    return path


Inputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _inputs(frames: int, horizon: int) -> Inputs:
    """History (T, N, D) with poses and gripper, past actions (T - 1, 7), actions (S, H, 7)."""
    rng = np.random.default_rng([frames, horizon])
    history = rng.standard_normal((frames, CONFIG.patches + 1, CONFIG.latent_dim))
    past = 0.3 * rng.standard_normal((frames - 1, 7))
    actions = 0.3 * rng.standard_normal((CANDIDATES, horizon, 7))
    return history.astype(np.float32), past.astype(np.float32), actions.astype(np.float32)


def _by_torch(graph: PredictorGraph, inputs: Inputs) -> NDArray[np.float32]:
    history, past, actions = (torch.from_numpy(array) for array in inputs)
    seen = history.expand(CANDIDATES, -1, -1, -1)
    taken = torch.cat([past.expand(CANDIDATES, -1, -1), actions], dim=1)
    steps = []
    with torch.no_grad():
        for end in range(len(history), taken.shape[1] + 1):
            window = slice(max(0, end - WINDOW), end)
            steps.append(graph(seen[:, window], taken[:, window]))
            seen = torch.cat([seen, steps[-1][:, None]], dim=1)
    return torch.stack(steps, dim=1).numpy()


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_float32_is_what_torch_gives(
    cuda_module: ModuleType, graph: PredictorGraph, weights: Path, frames: int, horizon: int
) -> None:
    inputs = _inputs(frames, horizon)
    predictor = cuda_module.AcPredictor(weights, cuda_module.Precision.FLOAT32)
    rollout = cuda_module.AcRollout(predictor, CANDIDATES, horizon, chunk=2)
    status, latents = rollout.rollout(*inputs)
    expected = _by_torch(graph, inputs)
    assert status == 0
    assert np.abs(latents - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("precision", LEAST_DB)
def test_every_precision_stays_near_torch(
    cuda_module: ModuleType, graph: PredictorGraph, weights: Path, precision: str
) -> None:
    inputs = _inputs(2, HORIZON)
    predictor = cuda_module.AcPredictor(weights, getattr(cuda_module.Precision, precision))
    status, latents = cuda_module.AcRollout(predictor, CANDIDATES, HORIZON).rollout(*inputs)
    expected = _by_torch(graph, inputs)
    assert status == 0
    error = latents[:, :, :-1] - expected[:, :, :-1]
    db = 10.0 * np.log10(np.square(expected[:, :, :-1]).sum() / np.square(error).sum())
    assert LEAST_DB[precision] < db < 150.0
    np.testing.assert_allclose(latents[:, :, -1], expected[:, :, -1], atol=2e-6)


def test_the_cpu_core_says_that_it_reads_another_format(weights: Path) -> None:
    with pytest.raises(BundleError, match=r'its format is "vjepa2-ac-predictor-1", expected "lewm'):
        RolloutEngine.load(weights)


def test_the_family_stores_what_its_graph_computes(cuda_module: ModuleType, tmp_path: Path) -> None:
    loaded = load_model(open_checkpoint(fixtures.tiny_vjepa2_ac_checkpoint(tmp_path)))
    assert loaded.write_gpu_engine is not None
    path = tmp_path / "predictor.safetensors"
    loaded.write_gpu_engine(path)
    engine = cuda.CudaRolloutEngine.load(path, candidates=1)
    rng = np.random.default_rng(0)
    shape = (loaded.history, loaded.latent.tokens, loaded.latent.dim)
    history = rng.standard_normal(shape).astype(np.float32)
    actions = 0.3 * rng.standard_normal((loaded.history, 7)).astype(np.float32)
    latents = engine.rollout(history, actions[:-1], actions[None, -1:])
    with torch.no_grad():
        expected = loaded.graphs["predictor"].module(
            torch.from_numpy(history)[None], torch.from_numpy(actions)[None]
        )
    assert np.abs(latents[:, 0] - expected.numpy()).max() < 1e-5 * expected.abs().max()


def test_a_family_that_the_gpu_core_does_not_know_is_refused(tmp_path: Path) -> None:
    options = ExportOptions(precisions=("fp32",), gpu_predictor=True)
    with pytest.raises(ExportError, match="leave --gpu-predictor out"):
        export_bundle(tiny_dino_wm_checkpoint(tmp_path), tmp_path / "out.jepa", options)
    assert not (tmp_path / "out.jepa").exists()
