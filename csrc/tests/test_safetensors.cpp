// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "jepa_edge/safetensors.hpp"
#include "support/temporary_file.hpp"

using jepa_edge::FileError;
using jepa_edge::Safetensors;
using jepa_edge::testing::safetensors_bytes;
using jepa_edge::testing::TemporaryFile;

namespace {

using Shape = std::vector<std::size_t>;

/// The message with which a file is refused, "" when it is not.
std::string refusal(std::string_view bytes) {
  const TemporaryFile file(bytes);
  try {
    const Safetensors loaded(file.path());
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

std::string tensor(const std::string& name, const std::string& shape, const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":"F32","shape":[)" + shape + R"(],"data_offsets":[)" + offsets +
         "]}";
}

}  // namespace

TEST_CASE("what was written is read") {
  const TemporaryFile file(safetensors_bytes(
      {{"b", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"a", {}, {7}}, {"none", {0, 4}, {}}, {"c", {1}, {-8}}},
      {{"format", "lewm-predictor-1"}}));
  const Safetensors loaded(file.path());
  CHECK(loaded.contains("a"));
  CHECK_FALSE(loaded.contains("d"));
  const auto b = loaded.tensor("b", Shape{2, 3});
  CHECK(std::vector(b.begin(), b.end()) == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(loaded.tensor("a", Shape{})[0] == 7);
  CHECK(loaded.tensor("none", Shape{0, 4}).empty());
  CHECK(loaded.tensor("c", Shape{1})[0] == -8);
  CHECK(loaded.shape("b").size() == 2);
  CHECK(loaded.metadata("format") == "lewm-predictor-1");
  CHECK(loaded.has_metadata("format"));
  CHECK_FALSE(loaded.has_metadata("author"));
}

TEST_CASE("asking for what is not there names it") {
  const TemporaryFile file(safetensors_bytes({{"b", {2, 3}, {1, 2, 3, 4, 5, 6}}}));
  const Safetensors loaded(file.path());
  CHECK_THROWS_WITH_AS((void)loaded.tensor("b", Shape{3, 2}),
                       (file.path().string() +
                        ": tensor b has shape (2, 3), expected (3, 2); export the bundle again")
                           .c_str(),
                       FileError);
  CHECK_THROWS_AS((void)loaded.tensor("c", Shape{}), FileError);
  CHECK_THROWS_AS((void)loaded.shape("c"), FileError);
  CHECK_THROWS_AS((void)loaded.metadata("format"), FileError);
}

TEST_CASE("a file of the reference implementation is read") {
  // Written and named by tests/test_csrc.py.
  const char* const path = std::getenv("JEPA_EDGE_REFERENCE_SAFETENSORS");
  if (path == nullptr) {
    MESSAGE("JEPA_EDGE_REFERENCE_SAFETENSORS is not set: nothing was read");
    return;
  }
  const Safetensors loaded(path);
  const auto ramp = loaded.tensor("layers.0.weight", Shape{3, 5, 7});
  for (std::size_t i = 0; i < ramp.size(); ++i) {
    REQUIRE(ramp[i] == static_cast<float>(i) / 8 - 4);
  }
  CHECK(loaded.tensor("scale", Shape{})[0] == 0.25F);
  CHECK(loaded.tensor("empty", Shape{0, 3}).empty());
  CHECK(loaded.tensor("größe \"\\\n\U0001F600", Shape{2})[1] == 1);
  CHECK(loaded.metadata("format") == "lewm-predictor-1");
  CHECK(loaded.metadata("note") == "tab\t, quote\", backslash\\, \u00e9, \U0001F916, \u0001");
}

TEST_CASE("JSON may be spaced, padded and escaped") {
  const TemporaryFile file(
      safetensors_bytes("{ \"__metadata__\" : { \"k\\u00e9\\ud83e\\udd16\\u20ac\\/\" : "
                        "\"\\b\\f\\n\\r\\t\" } ,\n\r\t" +
                            tensor("a", " 1 , 1 ", " 0 , 4 ") + " }   ",
                        std::string_view("\0\0\x80\x3f", 4)));
  const Safetensors loaded(file.path());
  CHECK(loaded.tensor("a", Shape{1, 1})[0] == 1);
  CHECK(loaded.metadata("k\u00e9\U0001F916\u20ac/") == "\b\f\n\r\t");
}

TEST_CASE("hostile headers are refused, with the reason") {
  struct Hostile {
    const char* reason;
    std::string header;
    std::size_t data_bytes;
  };
  const std::string one = tensor("a", "1", "0,4");
  const std::array cases{
      Hostile{"header byte 0: got the end", "", 0},
      Hostile{"header byte 0: got '[', expected '{'", "[]", 0},
      Hostile{"header byte 0: got ' ', expected '{'", " {}", 0},
      Hostile{"header byte 1: got the end", "{", 0},
      Hostile{"nothing but spaces after", "{}x", 0},
      Hostile{"got control character 0, expected nothing but spaces", std::string("{}\0", 3), 0},
      Hostile{"expected '\"'", "{" + one + ",}", 4},
      Hostile{"expected '\"'", "{,}", 0},
      Hostile{"expected '\"'", "{a:1}", 0},
      Hostile{"expected '{'", R"({"a":1})", 0},
      Hostile{"expected '{'", R"({"a":null})", 0},
      Hostile{"holds tensor a twice", "{" + one + "," + tensor("a", "1", "4,8") + "}", 8},
      Hostile{"holds tensor a twice", "{" + one + "," + tensor("\\u0061", "1", "4,8") + "}", 8},
      Hostile{"holds __metadata__ twice", R"({"__metadata__":{},"__metadata__":{}})", 0},
      Hostile{"holds the key k twice", R"({"__metadata__":{"k":"1","k":"2"}})", 0},
      Hostile{"expected '\"'", R"({"__metadata__":{"k":1}})", 0},
      Hostile{"expected '{'", R"({"__metadata__":"k"})", 0},
      Hostile{"has dtype twice",
              R"({"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4},
      Hostile{"has shape twice",
              R"({"a":{"dtype":"F32","shape":[],"shape":[],"data_offsets":[0,4]}})", 4},
      Hostile{"has data_offsets twice",
              R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"data_offsets":[0,4]}})", 4},
      Hostile{"has the field order",
              R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"order":"C"}})", 4},
      Hostile{"lacks one of", R"({"a":{"dtype":"F32","shape":[]}})", 0},
      Hostile{"lacks one of", R"({"a":{"shape":[],"data_offsets":[0,4]}})", 4},
      Hostile{"lacks one of", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4},
      Hostile{"lacks one of", R"({"a":{}})", 0},
      Hostile{"tensor a is F16, expected F32",
              R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", 4},
      Hostile{"tensor a is f32", R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4},
      Hostile{"1 data_offsets", "{" + tensor("a", "1", "0") + "}", 4},
      Hostile{"0 data_offsets", "{" + tensor("a", "1", "") + "}", 4},
      Hostile{"3 data_offsets", "{" + tensor("a", "1", "0,4,8") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "-1", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "1.0", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "1e0", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "01", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "+1", "0,4") + "}", 4},
      Hostile{"got 'x', expected ']'", "{" + tensor("a", "0x1", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "true", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "[1]", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "1,", "0,4") + "}", 4},
      Hostile{"a whole number", "{" + tensor("a", "18446744073709551616", "0,4") + "}", 4},
      Hostile{"no memory can hold", "{" + tensor("a", "4611686018427387904", "0,0") + "}", 0},
      Hostile{"no memory can hold", "{" + tensor("a", "4294967296,4294967296", "0,0") + "}", 0},
      Hostile{"ends at byte 8 of the data, but begins at 0 and its shape (1) needs 4",
              "{" + tensor("a", "1", "0,8") + "}", 8},
      Hostile{"ends at byte 0 of the data, but begins at 0", "{" + tensor("a", "1", "0,0") + "}",
              0},
      Hostile{"begins at byte 4 of the data, expected 0", "{" + tensor("a", "1", "4,0") + "}", 4},
      Hostile{"expected 4: tensors must neither overlap nor leave holes",
              "{" + one + "," + tensor("b", "1", "0,4") + "}", 8},
      Hostile{"expected 4: tensors must neither overlap nor leave holes",
              "{" + one + "," + tensor("b", "1", "8,12") + "}", 12},
      Hostile{"begins at byte 4 of the data, expected 0", "{" + tensor("a", "1", "4,8") + "}", 8},
      Hostile{"but the file holds only 4", "{" + tensor("a", "2", "0,8") + "}", 4},
      Hostile{"but the file holds only 4",
              "{" + tensor("a", "1152921504606846976", "0,4611686018427387904") + "}", 4},
      Hostile{"holds 5 bytes of data, but its tensors take 4", "{" + one + "}", 5},
      Hostile{"holds 8 bytes of data, but its tensors take 4", "{" + one + "}", 8},
      Hostile{"holds 1 bytes of data, but its tensors take 0", "{}", 1},
      Hostile{"a closing quote", "{\"a", 0},
      Hostile{"no control character", "{\"a\n\":1}", 0},
      Hostile{"after a backslash", R"({"\x41":1})", 0},
      Hostile{"after a backslash", "{\"\\", 0},
      Hostile{"four hexadecimal digits", R"({"\u12)", 0},
      Hostile{"four hexadecimal digits", R"({"\u12g4":1})", 0},
      Hostile{"four hexadecimal digits", R"({"\u-123":1})", 0},
      Hostile{"a pair of surrogates", R"({"\ud83e":1})", 0},
      Hostile{"a pair of surrogates", R"({"\udd16\ud83e":1})", 0},
      Hostile{"a pair of surrogates", R"({"\ud83e\u0041":1})", 0},
      Hostile{"tensor ???? is F64",
              "{\"\xff\xc3\\n\\u007f\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}",
              8},
  };
  for (const Hostile& hostile : cases) {
    CAPTURE(hostile.header);
    const std::string message =
        refusal(safetensors_bytes(hostile.header, std::string(hostile.data_bytes, '\0')));
    CHECK_MESSAGE(message.find(hostile.reason) != std::string::npos, message, " lacks ",
                  hostile.reason);
    CHECK(message.find("jepa_edge_") != std::string::npos);  // the file's name
  }
}

TEST_CASE("what is no such file is refused") {
  CHECK(refusal("").find("holds 0 bytes") != std::string::npos);
  CHECK(refusal("1234567").find("holds 7 bytes") != std::string::npos);
  CHECK(refusal("PK\x03\x04 a zip archive").find("announces a header") != std::string::npos);
  CHECK(refusal(std::string(8, '\xff') + "{}").find("announces a header") != std::string::npos);
  CHECK(refusal(safetensors_bytes("{}", "").substr(0, 9)).find("header of 2 bytes") !=
        std::string::npos);
  CHECK_THROWS_AS(Safetensors("/nonexistent/predictor.safetensors"), FileError);
  const auto folder = std::filesystem::temp_directory_path();
  CHECK_THROWS_AS(Safetensors{folder}, FileError);
  const std::string long_name = refusal(safetensors_bytes(
      "{\"" + std::string(5000, 'n') + R"(":{"dtype":"I8","shape":[],"data_offsets":[0,1]}})",
      "x"));
  CHECK(long_name.size() < 700);
}

TEST_CASE("a header above the limit is refused before it is read") {
  // Sparse: the file takes no room on disk.
  const std::uint64_t length = 100'000'001;
  const TemporaryFile file(std::string(reinterpret_cast<const char*>(&length), sizeof(length)));
  std::filesystem::resize_file(file.path(), 8 + length);
  CHECK_THROWS_AS(Safetensors(file.path()), FileError);
}

TEST_CASE("no damage to a file does worse than a FileError") {
  const std::string whole = safetensors_bytes({{"w", {2, 2}, {1, 2, 3, 4}}, {"b", {2}, {5, 6}}},
                                              {{"format", "lewm-predictor-1"}});
  const TemporaryFile file(whole);
  const auto attempt = [&](std::string_view bytes) {
    file.rewrite(bytes);
    try {
      const Safetensors loaded(file.path());
      return true;
    } catch (const FileError&) {
      return false;
    }
  };
  CHECK(attempt(whole));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    REQUIRE_FALSE(attempt(std::string_view(whole).substr(0, length)));
  }
  std::size_t refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char byte : {'\0', '"', '{', '}', '[', ',', '9', '0', '\\', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = byte;
      refused += attempt(damaged) ? 0 : 1;
    }
  }
  CHECK(refused > whole.size());
}
