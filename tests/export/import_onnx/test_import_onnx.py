# SPDX-License-Identifier: Apache-2.0
"""A user's own ONNX files as a bundle: against torch, bit for bit, and in messages."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from jepa_edge.cli.app import cli
from jepa_edge.errors import ExportError, InputError
from jepa_edge.export.import_onnx import ImportOptions, import_onnx
from jepa_edge.export.import_onnx_file import read_graph
from jepa_edge.export.import_onnx_spec import read_spec
from jepa_edge.export.import_onnx_template import template
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter
from jepa_edge.session import Observation, Session
from jepa_edge.world_model import WorldModel


@pytest.fixture(scope="session")
def imported(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "mine.jepa"
    import_onnx(
        out,
        ImportOptions(
            encoder=files / "enc.onnx", predictor=files / "pred.onnx", spec=files / "model.toml"
        ),
    )
    return out


def _torch(foreign: ModuleType, frames: Any, actions: Any) -> tuple[Any, Any]:
    """Latents (B, T, D) and the prediction (B, D), as the user's own code computes them."""
    encoder, predictor = foreign.make_models()
    with torch.no_grad():
        flat = frames.reshape(-1, *frames.shape[2:])
        latents = encoder(foreign.normalized(flat)).reshape(*frames.shape[:2], foreign.DIM)
        mean, std = torch.tensor(foreign.ACTION_MEAN), torch.tensor(foreign.ACTION_STD)
        normalized = (torch.from_numpy(actions) - mean) / std
        return latents.numpy(), predictor(latents, normalized).numpy()


def _case(foreign: ModuleType) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    steps, size = foreign.HISTORY, foreign.SIZE
    frames = rng.integers(0, 256, (5, steps, size, size, 3), dtype=np.uint8)
    return frames, rng.normal(size=(5, steps, foreign.ACTION)).astype(np.float32)


def test_the_bundle_computes_what_torch_does(imported: Path, foreign: ModuleType) -> None:
    model = WorldModel.load(imported)
    frames, actions = _case(foreign)
    latents, prediction = _torch(foreign, frames, actions)
    got = model.encode(frames.reshape(-1, *frames.shape[2:])).reshape(*frames.shape[:2], 1, -1)
    np.testing.assert_allclose(got[:, :, 0], latents, atol=1e-5 * np.abs(latents).max())
    predicted = model.predict(latents[:, :, None], actions)
    np.testing.assert_allclose(
        predicted[:, 0], prediction, atol=1e-5 * np.abs(prediction).max(), rtol=0
    )
    assert model.manifest.family == "mine"
    assert model.manifest.observation.height == foreign.SIZE
    assert model.manifest.action is not None
    assert model.manifest.action.names == ("x", "y", "grip")


def test_a_session_runs_on_it(imported: Path, foreign: ModuleType) -> None:
    session = Session(WorldModel.load(imported), None)
    rng = np.random.default_rng(2)
    for step in range(6):
        frame = rng.integers(0, 256, (foreign.SIZE, foreign.SIZE, 3), dtype=np.uint8)
        action = None if step == 0 else np.zeros(foreign.ACTION, np.float32)
        result = session.step(Observation(stamp_s=step / 5.0, frame=frame, action=action))
    assert result.embedding is not None
    assert np.isfinite(result.embedding).all()


def test_a_batch_of_one_is_made_dynamic(files: Path, tmp_path: Path, foreign: ModuleType) -> None:
    report = import_onnx(
        tmp_path / "m.jepa",
        ImportOptions(
            encoder=files / "fixed.onnx", predictor=files / "pred.onnx", spec=files / "model.toml"
        ),
    )
    assert "batch of 1 made dynamic" in report.parts[0].changes
    frames, actions = _case(foreign)
    latents, _ = _torch(foreign, frames, actions)
    got = WorldModel.load(tmp_path / "m.jepa").encode(frames[:, 0])
    np.testing.assert_allclose(got[:, 0], latents[:, 0], atol=1e-5 * np.abs(latents).max())


def test_files_that_fit_are_kept_bit_for_bit(linear_bundle: Path, tmp_path: Path) -> None:
    spec = tmp_path / "s.toml"
    spec.write_text(
        "[observation]\nrate_hz = 5.0\n[action]\nblock = 2\nmean = [0, 0, 0, 0]\n"
        "std = [1, 1, 1, 1]\n"
    )
    out = tmp_path / "kept.jepa"
    report = import_onnx(
        out,
        ImportOptions(
            encoder=linear_bundle / "encoder.onnx",
            predictor=linear_bundle / "predictor.onnx",
            spec=spec,
        ),
    )
    assert all(not part.changes for part in report.parts)
    for name in ("encoder.onnx", "predictor.onnx"):
        assert (out / name).read_bytes() == (linear_bundle / name).read_bytes()
    assert WorldModel.load(out).manifest.history == 3


def test_weights_beside_the_file_move_into_the_bundle(
    files: Path, tmp_path: Path, imported: Path, foreign: ModuleType
) -> None:
    for name in ("pred.onnx", "model.toml"):
        shutil.copy(files / name, tmp_path)
    onnx.save(
        onnx.load(str(files / "enc.onnx")),
        str(tmp_path / "enc.onnx"),
        save_as_external_data=True,
        location="heavy.bin",
        size_threshold=256,
    )
    options = ImportOptions(
        encoder=tmp_path / "enc.onnx",
        predictor=tmp_path / "pred.onnx",
        spec=tmp_path / "model.toml",
    )
    import_onnx(tmp_path / "m.jepa", options)
    frames, _ = _case(foreign)
    expected = WorldModel.load(imported).encode(frames[:, 0])
    np.testing.assert_array_equal(
        WorldModel.load(tmp_path / "m.jepa").encode(frames[:, 0]), expected
    )
    (tmp_path / "heavy.bin").unlink()
    with pytest.raises(ExportError, match=r"heavy\.bin.*not beside it"):
        import_onnx(tmp_path / "n.jepa", options)


def test_golden_inputs_come_from_the_recording(
    files: Path, tmp_path: Path, foreign: ModuleType
) -> None:
    rng = np.random.default_rng(0)
    size = foreign.SIZE
    with RecordingWriter(
        tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=foreign.ACTION)
    ) as writer:
        for seed in range(3):
            writer.add(
                Episode(
                    name=str(seed),
                    frames=rng.integers(0, 256, (11, size, size, 3), dtype=np.uint8),
                    actions=rng.normal(size=(10, foreign.ACTION)).astype(np.float32),
                    stamps_s=np.arange(11) / 5.0,
                )
            )
    report = import_onnx(
        tmp_path / "m.jepa",
        ImportOptions(
            encoder=files / "enc.onnx",
            predictor=files / "pred.onnx",
            spec=files / "model.toml",
            calibration_data=tmp_path / "runs",
        ),
    )
    assert report.golden_from == str(tmp_path / "runs")
    assert not report.warnings


def _edit(files: Path, tmp_path: Path, change: Callable[[str], str]) -> ImportOptions:
    spec = tmp_path / "changed.toml"
    spec.write_text(change((files / "model.toml").read_text()))
    return ImportOptions(encoder=files / "enc.onnx", predictor=files / "pred.onnx", spec=spec)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_hz = 5.0", "", r"\[observation\].*rate_hz.*training data"),
        ("rate_hz = 5.0", "rate_hz = 5.0\nheight = 32", r"says height = 32, the graph has 16"),
        ("rate_hz = 5.0", "rate_hz = 5.0\nwdith = 16", "unknown field `wdith`"),
        ("mean = [0.5, 0.4, 0.3]", "", r"lacks mean.*pixel / 255"),
        ("std = [0.2, 0.25, 0.3]", "std = [0.2, 0.0, 0.3]", "expected positive"),
        ("mean = [0.5, 0.4, 0.3]", "mean = [nan, 0.4, 0.3]", "expected finite numbers"),
        ("rate_hz = 5.0", 'rate_hz = 5.0\nheight = "16"', r"says height = '16', the graph has 16"),
        ('family = "mine"', 'family = "../mine"', r"family's name is '\.\./mine'"),
        ('family = "mine"', "history = 2\nmin_history = 3", r"\[model\] says min_history = 3"),
        ("[wrap]", "[masks]\ntarget_norm = false\n[wrap]", r"\[masks\], but no mask predictor"),
        ('family = "mine"', "history = 5", r"says history = 5.*that is 2"),
        ("[wrap]", "[warp]", "unknown field `warp`"),
        ("[wrap]", "[latent]\ndim = 99\n[wrap]", r"says dim = 99, the graph has 12"),
        ("[wrap]", '[rename.encoder]\nframes = "picture"\n[wrap]', r"frames = 'picture' does not"),
        ("[wrap]", '[rename.decoder]\nframes = "x"\n[wrap]', "decoder, expected some of encoder"),
        ("normalize_actions = true", "last_step = 1", r"Expected `bool`"),
    ],
)
def test_a_spec_that_does_not_fit_is_explained(
    files: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    options = _edit(files, tmp_path, lambda text: text.replace(old, new, 1))
    with pytest.raises((ExportError, InputError), match=message):
        import_onnx(tmp_path / "m.jepa", options)
    assert not (tmp_path / "m.jepa").exists()


def test_a_spec_with_a_byte_order_mark_is_read_and_a_folder_is_none(
    files: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "bom.toml"
    spec.write_text((files / "model.toml").read_text(), encoding="utf-8-sig")
    assert read_spec(spec) == read_spec(files / "model.toml")
    with pytest.raises(InputError, match=r"cannot read the import spec .*directory"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("[model]\nhistory = 2", r"\[model\] history"),
        ("[model]\nmin_history = 1", r"\[model\] min_history"),
        ("[wrap]\nlast_step = true", r"\[wrap\]"),
        ('[rename.predictor]\nhistory = "emb"', r"\[rename\.predictor\]"),
    ],
)
def test_what_only_a_predictor_needs_is_refused_without_one(
    files: Path, tmp_path: Path, said: str, what: str
) -> None:
    spec = tmp_path / "encoder.toml"
    observation = "[observation]\nrate_hz = 5.0\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.25, 0.3]\n"
    spec.write_text(f"{observation}{said}\n")
    with pytest.raises(InputError, match=f"has {what}, but no .*--predictor"):
        import_onnx(tmp_path / "m.jepa", ImportOptions(encoder=files / "enc.onnx", spec=spec))


def test_a_template_that_cannot_be_written_is_told(files: Path, tmp_path: Path) -> None:
    arguments = ["--encoder", str(files / "enc.onnx")]
    refused = CliRunner().invoke(
        cli, ["import-onnx", *arguments, "--write-spec", str(tmp_path / "gone" / "x.toml")]
    )
    assert isinstance(refused.exception, InputError)
    assert "choose a folder that is there" in str(refused.exception)


def _graph(
    path: Path,
    inputs: dict[str, tuple[int, list[Any]]],
    nodes: list[Any],
    outputs: dict[str, list[Any]],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 20,
    domain: str = "",
) -> Path:
    """Write a graph with float outputs."""
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path))
    return path


_PIXELS = {"pixels": (TensorProto.FLOAT, ["b", 3, 16, 16])}
_MEAN_COLOR = [helper.make_node("ReduceMean", ["pixels", "hw"], ["color"], keepdims=0)]
_ROW = {"color": ["b", 3]}
_HW = {"hw": np.array([2, 3], np.int64)}


def _fails(
    files: Path, tmp_path: Path, encoder: Path | None, predictor: Path | None, message: str
) -> None:
    options = ImportOptions(
        encoder=encoder or files / "enc.onnx",
        predictor=predictor or files / "pred.onnx",
        spec=files / "model.toml",
    )
    with pytest.raises(ExportError, match=message):
        import_onnx(tmp_path / "m.jepa", options)


def test_two_outputs_are_explained_and_one_can_be_chosen(files: Path, tmp_path: Path) -> None:
    nodes = [*_MEAN_COLOR, helper.make_node("Neg", ["color"], ["dark"])]
    encoder = _graph(tmp_path / "e.onnx", _PIXELS, nodes, {**_ROW, "dark": ["b", 3]}, _HW)
    _fails(files, tmp_path, encoder, None, r"2 outputs.*color.*dark.*\[rename\.encoder\] latents")
    spec = tmp_path / "s.toml"
    spec.write_text(
        "[observation]\nrate_hz = 1.0\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"
        '[rename.encoder]\nlatents = "dark"\n'
    )
    report = import_onnx(tmp_path / "m.jepa", ImportOptions(encoder=encoder, spec=spec))
    assert "left out color" in report.parts[0].changes
    frames = np.full((2, 16, 16, 3), 51, np.uint8)
    got = WorldModel.load(tmp_path / "m.jepa").encode(frames)
    np.testing.assert_allclose(got, -0.2, atol=1e-6)


def test_graphs_that_do_not_fit_are_explained(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    whole = {"pixels": (TensorProto.FLOAT, ["b", 3, 16])}
    node = [helper.make_node("ReduceMean", ["pixels"], ["color"], keepdims=0)]
    _fails(
        files, tmp_path, _graph(path, whole, node, {"color": []}), None, r"expected frames uint8"
    )
    integers = {"frames": (TensorProto.INT64, ["b", 16, 16, 3])}
    cast = [helper.make_node("Cast", ["frames"], ["out"], to=TensorProto.FLOAT)]
    _fails(
        files,
        tmp_path,
        _graph(path, integers, cast, {"out": ["b", 16, 16, 3]}),
        None,
        r"int64.*export it with frames",
    )
    _fails(
        files,
        tmp_path,
        _graph(
            path,
            _PIXELS,
            [helper.make_node("Abs", ["pixels"], ["map"])],
            {"map": ["b", 3, 16, 16]},
        ),
        None,
        r"expected \(B, N, D\)",
    )
    scalar = [helper.make_node("ReduceMean", ["pixels"], ["color"], keepdims=0)]
    _fails(
        files,
        tmp_path,
        _graph(path, _PIXELS, scalar, {"color": []}),
        None,
        "batch as the first axis",
    )
    _fails(files, tmp_path, None, files / "enc.onnx", r"takes pixels.*expected history float32")
    three = _graph(path, _PIXELS, _MEAN_COLOR, _ROW, _HW)
    _fails(files, tmp_path, three, None, r"emb float32 \(.*, 2, 12\).*expected history")


def test_foreign_operators_and_versions_are_refused(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.onnx"
    custom = [helper.make_node("Mystery", ["pixels"], ["out"], domain="com.acme")]
    _fails(
        files,
        tmp_path,
        _graph(path, _PIXELS, custom, {"out": ["b", 3]}, domain="com.acme"),
        None,
        "com.acme::Mystery.*no library is loaded",
    )
    old = [helper.make_node("Abs", ["pixels"], ["out"])]
    _fails(
        files,
        tmp_path,
        _graph(path, _PIXELS, old, {"out": ["b", 3, 16, 16]}, opset=9),
        None,
        "opset 9.*11 to 22",
    )
    path.write_bytes(b"PK\x03\x04 no graph")
    _fails(files, tmp_path, path, None, "no ONNX file|no operators")
    _fails(files, tmp_path, tmp_path / "none.onnx", None, "does not exist")


def test_weights_outside_of_the_folder_are_refused(files: Path, tmp_path: Path) -> None:
    model = onnx.load(str(files / "enc.onnx"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "e.onnx").write_bytes(model.SerializeToString())
    _fails(files, tmp_path, tmp_path / "e.onnx", None, "outside of its folder")


def test_a_batch_that_cannot_be_made_dynamic_is_explained(files: Path, tmp_path: Path) -> None:
    one = {"pixels": (TensorProto.FLOAT, [1, 3, 16, 16])}
    nodes = [*_MEAN_COLOR, helper.make_node("Slice", ["color", "zero", "end", "zero"], ["first"])]
    constants = {**_HW, "zero": np.array([0], np.int64), "end": np.array([1], np.int64)}
    path = _graph(tmp_path / "e.onnx", one, nodes, {"first": [1, 3]}, constants)
    spec = tmp_path / "s.toml"
    spec.write_text("[observation]\nrate_hz = 1.0\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    with pytest.raises(ExportError, match=r"batch of 1, and cannot take another.*dynamic_shapes"):
        import_onnx(tmp_path / "m.jepa", ImportOptions(encoder=path, spec=spec))


def test_a_graph_that_mixes_its_batch_is_refused(files: Path, tmp_path: Path) -> None:
    nodes = [
        *_MEAN_COLOR,
        helper.make_node("ReduceMean", ["color", "rows"], ["center"], keepdims=1),
        helper.make_node("Sub", ["color", "center"], ["relative"]),
        helper.make_node("Add", ["relative", "color"], ["out"]),
    ]
    constants = {**_HW, "rows": np.array([0], np.int64)}
    path = _graph(tmp_path / "e.onnx", _PIXELS, nodes, {"out": ["b", 3]}, constants)
    spec = tmp_path / "s.toml"
    spec.write_text("[observation]\nrate_hz = 1.0\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    with pytest.raises(ExportError, match=r"samples of a batch on their own.*model\.eval"):
        import_onnx(tmp_path / "m.jepa", ImportOptions(encoder=path, spec=spec))


def test_one_latent_per_step_needs_a_word(files: Path, tmp_path: Path, foreign: ModuleType) -> None:
    predictor = _graph(
        tmp_path / "p.onnx",
        {
            "emb": (TensorProto.FLOAT, ["b", 2, foreign.DIM]),
            "act": (TensorProto.FLOAT, ["b", 2, foreign.ACTION]),
        },
        [
            helper.make_node("ReduceMean", ["act", "last"], ["push"], keepdims=1),
            helper.make_node("Add", ["emb", "push"], ["all"]),
        ],
        {"all": ["b", 2, foreign.DIM]},
        {"last": np.array([2], np.int64)},
    )
    _fails(files, tmp_path, None, predictor, r"one latent per step.*last_step = true")
    options = _edit(files, tmp_path, lambda text: text + "last_step = true\n")
    import_onnx(tmp_path / "m.jepa", dataclasses.replace(options, predictor=predictor))
    rng = np.random.default_rng(1)
    history = rng.normal(size=(3, 2, 1, foreign.DIM)).astype(np.float32)
    actions = rng.normal(size=(3, 2, foreign.ACTION)).astype(np.float32)
    normalized = (actions - np.float32(foreign.ACTION_MEAN)) / np.float32(foreign.ACTION_STD)
    expected = history[:, -1] + normalized[:, -1].mean(-1)[:, None, None]
    got = WorldModel.load(tmp_path / "m.jepa").predict(history, actions)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_command_writes_a_spec_and_imports_with_it(
    files: Path, tmp_path: Path, foreign: ModuleType
) -> None:
    spec, out = tmp_path / "spec.toml", tmp_path / "m.jepa"
    graphs = ["--encoder", str(files / "enc.onnx"), "--predictor", str(files / "pred.onnx")]
    run = CliRunner().invoke(cli, ["import-onnx", *graphs, "--write-spec", str(spec)])
    assert run.exit_code == 0, run.output
    text = spec.read_text()
    assert "height = 16" in text
    assert '# frames = "pixels"' in text
    with pytest.raises(InputError, match="rate_hz"):
        import_onnx(
            out,
            ImportOptions(encoder=files / "enc.onnx", predictor=files / "pred.onnx", spec=spec),
        )
    spec.write_text(text.replace("rate_hz = 0.0", "rate_hz = 5.0"))
    arguments = ["import-onnx", *graphs, "--spec", str(spec), "--out", str(out), "--json"]
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["parts"][0]["mapping"]["frames"] == "pixels float32 (batch, 3, 16, 16)"
    assert report == json.loads((out / "reports" / "import.json").read_text())


def test_the_template_names_what_an_encoder_alone_needs(files: Path) -> None:
    text = template([read_graph(files / "enc.onnx", "encoder")])
    assert "FILL IN" in text
    assert "[action]" not in text


def test_an_encoder_alone_encodes_and_imagines_nothing(files: Path, tmp_path: Path) -> None:
    spec, out = tmp_path / "s.toml", tmp_path / "m.jepa"
    text = (files / "model.toml").read_text()
    with pytest.raises(InputError, match=r"has \[action\], but no predictor"):
        import_onnx(out, ImportOptions(encoder=files / "enc.onnx", spec=files / "model.toml"))
    spec.write_text(text[: text.index("[action]")])
    report = import_onnx(out, ImportOptions(encoder=files / "enc.onnx", spec=spec))
    assert "no predictor" in report.warnings[1]
    assert not WorldModel.load(out).takes_actions
    np.save(tmp_path / "f.npy", np.zeros((16, 16, 3), np.uint8))
    run = CliRunner().invoke(cli, ["imagine", str(out), "--source", str(tmp_path / "f.npy")])
    assert isinstance(run.exception, InputError)
    assert "takes no actions" in str(run.exception)


def test_masks_and_clips_come_with_their_graphs(tmp_path: Path) -> None:
    """Tokens are the mean colors of a clip's 2 x 2 quarters; the hidden ones repeat the first."""
    encoder = _graph(
        tmp_path / "e.onnx",
        {
            "video": (TensorProto.FLOAT16, ["b", 2, 3, 8, 8]),
            "keep": (TensorProto.INT64, ["v"]),
        },
        [
            helper.make_node("ReduceMean", ["video", "time"], ["picture"], keepdims=0),
            helper.make_node(
                "AveragePool", ["picture"], ["map"], kernel_shape=[4, 4], strides=[4, 4]
            ),
            helper.make_node("Reshape", ["map", "flat"], ["rows"]),
            helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("Cast", ["tokens"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["wide", "keep"], ["out"], axis=1),
        ],
        {"out": ["b", "v", 3]},
        {"time": np.array([1], np.int64), "flat": np.array([0, 3, 4], np.int64)},
    )
    mask_predictor = _graph(
        tmp_path / "m.onnx",
        {
            "context": (TensorProto.FLOAT, ["b", "v", 3]),
            "visible": (TensorProto.INT64, ["v"]),
            "hidden": (TensorProto.INT64, ["m"]),
        },
        [
            helper.make_node("Mul", ["hidden", "none"], ["zeros"]),
            helper.make_node("Gather", ["context", "zeros"], ["out"], axis=1),
        ],
        {"out": ["b", "m", 3]},
        {"none": np.array([0], np.int64)},
    )
    patterns = {
        "visible": np.array([[0, 1], [2, 3]], np.int64),
        "hidden": np.array([[2, 3], [0, 1]], np.int64),
    }
    save_file(patterns, tmp_path / "masks.safetensors")
    spec = tmp_path / "s.toml"
    spec.write_text(
        "[observation]\nrate_hz = 1.0\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"
        "[observation.clip]\nhop = 2\n[masks]\ntarget_norm = false\n"
    )
    options = ImportOptions(
        encoder=encoder,
        spec=spec,
        mask_predictor=mask_predictor,
        masks=tmp_path / "masks.safetensors",
    )
    import_onnx(tmp_path / "m.jepa", options)
    model = WorldModel.load(tmp_path / "m.jepa")
    clip = model.manifest.observation.clip
    assert clip is not None
    assert (clip.frames, clip.hop) == (2, 2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 3), dtype=np.uint8)
    quarters = frames.reshape(3, 2, 2, 4, 2, 4, 3).mean(axis=(1, 3, 5)).reshape(3, 4, 3) / 255.0
    np.testing.assert_allclose(model.encode(frames), quarters, atol=2e-3)  # it computes in float16
    energies = model.masked_energy(frames)
    first = {0: 2, 1: 2, 2: 0, 3: 0}
    for token, seen in first.items():
        expected = np.abs(quarters[:, token] - quarters[:, seen]).mean(axis=1)
        np.testing.assert_allclose(energies[:, token], expected, atol=3e-3)
    with pytest.raises(InputError, match="expected both or none"):
        dataclasses.replace(options, masks=None)
    save_file({"visible": patterns["visible"] + 9, "hidden": patterns["hidden"]}, options.masks)
    spec.write_text(spec.read_text() + "[latent]\ntokens = 4\n")
    with pytest.raises(InputError, match="name token 12, the spec says 4"):
        import_onnx(tmp_path / "n.jepa", options)
