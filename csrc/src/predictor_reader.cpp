// SPDX-License-Identifier: Apache-2.0
#include "predictor_reader.hpp"

#include <charconv>
#include <cmath>
#include <span>

namespace jepa_edge {
namespace {

constexpr std::string_view kFormat = "lewm-predictor-1";
constexpr std::size_t kLargest = std::size_t{1} << 20U;

}  // namespace

PredictorReader::PredictorReader(const std::filesystem::path& path)
    : path_(path), file_(path), sizes_(read_sizes()) {}

std::size_t PredictorReader::size(std::string_view key) const {
  const std::string& text = file_.metadata(key);
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > kLargest) {
    fail("metadata \"" + std::string(key) + "\" is \"" + text +
         "\", expected a whole number from 1 to " + std::to_string(kLargest));
  }
  return value;
}

float PredictorReader::epsilon(std::string_view key) const {
  const std::string& text = file_.metadata(key);
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0.0 && value < 1.0)) {
    fail("metadata \"" + std::string(key) + "\" is \"" + text + "\", expected a small number");
  }
  return static_cast<float>(value);
}

const float* PredictorReader::tensor(const std::string& name,
                                     std::initializer_list<std::size_t> shape) const {
  const auto values = file_.tensor(name, std::span(shape.begin(), shape.size()));
  for (const float value : values) {
    if (!std::isfinite(value)) fail("tensor \"" + name + "\" holds NaN or infinity");
  }
  return values.data();
}

void PredictorReader::fail(const std::string& what) const {
  throw FileError(path_.string() + ": " + printable(what) + "; export the bundle again");
}

PredictorSizes PredictorReader::read_sizes() const {
  if (!file_.has_metadata("format") || file_.metadata("format") != kFormat) {
    fail("its format is \"" +
         (file_.has_metadata("format") ? file_.metadata("format") : std::string("none")) +
         "\", expected \"" + std::string(kFormat) + "\"");
  }
  PredictorSizes sizes{};
  sizes.window = size("history");
  sizes.tokens = file_.has_metadata("tokens") ? size("tokens") : 1;
  sizes.latent_dim = size("latent_dim");
  sizes.action_dim = size("action_dim");
  const auto hidden = file_.shape("action_in.bias");
  if (hidden.size() != 1 || hidden[0] < 1) fail("tensor \"action_in.bias\" is no vector");
  sizes.action_hidden = hidden[0];
  sizes.dim = size("dim");
  sizes.depth = size("depth");
  sizes.heads = size("heads");
  sizes.head_dim = size("head_dim");
  sizes.mlp_dim = size("mlp_dim");
  sizes.head_hidden = size("head_hidden_dim");
  sizes.adaln_norm_eps = epsilon("adaln_norm_eps");
  sizes.norm_eps = epsilon("norm_eps");
  return sizes;
}

PredictorReader::Attention PredictorReader::attention(std::size_t block) const {
  const std::string name = "blocks." + std::to_string(block) + ".";
  const std::size_t inner = sizes_.heads * sizes_.head_dim;
  const std::size_t dim = sizes_.dim;
  Attention to{};
  if (file_.contains(name + "qkv.weight")) {
    to.query = tensor(name + "qkv.weight", {3 * inner, dim});
    to.key = to.query + inner * dim;
  } else {
    to.query = tensor(name + "q.weight", {inner, dim});
    to.key = tensor(name + "kv.weight", {2 * inner, dim});
  }
  to.value = to.key + inner * dim;
  if (file_.contains(name + "out.weight")) {
    to.out = tensor(name + "out.weight", {dim, inner});
    to.out_bias = tensor(name + "out.bias", {dim});
    return to;
  }
  // A single head as wide as the block has no output projection.
  if (inner != dim) fail("tensor \"" + name + "out.weight\" is missing");
  to.identity.resize(dim * dim);
  for (std::size_t i = 0; i < dim; ++i) to.identity[i * dim + i] = 1.0F;
  to.out = to.identity.data();
  return to;
}

}  // namespace jepa_edge
