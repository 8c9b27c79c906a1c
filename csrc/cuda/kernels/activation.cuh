// SPDX-License-Identifier: Apache-2.0
// The way of an action to its modulation.
#pragma once

#include <cstddef>

#include "ac_rows.cuh"

namespace jepa_edge::cuda {

__device__ inline Eight<float> silu(Eight<float> x) {
  for (float& value : x.at) value = value / (1.0F + expf(-value));
  return x;
}

/// The first layer of the action embedding, in float32.
struct ActionLayer {
  const float* mean;
  const float* inv_std;
  const float* weight;  ///< (size, to.width): transposed
  const float* bias;
  unsigned size;  ///< A
};

/// to = SiLU(weight z-score(action) + bias). One block per action; dynamic shared memory: A floats.
template <Precision precision>
__global__ void embed_actions(const float* actions, ActionLayer layer,
                              Operands<Operand<precision>> to) {
  auto* const scored = dynamic_shared<float>();
  const float* action = actions + std::size_t{blockIdx.x} * layer.size;
  for (unsigned a = threadIdx.x; a < layer.size; a += blockDim.x) {
    scored[a] = (action[a] - layer.mean[a]) * layer.inv_std[a];
  }
  __syncthreads();
  const unsigned column = kGroup * threadIdx.x;
  Eight<float> sum{};
  if (column < to.width) {
    sum = *reinterpret_cast<const Eight<float>*>(layer.bias + column);
    for (unsigned a = 0; a < layer.size; ++a) {
      const auto& weight =
          *reinterpret_cast<const Eight<float>*>(layer.weight + std::size_t{a} * to.width + column);
      for (unsigned i = 0; i < kGroup; ++i) sum.at[i] += weight.at[i] * scored[a];
    }
  }
  write_operands<precision>(to, blockIdx.x, column, silu(sum));
}

/// to = SiLU of a product in another precision. One block per row.
template <Precision from_precision, Precision precision>
__global__ void silu_rows(Products<Result<from_precision>> from, Operands<Operand<precision>> to) {
  const unsigned column = kGroup * threadIdx.x;
  Eight<float> x{};
  if (column < to.width) x = from.read(blockIdx.x, column);
  write_operands<precision>(to, blockIdx.x, column, silu(x));
}

}  // namespace jepa_edge::cuda
