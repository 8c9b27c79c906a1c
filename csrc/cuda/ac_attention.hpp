// SPDX-License-Identifier: Apache-2.0
// Which attention kernel a predictor needs, and its launch.
#pragma once

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/flash.cuh"

namespace jepa_edge::cuda {

/// Numbers of a head in memory: as they are in float32, else filled up to whole fragments.
template <typename T>
constexpr unsigned padded_head(unsigned head_dim) {
  if constexpr (std::is_same_v<T, float>) {
    return head_dim;
  } else {
    for (const unsigned size : {16U, 32U, 64U, 96U}) {
      if (head_dim <= size) return size;
    }
    return 128;
  }
}

/// Attention of one frame; see flash_attention and plain_attention.
template <typename T>
class FrameAttention {
 public:
  /// width: numbers from one token to the next in the output. Throws CudaError;
  /// std::invalid_argument for heads of more than 128 numbers.
  FrameAttention(unsigned tokens, unsigned heads, unsigned head_dim, unsigned width)
      : shape_{tokens, heads, head_dim, width, 0.0F}, padded_(padded_head<T>(head_dim)) {
    if (head_dim < 1 || head_dim > 128) {
      throw std::invalid_argument("a head has " + std::to_string(head_dim) +
                                  " numbers, expected 1 to 128");
    }
    constexpr double kLog2E = 1.4426950408889634;
    shape_.scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(head_dim)));
    if constexpr (std::is_same_v<T, float>) {
      launch_.threads = dim3(32 * kPlainWarps);
      launch_.shared_bytes = plain_attention_bytes(padded_);
      launch_.blocks = dim3(blocks_for(tokens, kPlainWarps * kPlainQueries), heads);
      allow_shared(plain_attention, launch_.shared_bytes);
    } else {
      // As many warps as leave the fewest without queries; of those, the most.
      const unsigned rows = blocks_for(tokens, kRowTile);
      unsigned warps = 1;
      for (unsigned w = 2; w <= 6; ++w) {
        if (blocks_for(rows, w) * w <= blocks_for(rows, warps) * warps) warps = w;
      }
      launch_.threads = dim3(32 * warps);
      launch_.blocks = dim3(blocks_for(rows, warps), heads);
      with_kernel([&]<unsigned kTiles>() {
        kernel_ = flash_attention<T, kTiles>;
        launch_.shared_bytes = FlashMemory<kTiles>::bytes(warps);
      });
      allow_shared(kernel_, launch_.shared_bytes);
    }
  }

  [[nodiscard]] unsigned padded() const noexcept { return padded_; }
  [[nodiscard]] std::size_t shared_bytes() const noexcept { return launch_.shared_bytes; }

  /// queries (rows, heads, tokens, padded); mixed (rows, tokens, width).
  void enqueue(const T* queries, const SeenFrames<T>& seen, T* mixed, std::size_t rows,
               cudaStream_t stream) const {
    Shape shape = launch_;
    shape.blocks.z = static_cast<unsigned>(rows);
    if constexpr (std::is_same_v<T, float>) {
      launch(plain_attention, shape, stream, queries, seen, mixed, shape_, padded_);
    } else {
      launch(kernel_, shape, stream, queries, seen, mixed, shape_);
    }
  }

 private:
  using Kernel = void (*)(const T*, SeenFrames<T>, T*, AttentionShape);

  template <typename Use>
  void with_kernel(Use&& use) const {
    switch (padded_ / 16) {
      case 1:
        return use.template operator()<1>();
      case 2:
        return use.template operator()<2>();
      case 4:
        return use.template operator()<4>();
      case 6:
        return use.template operator()<6>();
      default:
        return use.template operator()<8>();
    }
  }

  AttentionShape shape_;
  unsigned padded_;
  Shape launch_;
  /// Of 16-bit numbers. nvcc makes each source file a copy of a kernel: the one that is launched
  /// must be the one that was allowed its memory.
  Kernel kernel_ = nullptr;
};

}  // namespace jepa_edge::cuda
