// SPDX-License-Identifier: Apache-2.0
// V-JEPA 2-AC's action-conditioned predictor on the device.
#pragma once

#include <cstddef>
#include <memory>

#include "ac_weights.hpp"
#include "rollout.hpp"

namespace jepa_edge::cuda {

/// Rolls candidates forward in chunks, frame by frame. A latent is (patches + 1, D): normed
/// patches, then a token that begins with the pose.
///
/// What is computed once for all candidates. A frame's tokens see their own frame and older ones,
/// whole; so no older frame sees what came after it, and keys and values of a frame depend on
/// nothing but the frames of the window up to it, their actions, and their places in the window.
///  - Context frames but the newest: neither they nor what they see holds a candidate's action.
///  Their
///    keys and values in every layer are the same numbers for all candidates and at every step that
///    begins its window at the same frame. set_context computes them, once for each first frame
///    that a rollout of Limits::horizon steps can have.
///  - The newest context frame has the candidate's first action among its tokens, which its patches
///    see from the first layer on: only its embedding, before that layer, is shared.
///  - A candidate's own frames keep their keys and values while the window grows. Once it slides,
///    every place in it changes, and the oldest frame is gone that all others saw: the rotation of
///    version 2 turns the two channels of a pair by different angles, so that not even scores of
///    the first layer would depend on distances alone. Own frames are then computed anew at each
///    step, oldest first.
/// The newest frame ends in the patches; older ones end in the last layer's keys and values.
///
/// Diverged futures hold NaN. Noise (samples above 1) is added step by step to all candidates, so
/// that with several chunks no keys are kept between steps; step 0 is computed for each sample.
class AcRollout final : public DeviceRollout {
 public:
  /// chunk: futures (candidates * samples) that are computed together, at most; memory grows with
  /// it (workspace_bytes). Fewer futures than a chunk cost a whole chunk.
  /// Throws CudaError; std::invalid_argument for limits or a chunk of 0.
  AcRollout(const std::shared_ptr<const AcWeights>& weights, const Limits& limits,
            std::size_t chunk);
  ~AcRollout() override;

  [[nodiscard]] const RolloutSizes& sizes() const noexcept override;
  [[nodiscard]] const Limits& limits() const noexcept override;
  /// Futures computed together: `chunk` shared out evenly.
  [[nodiscard]] std::size_t chunk() const noexcept;
  /// Memory on the device beside the weights. With c = chunk(), T = patches + 2 tokens, layers of
  /// `dim` with an MLP of `mlp`, b bytes of an operand, r of a result (gemm.hpp), a of attention's
  /// numbers (4 in float32, else 2), and w = min(window, horizon):
  ///   c T (4 dim + 2 a dim + b mlp + r max(mlp, 3 dim)) + 2 a c T dim (depth (w - 1) + 1),
  /// and for the context 2 a T dim depth per shared frame and first frame of a window.
  [[nodiscard]] std::size_t workspace_bytes() const noexcept;

  Status set_context(const Context& context, const Stream& stream) override;
  void enqueue(std::size_t frames, const float* actions, std::size_t candidates,
               std::size_t horizon, std::size_t samples, DeviceNoise* noise, float* latents,
               const Stream& stream) override;

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace jepa_edge::cuda
