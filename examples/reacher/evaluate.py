# SPDX-License-Identifier: Apache-2.0
"""Measures the Reacher world model on episodes that it was not trained on.

python examples/reacher/evaluate.py examples/reacher/model
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.evaluate import main

from task import TASK

if __name__ == "__main__":
    main(TASK)
