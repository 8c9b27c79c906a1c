// SPDX-License-Identifier: Apache-2.0
// A small V-JEPA 2-AC predictor with drawn weights, and its rollout in float64 by plain loops, from
// the definition of the model. It shares nothing with the engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "jepa_edge/random.hpp"
#include "support/temporary_file.hpp"

namespace jepa_edge::testing {

struct PlainAcSizes {
  std::size_t window, grid, latent_dim, dim, depth, heads, mlp_dim;
};

class PlainAc {
 public:
  using Rows = std::vector<double>;

  explicit PlainAc(const PlainAcSizes& sizes) : s(sizes) {
    linear("predictor_embed", s.dim, s.latent_dim);
    linear("action_encoder", s.dim, 7);
    linear("state_encoder", s.dim, 7);
    for (std::size_t i = 0; i < s.depth; ++i) {
      const std::string block = "predictor_blocks." + std::to_string(i) + ".";
      norm(block + "norm1");
      norm(block + "norm2");
      linear(block + "attn.qkv", 3 * s.dim, s.dim);
      linear(block + "attn.proj", s.dim, s.dim);
      linear(block + "mlp.fc1", s.mlp_dim, s.dim);
      linear(block + "mlp.fc2", s.dim, s.mlp_dim);
    }
    norm("predictor_norm");
    linear("predictor_proj", s.latent_dim, s.dim);
  }

  [[nodiscard]] std::map<std::string, std::string> metadata() const {
    const auto text = [](std::size_t value) { return std::to_string(value); };
    return {{"format", "vjepa2-ac-predictor-1"},
            {"history", text(s.window)},
            {"grid", text(s.grid)},
            {"latent_dim", text(s.latent_dim)},
            {"dim", text(s.dim)},
            {"depth", text(s.depth)},
            {"heads", text(s.heads)},
            {"mlp_dim", text(s.mlp_dim)},
            {"norm_eps", "1e-06"},
            {"target_eps", "1e-05"},
            {"rope_theta", "10000.0"}};
  }
  [[nodiscard]] const std::vector<NamedTensor>& tensors() const { return tensors_; }
  [[nodiscard]] std::size_t latent() const { return (s.grid * s.grid + 1) * s.latent_dim; }

  /// history (T, N, D), actions (T - 1 + H, 7). Returns (H, N, D).
  [[nodiscard]] Rows rollout(const std::vector<float>& history, std::size_t frames,
                             const std::vector<float>& actions) const {
    Rows seen(history.begin(), history.end());
    const std::size_t ends = actions.size() / 7;
    for (std::size_t end = frames; end <= ends; ++end) {
      const Rows next = step(seen, actions, end > s.window ? end - s.window : 0, end);
      seen.insert(seen.end(), next.begin(), next.end());
    }
    return {seen.begin() + static_cast<std::ptrdiff_t>(frames * latent()), seen.end()};
  }

  PlainAcSizes s;

 private:
  void add(const std::string& name, std::vector<std::size_t> shape, double spread, double center) {
    std::size_t count = 1;
    for (const std::size_t n : shape) count *= n;
    std::vector<float> values(count);
    standard_normal(5, tensors_.size(), values);
    for (float& value : values) value = static_cast<float>(center + spread * value);
    index_[name] = tensors_.size();
    tensors_.push_back({name, std::move(shape), std::move(values)});
  }
  void linear(const std::string& name, std::size_t out, std::size_t in) {
    add(name + ".weight", {out, in}, 1.0 / std::sqrt(static_cast<double>(in)), 0.0);
    add(name + ".bias", {out}, 0.1, 0.0);
  }
  void norm(const std::string& name) {
    add(name + ".weight", {s.dim}, 0.1, 1.0);
    add(name + ".bias", {s.dim}, 0.1, 0.0);
  }
  [[nodiscard]] const std::vector<float>& tensor(const std::string& name) const {
    return tensors_[index_.at(name)].values;
  }
  [[nodiscard]] Rows apply(const std::string& name, const double* x, std::size_t in) const {
    const auto& weight = tensor(name + ".weight");
    const auto& bias = tensor(name + ".bias");
    Rows y(bias.begin(), bias.end());
    for (std::size_t o = 0; o < y.size(); ++o) {
      for (std::size_t i = 0; i < in; ++i) y[o] += weight[o * in + i] * x[i];
    }
    return y;
  }
  static Rows normalized(const double* x, std::size_t n, double eps) {
    double mean = 0.0, variance = 0.0;
    for (std::size_t i = 0; i < n; ++i) mean += x[i] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) {
      variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
    }
    Rows y(n);
    for (std::size_t i = 0; i < n; ++i) y[i] = (x[i] - mean) / std::sqrt(variance + eps);
    return y;
  }
  [[nodiscard]] Rows apply_norm(const std::string& name, const Rows& x) const {
    Rows y = normalized(x.data(), s.dim, 1e-6);
    for (std::size_t i = 0; i < s.dim; ++i) {
      y[i] = y[i] * tensor(name + ".weight")[i] + tensor(name + ".bias")[i];
    }
    return y;
  }

  /// A head's numbers, rotated in place: pairs by angles of the token's time, row and column.
  void rotate(double* x, std::size_t frame, std::size_t token) const {
    const std::size_t head = s.dim / s.heads;
    const std::size_t third = head / 3 / 2 * 2;
    const std::size_t patch = token < 2 ? 0 : token - 2;
    const std::size_t places[3] = {frame, patch / s.grid, patch % s.grid};
    const Rows before(x, x + head);
    for (std::size_t c = 0; c < 3 * third; ++c) {
      const double frequency = std::pow(10000.0, -static_cast<double>(c % third % (third / 2)) /
                                                     (static_cast<double>(third) / 2.0));
      const double angle = static_cast<double>(places[c / third]) * frequency;
      const double other = c % 2 == 0 ? -before[c + 1] : before[c - 1];
      x[c] = before[c] * std::cos(angle) + other * std::sin(angle);
    }
  }

  [[nodiscard]] Rows step(const Rows& seen, const std::vector<float>& actions, std::size_t start,
                          std::size_t end) const {
    const std::size_t patches = s.grid * s.grid, tokens = patches + 2, head = s.dim / s.heads;
    const std::size_t rows = (end - start) * tokens;
    std::vector<Rows> x;
    for (std::size_t f = start; f < end; ++f) {
      const double* const latents = seen.data() + f * latent();
      const Rows action(actions.begin() + static_cast<std::ptrdiff_t>(7 * f),
                        actions.begin() + static_cast<std::ptrdiff_t>(7 * f + 7));
      x.push_back(apply("action_encoder", action.data(), 7));
      x.push_back(apply("state_encoder", latents + patches * s.latent_dim, 7));
      for (std::size_t p = 0; p < patches; ++p) {
        x.push_back(apply("predictor_embed", latents + p * s.latent_dim, s.latent_dim));
      }
    }
    for (std::size_t layer = 0; layer < s.depth; ++layer) {
      const std::string block = "predictor_blocks." + std::to_string(layer) + ".";
      std::vector<Rows> qkv;
      for (std::size_t r = 0; r < rows; ++r) {
        qkv.push_back(apply(block + "attn.qkv", apply_norm(block + "norm1", x[r]).data(), s.dim));
        for (std::size_t h = 0; h < 2 * s.heads; ++h) {
          rotate(qkv[r].data() + h * head, r / tokens, r % tokens);
        }
      }
      for (std::size_t r = 0; r < rows; ++r) {
        Rows mixed(s.dim);
        for (std::size_t h = 0; h < s.heads; ++h) {
          Rows weights;
          double total = 0.0;
          for (std::size_t k = 0; k < (r / tokens + 1) * tokens; ++k) {
            double score = 0.0;
            for (std::size_t i = h * head; i < (h + 1) * head; ++i) {
              score += qkv[r][i] * qkv[k][s.dim + i];
            }
            weights.push_back(std::exp(score / std::sqrt(static_cast<double>(head))));
            total += weights.back();
          }
          for (std::size_t k = 0; k < weights.size(); ++k) {
            for (std::size_t i = h * head; i < (h + 1) * head; ++i) {
              mixed[i] += weights[k] / total * qkv[k][2 * s.dim + i];
            }
          }
        }
        const Rows out = apply(block + "attn.proj", mixed.data(), s.dim);
        for (std::size_t i = 0; i < s.dim; ++i) x[r][i] += out[i];
        Rows units = apply(block + "mlp.fc1", apply_norm(block + "norm2", x[r]).data(), s.dim);
        for (double& v : units) v = 0.5 * v * std::erfc(-v / std::sqrt(2.0));
        const Rows thought = apply(block + "mlp.fc2", units.data(), s.mlp_dim);
        for (std::size_t i = 0; i < s.dim; ++i) x[r][i] += thought[i];
      }
    }
    Rows next;
    for (std::size_t r = rows - patches; r < rows; ++r) {
      const Rows out = apply("predictor_proj", apply_norm("predictor_norm", x[r]).data(), s.dim);
      const Rows y = normalized(out.data(), s.latent_dim, 1e-5);
      next.insert(next.end(), y.begin(), y.end());
    }
    const Rows pose = composed(seen.data() + (end - 1) * latent() + patches * s.latent_dim,
                               actions.data() + 7 * (end - 1));
    next.insert(next.end(), pose.begin(), pose.end());
    next.resize(latent());
    return next;
  }

  /// Rotations as matrices: about x, then y, then z, all fixed.
  static Rows turn(double a, double b, double c) {
    const Rows about[3] = {{1, 0, 0, 0, std::cos(a), -std::sin(a), 0, std::sin(a), std::cos(a)},
                           {std::cos(b), 0, std::sin(b), 0, 1, 0, -std::sin(b), 0, std::cos(b)},
                           {std::cos(c), -std::sin(c), 0, std::sin(c), std::cos(c), 0, 0, 0, 1}};
    return product(about[2], product(about[1], about[0]));
  }
  static Rows product(const Rows& a, const Rows& b) {
    Rows c(9);
    for (std::size_t i = 0; i < 27; ++i)
      c[i / 9 * 3 + i % 3] += a[i / 9 * 3 + i / 3 % 3] * b[i / 3 % 3 * 3 + i % 3];
    return c;
  }
  static Rows composed(const double* pose, const float* action) {
    const Rows m = product(turn(action[3], action[4], action[5]), turn(pose[3], pose[4], pose[5]));
    return {pose[0] + action[0],
            pose[1] + action[1],
            pose[2] + action[2],
            std::atan2(m[7], m[8]),
            std::atan2(-m[6], std::hypot(m[7], m[8])),
            std::atan2(m[3], m[0]),
            std::clamp(pose[6] + action[6], 0.0, 1.0)};
  }

  std::vector<NamedTensor> tensors_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace jepa_edge::testing
