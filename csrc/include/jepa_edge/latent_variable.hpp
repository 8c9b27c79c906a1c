// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jepa_edge/engine.hpp"
#include "jepa_edge/status.hpp"

namespace jepa_edge {

/// A float32 array, row-major.
struct NamedArray {
  std::vector<std::size_t> shape;
  std::span<const float> values;
};
using NamedArrays = std::map<std::string, NamedArray, std::less<>>;

struct LatentVariableSizes {
  std::size_t horizon;     ///< steps that were fitted; later ones use the last
  std::size_t latent_dim;  ///< D
  std::size_t rank;        ///< R, columns of the covariance's low-rank part
  std::size_t action_dim;  ///< A
  std::size_t members;     ///< K mean heads; 0 where there are none
};

/// A fitted latent variable: how the next latent scatters, N(0, diag + low rank), given by a head
/// on (latent, predicted change, action, step), and how much K mean heads disagree. Immutable.
/// The semantics are those of jepa_edge/latent_variable.py, where they are explained.
class LatentVariable {
 public:
  /// arrays: as `LatentVariable.to_arrays` in Python names them: base (H, D), factor (D, R),
  /// gain (H), scale_head.* and, optionally, mean_heads.*; copied.
  /// isa: as of `Predictor::load`.
  /// Throws std::invalid_argument that names the array which is missing, misshapen or not finite.
  explicit LatentVariable(const NamedArrays& arrays, std::string_view isa = "auto");

  /// Reads calibration/<variant>.safetensors of a bundle. Throws FileError.
  static std::shared_ptr<const LatentVariable> load(const std::filesystem::path& path,
                                                    std::string_view isa = "auto");

  ~LatentVariable();
  LatentVariable(const LatentVariable&) = delete;
  LatentVariable& operator=(const LatentVariable&) = delete;

  [[nodiscard]] const LatentVariableSizes& sizes() const noexcept;

  struct Heads;  // src/latent_variable.cpp
  [[nodiscard]] const Heads& heads() const noexcept { return *heads_; }

 private:
  std::unique_ptr<const Heads> heads_;
};

/// Adds gain * L z to the predictions of an engine's rollout. All candidates share one z, drawn
/// once per plan. Like its engine, not for several threads at once, other than as workers.
class LatentNoise final : public StepNoise {
 public:
  /// tokens: N. limits: as of the engine that this is for.
  /// Throws std::bad_alloc, or std::invalid_argument when a size is zero.
  LatentNoise(std::shared_ptr<const LatentVariable> variable, std::size_t tokens,
              const Limits& limits);
  ~LatentNoise() override;

  /// Draws z for rollouts of `samples` futures over `horizon` steps: step h takes Philox stream h,
  /// and each number is shifted and scaled to mean 0 and variance 1 over its samples (a single
  /// sample stays as drawn). noise_free_first: the first future of each candidate gets z = 0, is
  /// left out of that scaling, and has its disagreement taken.
  /// kBadShape when the sizes exceed the limits, or noise_free_first leaves nothing to do.
  Status draw(std::uint64_t seed, std::size_t samples, std::size_t horizon,
              bool noise_free_first = false) noexcept;

  /// Rows that were not drawn for (other samples, a later step) become NaN.
  void apply(const StepRows& rows) noexcept override;

  /// Of the last rollout, (limits.candidates, drawn horizon): the mean heads' mean variance per
  /// latent number along each noise-free future. Empty without noise_free_first or mean heads.
  [[nodiscard]] std::span<const float> disagreement() const noexcept;

  [[nodiscard]] const Limits& limits() const noexcept;
  [[nodiscard]] std::size_t tokens() const noexcept;
  [[nodiscard]] const LatentVariable& variable() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jepa_edge
