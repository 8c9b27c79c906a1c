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
#ifdef __CUDACC__
#include <mma.h>
#endif
#endif

namespace jepa_edge::cuda {

/// The block's dynamic shared memory, aligned to 128 bytes.
#ifdef JEPA_EDGE_CUDA_EMULATE
template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(cuda_emulation::dynamic_shared_bytes());
}
#elif defined(__CUDACC__)
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char jepa_edge_shared_bytes[];
  return reinterpret_cast<T*>(jepa_edge_shared_bytes);
}
#endif

}  // namespace jepa_edge::cuda
