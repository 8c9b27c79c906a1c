// SPDX-License-Identifier: Apache-2.0
// One pass of some frames of a window through an AdaLN predictor, in one precision.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "gemm.hpp"
#include "kernels/activation.cuh"
#include "kernels/attention_window.cuh"
#include "kernels/norm.cuh"
#include "launch.hpp"
#include "predictor_weights.hpp"

namespace jepa_edge::cuda {

/// Products by their shape, each made when it is first asked for.
class Gemms {
 public:
  void run(Precision precision, std::size_t rows, std::size_t outputs, std::size_t inputs,
           const void* a, const void* w, void* c, cudaStream_t stream) {
    const auto key = std::make_tuple(precision, rows, outputs, inputs);
    auto found = made_.find(key);
    if (found == made_.end()) {
      found = made_.emplace(key, Gemm(library_, precision, rows, outputs, inputs)).first;
    }
    found->second.run(a, w, c, stream);
  }

 private:
  GemmLibrary library_;
  std::map<std::tuple<Precision, std::size_t, std::size_t, std::size_t>, Gemm> made_;
};

/// Threads of a block that takes a row of whole sixteens.
inline unsigned row_threads(std::size_t width) {
  return blocks_for(blocks_for(width, kGroup), 32) * 32;
}

/// Queries, keys and values of some rows, of every layer or of one at a time.
template <Precision precision>
struct AttentionRows {
  AttentionRows(std::size_t layers, std::size_t rows, std::size_t width)
      : rows_per_layer(rows),
        results(layers * rows * width),
        scales(is_scaled(precision) ? layers * rows : 0) {}
  std::size_t rows_per_layer;
  DeviceBuffer<Result<precision>> results;
  DeviceBuffer<float> scales;  ///< of the operands that they came from
};

/// Modulations of some actions.
template <Precision precision>
struct ModulationRows {
  ModulationRows(std::size_t rows, std::size_t width)
      : results(rows * width), scales(is_scaled(precision) ? rows : 0) {}
  DeviceBuffer<Result<precision>> results;
  DeviceBuffer<float> scales;
};

/// A frame of the window whose keys and values are there from an earlier pass.
template <Precision precision>
struct EarlierFrame {
  const AttentionRows<precision>* rows;
  std::size_t row;  ///< the first of the frame's, in every layer
  unsigned share;   ///< items of one candidate; 0: one item for all candidates
};

template <Precision precision>
class PredictorLayers {
 public:
  using Out = Result<precision>;
  using In = Operand<precision>;

  /// rows: of the largest pass; actions: of the largest modulation.
  PredictorLayers(const PredictorWeights& weights, std::size_t rows, std::size_t actions)
      : weights_(weights),
        dim_(whole_sixteens(weights.sizes.dim)),
        latent_(whole_sixteens(weights.sizes.latent_dim)),
        inner_(whole_sixteens(weights.sizes.heads * weights.sizes.head_dim)),
        x_(rows * dim_),
        normed_(rows * std::max(dim_, latent_)),
        mixed_(rows * inner_),
        queries_(rows * inner_),
        product_(rows * std::max(dim_, latent_)),
        wide_(rows * widest()),
        hidden_(rows * widest()),
        normed_scales_(scales(rows)),
        mixed_scales_(scales(rows)),
        hidden_scales_(scales(rows)),
        action_hidden_(actions * whole_sixteens(weights.sizes.action_hidden) * kCondition),
        condition_(actions * dim_ * kCondition),
        action_operands_(actions * dim_) {}

  [[nodiscard]] std::size_t attention_width() const { return 3 * inner_; }
  [[nodiscard]] const float* positions() const { return weights_.position.data(); }
  [[nodiscard]] std::size_t modulation_width() const { return weights_.modulation.outputs; }

  /// Modulations of `count` raw actions.
  void modulate(const float* actions, std::size_t count, ModulationRows<precision>& to,
                cudaStream_t stream) {
    with_precision(weights_.condition_precision, [&](auto p) {
      constexpr Precision kNarrow = decltype(p)::value;
      if constexpr (!is_scaled(kNarrow)) {
        const PredictorSizes& s = weights_.sizes;
        const DeviceLinear& layer = weights_.condition;
        const Operands<Operand<kNarrow>> hidden{
            reinterpret_cast<Operand<kNarrow>*>(action_hidden_.data()), nullptr,
            narrow(layer.inputs)};
        const ActionLayer first{weights_.action_mean.data(), weights_.action_inv_std.data(),
                                weights_.action_weight.data(), weights_.action_bias.data(),
                                narrow(s.action_dim)};
        launch(embed_actions<kNarrow>,
               {narrow(count), row_threads(layer.inputs), s.action_dim * sizeof(float)}, stream,
               actions, first, hidden);
        gemms_.run(kNarrow, count, layer.outputs, layer.inputs, hidden.numbers, layer.weight.data(),
                   condition_.data(), stream);
        const Products<Result<kNarrow>> made{
            reinterpret_cast<const Result<kNarrow>*>(condition_.data()), nullptr, nullptr,
            layer.bias.data(), narrow(layer.outputs)};
        const Operands<In> operands{action_operands_.data(), to.scales.data(), narrow(dim_)};
        launch(silu_rows<kNarrow, precision>, {narrow(count), row_threads(dim_)}, stream, made,
               operands);
        gemm(weights_.modulation, 0, weights_.modulation.outputs, operands.numbers, count,
             to.results.data(), stream);
      }
    });
  }

  /// Runs frames through all layers. The keys and values of its own frames go to `to` from row
  /// `row` on: of every layer where they are to be kept, else all in the place of the first.
  /// earlier: the window's frames before the pass, pass.position of them. With `predict` the last
  /// frame's predictions are left for predictions(); without, only keys and values come out.
  ///
  /// Exact savings: after the last layer's keys and values only the last frame goes on.
  void run(const Pass& pass, const LatentRows& latents, std::size_t frames,
           const EarlierFrame<precision>* earlier, const ModulationRows<precision>& modulations,
           AttentionRows<precision>& to, std::size_t row, bool keep, bool predict,
           cudaStream_t stream) {
    const std::size_t tokens = pass.tokens;
    const std::size_t newest =
        frames == 1 ? 0 : (pass.first_items + (frames - 2) * pass.items) * tokens;
    const std::size_t rows = newest + (frames == 1 ? pass.first_items : pass.items) * tokens;
    const std::size_t depth = weights_.sizes.depth;
    const auto place = [&](std::size_t layer) {
      return (keep ? layer * to.rows_per_layer : 0) + row;
    };
    begin(pass, latents, rows, modulations, row_scales(to, place(0)), stream);
    for (std::size_t layer = 0; layer < depth; ++layer) {
      const DeviceBlock& block = weights_.blocks[layer];
      const bool last = layer + 1 == depth;
      const bool split = last && predict && newest > 0;
      const std::size_t first = last ? newest : 0;
      const std::size_t count = rows - first;
      Out* own = to.results.data() + place(layer) * attention_width();
      float* own_scales = row_scales(to, place(layer));
      const std::size_t key = split ? 0 : inner_;  // column of the first key
      const std::size_t stride = split ? 2 * inner_ : 3 * inner_;
      if (split) {
        gemm(block.qkv, inner_, 2 * inner_, normed_.data(), rows, own, stream);
        gemm(block.qkv, 0, inner_, normed_.data() + first * dim_, count, queries_.data(), stream);
      } else {
        gemm(block.qkv, 0, 3 * inner_, normed_.data(), rows, own, stream);
        if (last && !predict) return;
      }

      WindowAttention<Out> attention{};
      attention.queries = split ? queries_.data() : own + first * stride;
      attention.query_row_scales = own_scales + (is_scaled(precision) ? first : 0);
      attention.query_stride = narrow(split ? inner_ : stride);
      attention.heads = narrow(weights_.sizes.heads);
      attention.head_dim = narrow(weights_.sizes.head_dim);
      if constexpr (is_scaled(precision)) {
        attention.query_scales = block.qkv.column_scales.data();
        attention.key_scales = attention.query_scales + inner_;
        attention.value_scales = attention.key_scales + inner_;
      }
      for (std::size_t f = 0; f < pass.position; ++f) {
        const EarlierFrame<precision>& frame = earlier[f];
        const std::size_t at = layer * frame.rows->rows_per_layer + frame.row;
        const Out* from = frame.rows->results.data() + at * attention_width() + inner_;
        attention.frames[f] = {from, from + inner_, row_scales(*frame.rows, at),
                               narrow(attention_width()), frame.share};
      }
      for (std::size_t f = 0, at = 0; f < frames; ++f) {
        const Out* from = own + at * stride + key;
        attention.frames[pass.position + f] = {
            from, from + inner_, own_scales + (is_scaled(precision) ? at : 0), narrow(stride),
            f == 0 ? pass.first_share : pass.share};
        at += (f == 0 ? pass.first_items : pass.items) * tokens;
      }
      const Operands<In> mixed{mixed_.data(), mixed_scales_.data(), narrow(inner_)};
      launch(
          weights_.sizes.head_dim <= 64 ? attend_window<precision, 2> : attend_window<precision, 4>,
          {narrow(count), attention.heads * 32}, stream, pass, narrow(first), attention, mixed);
      const Products<Out> attended = linear(block.out, mixed, count, product_.data(), stream);

      const Operands<In> normed{normed_.data(), normed_scales_.data(), narrow(dim_)};
      float* x = x_.data() + first * dim_;
      const auto part = [&](std::size_t index) {
        return Modulation<Out>{
            products(weights_.modulation, modulations.scales.data(), modulations.results.data()),
            narrow(index * dim_)};
      };
      const Shape by_row{narrow(count), row_threads(dim_)};
      launch(add_and_modulate<precision>, by_row, stream, pass, narrow(first), x, attended,
             part(6 * layer),
             ada_norm(part(6 * layer + 3), block.mlp_gain.data(), block.mlp_offset.data()), normed);
      const Products<Out> thought = hidden_layers(block.fc1, block.fc2, normed, count, stream);
      if (last) {
        const Norm norm{weights_.norm_gain.data(), weights_.norm_offset.data(),
                        weights_.sizes.norm_eps, narrow(weights_.sizes.dim)};
        launch(add_and_end<precision>, by_row, stream, pass, narrow(first), x, thought,
               part(6 * layer + 3), norm, normed);
        predictions_ = hidden_layers(weights_.head_fc1, weights_.head_fc2, normed, count, stream);
      } else {
        const DeviceBlock& next = weights_.blocks[layer + 1];
        launch(
            add_and_modulate<precision>, by_row, stream, pass, narrow(first), x, thought,
            part(6 * layer + 3),
            ada_norm(part(6 * layer + 6), next.attention_gain.data(), next.attention_offset.data()),
            Operands<In>{normed_.data(), row_scales(to, place(layer + 1)), narrow(dim_)});
      }
    }
  }

  /// Of the newest frame of the last pass: (items * N, D padded).
  [[nodiscard]] const Products<Out>& predictions() const { return predictions_; }

 private:
  static constexpr std::size_t kCondition = 4;  ///< bytes of the widest number of a condition
  static unsigned narrow(std::size_t value) { return static_cast<unsigned>(value); }
  static std::size_t scales(std::size_t rows) { return is_scaled(precision) ? rows : 0; }
  static float* row_scales(const AttentionRows<precision>& rows, std::size_t row) {
    return is_scaled(precision) ? rows.scales.data() + row : nullptr;
  }
  [[nodiscard]] std::size_t widest() const {
    return whole_sixteens(std::max(weights_.sizes.mlp_dim, weights_.sizes.head_hidden));
  }

  static Products<Out> products(const DeviceLinear& layer, const float* row_scales,
                                const Out* results) {
    return {results, row_scales, layer.column_scales.data(), layer.bias.data(),
            narrow(layer.outputs)};
  }

  /// `outputs` columns of a layer, from `first` on.
  void gemm(const DeviceLinear& layer, std::size_t first, std::size_t outputs, const In* operands,
            std::size_t rows, Out* to, cudaStream_t stream) {
    gemms_.run(precision, rows, outputs, layer.inputs, operands,
               layer.weight.data() + first * layer.inputs * sizeof(In), to, stream);
  }

  Products<Out> linear(const DeviceLinear& layer, const Operands<In>& operands, std::size_t rows,
                       Out* to, cudaStream_t stream) {
    gemm(layer, 0, layer.outputs, operands.numbers, rows, to, stream);
    return products(layer, operands.row_scales, to);
  }

  Products<Out> hidden_layers(const DeviceLinear& in, const DeviceLinear& out,
                              const Operands<In>& operands, std::size_t rows, cudaStream_t stream) {
    const Products<Out> wide = linear(in, operands, rows, wide_.data(), stream);
    const Operands<In> hidden{hidden_.data(), hidden_scales_.data(), narrow(in.outputs)};
    launch(gelu<precision>, {narrow(rows), row_threads(in.outputs)}, stream, wide, hidden);
    return linear(out, hidden, rows, product_.data(), stream);
  }

  AdaNorm<Out> ada_norm(const Modulation<Out>& modulation, const float* gain,
                        const float* offset) const {
    const PredictorSizes& s = weights_.sizes;
    return {modulation, s.adaln_norm_eps, {gain, offset, s.norm_eps, narrow(s.dim)}, narrow(dim_)};
  }

  /// The residual stream, and the first layer's operands.
  void begin(const Pass& pass, const LatentRows& latents, std::size_t rows,
             const ModulationRows<precision>& modulations, float* to_scales, cudaStream_t stream) {
    const Modulation<Out> modulation{
        products(weights_.modulation, modulations.scales.data(), modulations.results.data()), 0};
    const DeviceBlock& block = weights_.blocks[0];
    const AdaNorm<Out> norm =
        ada_norm(modulation, block.attention_gain.data(), block.attention_offset.data());
    const Operands<In> normed{normed_.data(), to_scales, narrow(dim_)};
    const Shape by_row{narrow(rows), row_threads(dim_)};
    if (weights_.input.outputs == 0) {
      launch(begin_from_latents<precision>, by_row, stream, pass, latents, x_.data(), norm, normed);
      return;
    }
    const Operands<In> operands{normed_.data(), normed_scales_.data(), narrow(latent_)};
    launch(latents_to_operands<precision>, {narrow(rows), row_threads(latent_)}, stream, pass,
           latents, operands);
    const Products<Out> projected = linear(weights_.input, operands, rows, product_.data(), stream);
    launch(begin_from_product<precision>, by_row, stream, pass, projected, x_.data(), norm, normed);
  }

  const PredictorWeights& weights_;
  Gemms gemms_;
  std::size_t dim_, latent_, inner_;  ///< in whole sixteens
  DeviceBuffer<float> x_;
  DeviceBuffer<In> normed_, mixed_;
  DeviceBuffer<Out> queries_, product_, wide_;
  DeviceBuffer<In> hidden_;
  DeviceBuffer<float> normed_scales_, mixed_scales_, hidden_scales_;
  DeviceBuffer<std::byte> action_hidden_, condition_;
  DeviceBuffer<In> action_operands_;
  Products<Out> predictions_{};
};

}  // namespace jepa_edge::cuda
