// SPDX-License-Identifier: Apache-2.0
#include "support/plain_predictor.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "jepa_edge/random.hpp"

namespace jepa_edge::testing {
namespace {

double silu(double x) { return x / (1.0 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

void normalize(const double* x, std::size_t n, double eps, double* out) {
  double mean = 0.0;
  for (std::size_t i = 0; i < n; ++i) mean += x[i] / static_cast<double>(n);
  double variance = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
  }
  for (std::size_t i = 0; i < n; ++i) out[i] = (x[i] - mean) / std::sqrt(variance + eps);
}

}  // namespace

PlainPredictor::PlainPredictor(const PredictorSizes& s, unsigned seed) : sizes_(s) {
  std::uint64_t stream = 0;
  const auto add = [&](const std::string& name, std::vector<std::size_t> shape, double spread,
                       double center = 0.0) {
    std::size_t count = 1;
    for (const std::size_t n : shape) count *= n;
    std::vector<float> values(count);
    standard_normal(seed, stream++, values);
    for (float& value : values) value = static_cast<float>(center + spread * value);
    tensors_.push_back({name, std::move(shape), std::move(values)});
  };
  const auto fan = [](std::size_t inputs) { return 1.0 / std::sqrt(static_cast<double>(inputs)); };
  const auto add_linear = [&](const std::string& name, std::size_t out, std::size_t in) {
    add(name + ".weight", {out, in}, fan(in));
    add(name + ".bias", {out}, 0.1);
  };
  const std::size_t inner = s.heads * s.head_dim;
  add("action_mean", {s.action_dim}, 1.0);
  add("action_inv_std", {s.action_dim}, 0.1, 1.0);
  add_linear("action_in", s.action_hidden, s.action_dim);
  add_linear("condition", s.dim, s.action_hidden);
  add("position", {s.window * s.tokens, s.latent_dim}, 0.5);
  if (s.dim != s.latent_dim) add_linear("input_proj", s.dim, s.latent_dim);
  add_linear("modulation", s.depth * 6 * s.dim, s.dim);
  for (std::size_t layer = 0; layer < s.depth; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    if (layer + 1 < s.depth) {
      add(block + "qkv.weight", {3 * inner, s.dim}, fan(s.dim));
    } else {
      add(block + "q.weight", {inner, s.dim}, fan(s.dim));
      add(block + "kv.weight", {2 * inner, s.dim}, fan(s.dim));
    }
    add_linear(block + "out", s.dim, inner);
    for (const char* name : {"attention_norm", "mlp_norm"}) {
      add(block + name + ".weight", {s.dim}, 0.1, 1.0);
      add(block + name + ".bias", {s.dim}, 0.1);
    }
    add_linear(block + "fc1", s.mlp_dim, s.dim);
    add_linear(block + "fc2", s.dim, s.mlp_dim);
  }
  add("norm.weight", {s.dim}, 0.1, 1.0);
  add("norm.bias", {s.dim}, 0.1);
  add_linear("head.fc1", s.head_hidden, s.dim);
  add_linear("head.fc2", s.latent_dim, s.head_hidden);
}

std::string PlainPredictor::file() const {
  const auto text = [](std::size_t value) { return std::to_string(value); };
  return safetensors_bytes(tensors_, {{"format", "lewm-predictor-1"},
                                      {"history", text(sizes_.window)},
                                      {"tokens", text(sizes_.tokens)},
                                      {"latent_dim", text(sizes_.latent_dim)},
                                      {"action_dim", text(sizes_.action_dim)},
                                      {"dim", text(sizes_.dim)},
                                      {"depth", text(sizes_.depth)},
                                      {"heads", text(sizes_.heads)},
                                      {"head_dim", text(sizes_.head_dim)},
                                      {"mlp_dim", text(sizes_.mlp_dim)},
                                      {"head_hidden_dim", text(sizes_.head_hidden)},
                                      {"adaln_norm_eps", "1e-06"},
                                      {"norm_eps", "1e-05"}});
}

const std::vector<float>& PlainPredictor::tensor(const std::string& name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const NamedTensor& tensor) { return tensor.name == name; });
  if (found == tensors_.end()) throw std::out_of_range(name);
  return found->values;
}

PlainPredictor::Rows PlainPredictor::linear(const std::string& name, const Rows& x,
                                            std::size_t in) const {
  const auto& weight = tensor(name + ".weight");
  const bool has_bias = name.find("qkv") == std::string::npos &&
                        name.find(".kv") == std::string::npos && !name.ends_with(".q");
  const std::size_t out = weight.size() / in;
  const std::vector<float> bias = has_bias ? tensor(name + ".bias") : std::vector<float>(out);
  Rows y(x.size() / in * out);
  for (std::size_t row = 0; row < x.size() / in; ++row) {
    for (std::size_t o = 0; o < out; ++o) {
      double sum = bias[o];
      for (std::size_t i = 0; i < in; ++i) sum += x[row * in + i] * weight[o * in + i];
      y[row * out + o] = sum;
    }
  }
  return y;
}

PlainPredictor::Rows PlainPredictor::norm(const std::string& name, const Rows& x) const {
  const std::size_t n = sizes_.dim;
  const auto& gain = tensor(name + ".weight");
  const auto& offset = tensor(name + ".bias");
  Rows y(x.size());
  for (std::size_t row = 0; row < x.size() / n; ++row) {
    normalize(&x[row * n], n, 1e-5, &y[row * n]);
    for (std::size_t i = 0; i < n; ++i) {
      y[row * n + i] = y[row * n + i] * gain[i] + offset[i];
    }
  }
  return y;
}

PlainPredictor::Rows PlainPredictor::step(const Rows& window, const Rows& actions,
                                          std::size_t frames) const {
  const PredictorSizes& s = sizes_;
  const std::size_t rows = frames * s.tokens;
  const std::size_t inner = s.heads * s.head_dim;
  const std::size_t dim = s.dim;
  Rows scored = actions;
  for (std::size_t i = 0; i < scored.size(); ++i) {
    const std::size_t a = i % s.action_dim;
    scored[i] = (scored[i] - tensor("action_mean")[a]) * tensor("action_inv_std")[a];
  }
  Rows hidden = linear("action_in", scored, s.action_dim);
  for (double& v : hidden) v = silu(v);
  Rows condition = linear("condition", hidden, s.action_hidden);
  for (double& v : condition) v = silu(v);
  const Rows modulation = linear("modulation", condition, dim);  // (frames, depth * 6 * dim)

  Rows x = window;
  const auto& position = tensor("position");
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += position[i];
  if (s.dim != s.latent_dim) x = linear("input_proj", x, s.latent_dim);
  for (std::size_t layer = 0; layer < s.depth; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    const auto part = [&](std::size_t row, std::size_t which, std::size_t i) {
      return modulation[row / s.tokens * s.depth * 6 * dim + (layer * 6 + which) * dim + i];
    };
    const auto modulated = [&](std::size_t first) {
      Rows y(x.size());
      for (std::size_t row = 0; row < rows; ++row) {
        normalize(&x[row * dim], dim, 1e-6, &y[row * dim]);
        for (std::size_t i = 0; i < dim; ++i) {
          double& v = y[row * dim + i];
          v = v * part(row, first + 1, i) + part(row, first, i);
        }
      }
      return y;
    };
    const Rows normed = norm(block + "attention_norm", modulated(0));
    Rows query, key_value;
    std::size_t query_width = inner, offset = 0;
    if (layer + 1 < s.depth) {
      query = linear(block + "qkv", normed, dim);
      key_value = query;
      query_width = 3 * inner;
      offset = inner;
    } else {
      query = linear(block + "q", normed, dim);
      key_value = linear(block + "kv", normed, dim);
    }
    const std::size_t width = offset + 2 * inner;
    Rows mixed(rows * inner);
    for (std::size_t row = 0; row < rows; ++row) {
      const std::size_t seen = (row / s.tokens + 1) * s.tokens;
      for (std::size_t head = 0; head < s.heads; ++head) {
        std::vector<double> weight(seen);
        double total = 0.0;
        for (std::size_t other = 0; other < seen; ++other) {
          double score = 0.0;
          for (std::size_t i = head * s.head_dim; i < (head + 1) * s.head_dim; ++i) {
            score += query[row * query_width + i] * key_value[other * width + offset + i];
          }
          total += weight[other] = std::exp(score);
        }
        for (std::size_t other = 0; other < seen; ++other) {
          for (std::size_t i = head * s.head_dim; i < (head + 1) * s.head_dim; ++i) {
            mixed[row * inner + i] +=
                weight[other] / total * key_value[other * width + offset + inner + i];
          }
        }
      }
    }
    const Rows attended = linear(block + "out", mixed, inner);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += part(i / dim, 2, i % dim) * attended[i];
    Rows units = linear(block + "fc1", norm(block + "mlp_norm", modulated(3)), dim);
    for (double& v : units) v = gelu(v);
    const Rows thought = linear(block + "fc2", units, s.mlp_dim);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += part(i / dim, 5, i % dim) * thought[i];
  }
  Rows units = linear("head.fc1", norm("norm", x), dim);
  for (double& v : units) v = gelu(v);
  const Rows latents = linear("head.fc2", units, s.head_hidden);
  return {latents.end() - static_cast<std::ptrdiff_t>(s.tokens * s.latent_dim), latents.end()};
}

std::vector<double> PlainPredictor::rollout(const std::vector<float>& history, std::size_t frames,
                                            const std::vector<float>& actions) const {
  const std::size_t latent = sizes_.tokens * sizes_.latent_dim;
  Rows seen(history.begin(), history.end());
  const std::size_t horizon = actions.size() / sizes_.action_dim - (frames - 1);
  for (std::size_t end = frames; end < frames + horizon; ++end) {
    const std::size_t start = end > sizes_.window ? end - sizes_.window : 0;
    const auto cut = [](const auto& values, std::size_t from, std::size_t to, std::size_t size) {
      return Rows(values.begin() + static_cast<std::ptrdiff_t>(from * size),
                  values.begin() + static_cast<std::ptrdiff_t>(to * size));
    };
    const Rows next = step(cut(seen, start, end, latent),
                           cut(actions, start, end, sizes_.action_dim), end - start);
    seen.insert(seen.end(), next.begin(), next.end());
  }
  return {seen.begin() + static_cast<std::ptrdiff_t>(frames * latent), seen.end()};
}

}  // namespace jepa_edge::testing
