// SPDX-License-Identifier: Apache-2.0
// V-JEPA 2-AC's predictor as a file holds it, and on the device.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <vector>

#include "device.hpp"
#include "gemm.hpp"

namespace jepa_edge::cuda {

struct AcSizes {
  std::size_t window;  ///< the most frames seen at once
  std::size_t grid;    ///< patches along a side
  std::size_t latent_dim;
  std::size_t dim;
  std::size_t depth;
  std::size_t heads;
  std::size_t mlp_dim;
  float norm_eps;
  float target_eps;  ///< of the layer norm behind a prediction
  double rope_theta;

  [[nodiscard]] std::size_t patches() const noexcept { return grid * grid; }
  /// Of a frame inside the predictor: action, pose, patches.
  [[nodiscard]] std::size_t tokens() const noexcept { return patches() + 2; }
  [[nodiscard]] std::size_t head_dim() const noexcept { return dim / heads; }
};

/// Matrices have whole sixteens of rows and columns: what was added is zero.
constexpr std::size_t padded(std::size_t count) noexcept { return (count + 15) / 16 * 16; }

/// A linear layer. weight: operands (outputs, inputs). column_scales: one per output where the
/// precision has scales, else empty.
struct AcLinear {
  std::size_t inputs = 0;   ///< padded
  std::size_t outputs = 0;  ///< padded
  DeviceBuffer<std::byte> weight;
  DeviceBuffer<float> column_scales;
  DeviceBuffer<float> bias;
};

struct AcNorm {
  DeviceBuffer<float> gain;
  DeviceBuffer<float> offset;
};

struct AcBlock {
  AcNorm norm1;
  AcLinear qkv;
  AcLinear proj;
  AcNorm norm2;
  AcLinear fc1;
  AcLinear fc2;
};

/// Immutable: any number of rollouts may share one.
class AcWeights {
 public:
  /// Reads predictor.safetensors of format "vjepa2-ac-predictor-1" (docs/bundle.md).
  /// Throws FileError when it is no such file, CudaError without a device or memory.
  static std::shared_ptr<const AcWeights> load(const std::filesystem::path& path,
                                               Precision precision);

  AcSizes sizes{};
  Precision precision{};
  std::size_t bytes = 0;  ///< on the device
  AcLinear embed;
  DeviceBuffer<float> action_weight, action_bias, pose_weight, pose_bias;  ///< always float32
  std::vector<AcBlock> blocks;
  AcNorm norm;
  AcLinear head;
};

}  // namespace jepa_edge::cuda
