# SPDX-License-Identifier: Apache-2.0
"""The Reacher example: its recordings, its model and its recipe."""

from training.task import Recipe, Split, Task

from jepa_edge.export.families.lewm import LeWMConfig

TASK = Task(
    name="reacher",
    block=1,
    splits={
        "train": Split(episodes=1500, steps=80, seed=100),
        "probe": Split(episodes=400, steps=12, seed=200),
        "val": Split(episodes=60, steps=80, seed=300),
    },
    model=LeWMConfig(
        image_size=64,
        patch_size=16,
        encoder_dim=128,
        encoder_depth=4,
        encoder_heads=4,
        encoder_mlp_dim=512,
        latent_dim=32,
        projector_dim=512,
        predictor_dim=128,
        predictor_depth=4,
        predictor_heads=4,
        predictor_dim_head=32,
        predictor_mlp_dim=512,
        history=3,
        action_dim=2,
        action_smoothed_dim=4,
        dropout=0.1,
    ),
    recipe=Recipe(steps=3000),
    # Torques show in how positions curve: three frames, and no linear head reads them from angles.
    inverse_frames=3,
    inverse_hidden=256,
)
