// SPDX-License-Identifier: Apache-2.0
// Work in the order in which it was enqueued.
#pragma once

#include <mutex>

#include "api.hpp"

namespace jepa_edge::cuda_emulation {

/// Held by every call of the runtime.
std::recursive_mutex& mutex();
/// Remembers an error for cudaGetLastError, and gives it back.
cudaError_t fail(cudaError_t error);
/// Whether any stream captures: allocations and waiting are refused then, as in CUDA.
bool is_capturing();
/// Runs what waits on all streams.
cudaError_t run_all();

}  // namespace jepa_edge::cuda_emulation
