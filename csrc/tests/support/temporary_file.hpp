// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace jepa_edge::testing {

/// A file that goes when this object goes.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view bytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  void rewrite(std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

struct NamedTensor {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

/// The bytes of a safetensors file with this header, as text, and this data.
std::string safetensors_bytes(std::string_view header, std::string_view data);

/// The bytes of a valid safetensors file. Names and metadata must need no escapes.
std::string safetensors_bytes(const std::vector<NamedTensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace jepa_edge::testing
