# SPDX-License-Identifier: Apache-2.0
"""Labels and selective decoding on real latents: the shipped PushT encoder, simulated episodes.

A linear head, fitted by least squares to random text embeddings, says in which quarter of the table
the agent and the block are.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from jepa_edge.bundle import seal, staged_bundle
from jepa_edge.change_gate import ChangeGate, choose_threshold, distance, standardized
from jepa_edge.errors import MissingDependencyError
from jepa_edge.golden import GOLDEN_NAME, Golden
from jepa_edge.manifest import GraphSpec, Manifest, Provenance, TensorSpec, VariantSpec
from jepa_edge.recording import Recording
from jepa_edge.sim import make_simulator, record
from jepa_edge.text import TextLabeler
from jepa_edge.world_model import WorldModel

from ..text_head import write_head

MODEL = Path(__file__).parents[2] / "examples" / "pusht" / "model"
EPISODES, FITTED, STEPS, EMBEDDING = 26, 19, 20, 48
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A held-out episode. latents (T, 1, D); embeddings (T, 1, E); said, true: texts per frame."""

    latents: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    said: list[str]
    true: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Fitted on some episodes, held out on others, about one thing."""

    fitted_latents: list[NDArray[np.float32]]
    fitted_embeddings: list[NDArray[np.float32]]
    held_out: list[Stream]


def _encoder_bundle(path: Path, frames: NDArray[np.uint8]) -> WorldModel:
    """The shipped encoder alone, as a bundle without actions."""
    from jepa_edge.export.checkpoint import load_model, open_checkpoint
    from jepa_edge.export.onnx_export import export_graph
    from jepa_edge.export.reference import TorchReference

    loaded = load_model(open_checkpoint(MODEL, None), None)
    latent = loaded.latent
    latents = (loaded.reference or TorchReference(loaded)).encode(frames)
    with staged_bundle(path) as staging:
        onnx.save(export_graph(loaded.graphs["encoder"]), str(staging / "encoder.onnx"))
        (staging / "golden").mkdir()
        Golden(frames=frames, latents=latents).write(str(staging / GOLDEN_NAME))
        spec = GraphSpec(
            file="encoder.onnx",
            inputs=(
                TensorSpec(
                    name="frames", dtype="uint8", shape=(-1, *loaded.observation.frame_shape)
                ),
            ),
            outputs=(
                TensorSpec(name="latents", dtype="float32", shape=(-1, latent.tokens, latent.dim)),
            ),
            size_bytes=(staging / "encoder.onnx").stat().st_size,
            sqnr_db=60.0,
            centered_cosine=1.0,
            latency_ms=1.0,
        )
        manifest = Manifest(
            family="lewm",
            observation=loaded.observation,
            action=None,
            latent=latent,
            history=1,
            variants={"fp32": VariantSpec(precision="fp32", realized={"fp32": 1}, encoder=spec)},
            provenance=Provenance(
                checkpoint="examples/pusht/model",
                checkpoint_sha256="0" * 64,
                created_utc="2026-01-01T00:00:00Z",
                command="tests",
                tools={},
            ),
            files={},
        )
        seal(staging, manifest)
    return WorldModel.load(path)


def _texts(what: str, state: NDArray[np.float32]) -> list[str]:
    """In which quarter it is, by the simulator's true state."""
    x, y = state[:, :2].T if what == "agent" else state[:, 2:4].T
    return [f"{what} {CORNERS[k]}" for k in (x > 256).astype(int) + 2 * (y > 256).astype(int)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WorldModel, list[Any]]:
    """The model, and every episode's (state, latents)."""
    root = tmp_path_factory.mktemp("pusht")
    try:
        make_simulator("pusht", size=8)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    record("pusht", root / "runs", EPISODES, STEPS, 31_007)
    episodes = list(Recording(root / "runs"))
    model = _encoder_bundle(root / "pusht.jepa", episodes[0].frames[:4])
    return root, model, [(e.state, model.encode(e.frames)) for e in episodes]


@pytest.fixture(scope="module", params=["agent", "block"])
def data(request: pytest.FixtureRequest, recorded: tuple[Path, WorldModel, list[Any]]) -> Data:
    """A text head for one thing, attached with `jepa-edge labels`, and its labels."""
    from jepa_edge.export.text import attach_text, write_bank

    root, model, episodes = recorded
    what: str = request.param
    texts = [f"{what} {corner}" for corner in CORNERS]
    bank = np.random.default_rng(5).normal(size=(4, EMBEDDING))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    fitted = episodes[:FITTED]
    values = np.concatenate([latents[:, 0] for _, latents in fitted]).astype(np.float64)
    wanted = bank[[texts.index(text) for state, _ in fitted for text in _texts(what, state)]]
    center = values.mean(axis=0)
    centered = values - center
    ridge = 1e-2 * np.square(centered).sum() / centered.shape[1]
    gram = centered.T @ centered + ridge * np.eye(centered.shape[1])
    weight = np.linalg.solve(gram, centered.T @ wanted)
    bias = wanted.mean(axis=0) - center @ weight
    head = write_head(root / f"{what}.onnx", weight.astype(np.float32), bias.astype(np.float32))
    write_bank(root / f"{what}.safetensors", bank.astype(np.float32), texts)
    labelled = root / f"{what}.jepa"
    attach_text(model.bundle.path, labelled, head=head, bank=root / f"{what}.safetensors")
    labeler = TextLabeler.load(WorldModel.load(labelled))

    def embedded(latents: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([labeler.embed(latent) for latent in latents])[:, None]

    held_out = []
    for state, latents in episodes[FITTED:]:
        said = [labeler.labels(latent, top=1)[0].text for latent in latents]
        stream = Stream(
            latents=latents, embeddings=embedded(latents), said=said, true=_texts(what, state)
        )
        held_out.append(stream)
    return Data(
        fitted_latents=[latents for _, latents in fitted],
        fitted_embeddings=[embedded(latents) for _, latents in fitted],
        held_out=held_out,
    )


def test_labels_are_right_on_episodes_never_seen(data: Data) -> None:
    said = [text for stream in data.held_out for text in stream.said]
    true = [text for stream in data.held_out for text in stream.true]
    right = np.mean([a == b for a, b in zip(said, true, strict=True)])
    chance = max(true.count(text) for text in set(true)) / len(true)
    assert chance < 0.55
    assert right > 0.75
    assert right > chance + 0.25


def _held(said: list[str], published: list[bool]) -> list[str]:
    """The label that a listener has at each frame."""
    last = ""
    return [last := text if goes else last for text, goes in zip(said, published, strict=True)]


def _stale(data: Data, published: list[list[bool]]) -> float:
    """Share of frames at which the listener's label is not the one of that frame."""
    wrong = total = 0
    for stream, goes in zip(data.held_out, published, strict=True):
        assert goes[0]
        wrong += sum(a != b for a, b in zip(_held(stream.said, goes), stream.said, strict=True))
        total += len(goes)
    return wrong / total


def test_selective_decoding_beats_uniform_decoding_at_the_same_rate(data: Data) -> None:
    """Gated by the text embedding, as `jepa_edge.selective` does it."""
    threshold = choose_threshold(data.fitted_embeddings, 0.65)
    published = []
    for stream in data.held_out:
        gate = ChangeGate(threshold, keepalive_s=math.inf)
        published.append([gate.opens(0.2 * t, e) for t, e in enumerate(stream.embeddings)])
    rate = np.mean(list(itertools.chain(*published)))
    assert 0.2 < rate < 0.55
    frames = STEPS + 1
    later = (rate * frames - 1.0) / STEPS  # the first frame goes out anyway
    uniform, rates = [], []
    for phase in np.linspace(0.0, 1.0, 10, endpoint=False):
        marks = np.floor(np.arange(frames) * later + phase)
        regular = [[True, *(np.diff(marks) > 0).tolist()]] * len(data.held_out)
        rates.append(np.mean(regular))
        uniform.append(_stale(data, regular))
    assert np.mean(rates) == pytest.approx(rate, abs=0.02)
    assert _stale(data, published) < 0.5 * np.mean(uniform)


def test_a_still_scene_is_saved_and_this_one_is_not(data: Data) -> None:
    rng = np.random.default_rng(6)
    latents = data.held_out[0].latents
    # Still: one latent with a tenth of the smallest motion between two frames as noise.
    steps = [distance(a, b) for a, b in itertools.pairwise(standardized(latents))]
    noise = 0.1 * min(step for step in steps if step > 0.0) * latents[0].std()
    still, moving = ChangeGate(0.1, keepalive_s=math.inf), ChangeGate(0.1, keepalive_s=math.inf)
    for t, latent in enumerate(latents):
        still.opens(0.2 * t, latents[0] + noise * rng.normal(size=latents[0].shape))
        moving.opens(0.2 * t, latent)
    assert still.saved_share > 0.9
    assert moving.saved_share < 0.5
