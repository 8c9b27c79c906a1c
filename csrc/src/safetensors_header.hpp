// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace jepa_edge {

/// One entry of a safetensors header, as written there: nothing about it is checked yet.
struct HeaderTensor {
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin;  // bytes into the data
  std::uint64_t end;
};

struct SafetensorsHeader {
  std::map<std::string, HeaderTensor, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;
};

/// Parses the JSON header of a safetensors file: no JSON beyond what the format uses is accepted.
/// Throws FileError, without the file's name, on anything else, duplicate keys included.
SafetensorsHeader parse_safetensors_header(std::string_view json);

}  // namespace jepa_edge
