// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace jepa_edge {

/// How weights and activations of the matrix products are held. Everything between the products
/// is float32.
enum class Precision : std::uint8_t { kFloat32, kBFloat16, kInt8 };

/// Every size of an action-conditioned AdaLN predictor.
struct PredictorSizes {
  std::size_t window;      ///< W, the most frames seen at once
  std::size_t tokens;      ///< N, per frame; tokens of a frame see each other and all older frames
  std::size_t latent_dim;  ///< D
  std::size_t action_dim;  ///< A
  std::size_t action_hidden;
  std::size_t dim;  ///< width inside the predictor
  std::size_t depth;
  std::size_t heads;
  std::size_t head_dim;
  std::size_t mlp_dim;
  std::size_t head_hidden;  ///< hidden width of the final MLP
  float adaln_norm_eps;
  float norm_eps;
};

/// Packed weights of a predictor, immutable: any number of engines and threads may share one.
class Predictor {
 public:
  /// Reads `predictor.safetensors` (docs/bundle.md) and packs it for this processor.
  /// isa: a name from `available_isas()`, or "auto" for the best of them.
  /// Throws FileError when the file is not such a predictor, std::invalid_argument for another isa.
  static std::shared_ptr<const Predictor> load(const std::filesystem::path& path,
                                               Precision precision, std::string_view isa = "auto");
  ~Predictor();
  Predictor(const Predictor&) = delete;
  Predictor& operator=(const Predictor&) = delete;

  [[nodiscard]] const PredictorSizes& sizes() const noexcept;
  [[nodiscard]] Precision precision() const noexcept;
  [[nodiscard]] std::string_view isa() const noexcept;
  [[nodiscard]] std::size_t packed_bytes() const noexcept;

  struct Packed;  // layout: src/packed.hpp
  [[nodiscard]] const Packed& packed() const noexcept { return *packed_; }

 private:
  explicit Predictor(std::unique_ptr<const Packed> packed);
  std::unique_ptr<const Packed> packed_;
};

/// Instruction sets that this build holds and this processor has, best first; the last is
/// "portable".
[[nodiscard]] std::span<const std::string_view> available_isas() noexcept;

/// Precisions that an instruction set computes faster than those after them, fastest first; the
/// last is float32. Static, so that the same processor always chooses the same. Throws
/// std::invalid_argument for an instruction set that is not there.
[[nodiscard]] std::vector<Precision> fastest_precisions(std::string_view isa = "auto");

}  // namespace jepa_edge
