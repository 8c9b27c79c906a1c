# SPDX-License-Identifier: Apache-2.0
"""The PushT example: its recordings, its model and its recipe."""

from training.task import Recipe, Split, Task

from jepa_edge.export.families.lewm import LeWMConfig

TASK = Task(
    name="pusht",
    block=2,  # environment steps per action block: 5 model steps per second
    splits={
        "train": Split(episodes=1500, steps=80, seed=100),
        # Short and many: frames of one run resemble each other.
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
        latent_dim=64,
        projector_dim=512,
        predictor_dim=128,
        predictor_depth=4,
        predictor_heads=4,
        predictor_dim_head=32,
        predictor_mlp_dim=512,
        history=3,
        action_dim=4,
        action_smoothed_dim=4,
        dropout=0.1,
    ),
    recipe=Recipe(),
    # The agent follows its target like a linear spring and damper, and a head that cannot bend
    # makes the encoder lay the agent's position out flat.
    inverse_frames=2,
    inverse_hidden=0,
)
