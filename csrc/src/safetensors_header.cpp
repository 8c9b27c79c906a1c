// SPDX-License-Identifier: Apache-2.0
#include "safetensors_header.hpp"

#include <charconv>
#include <utility>

#include "jepa_edge/safetensors.hpp"

namespace jepa_edge {
namespace {

/// Reads the few forms of JSON that the format uses. The grammar's depth is fixed, so that no
/// input can exhaust the stack.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  [[noreturn]] void fail(const std::string& expected) const {
    std::string got = "the end";
    if (at_ < text_.size()) {
      const auto byte = static_cast<unsigned char>(text_[at_]);
      // A message is a C string: a zero byte would end it.
      got = byte < 0x20 ? "control character " + std::to_string(byte)
                        : "'" + std::string(1, text_[at_]) + "'";
    }
    throw FileError("header byte " + std::to_string(at_) + ": got " + got + ", expected " +
                    expected);
  }

  /// Calls member(key) for every key of an object, positioned at the key's value.
  template <typename Member>
  void object(Member member) {
    expect('{');
    if (accept('}')) {
      return;
    }
    do {
      std::string key = string();
      expect(':');
      member(std::move(key));
    } while (accept(','));
    expect('}');
  }

  template <typename Element>
  void array(Element element) {
    expect('[');
    if (accept(']')) {
      return;
    }
    do {
      element();
    } while (accept(','));
    expect(']');
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      if (at_ == text_.size()) {
        fail("a closing quote");
      }
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20) {
        fail("no control character inside a string");
      }
      ++at_;
      if (c == '\\') {
        escape(out);
      } else {
        out.push_back(c);
      }
    }
  }

  std::uint64_t integer() {
    skip_space();
    const char* const first = text_.data() + at_;
    const char* const last = text_.data() + text_.size();
    std::uint64_t value = 0;
    const auto [rest, error] = std::from_chars(first, last, value);
    const bool padded = rest - first > 1 && *first == '0';
    const bool fraction = rest != last && (*rest == '.' || *rest == 'e' || *rest == 'E');
    if (error != std::errc() || padded || fraction) {
      fail("a whole number from 0 to 2^64 - 1");
    }
    at_ += static_cast<std::size_t>(rest - first);
    return value;
  }

  void end() {
    skip_space();
    if (at_ != text_.size()) {
      fail("nothing but spaces after the header's object");
    }
  }

  void expect(char wanted) {
    if (!accept(wanted)) {
      fail("'" + std::string(1, wanted) + "'");
    }
  }

  bool accept(char wanted) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != wanted) {
      return false;
    }
    ++at_;
    return true;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  void escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    if (at_ < text_.size() && text_[at_] == 'u') {
      ++at_;
      unicode(out);
      return;
    }
    const auto which = at_ < text_.size() ? kNames.find(text_[at_]) : std::string_view::npos;
    if (which == std::string_view::npos) {
      fail("one of \"\\/bfnrtu after a backslash");
    }
    ++at_;
    out.push_back(kMeanings[which]);
  }

  std::uint32_t four_hex_digits() {
    std::uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const char* const last = digits.data() + digits.size();
    if (digits.size() != 4 || std::from_chars(digits.data(), last, code, 16).ptr != last) {
      fail("four hexadecimal digits after \\u");
    }
    at_ += 4;
    return code;
  }

  void unicode(std::string& out) {
    std::uint32_t code = four_hex_digits();
    if (code >= 0xD800 && code < 0xE000) {
      const bool pair = code < 0xDC00 && text_.substr(at_, 2) == "\\u";
      at_ += pair ? 2 : 0;
      const std::uint32_t second = pair ? four_hex_digits() : 0;
      if (second < 0xDC00 || second >= 0xE000) {
        fail("a pair of surrogates");
      }
      code = 0x10000 + ((code - 0xD800) << 10U) + (second - 0xDC00);
    }
    const auto tail = [&](unsigned shift) {
      out.push_back(static_cast<char>(0x80U | ((code >> shift) & 0x3FU)));
    };
    if (code < 0x80) {
      out.push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      out.push_back(static_cast<char>(0xC0U | (code >> 6U)));
      tail(0);
    } else if (code < 0x10000) {
      out.push_back(static_cast<char>(0xE0U | (code >> 12U)));
      tail(6);
      tail(0);
    } else {
      out.push_back(static_cast<char>(0xF0U | (code >> 18U)));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

HeaderTensor tensor(Reader& reader, const std::string& name) {
  HeaderTensor read{};
  bool has_dtype = false;
  bool has_shape = false;
  std::vector<std::uint64_t> offsets;
  const auto once = [&](bool is_first, const std::string& field) {
    if (!is_first) {
      throw FileError("tensor " + name + " has " + field + " twice");
    }
  };
  reader.object([&](const std::string& field) {
    if (field == "dtype") {
      once(!std::exchange(has_dtype, true), field);
      read.dtype = reader.string();
    } else if (field == "shape") {
      once(!std::exchange(has_shape, true), field);
      reader.array([&] { read.shape.push_back(reader.integer()); });
    } else if (field == "data_offsets") {
      once(offsets.empty(), field);
      reader.array([&] { offsets.push_back(reader.integer()); });
      if (offsets.size() != 2) {
        throw FileError("tensor " + name + " has " + std::to_string(offsets.size()) +
                        " data_offsets, expected a begin and an end");
      }
    } else {
      throw FileError("tensor " + name + " has the field " + field +
                      ", expected dtype, shape and data_offsets alone");
    }
  });
  if (!has_dtype || !has_shape || offsets.empty()) {
    throw FileError("tensor " + name + " lacks one of dtype, shape and data_offsets");
  }
  read.begin = offsets[0];
  read.end = offsets[1];
  return read;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json) {
  SafetensorsHeader header;
  Reader reader(json);
  if (json.empty() || json.front() != '{') {
    reader.fail("'{'");
  }
  bool has_metadata = false;
  reader.object([&](const std::string& name) {
    if (name != "__metadata__") {
      if (!header.tensors.emplace(name, tensor(reader, name)).second) {
        throw FileError("the header holds tensor " + name + " twice");
      }
      return;
    }
    if (std::exchange(has_metadata, true)) {
      throw FileError("the header holds __metadata__ twice");
    }
    reader.object([&](const std::string& key) {
      if (!header.metadata.emplace(key, reader.string()).second) {
        throw FileError("__metadata__ holds the key " + key + " twice");
      }
    });
  });
  reader.end();
  return header;
}

}  // namespace jepa_edge
