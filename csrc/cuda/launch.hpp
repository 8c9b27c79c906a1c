// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>

#include "device.hpp"

namespace jepa_edge::cuda {

struct Shape {
  dim3 blocks;
  dim3 threads;
  std::size_t shared_bytes = 0;  ///< dynamic; above 48 KB the kernel must have been allowed it once
};

/// Enqueues a kernel. Throws CudaError where the launch is refused. In a captured stream the
/// arguments are stored: a replay sees what they point to, not what they would be by then.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const Shape& shape, cudaStream_t stream,
            Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "launch of a kernel");
}

/// Lets a kernel use more than 48 KB of dynamic shared memory; at load.
template <typename... Parameters>
void allow_shared(void (*kernel)(Parameters...), std::size_t bytes) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

constexpr unsigned blocks_for(std::size_t items, std::size_t per_block) noexcept {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace jepa_edge::cuda
