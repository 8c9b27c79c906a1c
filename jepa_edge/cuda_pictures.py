# SPDX-License-Identifier: Apache-2.0
"""Camera buffers become the model's frames on a GPU: color, crop and scaling in one kernel.

The bytes are those of `jepa_edge.pixels.to_rgb` and `jepa_edge.image_fit.fit_to`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jepa_edge.cuda import load
from jepa_edge.errors import InputError, MissingDependencyError
from jepa_edge.image_fit import CAMERA_FIT, MODEL_FIT, Placement, placement
from jepa_edge.manifest import ObservationSpec
from jepa_edge.pixels import PIXEL_FORMATS, PixelFormat, YuvSpec, bytes_of

if TYPE_CHECKING:
    from jepa_edge import _cuda


def fit_to(
    spec: ObservationSpec, pixels: NDArray[np.uint8], choice: str = MODEL_FIT
) -> NDArray[np.uint8]:
    """`jepa_edge.image_fit.fit_to` on the GPU: arguments, bytes and errors are the same.

    Raises MissingDependencyError too, without the GPU core or a GPU.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"the picture is {pixels.dtype} with shape {pixels.shape}, expected uint8 (H, W, 3)"
        )
    height, width = pixels.shape[:2]
    return camera_frame(
        spec,
        np.ascontiguousarray(pixels),
        height=height,
        width=width,
        pixel_format="rgb",
        choice=choice,
    )


def camera_frame(
    spec: ObservationSpec,
    buffer: NDArray[np.uint8] | bytes | bytearray | memoryview,
    *,
    height: int,
    width: int,
    pixel_format: PixelFormat,
    stride: int | None = None,
    yuv: YuvSpec | None = None,
    choice: str = CAMERA_FIT,
) -> NDArray[np.uint8]:
    """Return a camera buffer as the model's frame, (spec.height, spec.width, 3) uint8.

    buffer, height, width, pixel_format, stride, yuv: as of `jepa_edge.pixels.to_rgb`. choice: as of
    `jepa_edge.image_fit.fit_to`. Raises InputError as both do, and MissingDependencyError without
    the GPU core or a GPU.
    """
    data = bytes_of(buffer)
    made = fitter(spec, height, width, pixel_format, stride, yuv or YuvSpec(), choice)
    try:
        return made.fit(data)
    except ValueError as error:
        raise InputError(
            f"cannot read a {pixel_format} picture of {height} x {width} pixels with stride "
            f"{stride}: {error}"
        ) from error


@lru_cache(maxsize=8)
def fitter(
    spec: ObservationSpec,
    height: int,
    width: int,
    pixel_format: PixelFormat,
    stride: int | None = None,
    yuv: YuvSpec = YuvSpec(),  # noqa: B008 - frozen
    choice: str = CAMERA_FIT,
) -> _cuda.PictureFitter:
    """Return the kernel with its tables, for pictures that are on the device already.

    Its `enqueue` takes addresses and a stream, as of cuda-python, and writes the frame, and as
    (3, height, width) float32 the frame normalized by the model's mean and std. Raises as
    `camera_frame` does.
    """
    if pixel_format not in PIXEL_FORMATS:
        raise InputError(
            f"pixel format is {pixel_format!r}, expected one of {', '.join(PIXEL_FORMATS)}"
        )
    place: Placement = placement(spec, (height, width), choice)
    module = load()
    try:
        made: _cuda.PictureFitter = module.PictureFitter(
            pixel_format=pixel_format,
            height=height,
            width=width,
            stride=stride,
            bt709=yuv.matrix == "bt709",
            full_range=yuv.full_range,
            crop=place.crop,
            scaled=place.scaled,
            window=place.window,
            bicubic=place.filter == "bicubic",
            mean=spec.mean,
            std=spec.std,
        )
        return made
    except (ValueError, TypeError) as error:  # TypeError: sizes below 0 or no integers
        raise InputError(
            f"cannot read a {pixel_format} picture of {height} x {width} pixels with stride "
            f"{stride}: {str(error).splitlines()[0]}"
        ) from error
    except module.CudaError as error:
        raise MissingDependencyError(
            f"no GPU can be used here ({error}); check `nvidia-smi`, or fit pictures with "
            "jepa_edge.image_fit.fit_to"
        ) from error
