// SPDX-License-Identifier: Apache-2.0
#include "support/temporary_file.hpp"

#include <unistd.h>

#include <array>
#include <bit>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace jepa_edge::testing {

TemporaryFile::TemporaryFile(std::string_view bytes) {
  std::string name = (std::filesystem::temp_directory_path() / "jepa_edge_XXXXXX").string();
  const int descriptor = mkstemp(name.data());
  if (descriptor < 0) {
    throw std::runtime_error("no temporary file at " + name);
  }
  close(descriptor);
  path_ = name;
  rewrite(bytes);
}

TemporaryFile::~TemporaryFile() {
  std::error_code ignored;  // nothing to do about a file that went early
  std::filesystem::remove(path_, ignored);
}

void TemporaryFile::rewrite(std::string_view bytes) const {
  std::ofstream file(path_, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path_.string());
  }
}

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  const auto length = std::bit_cast<std::array<char, 8>>(std::uint64_t{header.size()});
  std::string bytes(length.data(), length.size());
  bytes += header;
  bytes += data;
  return bytes;
}

std::string safetensors_bytes(const std::vector<NamedTensor>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::ostringstream header;
  header << R"({"__metadata__":{)";
  for (const char* separator = ""; const auto& [key, value] : metadata) {
    header << std::exchange(separator, ",") << '"' << key << "\":\"" << value << '"';
  }
  header << '}';
  std::string data;
  for (const NamedTensor& tensor : tensors) {
    header << ",\"" << tensor.name << R"(":{"dtype":"F32","shape":[)";
    for (const char* separator = ""; const std::size_t size : tensor.shape) {
      header << std::exchange(separator, ",") << size;
    }
    header << R"(],"data_offsets":[)" << data.size() << ',';
    data.append(reinterpret_cast<const char*>(tensor.values.data()),
                tensor.values.size() * sizeof(float));
    header << data.size() << "]}";
  }
  header << '}';
  return safetensors_bytes(header.str(), data);
}

}  // namespace jepa_edge::testing
