// SPDX-License-Identifier: Apache-2.0
// What the engine asks of one instruction set. Every implementation is `body.hpp`, compiled once
// per instruction set behind one of these tables; nothing outside knows a vector width.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jepa_edge::kernels {

/// Right-hand side of a product: a (K, N) matrix in panels of `panel_width` columns, each word
/// holding 1 float32, 2 bfloat16 or 4 int8 values that follow one another along K.
struct Weights {
  const std::uint32_t* words = nullptr;  ///< [panel][depth][panel_width]
  const float* bias = nullptr;           ///< [N padded], zeros where the layer has none
  const float* scale = nullptr;          ///< int8: of each column
  const float* sum = nullptr;            ///< int8: sum of each column's dequantized weights
  const std::int32_t* start = nullptr;   ///< int8: takes the offset of unsigned operands out
  std::size_t depth = 0;                 ///< words along K
  std::size_t panels = 0;
};

/// Left-hand side: rows in the precision of the product. int8 rows are scale * q + middle.
struct Operand {
  const std::uint32_t* words = nullptr;
  std::size_t stride = 0;  ///< words from row to row
  const float* scale = nullptr;
  const float* middle = nullptr;
};

/// Where `pack` writes an Operand.
struct Packing {
  std::uint32_t* words = nullptr;
  std::size_t stride = 0;
  float* scale = nullptr;
  float* middle = nullptr;
};

/// Elementwise function applied while rows are packed.
enum class Activation : std::uint8_t { kNone, kGelu, kSilu };

/// Shift, scale (1 already added) and gate of one frame's rows: row r reads record r / per_record.
struct Modulation {
  const float* shift = nullptr;
  const float* scale = nullptr;
  const float* gate = nullptr;
  std::size_t stride = 0;  ///< floats from record to record
  std::size_t per_record = 1;
};

/// Keys and values of one frame of the window, for one group of heads.
struct KeyFrame {
  const float* keys = nullptr;
  const float* values = nullptr;
  std::size_t divisor = 1;  ///< query item i sees key item i / divisor
};

/// Attention of one frame's queries, for one group of heads. Queries carry their 1 / sqrt(d).
struct AttentionArgs {
  const float* queries;
  std::size_t items;   ///< rows / tokens
  std::size_t tokens;  ///< per item, of queries and keys alike
  std::size_t heads;
  std::size_t head_dim;
  std::size_t stride;  ///< of queries, keys, values and out
  const KeyFrame* frames;
  std::size_t frame_count;
  float* scores;  ///< scratch, heads * frame_count * tokens, and room for a vector more
  float* out;
};

struct Kernels {
  const char* name;
  std::size_t panel_width;
  bool unsigned_operands;  ///< int8 operands are stored with 128 added
  bool fast[3];            ///< per precision: has instructions of its own, faster than float32's

  /// out (rows, columns) = operand * weights + bias, or is added to. Per precision.
  using Gemm = void (*)(const Operand& operand, std::size_t rows, const Weights& weights,
                        float* out, std::size_t out_stride, bool add) noexcept;
  Gemm gemm[3];

  /// Turns rows x (rows, columns) into an operand, through an activation. x is scratch afterwards;
  /// with float32 it holds the operand itself.
  using Pack = void (*)(float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                        Activation activation, const Packing& packing) noexcept;
  Pack pack[3];

  /// out = LN(LN(x) * scale + shift) * gain + offset, the inner one without gain and offset.
  void (*modulated_norm)(const float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                         const Modulation& modulation, const float* gain, const float* offset,
                         float inner_eps, float eps, float* out) noexcept;
  /// out = LN(x) * gain + offset.
  void (*norm)(const float* x, std::size_t stride, std::size_t rows, std::size_t columns,
               const float* gain, const float* offset, float eps, float* out) noexcept;
  /// x += gate * y.
  void (*gated_add)(float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                    const Modulation& modulation, const float* y, std::size_t y_stride) noexcept;
  void (*attention)(const AttentionArgs& args) noexcept;
  /// Runs dot products on registers alone and returns how many operations (2 per product) it did.
  double (*spin[3])(std::size_t rounds) noexcept;
};

}  // namespace jepa_edge::kernels
