// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <fstream>
#include <limits>
#include <system_error>
#include <utility>

#include "safetensors_header.hpp"

namespace jepa_edge {
namespace {

static_assert(sizeof(float) == 4 && std::numeric_limits<float>::is_iec559);
static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian: a big-endian processor needs byte swaps here");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as in the reference implementation

template <typename Number>
std::string text(std::span<const Number> shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return out + ")";
}

/// Bytes of a float32 tensor. Throws FileError when they cannot be counted in 64 bits.
std::uint64_t bytes_of(const std::string& name, const HeaderTensor& tensor) {
  if (tensor.dtype != "F32") {
    throw FileError("tensor " + name + " is " + tensor.dtype +
                    ", expected F32; export the bundle again");
  }
  std::uint64_t bytes = sizeof(float);
  for (const std::uint64_t size : tensor.shape) {
    if (size != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / size) {
      throw FileError("tensor " + name + " has shape " +
                      text(std::span<const std::uint64_t>(tensor.shape)) +
                      ", which no memory can hold");
    }
    bytes *= size;
  }
  return bytes;
}

/// Throws FileError unless the tensors, in order of their offsets, fill the data exactly.
void check_layout(const SafetensorsHeader& header, std::uint64_t data_bytes) {
  using Entry = std::pair<const std::string, HeaderTensor>;
  std::vector<const Entry*> order;
  for (const Entry& entry : header.tensors) {
    order.push_back(&entry);
  }
  std::ranges::sort(order, {}, [](const Entry* entry) {
    return std::pair(entry->second.begin, entry->second.end);
  });
  std::uint64_t filled = 0;
  for (const Entry* entry : order) {
    const auto& [name, tensor] = *entry;
    const std::uint64_t bytes = bytes_of(name, tensor);
    if (tensor.begin != filled) {
      throw FileError("tensor " + name + " begins at byte " + std::to_string(tensor.begin) +
                      " of the data, expected " + std::to_string(filled) +
                      ": tensors must neither overlap nor leave holes");
    }
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes) {
      throw FileError("tensor " + name + " ends at byte " + std::to_string(tensor.end) +
                      " of the data, but begins at " + std::to_string(tensor.begin) +
                      " and its shape " + text(std::span<const std::uint64_t>(tensor.shape)) +
                      " needs " + std::to_string(bytes) + " bytes");
    }
    if (tensor.end > data_bytes) {
      throw FileError("tensor " + name + " ends at byte " + std::to_string(tensor.end) +
                      " of the data, but the file holds only " + std::to_string(data_bytes) +
                      "; it was cut short, copy it again");
    }
    filled = tensor.end;
  }
  if (filled != data_bytes) {
    throw FileError("the file holds " + std::to_string(data_bytes) +
                    " bytes of data, but its tensors take " + std::to_string(filled));
  }
}

void read_exactly(std::ifstream& file, void* out, std::uint64_t bytes) {
  file.read(static_cast<char*>(out), static_cast<std::streamsize>(bytes));
  if (!file || static_cast<std::uint64_t>(file.gcount()) != bytes) {
    throw FileError("the file ended while it was read, expected " + std::to_string(bytes) +
                    " more bytes");
  }
}

/// Reads and parses the header; leaves the file at its data and says how many bytes those are.
std::pair<SafetensorsHeader, std::uint64_t> read_header(std::ifstream& file,
                                                        const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t file_bytes = std::filesystem::file_size(path, error);
  if (error || !file) {
    throw FileError("cannot be read" + (error ? ": " + error.message() : std::string()));
  }
  if (file_bytes < kLengthBytes) {
    throw FileError("holds " + std::to_string(file_bytes) +
                    " bytes, which is no safetensors file; export the bundle again");
  }
  std::array<unsigned char, kLengthBytes> length{};
  read_exactly(file, length.data(), length.size());
  const auto header_bytes = std::bit_cast<std::uint64_t>(length);
  const std::uint64_t most = std::min<std::uint64_t>(kMaxHeaderBytes, file_bytes - kLengthBytes);
  if (header_bytes > most) {
    throw FileError("announces a header of " + std::to_string(header_bytes) + " bytes, expected " +
                    "at most " + std::to_string(most) +
                    ": no safetensors file, or one that was cut short");
  }
  std::string json(static_cast<std::size_t>(header_bytes), '\0');
  read_exactly(file, json.data(), header_bytes);
  return {parse_safetensors_header(json), file_bytes - kLengthBytes - header_bytes};
}

}  // namespace

std::string printable(std::string message) {
  constexpr std::size_t kLongest = 500;
  if (message.size() > kLongest) {
    message.resize(kLongest);
    message += "...";
  }
  std::ranges::replace_if(message, [](char c) { return c < ' ' || c > '~'; }, '?');
  return message;
}

Safetensors::Safetensors(const std::filesystem::path& path) : path_(path) {
  try {
    std::ifstream file(path, std::ios::binary);
    auto [header, data_bytes] = read_header(file, path);
    check_layout(header, data_bytes);
    for (const auto& [name, tensor] : header.tensors) {
      tensors_.emplace(
          name, Tensor{{tensor.shape.begin(), tensor.shape.end()},
                       static_cast<std::size_t>(tensor.begin / sizeof(float)),
                       static_cast<std::size_t>((tensor.end - tensor.begin) / sizeof(float))});
    }
    metadata_ = std::move(header.metadata);
    data_.resize(static_cast<std::size_t>(data_bytes / sizeof(float)));
    read_exactly(file, data_.data(), data_bytes);
  } catch (const FileError& error) {
    throw FileError(path.string() + ": " + printable(error.what()));
  }
}

bool Safetensors::contains(std::string_view name) const noexcept {
  return tensors_.find(name) != tensors_.end();
}

std::span<const std::size_t> Safetensors::shape(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw FileError(path_.string() + ": no tensor " + std::string(name) + " among its " +
                    std::to_string(tensors_.size()) + "; export the bundle again");
  }
  return found->second.shape;
}

std::span<const float> Safetensors::tensor(std::string_view name,
                                           std::span<const std::size_t> wanted) const {
  const std::span<const std::size_t> got = shape(name);
  if (!std::ranges::equal(got, wanted)) {
    throw FileError(path_.string() + ": tensor " + std::string(name) + " has shape " + text(got) +
                    ", expected " + text(wanted) + "; export the bundle again");
  }
  const Tensor& tensor = tensors_.find(name)->second;
  return std::span(data_).subspan(tensor.begin, tensor.count);
}

const std::string& Safetensors::metadata(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) {
    throw FileError(path_.string() + ": its __metadata__ lacks " + std::string(key) +
                    "; export the bundle again");
  }
  return found->second;
}

bool Safetensors::has_metadata(std::string_view key) const noexcept {
  return metadata_.find(key) != metadata_.end();
}

}  // namespace jepa_edge
