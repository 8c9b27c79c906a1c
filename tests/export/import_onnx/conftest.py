# SPDX-License-Identifier: Apache-2.0
"""A user's two ONNX files and spec, written once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _load() -> ModuleType:
    path = Path(__file__).with_name("foreign.py")
    spec = importlib.util.spec_from_file_location("import_onnx_foreign", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def foreign() -> ModuleType:
    """The module beside this file."""
    return _load()


@pytest.fixture(scope="session")
def files(foreign: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with enc.onnx, fixed.onnx (batch of 1), pred.onnx and model.toml."""
    root = tmp_path_factory.mktemp("foreign")
    encoder, predictor = foreign.make_models()
    size, steps = foreign.SIZE, foreign.HISTORY
    pixels = {"pixels": torch.zeros(2, 3, size, size)}
    foreign.export(encoder, pixels, root / "enc.onnx", output="features")
    single = {"pixels": torch.zeros(1, 3, size, size)}
    foreign.export(encoder, single, root / "fixed.onnx", output="features", dynamic=False)
    example = {
        "emb": torch.zeros(2, steps, foreign.DIM),
        "act": torch.zeros(2, steps, foreign.ACTION),
    }
    foreign.export(predictor, example, root / "pred.onnx", output="next")
    (root / "model.toml").write_text(foreign.SPEC)
    return root
