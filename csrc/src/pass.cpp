// SPDX-License-Identifier: Apache-2.0
#include "pass.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace jepa_edge {

using kernels::Activation;
using kernels::Kernels;
using kernels::Operand;
using kernels::Packing;

namespace {

Packing take_packing(Arena& arena, std::size_t rows, std::size_t columns) {
  return {arena.take<std::uint32_t>(rows * columns), 0, arena.take<float>(rows),
          arena.take<float>(rows)};
}

}  // namespace

Workspace::Workspace(Arena& arena, const Predictor::Packed& model, std::size_t rows) {
  const Kernels& table = *model.table;
  const PredictorSizes& sizes = model.sizes;
  const std::size_t group = model.heads_together * sizes.head_dim;
  std::size_t widest = std::max({sizes.action_hidden, sizes.latent_dim, sizes.dim});
  for (const PackedHidden& block : model.head) widest = std::max(widest, block.in.outputs);
  for (const PackedHidden& block : model.blocks[0].mlp) widest = std::max(widest, block.in.outputs);
  stride = padded(table, std::max(sizes.dim, sizes.latent_dim));
  group_stride = padded(table, group);
  hidden_stride = padded(table, widest);
  x = arena.take<float>(rows * stride);
  normed = arena.take<float>(rows * stride);
  delta = arena.take<float>(rows * stride);
  queries = arena.take<float>(rows * group_stride);
  mixed = arena.take<float>(rows * group_stride);
  hidden = arena.take<float>(rows * hidden_stride);
  scores = arena.take<float>(model.heads_together * sizes.window * sizes.tokens + 16);
  keys = arena.take<kernels::KeyFrame>(sizes.window);
  packing = take_packing(arena, rows, stride);
  inner = take_packing(arena, rows, std::max(group_stride, hidden_stride));
}

Operand operand(const Kernels& table, Precision precision, float* rows, std::size_t stride,
                std::size_t count, std::size_t columns, Activation activation,
                const Packing& packing) noexcept {
  Packing to = packing;
  to.stride = words(precision, columns);
  table.pack[static_cast<std::size_t>(precision)](rows, stride, count, columns, activation, to);
  if (precision == Precision::kFloat32) {
    return {reinterpret_cast<const std::uint32_t*>(rows), stride, nullptr, nullptr};
  }
  return {to.words, to.stride, to.scale, to.middle};
}

Operand from_row(const Operand& whole, std::size_t row) noexcept {
  Operand part = whole;
  part.words += row * whole.stride;
  if (whole.scale != nullptr) {
    part.scale += row;
    part.middle += row;
  }
  return part;
}

void apply(const Kernels& table, const PackedLinear& layer, const Operand& operand,
           std::size_t rows, float* out, std::size_t stride, bool add) noexcept {
  table.gemm[static_cast<std::size_t>(layer.precision)](operand, rows, layer.weights, out, stride,
                                                        add);
}

namespace {

/// The layers of one pass; holds what they share.
class Runner {
 public:
  Runner(const Predictor::Packed& model, Workspace& workspace, std::span<const PassFrame> frames,
         std::size_t rows, bool predict) noexcept
      : model_(model),
        table_(*model.table),
        w_(workspace),
        frames_(frames),
        rows_(rows),
        predict_(predict) {}

  void run() noexcept {
    const std::size_t layers = model_.blocks.size();
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const bool last = layer + 1 == layers;
      const std::size_t begin = last ? (predict_ ? frames_.back().row : rows_) : 0;
      attend(model_.blocks[layer], layer, begin);
      if (begin == rows_) return;
      think(model_.blocks[layer], layer, begin);
    }
    const std::size_t begin = frames_.back().row;
    const std::size_t count = rows_ - begin;
    table_.norm(at(w_.x, begin), w_.stride, count, dim(), model_.norm_gain, model_.norm_offset,
                model_.sizes.norm_eps, at(w_.normed, begin));
    hidden_layers(model_.head, begin);
  }

 private:
  /// Keys and values of all computed frames, then the attention of those from row `begin` on.
  void attend(const PackedBlock& block, std::size_t layer, std::size_t begin) noexcept {
    normalize(layer, 0, 0, block.attention_gain, block.attention_offset);
    const Operand normed = pack_normed(0);
    const PassFrame& first = first_computed();
    const bool alone = begin == 0 && sees_only_itself(first);
    const std::size_t asking = alone ? rows_of(first) : begin;
    const std::size_t columns = model_.heads_together * model_.sizes.head_dim;
    for (std::size_t g = 0; g < block.heads.size(); ++g) {
      const PackedHeads& heads = block.heads[g];
      for (const PassFrame& frame : frames_) {
        if (!frame.compute || !is_read(frame)) continue;
        float* keys = keys_of(frame, layer, g);
        const Operand rows = from_row(normed, frame.row);
        apply(table_, heads.key, rows, rows_of(frame), keys, w_.group_stride);
        apply(table_, heads.value, rows, rows_of(frame), keys + frame.values, w_.group_stride);
      }
      if (asking == rows_) continue;
      apply(table_, heads.query, from_row(normed, asking), rows_ - asking, w_.queries,
            w_.group_stride);
      for (std::size_t f = 0; f < frames_.size(); ++f) {
        if (frames_[f].compute && frames_[f].row >= asking) look(f, layer, g, asking);
      }
      const Operand mixed = operand(table_, model_.precision, w_.mixed, w_.group_stride,
                                    rows_ - asking, columns, Activation::kNone, w_.inner);
      apply(table_, heads.out, mixed, rows_ - asking, at(w_.delta, asking), w_.stride, g > 0);
    }
    if (alone) apply(table_, block.alone, normed, rows_of(first), w_.delta, w_.stride);
    add_gated(layer, 0, begin);
  }

  /// The MLP of a block, for the rows from `begin` on.
  void think(const PackedBlock& block, std::size_t layer, std::size_t begin) noexcept {
    normalize(layer, 3, begin, block.mlp_gain, block.mlp_offset);
    hidden_layers(block.mlp, begin);
    add_gated(layer, 3, begin);
  }

  /// delta = MLP(normed), for the rows from `begin` on, in blocks of hidden units.
  void hidden_layers(const std::vector<PackedHidden>& blocks, std::size_t begin) noexcept {
    const std::size_t count = rows_ - begin;
    const Operand normed = pack_normed(begin);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      apply(table_, blocks[i].in, normed, count, w_.hidden, w_.hidden_stride);
      const Operand hidden = operand(table_, model_.precision, w_.hidden, w_.hidden_stride, count,
                                     blocks[i].in.outputs, Activation::kGelu, w_.inner);
      apply(table_, blocks[i].out, hidden, count, at(w_.delta, begin), w_.stride, i > 0);
    }
  }

  void look(std::size_t index, std::size_t layer, std::size_t group, std::size_t asking) noexcept {
    const PassFrame& frame = frames_[index];
    for (std::size_t f = 0; f <= index; ++f) {
      const float* keys = keys_of(frames_[f], layer, group);
      w_.keys[f] = {keys, keys + frames_[f].values, frame.items / frames_[f].items};
    }
    const std::size_t offset = (frame.row - asking) * w_.group_stride;
    table_.attention({w_.queries + offset, frame.items, model_.sizes.tokens, model_.heads_together,
                      model_.sizes.head_dim, w_.group_stride, w_.keys, index + 1, w_.scores,
                      w_.mixed + offset});
  }

  void normalize(std::size_t layer, std::size_t part, std::size_t begin, const float* gain,
                 const float* offset) noexcept {
    for (const PassFrame& frame : frames_) {
      if (!frame.compute || frame.row < begin) continue;
      table_.modulated_norm(at(w_.x, frame.row), w_.stride, rows_of(frame), dim(),
                            modulation(frame, layer, part), gain, offset,
                            model_.sizes.adaln_norm_eps, model_.sizes.norm_eps,
                            at(w_.normed, frame.row));
    }
  }

  void add_gated(std::size_t layer, std::size_t part, std::size_t begin) noexcept {
    for (const PassFrame& frame : frames_) {
      if (!frame.compute || frame.row < begin) continue;
      table_.gated_add(at(w_.x, frame.row), w_.stride, rows_of(frame), dim(),
                       modulation(frame, layer, part), at(w_.delta, frame.row), w_.stride);
    }
  }

  [[nodiscard]] kernels::Modulation modulation(const PassFrame& frame, std::size_t layer,
                                               std::size_t part) const noexcept {
    const float* record = frame.modulation + layer * frame.modulation_layer + part * dim();
    return {record, record + dim(), record + 2 * dim(), frame.modulation_stride, frame.per_record};
  }
  [[nodiscard]] Operand pack_normed(std::size_t begin) noexcept {
    return operand(table_, model_.precision, at(w_.normed, begin), w_.stride, rows_ - begin, dim(),
                   Activation::kNone, w_.packing);
  }
  [[nodiscard]] float* keys_of(const PassFrame& frame, std::size_t layer,
                               std::size_t group) const noexcept {
    return frame.keys + layer * frame.keys_layer + group * frame.keys_group;
  }
  [[nodiscard]] bool sees_only_itself(const PassFrame& frame) const noexcept {
    return frame.position == 0 && model_.sizes.tokens == 1;
  }
  /// Whether anything reads the frame's keys and values.
  [[nodiscard]] bool is_read(const PassFrame& frame) const noexcept {
    const bool newest = &frame == &frames_.back();
    return !newest || frame.keep || !sees_only_itself(frame);
  }
  [[nodiscard]] const PassFrame& first_computed() const noexcept {
    return *std::find_if(frames_.begin(), frames_.end(),
                         [](const PassFrame& frame) { return frame.compute; });
  }
  [[nodiscard]] std::size_t rows_of(const PassFrame& frame) const noexcept {
    return frame.items * model_.sizes.tokens;
  }
  [[nodiscard]] float* at(float* rows, std::size_t row) const noexcept {
    return rows + row * w_.stride;
  }
  [[nodiscard]] std::size_t dim() const noexcept { return model_.sizes.dim; }

  const Predictor::Packed& model_;
  const Kernels& table_;
  Workspace& w_;
  std::span<const PassFrame> frames_;
  std::size_t rows_;
  bool predict_;
};

}  // namespace

void run_pass(const Predictor::Packed& model, Workspace& workspace,
              std::span<const PassFrame> frames, std::size_t rows, bool predict) noexcept {
  Runner(model, workspace, frames, rows, predict).run();
}

}  // namespace jepa_edge
