# SPDX-License-Identifier: Apache-2.0
"""A text head on a bundle: attached, checked, and read back as labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto
from safetensors.numpy import save_file

from jepa_edge.bundle import Bundle
from jepa_edge.change_gate import ChangeGate
from jepa_edge.cli.labels import command as labels_command
from jepa_edge.cli.run import command as run
from jepa_edge.errors import BundleError, CheckpointError, InputError, JepaEdgeError
from jepa_edge.export.text import attach_text, read_bank, write_bank
from jepa_edge.export.text_head import TextPredictor
from jepa_edge.monitor import Monitor
from jepa_edge.recording import RecordingInfo, RecordingWriter
from jepa_edge.selective import Selective
from jepa_edge.session import Flag, Update
from jepa_edge.text import TextLabeler
from jepa_edge.world_model import WorldModel

from ..text_head import write_head

DIM, EMBEDDING = 6, 16
TEXTS = ["a red block", "a green block", "eine Lücke", "the arm"]


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    """A head and a bank that fit the linear bundle."""
    rng = np.random.default_rng(8)
    bank = rng.normal(size=(len(TEXTS), EMBEDDING)).astype(np.float32)
    write_bank(tmp_path / "bank.safetensors", bank, TEXTS)
    weight = rng.normal(size=(DIM, EMBEDDING)).astype(np.float32)
    np.save(tmp_path / "weight.npy", weight)
    return {
        "head": write_head(tmp_path / "head.onnx", weight),
        "bank": tmp_path / "bank.safetensors",
    }


def test_labels_are_the_softmax_of_cosine_similarities(
    linear_bundle: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "labelled.jepa"
    attached = attach_text(linear_bundle, out, **parts, temperature=0.5)
    assert (attached.labels, attached.dim) == (len(TEXTS), EMBEDDING)
    labeler = TextLabeler.load(WorldModel.load(out))
    latent = np.random.default_rng(1).normal(size=(1, DIM)).astype(np.float32)

    weight = np.load(tmp_path / "weight.npy").astype(np.float64)
    bank, _ = read_bank(parts["bank"], None)
    embedding = latent[0].astype(np.float64) @ weight
    similarity = bank @ embedding / np.linalg.norm(embedding)
    probability = np.exp(similarity / 0.5) / np.exp(similarity / 0.5).sum()
    order = np.argsort(-similarity)

    found = labeler.labels(latent, top=len(TEXTS))
    assert [label.text for label in found] == [TEXTS[i] for i in order]
    assert [x.similarity for x in found] == pytest.approx(similarity[order], abs=1e-5)
    assert [x.probability for x in found] == pytest.approx(probability[order], abs=1e-5)
    assert sum(x.probability for x in found) == pytest.approx(1.0)
    assert labeler.labels(latent, top=2) == found[:2]
    assert len(labeler.labels(latent)) == 3
    with pytest.raises(InputError, match=r"shape \(2, 6\), expected \(1, 6\)"):
        labeler.labels(np.zeros((2, DIM), np.float32))
    assert labeler.labels(np.full((1, DIM), np.nan, np.float32)) == []


def _labeler(value: Any, bank: Any = None, texts: list[str] | None = None) -> TextLabeler:
    """A head that gives the same embedding for every latent, in a bank of axes."""
    axes = np.eye(3, dtype=np.float32) if bank is None else np.asarray(bank, np.float32)
    embedding = np.asarray(value, np.float32)

    class Head:
        inputs = frozenset({"latents"})

        def __call__(self, feeds: Any) -> NDArray[np.float32]:
            return embedding[None]

    return TextLabeler(Head(), axes, texts or ["x", "y", "z"], 0.5, (1, DIM))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [[0, 0, 0], [np.nan, 1, 0], [np.inf, 1, 0], [np.inf] * 3])
def test_an_embedding_without_a_direction_has_no_labels(value: list[float]) -> None:
    """Else every text would be as likely, 1 in L."""
    labeler, latent = _labeler(value), np.ones((1, DIM), np.float32)
    assert labeler.labels(latent) == []
    assert np.isnan(labeler.embed(latent)).all()
    assert labeler.nearest(np.zeros(3, np.float32)) == []
    publish = Selective(labeler=labeler, text_gate=ChangeGate(0.1))
    fields = dict.fromkeys(Flag.__struct_fields__, 0)
    published = publish(Update(flag=Flag(**fields), embedding=latent))  # type: ignore[arg-type]
    assert published.labels == ()


@pytest.mark.parametrize("size", [1e30, 3e-30])
def test_a_head_of_any_scale_has_labels(size: float) -> None:
    """The squares of these leave float32."""
    labels = _labeler([0.6 * size, 0.8 * size, 0]).labels(np.ones((1, DIM), np.float32))
    assert [label.text for label in labels] == ["y", "x", "z"]
    assert [label.similarity for label in labels] == pytest.approx([0.8, 0.6, 0.0])


@pytest.mark.parametrize(
    ("bank", "texts"),
    [
        ([[1, 0, 0], [0, np.nan, 0]], ["x", "y"]),
        (np.zeros((0, 3)), []),
        ([[1, 0, 0], [0, 2, 0]], ["x", "y"]),
        ([[1, 0, 0], [0, 1e30, 0]], ["x", "y"]),
        ([[1, 0, 0]], ["x", "y"]),
        ([1, 0, 0], ["x", "y", "z"]),
    ],
)
def test_a_bank_that_is_not_of_unit_length_is_refused(bank: Any, texts: list[str]) -> None:
    bank = np.asarray(bank, np.float32)
    with pytest.raises(BundleError, match="expected one embedding of unit length for each"):
        TextLabeler(lambda _: None, bank, texts, 0.5, (1, DIM))  # type: ignore[arg-type]


def test_the_model_and_its_calibration_stay(
    calibrated_bundle: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "labelled.jepa"
    attach_text(calibrated_bundle, out, **parts)
    before, after = Bundle.open(calibrated_bundle).manifest, Bundle.open(out).manifest
    assert before.text is None
    assert after.text is not None
    assert after.text.labels == tuple(TEXTS)
    assert {n: d for n, d in after.files.items() if not n.startswith("text/")} == before.files
    assert after.variant_sha256("fp32") == before.variant_sha256("fp32")
    monitor = Monitor.load(WorldModel.load(out))
    assert monitor.calibration.thresholds.reject > 0.0
    # Again, onto itself, with other labels: the old ones go.
    write_bank(tmp_path / "one.safetensors", np.ones((1, EMBEDDING), np.float32), ["all"])
    attach_text(out, out, head=parts["head"], bank=tmp_path / "one.safetensors")
    again = Bundle.open(out).manifest
    assert again.text is not None
    assert again.text.labels == ("all",)
    assert again.files.keys() == after.files.keys()


def test_a_head_of_ours_becomes_onnx(linear_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    head = TextPredictor(dim=DIM, heads=2, hidden_dim=20, embedding_dim=EMBEDDING)
    for tensor in head.parameters():
        torch.nn.init.normal_(tensor, std=0.5)
    tensors = {name: tensor.detach().numpy() for name, tensor in head.state_dict().items()}
    save_file(tensors, tmp_path / "head.safetensors", metadata={"heads": "2"})
    bank = np.eye(EMBEDDING, dtype=np.float32)
    write_bank(tmp_path / "bank.safetensors", bank, [f"axis {k}" for k in range(EMBEDDING)])
    out = tmp_path / "labelled.jepa"
    attach_text(
        linear_bundle, out, head=tmp_path / "head.safetensors", bank=tmp_path / "bank.safetensors"
    )
    labeler = TextLabeler.load(WorldModel.load(out))
    latent = np.random.default_rng(1).normal(size=(1, DIM)).astype(np.float32)
    # Attention by hand in float64: one query over the normed tokens, head by head.
    exact = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * exact[f"{name}.weight"] + exact[f"{name}.bias"]

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ exact[f"{name}.weight"].T + exact[f"{name}.bias"]

    def expected(tokens: NDArray[np.float32]) -> NDArray[np.float64]:
        k, v = np.split(linear(norm(tokens.astype(np.float64), "norm"), "kv"), 2, axis=-1)
        pooled = []
        for part in np.split(np.arange(DIM), 2):
            logits = k[:, part] @ exact["query"][0, 0, part] / np.sqrt(len(part))
            weights = np.exp(logits) / np.exp(logits).sum()
            pooled.append(weights @ v[:, part])
        hidden = linear(norm(linear(np.concatenate(pooled), "proj"), "mlp_norm"), "fc1")
        gelu = torch.nn.functional.gelu(torch.from_numpy(hidden)).numpy()
        return linear(gelu, "fc2")

    value = expected(latent)
    assert labeler.embed(latent) == pytest.approx(value / np.linalg.norm(value), abs=1e-5)
    # Several tokens, which the linear bundle does not have.
    several = np.random.default_rng(2).normal(size=(5, DIM)).astype(np.float32)
    with torch.no_grad():
        assert head(torch.from_numpy(several)[None])[0].numpy() == pytest.approx(
            expected(several), rel=1e-4, abs=1e-4
        )


def test_labels_from_a_file_in_any_length(tmp_path: Path) -> None:
    save_file({"embeddings": np.array([[3.0, 4.0], [0.0, -2.0]])}, tmp_path / "b.safetensors")
    (tmp_path / "labels.txt").write_text("left\n\n  weiter rechts \n", "utf-8")
    bank, texts = read_bank(tmp_path / "b.safetensors", tmp_path / "labels.txt")
    assert texts == ("left", "weiter rechts")
    assert bank.dtype == np.float32
    assert bank.tolist() == pytest.approx(np.array([[0.6, 0.8], [0.0, -1.0]]))


def test_labels_files_of_windows_and_with_odd_separators(tmp_path: Path) -> None:
    save_file({"embeddings": np.ones((2, 3), np.float32)}, tmp_path / "b.safetensors")
    labels = tmp_path / "labels.txt"
    labels.write_bytes("\ufeffa\x85 b\r\nc\r\n".encode())
    assert read_bank(tmp_path / "b.safetensors", labels)[1] == ("a\x85 b", "c")


def _bank(path: Path, values: Any, labels: list[str] | None = None) -> Path:
    metadata = None if labels is None else {"labels": json.dumps(labels)}
    save_file({"embeddings": np.asarray(values)}, path, metadata=metadata)
    return path


def test_banks_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    two = np.ones((2, 3), np.float32)
    cases: list[tuple[Any, list[str] | None, str]] = [
        (two, ["a"], "1 labels for 2 embeddings"),
        (two, None, "pass --labels FILE"),
        (two, ["a", "a"], "'a' comes twice"),
        (np.ones(3, np.float32), ["a"], r"float32 \(3,\), expected 'embeddings' of shape"),
        (np.ones((2, 3), np.int64), ["a", "b"], "int64"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), ["a", "b"], "'b' .* is zero or not finite"),
        (np.array([[1.0, np.nan]]), ["a"], "'a' .* is zero or not finite"),
    ]
    for values, labels, told in cases:
        with pytest.raises(InputError, match=told):
            read_bank(_bank(tmp_path / "bank.safetensors", values, labels), None)
    save_file({"other": two}, tmp_path / "bank.safetensors")
    with pytest.raises(InputError, match=r"holds \['other'\], expected 'embeddings'"):
        read_bank(tmp_path / "bank.safetensors", None)
    (tmp_path / "bank.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot read the bank"):
        read_bank(tmp_path / "bank.safetensors", None)
    with pytest.raises(InputError, match="cannot read the labels"):
        read_bank(_bank(tmp_path / "bank.safetensors", two), tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": "x"}, "takes x, expected 'latents' alone"),
        ({"output": "y"}, "gives y, expected 'embedding' alone"),
        ({"shape": ["B", 1, 5]}, r"float \(any, 1, 5\), expected float \(any, 1, 6\)"),
        ({"shape": ["B", 4, DIM]}, r"float \(any, 4, 6\)"),
        ({"shape": ["B", "N", DIM, 1]}, r"float \(any, any, 6, 1\)"),
        ({"kind": TensorProto.DOUBLE}, "is double"),
    ],
)
def test_heads_that_do_not_fit_are_explained(
    linear_bundle: Path,
    parts: dict[str, Path],
    tmp_path: Path,
    changes: dict[str, Any],
    told: str,
) -> None:
    head = write_head(tmp_path / "bad.onnx", np.zeros((DIM, EMBEDDING), np.float32), **changes)
    with pytest.raises(CheckpointError, match=told):
        attach_text(linear_bundle, tmp_path / "out.jepa", head=head, bank=parts["bank"])
    assert not (tmp_path / "out.jepa").exists()


def test_heads_of_another_text_encoder_or_none(
    linear_bundle: Path, parts: dict[str, Path], tmp_path: Path
) -> None:
    def refused(head: Path, told: str) -> None:
        with pytest.raises(JepaEdgeError, match=told):
            attach_text(linear_bundle, tmp_path / "out.jepa", head=head, bank=parts["bank"])

    refused(write_head(tmp_path / "h.onnx", np.ones((DIM, 8), np.float32)), r"gives \(8,\) numbers")
    bad = np.full((DIM, EMBEDDING), np.inf, np.float32)
    refused(write_head(tmp_path / "h.onnx", bad), "NaN or infinity")
    (tmp_path / "h.onnx").write_bytes(b"no model")
    refused(tmp_path / "h.onnx", "neither ONNX nor safetensors")
    refused(tmp_path / "missing.onnx", "cannot read the head")
    save_file({"fc1.weight": np.zeros((2, 2), np.float32)}, tmp_path / "h.safetensors")
    refused(tmp_path / "h.safetensors", "lacks the tensor 'query'")
    (tmp_path / "h.safetensors").write_bytes(b"\xff" * 8 + b"{")
    refused(tmp_path / "h.safetensors", "truncated or damaged safetensors")
    other = TextPredictor(dim=8, heads=2, hidden_dim=4, embedding_dim=EMBEDDING)
    tensors = {name: tensor.detach().numpy() for name, tensor in other.state_dict().items()}
    for name in ("query", "fc1.weight"):
        scalar = {**tensors, name: np.array(1.0, np.float32)}
        save_file(scalar, tmp_path / "h.safetensors", metadata={"heads": "2"})
        refused(tmp_path / "h.safetensors", rf"tensor '{name}' has shape \(\), expected")
    save_file(tensors, tmp_path / "h.safetensors", metadata={"heads": "2"})
    refused(tmp_path / "h.safetensors", "takes 8 channels, the bundle's latents have 6")
    save_file(tensors, tmp_path / "h.safetensors", metadata={"heads": "3"})
    refused(tmp_path / "h.safetensors", "heads is '3', expected a divisor of its 8 channels")
    with pytest.raises(InputError, match=r"temperature is 0\.0"):
        attach_text(linear_bundle, tmp_path / "out.jepa", **parts, temperature=0.0)


def test_a_bundle_without_a_head_says_so(linear_bundle: Path) -> None:
    with pytest.raises(BundleError, match="has no text head; attach one with `jepa-edge labels"):
        TextLabeler.load(WorldModel.load(linear_bundle))


def test_a_stream_is_labelled_on_the_command_line(
    calibrated_bundle: Path, parts: dict[str, Path], tmp_path: Path, make_episode: Any
) -> None:
    out = tmp_path / "labelled.jepa"
    given = [str(calibrated_bundle), "--out", str(out), "--json"]
    for name, path in parts.items():
        given += [f"--{name}", str(path)]
    told = CliRunner().invoke(labels_command, given, catch_exceptions=False)
    assert json.loads(told.stdout)["labels"] == len(TEXTS)
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        writer.add(make_episode(9001, 40))

    def play(bundle: Path, *options: str) -> Any:
        arguments = [str(bundle), "--source", str(tmp_path / "runs"), "--rate", "0"]
        return CliRunner().invoke(run, [*arguments, "--samples", "2", *options])

    every = [json.loads(line) for line in play(out, "--json", "--labels", "2").stdout.splitlines()]
    assert len(every) == 41
    assert all(len(record["labels"]) == 2 for record in every)
    assert {label["text"] for record in every for label in record["labels"]} <= set(TEXTS)
    some = [
        json.loads(line) for line in play(out, "--json", "--on-change", "0.05").stdout.splitlines()
    ]
    # Flags are the same; what goes with them is thinned out.
    assert [r["level"] for r in some] == [r["level"] for r in every]
    assert 0 < sum(bool(r["labels"]) for r in some) < 41
    assert [("spread" in r) for r in some if not r["changed"]].count(True) == 0
    last = play(out, "--on-change", "0.05").stdout.splitlines()[-1]
    assert "embeddings" in last
    assert "% saved" in last
    assert "label: " in play(out).stdout
    for options, why in (
        (("--labels", "2"), "has no text head, has no use for --labels"),
        (("--keepalive", "2"), "without --on-change has no use for --keepalive"),
        (("--on-change", "0"), "change threshold is 0.0"),
    ):
        refused = play(calibrated_bundle, *options)
        assert isinstance(refused.exception, InputError)
        assert why in str(refused.exception)


def test_labels_are_written_to_mcap(
    linear_bundle: Path, parts: dict[str, Path], tmp_path: Path, make_episode: Any
) -> None:
    rosbags = pytest.importorskip("rosbags.rosbag2")
    from jepa_edge.ros_types import typestore
    from jepa_edge.sinks.mcap import LABELS_TOPIC

    attach_text(linear_bundle, tmp_path / "labelled.jepa", **parts)
    with RecordingWriter(tmp_path / "runs", RecordingInfo(rate_hz=5.0, action_dim=4)) as writer:
        writer.add(make_episode(9001, 12))
    written = tmp_path / "flags.mcap"
    arguments = ["--source", str(tmp_path / "runs"), "--rate", "0", "--uncalibrated"]
    done = CliRunner().invoke(
        run, [str(tmp_path / "labelled.jepa"), *arguments, "--mcap", str(written)]
    )
    assert done.exit_code == 0, done.output
    with rosbags.Reader(written) as reader:
        of_topic = [c for c in reader.connections if c.topic == LABELS_TOPIC]
        told = [
            json.loads(typestore().deserialize_cdr(payload, connection.msgtype).data)
            for connection, _, payload in reader.messages(of_topic)
        ]
    assert [message["seq"] for message in told] == list(range(13))
    assert all(len(message["labels"]) == 3 for message in told)
