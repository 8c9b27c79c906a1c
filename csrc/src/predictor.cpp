// SPDX-License-Identifier: Apache-2.0
#include "jepa_edge/predictor.hpp"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dispatch.hpp"
#include "packed.hpp"
#include "predictor_reader.hpp"

namespace jepa_edge {
namespace {

constexpr std::size_t kHeadColumns = 128;    // of Q, K and V each, per group of heads
constexpr std::size_t kHiddenColumns = 256;  // of an MLP, per block

/// Packs one predictor; everything it points to is copied into the arena.
class Packer {
 public:
  Packer(const PredictorReader& reader, Predictor::Packed& to) : reader_(reader), to_(to) {}

  void run() {
    const PredictorSizes& s = to_.sizes;
    // Raw actions and their statistics span orders of magnitude; this product is small.
    to_.action_mean = copy("action_mean", {s.action_dim}, s.action_dim);
    to_.action_inv_std = copy("action_inv_std", {s.action_dim}, s.action_dim);
    to_.action_in = linear("action_in", s.action_hidden, s.action_dim, Precision::kFloat32);
    to_.condition =
        linear("condition", s.dim, s.action_hidden,
               to_.precision == Precision::kInt8 ? Precision::kBFloat16 : to_.precision);
    const std::size_t positions = s.window * s.tokens;
    to_.position = copy("position", {positions, s.latent_dim}, positions * s.latent_dim);
    if (s.latent_dim != s.dim) {
      to_.input = linear("input_proj", s.dim, s.latent_dim, to_.precision);
    }
    to_.heads_together = 1;
    for (std::size_t count = 1; count <= s.heads; ++count) {
      if (s.heads % count == 0 && count * s.head_dim <= kHeadColumns) to_.heads_together = count;
    }
    const float* modulation = reader_.tensor("modulation.weight", {s.depth * 6 * s.dim, s.dim});
    const float* bias = reader_.tensor("modulation.bias", {s.depth * 6 * s.dim});
    for (std::size_t i = 0; i < s.depth; ++i) {
      block(i, modulation + i * 6 * s.dim * s.dim, bias + i * 6 * s.dim);
    }
    to_.norm_gain = copy("norm.weight", {s.dim}, s.dim);
    to_.norm_offset = copy("norm.bias", {s.dim}, s.dim);
    to_.head = hidden("head", s.dim, s.head_hidden, s.latent_dim);
  }

 private:
  void block(std::size_t index, const float* modulation, const float* modulation_bias) {
    const PredictorSizes& s = to_.sizes;
    const std::string name = "blocks." + std::to_string(index) + ".";
    const std::size_t inner = s.heads * s.head_dim;
    PackedBlock block;
    block.modulation = pack(modulation, s.dim, 6 * s.dim, s.dim, modulation_bias, to_.precision);
    block.attention_gain = copy(name + "attention_norm.weight", {s.dim}, s.dim);
    block.attention_offset = copy(name + "attention_norm.bias", {s.dim}, s.dim);
    block.mlp_gain = copy(name + "mlp_norm.weight", {s.dim}, s.dim);
    block.mlp_offset = copy(name + "mlp_norm.bias", {s.dim}, s.dim);

    const PredictorReader::Attention from = reader_.attention(index);
    const std::size_t columns = to_.heads_together * s.head_dim;
    for (std::size_t first = 0; first < inner; first += columns) {
      PackedHeads heads;
      heads.query = pack(from.query + first * s.dim, s.dim, columns, s.dim, nullptr, to_.precision);
      heads.key = pack(from.key + first * s.dim, s.dim, columns, s.dim, nullptr, to_.precision);
      heads.value = pack(from.value + first * s.dim, s.dim, columns, s.dim, nullptr, to_.precision);
      heads.out = pack(from.out + first, inner, s.dim, columns,
                       first == 0 ? from.out_bias : nullptr, to_.precision);
      block.heads.push_back(heads);
    }
    std::vector<double> sums(s.dim);
    std::vector<float> alone(s.dim * s.dim);
    for (std::size_t row = 0; row < s.dim; ++row) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (std::size_t k = 0; k < inner; ++k) {
        const double factor = from.out[row * inner + k];
        for (std::size_t c = 0; c < s.dim; ++c) sums[c] += factor * from.value[k * s.dim + c];
      }
      for (std::size_t c = 0; c < s.dim; ++c) alone[row * s.dim + c] = static_cast<float>(sums[c]);
    }
    block.alone = pack(alone.data(), s.dim, s.dim, s.dim, from.out_bias, to_.precision);
    block.mlp = hidden(name.substr(0, name.size() - 1), s.dim, s.mlp_dim, s.dim);
    to_.blocks.push_back(std::move(block));
  }

  std::vector<PackedHidden> hidden(const std::string& name, std::size_t inputs, std::size_t width,
                                   std::size_t outputs) {
    const float* in = reader_.tensor(name + ".fc1.weight", {width, inputs});
    const float* in_bias = reader_.tensor(name + ".fc1.bias", {width});
    const float* out = reader_.tensor(name + ".fc2.weight", {outputs, width});
    const float* out_bias = reader_.tensor(name + ".fc2.bias", {outputs});
    std::vector<PackedHidden> blocks;
    for (std::size_t first = 0; first < width; first += kHiddenColumns) {
      const std::size_t columns = std::min(kHiddenColumns, width - first);
      blocks.push_back(
          {pack(in + first * inputs, inputs, columns, inputs, in_bias + first, to_.precision),
           pack(out + first, width, outputs, columns, first == 0 ? out_bias : nullptr,
                to_.precision)});
    }
    return blocks;
  }

  PackedLinear linear(const std::string& name, std::size_t outputs, std::size_t inputs,
                      Precision precision) {
    return pack(reader_.tensor(name + ".weight", {outputs, inputs}), inputs, outputs, inputs,
                reader_.tensor(name + ".bias", {outputs}), precision);
  }
  PackedLinear pack(const float* weight, std::size_t stride, std::size_t outputs,
                    std::size_t inputs, const float* bias, Precision precision) {
    return pack_linear(to_.arena, *to_.table, precision, {weight, stride, outputs, inputs}, bias);
  }
  const float* copy(const std::string& name, std::initializer_list<std::size_t> shape,
                    std::size_t count) {
    float* to = to_.arena.take<float>(count);
    std::copy_n(reader_.tensor(name, shape), count, to);
    return to;
  }

  const PredictorReader& reader_;
  Predictor::Packed& to_;
};

}  // namespace

std::vector<Precision> fastest_precisions(std::string_view isa) {
  const kernels::Kernels& table = kernels::require(isa);
  std::vector<Precision> order;
  for (const Precision precision : {Precision::kInt8, Precision::kBFloat16, Precision::kFloat32}) {
    if (table.fast[static_cast<std::size_t>(precision)]) order.push_back(precision);
  }
  return order;
}

std::shared_ptr<const Predictor> Predictor::load(const std::filesystem::path& path,
                                                 Precision precision, std::string_view isa) {
  const PredictorReader reader(path);
  auto packed = std::make_unique<Packed>();
  packed->sizes = reader.sizes();
  packed->precision = precision;
  packed->table = &kernels::require(isa);
  Packer(reader, *packed).run();
  return std::shared_ptr<const Predictor>(new Predictor(std::move(packed)));
}

Predictor::Predictor(std::unique_ptr<const Packed> packed) : packed_(std::move(packed)) {}
Predictor::~Predictor() = default;

const PredictorSizes& Predictor::sizes() const noexcept { return packed_->sizes; }
Precision Predictor::precision() const noexcept { return packed_->precision; }
std::string_view Predictor::isa() const noexcept { return packed_->table->name; }
std::size_t Predictor::packed_bytes() const noexcept { return packed_->arena.bytes(); }

}  // namespace jepa_edge
