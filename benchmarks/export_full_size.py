# SPDX-License-Identifier: Apache-2.0
"""What int8 saves and costs at full size: an 18 M LeWorldModel with random weights, exported.

    python benchmarks/export_full_size.py

No trained weights of this size are shipped, so weights and frames are drawn. What decides how much
int8 costs is the part of the class token that differs from frame to frame, since noise comes on
top of all of it. An anti-collapse loss makes that part large; here the frames do, by colored light
that changes from frame to frame on top of moving rectangles (drawn under constant light, the same
random network turns 24 dB into 15, and keeps half its layers in float). The numbers are for size
and speed, and for the machinery at this depth; they say nothing of a task.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jepa_edge.export.exporter import ExportOptions, export_bundle
from jepa_edge.export.families.lewm import LeWM, LeWMConfig
from jepa_edge.export.families.lewm_checkpoint import save_checkpoint
from jepa_edge.manifest import ActionSpec, ObservationSpec
from jepa_edge.recording import Episode, RecordingInfo, RecordingWriter

RESULT = Path(__file__).parent / "results" / "export_full_size.json"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATE_HZ = 5.0
_INTO_STREAM = ("o_proj.weight", "fc2.weight", "to_out.0.weight", "net.4.weight")
MAX_SIZE_RATIO, MIN_SQNR_DB, MIN_COSINE = 0.35, 20.0, 0.99


def draw_model(config: LeWMConfig, frames: NDArray[np.uint8], seed: int) -> LeWM:
    """Draw all weights, then set the batch norms' statistics from frames (B, H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    model = LeWM(config)
    depth = max(config.encoder_depth, config.predictor_depth)
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1 and "embed" not in name:
            # Branches into a residual stream are small in trained networks, or depth would amplify
            # any noise; GPT-2's initialization has the same factor.
            into_stream = name.endswith(_INTO_STREAM)
            scale = 0.3 if "adaLN" in name else (2 * depth) ** -0.5 if into_stream else 1.0
            tensor.normal_(0.0, scale * tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight") and tensor.ndim == 1:
            tensor.normal_(0.0, 0.3, generator=generator).exp_()  # some channels are outliers
        elif tensor.is_floating_point() and "running" not in name:
            tensor.normal_(0.0, 0.1, generator=generator)
    pixels = torch.from_numpy(frames).float() / 255.0
    pixels = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    model.eval()
    for norm in batch_norms:
        norm.train().momentum = None  # the plain mean over batches
    with torch.no_grad():
        latents = torch.cat([model.encode(part) for part in pixels.split(32)])
        for norm in batch_norms:
            norm.eval()
        # The last layer is scaled so that every latent channel has unit spread, as trained with
        # an anti-collapse loss.
        last = model.projector.net[3]
        assert isinstance(last, nn.Linear)
        latents = torch.cat([model.encode(part) for part in pixels.split(32)])
        last.weight /= latents.std(dim=0)[:, None]
        last.bias.copy_((last.bias - latents.mean(dim=0)) / latents.std(dim=0))
        latents = torch.cat([model.encode(part) for part in pixels.split(32)])
        actions = torch.randn(len(latents), config.history, config.action_dim, generator=generator)
        history = latents[torch.randint(len(latents), actions.shape[:2], generator=generator)]
        model.pred_proj.net[1].train()
        model.predict(history, model.encode_actions(actions))
    return model.eval()


def draw_frames(rng: np.random.Generator, count: int, size: int) -> NDArray[np.uint8]:
    """Frames (count, size, size, 3) of three moving rectangles under changing colored light."""
    ground = rng.integers(80, 200, (8, 8, 3)).repeat(size // 8, axis=0).repeat(size // 8, axis=1)
    frames = np.repeat(ground[None].astype(np.float64), count, axis=0)
    for _ in range(3):
        color, extent = rng.integers(0, 256, 3), rng.integers(size // 8, size // 3, 2)
        corner = rng.uniform(0, size - extent)
        speed = rng.normal(0.0, size / 40, 2)
        for frame in frames:
            corner = np.clip(corner + speed + rng.normal(0.0, size / 80, 2), 0, size - extent)
            (y, x), (h, w) = corner.astype(int), extent
            frame[y : y + h, x : x + w] = color
    turns = rng.uniform(0.05, 0.2, 3) * np.arange(count)[:, None] + rng.uniform(0.0, 1.0, 3)
    light = 100.0 * np.sin(2.0 * np.pi * turns)
    frames = 64.0 + 0.5 * frames + light[:, None, None] + rng.normal(0.0, 2.0, frames.shape)
    return np.clip(frames, 0, 255).astype(np.uint8)


def write_recording(path: Path, config: LeWMConfig, episodes: int, seed: int) -> None:
    """Write episodes of 24 frames and random smooth actions."""
    rng = np.random.default_rng(seed)
    info = RecordingInfo(rate_hz=RATE_HZ, action_dim=config.action_dim)
    with RecordingWriter(path, info) as writer:
        for index in range(episodes):
            actions = np.cumsum(rng.normal(0.0, 0.5, (23, config.action_dim)), axis=0)
            writer.add(
                Episode(
                    name=f"drawn {index}",
                    frames=draw_frames(rng, 24, config.image_size),
                    actions=actions.astype(np.float32),
                    stamps_s=np.arange(24) / RATE_HZ,
                )
            )


def _portable(report: dict[str, Any]) -> dict[str, Any]:
    """Drop the paths of this machine's temporary directory."""
    report["bundle"] = Path(report["bundle"]).name
    report["data"]["recording"] = Path(report["data"]["recording"]).name
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="(default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=24, help="(default: %(default)s)")
    parser.add_argument("--calibration-frames", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = LeWMConfig()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_recording(root / "runs", config, arguments.episodes, arguments.seed)
        rng = np.random.default_rng(arguments.seed + 1)
        frames = np.concatenate([draw_frames(rng, 4, config.image_size) for _ in range(32)])
        model = draw_model(config, frames, arguments.seed)
        save_checkpoint(
            root / "checkpoint",
            model,
            observation=ObservationSpec(
                height=config.image_size,
                width=config.image_size,
                mean=MEAN,
                std=STD,
                rate_hz=RATE_HZ,
            ),
            action=ActionSpec(dim=10, block=5, mean=(0.0,) * 10, std=(1.0,) * 10),
        )

        def show(stage: str, done: int, total: int) -> None:
            print(f"\r{stage} {done}/{total}".ljust(70), end="", flush=True)

        report = export_bundle(
            root / "checkpoint",
            root / "full.jepa",
            ExportOptions(
                calibration_data=root / "runs",
                precisions=("fp32", "fp16", "int8"),
                calibration_frames=arguments.calibration_frames,
                tuning_frames=32,
                held_out_frames=64,
                seed=arguments.seed,
            ),
            show,
        )
    print()
    int8 = next(v for v in report.variants if v.precision == "int8")
    checks = {
        f"{part}_{name}": bool(met)
        for part in ("encoder", "predictor")
        for graph in [getattr(int8, part)]
        for name, met in (
            (f"size_at_most_{MAX_SIZE_RATIO}", graph.size_ratio <= MAX_SIZE_RATIO),
            (f"sqnr_at_least_{MIN_SQNR_DB:g}_db", graph.sqnr_db >= MIN_SQNR_DB),
            (f"cosine_at_least_{MIN_COSINE}", graph.centered_cosine >= MIN_COSINE),
            ("faster_at_batch_1", graph.latency_ratio < 1.0),
            ("faster_at_batch_64", graph.latency_batch64_ratio < 1.0),
        )
    }
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg()[0],
        "values": sum(tensor.numel() for tensor in model.state_dict().values()),
        "checks": checks,
        "report": _portable(msgspec.to_builtins(report)),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    for variant in report.variants:
        for graph in variant.graphs:
            print(
                f"{variant.precision} {graph.part:<9} {graph.sqnr_db:6.1f} dB  cosine "
                f"{graph.centered_cosine:.5f}  {graph.size_bytes / 1e6:6.2f} MB "
                f"({graph.size_ratio:.2f})  batch 1 {graph.latency_ms:7.2f} ms "
                f"({graph.latency_ratio:.2f})  batch 64 {graph.latency_batch64_ms:8.1f} ms "
                f"({graph.latency_batch64_ratio:.2f})"
            )
    failed = [name for name, met in checks.items() if not met]
    print("all checks met" if not failed else f"not met: {', '.join(failed)}")


if __name__ == "__main__":
    main()
