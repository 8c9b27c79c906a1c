# SPDX-License-Identifier: Apache-2.0
"""Keeps the chatter of torch, ONNX and NNCF off the terminal, where only our own words belong."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run a third-party tool: what it prints, warns and logs goes to our debug log.

    Not for code of ours: a warning raised inside is not seen.
    """
    printed = io.StringIO()
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
    if text := printed.getvalue().strip():
        logger.debug("%s", text)
