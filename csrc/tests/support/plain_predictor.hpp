// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "jepa_edge/predictor.hpp"
#include "support/temporary_file.hpp"

namespace jepa_edge::testing {

/// A small AdaLN predictor with drawn weights, and its rollout in float64 by plain loops, from the
/// definition of the model. It shares nothing with the engine.
class PlainPredictor {
 public:
  PlainPredictor(const PredictorSizes& sizes, unsigned seed);

  /// predictor.safetensors, as the exporter writes it.
  [[nodiscard]] std::string file() const;

  /// One candidate's future: history (T, N, D), actions (T - 1 + H, A). Returns (H, N, D).
  [[nodiscard]] std::vector<double> rollout(const std::vector<float>& history, std::size_t frames,
                                            const std::vector<float>& actions) const;

  [[nodiscard]] const PredictorSizes& sizes() const { return sizes_; }

 private:
  using Rows = std::vector<double>;
  [[nodiscard]] const std::vector<float>& tensor(const std::string& name) const;
  [[nodiscard]] Rows linear(const std::string& name, const Rows& x, std::size_t in) const;
  [[nodiscard]] Rows norm(const std::string& name, const Rows& x) const;
  [[nodiscard]] Rows step(const Rows& window, const Rows& actions, std::size_t frames) const;

  PredictorSizes sizes_;
  std::vector<NamedTensor> tensors_;
};

}  // namespace jepa_edge::testing
