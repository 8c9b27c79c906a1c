// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace jepa_edge {

/// A file that cannot be used: the message says what came, what was expected and how to fix it.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A message about a hostile file, made short and fit for any terminal or log.
[[nodiscard]] std::string printable(std::string message);

/// A safetensors file of float32 tensors, read whole and checked before any tensor is handed out.
/// Format: https://github.com/huggingface/safetensors (8 bytes header length, JSON, data).
class Safetensors {
 public:
  /// Throws FileError when the file is missing, truncated, not safetensors, holds another dtype
  /// than F32, or its offsets overlap, leave holes or leave the file.
  explicit Safetensors(const std::filesystem::path& path);

  [[nodiscard]] bool contains(std::string_view name) const noexcept;

  /// The numbers of one tensor, row-major. Throws FileError when it is missing or has another
  /// shape; shape {} stands for a scalar.
  [[nodiscard]] std::span<const float> tensor(std::string_view name,
                                              std::span<const std::size_t> shape) const;

  /// The shape of one tensor. Throws FileError when it is missing.
  [[nodiscard]] std::span<const std::size_t> shape(std::string_view name) const;

  /// An entry of the header's __metadata__. Throws FileError when it is missing.
  [[nodiscard]] const std::string& metadata(std::string_view key) const;
  [[nodiscard]] bool has_metadata(std::string_view key) const noexcept;

 private:
  struct Tensor {
    std::vector<std::size_t> shape;
    std::size_t begin;  // in floats
    std::size_t count;
  };
  std::filesystem::path path_;
  std::vector<float> data_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace jepa_edge
