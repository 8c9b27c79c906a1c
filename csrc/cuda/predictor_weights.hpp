// SPDX-License-Identifier: Apache-2.0
// An AdaLN predictor's weights on the device.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "device.hpp"
#include "gemm.hpp"
#include "jepa_edge/predictor.hpp"

namespace jepa_edge::cuda {

/// Widths of matrices are whole sixteens: what was added is zero.
constexpr std::size_t whole_sixteens(std::size_t count) noexcept { return (count + 15) / 16 * 16; }

/// A linear layer: operands (outputs, inputs). column_scales: one per output where the precision
/// has scales, else empty.
struct DeviceLinear {
  Precision precision{};
  std::size_t inputs = 0;
  std::size_t outputs = 0;
  DeviceBuffer<std::byte> weight;
  DeviceBuffer<float> column_scales;
  DeviceBuffer<float> bias;
};

/// Rows (outputs, inputs) of a layer on the host, and their bias or null.
struct LinearPart {
  const float* weight;
  const float* bias;
  std::size_t outputs;
};

/// Packs parts below one another, each from a whole sixteen of outputs on. Scaled precisions are
/// symmetric with one scale per output: w = scale * q.
[[nodiscard]] DeviceLinear pack_linear(Precision precision, std::span<const LinearPart> parts,
                                       std::size_t inputs);

struct DeviceBlock {
  DeviceBuffer<float> attention_gain, attention_offset;
  DeviceLinear qkv;  ///< Q, K, V below one another; queries carry their 1 / sqrt(head_dim)
  DeviceLinear out;
  DeviceBuffer<float> mlp_gain, mlp_offset;
  DeviceLinear fc1, fc2;
};

/// Immutable: any number of rollouts may share one.
class PredictorWeights {
 public:
  /// Reads predictor.safetensors of format "lewm-predictor-1" (docs/bundle.md).
  /// Throws FileError when it is no such file or has sizes that the kernels do not take, CudaError
  /// without a device, memory, or matrix units for the precision.
  static std::shared_ptr<const PredictorWeights> load(const std::filesystem::path& path,
                                                      Precision precision);

  PredictorSizes sizes{};
  Precision precision{};
  /// Of the layer that makes an action's condition: 16 bits at least.
  Precision condition_precision{};
  DeviceBuffer<float> action_mean, action_inv_std;
  DeviceBuffer<float> action_weight;  ///< (A, hidden in whole sixteens): transposed
  DeviceBuffer<float> action_bias;
  DeviceLinear condition;
  DeviceLinear modulation;       ///< per layer: shift, scale + 1, gate of attention, then of MLP
  DeviceBuffer<float> position;  ///< (W, N, D)
  DeviceLinear input;            ///< empty where latent_dim == dim
  std::vector<DeviceBlock> blocks;
  DeviceBuffer<float> norm_gain, norm_offset;
  DeviceLinear head_fc1, head_fc2;
};

/// Limits of the kernels.
inline constexpr std::size_t kMostWindow = 16;
inline constexpr std::size_t kMostHeads = 32;
inline constexpr std::size_t kMostHeadDim = 128;
inline constexpr std::size_t kMostWidth = 8192;

}  // namespace jepa_edge::cuda
