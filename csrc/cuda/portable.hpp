// SPDX-License-Identifier: Apache-2.0
// CUDA, or in the tests of machines without a GPU its emulation on the CPU
// (csrc/cuda/emulator): kernels and host code are the same source in both.
#pragma once

#ifdef JEPA_EDGE_CUDA_EMULATE
#include "emulator/runtime.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <mma.h>
#endif
