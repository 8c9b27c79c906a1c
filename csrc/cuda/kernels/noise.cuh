// SPDX-License-Identifier: Apache-2.0
// A latent variable's noise: the head's amplitudes, and what is drawn with them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../launch.hpp"
#include "latent_limits.hpp"
#include "random.cuh"

namespace jepa_edge::cuda {

inline constexpr unsigned kNoiseThreads = 128;
inline constexpr std::size_t kMostHeadLayers = 8;

/// The head that says how large the noise is; all on the device.
struct HeadView {
  std::uint32_t layers;
  std::uint32_t width[kMostHeadLayers + 1];  ///< numbers that go in, and out of each layer
  const float* weight[kMostHeadLayers];      ///< (in, out)
  const float* bias[kMostHeadLayers];        ///< (out)
  std::uint32_t widest;
  const float *center, *scale;  ///< (width[0])
};

/// A finished step; as DeviceNoise::enqueue is told.
struct NoiseView {
  std::uint32_t tokens, dim, rank, action_dim;
  std::uint32_t samples;
  bool is_first;      ///< step 0: a candidate's samples still share one prediction
  std::size_t items;  ///< tokens whose head is asked
  float gain;
  const float* base;        ///< (D)
  const float* directions;  ///< (R, D)
  const float* drawn;       ///< (M, N, D + R) of this step
  float* latents;
  std::size_t stride;
  const float* before;
  std::size_t before_stride, before_divisor;
  const float* actions;
  std::size_t action_stride;
};

/// Shifts and scales each column of z (samples, columns) to mean 0 and variance 1, samples >= 2.
/// One thread per column.
[[maybe_unused]] static __global__ void standardize_drawn(float* z, std::size_t samples,
                                                          std::size_t columns) {
  const std::size_t column = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column >= columns) {
    return;
  }
  const auto count = static_cast<double>(samples);
  double mean = 0.0;
  for (std::size_t s = 0; s < samples; ++s) {
    mean += static_cast<double>(z[s * columns + column]);
  }
  mean /= count;
  double squares = 0.0;
  for (std::size_t s = 0; s < samples; ++s) {
    const double deviation = static_cast<double>(z[s * columns + column]) - mean;
    squares = plus_product(squares, deviation, deviation);
  }
  for (std::size_t s = 0; s < samples; ++s) {
    const double deviation = static_cast<double>(z[s * columns + column]) - mean;
    z[s * columns + column] = static_cast<float>(deviation / sqrt(squares / (count - 1.0)));
  }
}

/// Where item i of a step lies.
struct NoiseItem {
  std::size_t candidate, sample, token;

  __device__ NoiseItem(const NoiseView& v, std::size_t i)
      : candidate(v.is_first ? i / v.tokens : i / v.tokens / v.samples),
        sample(v.is_first ? 0 : i / v.tokens % v.samples),
        token(i % v.tokens) {}
  [[nodiscard]] __device__ std::size_t row(const NoiseView& v) const {
    return candidate * v.samples + sample;
  }
};

/// Adds gain * L z to the latents of a step: one block for `Rows` items, which share the weights
/// that it reads. Shared memory: 2 * Rows * widest floats.
template <unsigned Rows>
__global__ void add_noise(NoiseView v, HeadView head) {
  float* from = dynamic_shared<float>();
  float* to = from + Rows * head.widest;
  const std::size_t first = std::size_t{blockIdx.x} * Rows;
  const auto rows = static_cast<unsigned>(v.items - first < Rows ? v.items - first : Rows);
  for (unsigned place = threadIdx.x; place < Rows * head.width[0]; place += blockDim.x) {
    const unsigned r = place / head.width[0];
    const unsigned i = place % head.width[0];
    float value = 0.0F;
    if (r < rows) {
      const NoiseItem item(v, first + r);
      const std::size_t row = item.row(v);
      const float* before =
          v.before + row / v.before_divisor * v.before_stride + item.token * v.dim;
      const float* predicted = v.latents + row * v.stride + item.token * v.dim;
      if (i < v.dim) {
        value = before[i];
      } else if (i < 2 * v.dim) {
        value = predicted[i - v.dim] - before[i - v.dim];
      } else {
        value = v.actions[item.candidate * v.action_stride + i - 2 * v.dim];
      }
      value = (value - head.center[i]) / head.scale[i];
      // A NaN stays one.
      value = value < -latent::kInputLimit  ? -latent::kInputLimit
              : value > latent::kInputLimit ? latent::kInputLimit
                                            : value;
    }
    from[r * head.widest + i] = value;
  }
  __syncthreads();
  for (unsigned layer = 0; layer < head.layers; ++layer) {
    const unsigned in = head.width[layer];
    const unsigned out = head.width[layer + 1];
    const bool last = layer + 1 == head.layers;
    const float* bias = head.bias[layer];
    for (unsigned o = threadIdx.x; o < out; o += blockDim.x) {
      float sum[Rows];
      for (unsigned r = 0; r < Rows; ++r) {
        sum[r] = 0.0F;
      }
      for (unsigned i = 0; i < in; ++i) {
        const float weight = head.weight[layer][i * out + o];
        for (unsigned r = 0; r < Rows; ++r) {
          sum[r] += from[r * head.widest + i] * weight;
        }
      }
      for (unsigned r = 0; r < Rows; ++r) {
        const float value = sum[r] + bias[o];
        to[r * head.widest + o] =
            !last && value < 0.0F ? 0.0F
            : last ? expf(0.5F * latent::kLogLimit * tanhf(value / latent::kLogLimit))
                   : value;
      }
    }
    __syncthreads();
    float* swapped = from;
    from = to;
    to = swapped;
  }
  // Amplitudes (Rows, D + R). At step 0 a candidate's samples share them.
  const std::size_t columns = v.dim + v.rank;
  const unsigned shared = v.is_first ? v.samples : 1;
  for (std::size_t place = threadIdx.x; place < std::size_t{rows} * shared * v.dim;
       place += blockDim.x) {
    const std::size_t d = place % v.dim;
    const auto r = static_cast<unsigned>(place / v.dim / shared);
    const NoiseItem item(v, first + r);
    const std::size_t sample = v.is_first ? place / v.dim % shared : item.sample;
    const float* amplitude = from + r * head.widest;
    const float* z = v.drawn + (sample * v.tokens + item.token) * columns;
    float sum = amplitude[d] * z[d];
    for (std::size_t k = 0; k < v.rank; ++k) {
      sum += v.directions[k * v.dim + d] * (amplitude[v.dim + k] * z[v.dim + k]);
    }
    const std::size_t row = item.candidate * v.samples + sample;
    v.latents[row * v.stride + item.token * v.dim + d] += v.gain * (v.base[d] * sum);
  }
}

}  // namespace jepa_edge::cuda
