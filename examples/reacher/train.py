# SPDX-License-Identifier: Apache-2.0
"""Train the small Reacher world model that JEPA Edge ships, from the simulator to the weights.

One command repeats everything, data included (about an hour on two CPU cores):

    python examples/reacher/train.py --out examples/reacher/model
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.train import main

from task import TASK

if __name__ == "__main__":
    main(TASK)
