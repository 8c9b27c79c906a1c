// SPDX-License-Identifier: Apache-2.0
// What a predictor's file holds (docs/bundle.md), whatever will compute with it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "jepa_edge/predictor.hpp"
#include "jepa_edge/safetensors.hpp"

namespace jepa_edge {

/// Reads numbers and tensors of predictor.safetensors, and says which one is wrong.
class PredictorReader {
 public:
  /// Throws FileError when the file is no AdaLN predictor.
  explicit PredictorReader(const std::filesystem::path& path);

  [[nodiscard]] const PredictorSizes& sizes() const noexcept { return sizes_; }

  /// All tensors are row-major and finite. Throws FileError for another shape, NaN or infinity.
  [[nodiscard]] const float* tensor(const std::string& name,
                                    std::initializer_list<std::size_t> shape) const;

  /// One block's attention: matrices (heads * head_dim, dim), and out (dim, heads * head_dim).
  struct Attention {
    const float* query;
    const float* key;
    const float* value;
    const float* out;
    const float* out_bias;        ///< null where there is none
    std::vector<float> identity;  ///< behind `out` of a block without an output projection
  };
  [[nodiscard]] Attention attention(std::size_t block) const;

 private:
  [[nodiscard]] PredictorSizes read_sizes() const;
  [[nodiscard]] std::size_t size(std::string_view key) const;
  [[nodiscard]] float epsilon(std::string_view key) const;
  [[noreturn]] void fail(const std::string& what) const;

  std::filesystem::path path_;
  Safetensors file_;
  PredictorSizes sizes_;
};

}  // namespace jepa_edge
