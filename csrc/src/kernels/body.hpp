// SPDX-License-Identifier: Apache-2.0
// The kernels, once, for whichever `Simd` the including file defines. Included by exactly one
// translation unit per instruction set, which is compiled with that set's flags; therefore nothing
// here may be a template or inline function with external linkage, and the standard library's
// templates stay out: the linker could hand such a copy to an older processor.
//
// A row's numbers are the same whatever rows are computed with it: every sum runs in a fixed order
// and products are fused only where `fma` says so (-ffp-contract=off).

namespace jepa_edge::kernels {
namespace {

using F = Simd::F;
using I = Simd::I;
constexpr std::size_t kW = Simd::kWidth;
constexpr std::size_t kRows = Simd::kTileRows;
constexpr std::size_t kVecs = Simd::kTileVectors;
constexpr std::size_t kPanel = kVecs * kW;

inline F load(const float* p) noexcept {
  F v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, F v) noexcept { __builtin_memcpy(p, &v, sizeof v); }
inline I load_words(const void* p) noexcept {
  I v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline F splat(float x) noexcept { return x - F{}; }  // x + 0 would not be x for -0
inline I splat_word(const void* p) noexcept {
  int x;
  __builtin_memcpy(&x, p, sizeof x);
  return I{} + x;
}
inline F as_float(I v) noexcept { return reinterpret_cast<F>(v); }
inline I as_int(F v) noexcept { return reinterpret_cast<I>(v); }
inline F to_float(I v) noexcept { return __builtin_convertvector(v, F); }
inline F fma(F a, F b, F c) noexcept { return Simd::fma(a, b, c); }
inline F max(F a, F b) noexcept { return Simd::max(a, b); }
inline F min(F a, F b) noexcept { return Simd::min(a, b); }

inline float add_lanes(F v) noexcept { return Simd::add_lanes(v); }

// ---- functions ----------------------------------------------------------------------------------

constexpr float kRoundMagic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to the nearest integer

/// e^x, relative error below 2e-7 for x in [-87, 88]; smaller x give about 1e-38.
inline F exponential(F x) noexcept {
  x = min(max(x, splat(-87.0F)), splat(88.0F));
  const F shifted = fma(x, splat(1.44269504F), splat(kRoundMagic));
  const F n = shifted - kRoundMagic;
  F r = fma(n, splat(-0.693359375F), x);
  r = fma(n, splat(2.12194440e-4F), r);
  F p = fma(r, splat(1.0F / 720.0F), splat(1.0F / 120.0F));
  p = fma(p, r, splat(1.0F / 24.0F));
  p = fma(p, r, splat(1.0F / 6.0F));
  p = fma(p, r, splat(0.5F));
  p = fma(p, r, splat(1.0F));
  p = fma(p, r, splat(1.0F));
  const I power = (as_int(shifted) << 23) + 0x3F800000;
  return p * as_float(power);
}

/// x / (1 + e^-x).
inline F silu(F x) noexcept { return x / (exponential(-x) + 1.0F); }

/// x Phi(x). Phi(x) - 1/2 = x P(x^2) / Q(x^2), a minimax fit on |x| <= 5.3 made for this file
/// (error of the result below 2e-8 before rounding); beyond, Phi is 0 or 1 to float32's precision.
inline F gelu_exact(F x) noexcept {
  const F c = min(max(x, splat(-5.3F)), splat(5.3F));
  const F u = c * c;
  F p = splat(0x1.91cad8p-26F);
  p = fma(p, u, splat(0x1.b20e82p-18F));
  p = fma(p, u, splat(0x1.65424ap-13F));
  p = fma(p, u, splat(0x1.3335b6p-8F));
  p = fma(p, u, splat(0x1.15ac56p-5F));
  p = fma(p, u, splat(0x1.988448p-2F));
  F q = splat(0x1.48bbfap-20F);
  q = fma(q, u, splat(0x1.394aa6p-14F));
  q = fma(q, u, splat(0x1.f01602p-10F));
  q = fma(q, u, splat(0x1.d6127ap-6F));
  q = fma(q, u, splat(0x1.01aaf2p-2F));
  q = fma(q, u, splat(1.0F));
  return x * fma(c, p / q, splat(0.5F));
}

/// The same with a polynomial on |x| <= 4: off by less than 2e-4, or 2e-5 |x| where that is more;
/// under the rounding of the bfloat16 and int8 operands it is made for.
inline F gelu_coarse(F x) noexcept {
  const F c = min(max(x, splat(-4.0F)), splat(4.0F));
  const F u = c * c;
  F p = splat(0x1.8761e4p-26F);
  p = fma(p, u, splat(-0x1.ad1f28p-20F));
  p = fma(p, u, splat(0x1.9247b6p-15F));
  p = fma(p, u, splat(-0x1.aac750p-11F));
  p = fma(p, u, splat(0x1.1f7420p-7F));
  p = fma(p, u, splat(-0x1.087dd0p-4F));
  p = fma(p, u, splat(0x1.976ebcp-2F));
  return x * fma(c, p, splat(0.5F));
}

// ---- precisions ---------------------------------------------------------------------------------

struct Float32 {
  using Sum = F;
  static constexpr bool kPrefetch = false;  // slower by 3 % on Zen 4: its panels fill the cache
  static Sum first(const Weights& w, std::size_t column) noexcept { return load(w.bias + column); }
  static Sum dot(Sum sum, I a, I b) noexcept { return fma(as_float(a), as_float(b), sum); }
  struct Columns {};
  struct Row {};
  static Columns columns(const Weights&, std::size_t) noexcept { return {}; }
  static Row row(const Operand&, std::size_t) noexcept { return {}; }
  static F last(Sum sum, const Columns&, const Row&) noexcept { return sum; }
  static F gelu(F x) noexcept { return gelu_exact(x); }
};

struct BFloat16 {
  using Sum = F;
  static constexpr bool kPrefetch = true;
  static Sum first(const Weights& w, std::size_t column) noexcept { return load(w.bias + column); }
  static Sum dot(Sum sum, I a, I b) noexcept { return Simd::dot_bf16(sum, a, b); }
  struct Columns {};
  struct Row {};
  static Columns columns(const Weights&, std::size_t) noexcept { return {}; }
  static Row row(const Operand&, std::size_t) noexcept { return {}; }
  static F last(Sum sum, const Columns&, const Row&) noexcept { return sum; }
  static F gelu(F x) noexcept { return gelu_coarse(x); }
};

struct Int8 {
  using Sum = I;
  static constexpr bool kPrefetch = true;
  static Sum first(const Weights& w, std::size_t column) noexcept {
    return load_words(w.start + column);
  }
  static Sum dot(Sum sum, I a, I b) noexcept { return Simd::dot_i8(sum, a, b); }
  struct Columns {
    F scale, sum, bias;
  };
  struct Row {
    F scale, middle;
  };
  static Columns columns(const Weights& w, std::size_t column) noexcept {
    return {load(w.scale + column), load(w.sum + column), load(w.bias + column)};
  }
  static Row row(const Operand& a, std::size_t row) noexcept {
    return {splat(a.scale[row]), splat(a.middle[row])};
  }
  static F last(Sum sum, const Columns& c, const Row& r) noexcept {
    return fma(to_float(sum) * c.scale, r.scale, fma(r.middle, c.sum, c.bias));
  }
  static F gelu(F x) noexcept { return gelu_coarse(x); }
};

// ---- products -----------------------------------------------------------------------------------

template <bool kValue>
struct Constant {
  static constexpr bool value = kValue;
};

/// R rows times one panel. Rows are addressed from every third one, so that the compiler needs
/// few pointers: base + {0, 1, 2} * stride are addressing modes.
template <class P, std::size_t R>
void tile(const Operand& a, std::size_t row, const Weights& w, std::size_t panel, float* out,
          std::size_t out_stride, bool add) noexcept {
  constexpr std::size_t kBases = (R + 2) / 3;
  const char* base[kBases];
  const std::size_t stride = a.stride * sizeof(std::uint32_t);
#pragma GCC unroll 8
  for (std::size_t g = 0; g < kBases; ++g) {
    base[g] = reinterpret_cast<const char*>(a.words) + (row + 3 * g) * stride;
  }
  const std::size_t column = panel * kPanel;
  const std::uint32_t* b = w.words + panel * w.depth * kPanel;
  typename P::Sum sum[R][kVecs];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVecs; ++v) sum[r][v] = P::first(w, column + v * kW);
  }
  const std::size_t bytes = w.depth * sizeof(std::uint32_t);
#pragma GCC unroll 2
  for (std::size_t k = 0; k < bytes; k += sizeof(std::uint32_t)) {
    I right[kVecs];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVecs; ++v) right[v] = load_words(b + v * kW);
    b += kPanel;
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const I left = splat_word(base[r / 3] + (r % 3) * stride + k);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVecs; ++v) sum[r][v] = P::dot(sum[r][v], left, right[v]);
    }
  }
  typename P::Columns columns[kVecs];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVecs; ++v) columns[v] = P::columns(w, column + v * kW);
  float* to = out + row * out_stride + column;
  const auto finish = [&](auto keep) noexcept {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r) {
      const typename P::Row left = P::row(a, row + r);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVecs; ++v) {
        F value = P::last(sum[r][v], columns[v], left);
        if constexpr (decltype(keep)::value) value = value + load(to + v * kW);
        store(to + v * kW, value);
      }
      to += out_stride;
    }
  };
  if (add) {
    finish(Constant<true>{});
  } else {
    finish(Constant<false>{});
  }
}

template <class P, std::size_t R>
void tile_of(std::size_t rows, const Operand& a, std::size_t row, const Weights& w,
             std::size_t panel, float* out, std::size_t out_stride, bool add) noexcept {
  if (rows == R) return tile<P, R>(a, row, w, panel, out, out_stride, add);
  if constexpr (R > 1) tile_of<P, R - 1>(rows, a, row, w, panel, out, out_stride, add);
}

template <class P>
void gemm(const Operand& a, std::size_t rows, const Weights& w, float* out, std::size_t out_stride,
          bool add) noexcept {
  if (rows == 0) return;
  const std::size_t tiles = (rows + kRows - 1) / kRows;
  const std::size_t small = rows / tiles;
  const std::size_t larger = rows % tiles;  // this many tiles have one row more
  // The next panel is fetched into the second-level cache while this one is used, a share with
  // every tile. Packed matrices lie in the order of their use: the fetch runs on into the next
  // matrix.
  const std::size_t panel_bytes = w.depth * kPanel * sizeof(std::uint32_t);
  const std::size_t share = (panel_bytes / tiles + 63) / 64 * 64;
  for (std::size_t panel = 0; panel < w.panels; ++panel) {
    const char* ahead = reinterpret_cast<const char*>(w.words) + (panel + 1) * panel_bytes;
    std::size_t row = 0;
    for (std::size_t t = 0; t < tiles; ++t) {
      if constexpr (P::kPrefetch) {
        for (std::size_t i = 0; i < share; i += 64) __builtin_prefetch(ahead + t * share + i, 0, 2);
      }
      const std::size_t height = small + (t < larger ? 1 : 0);
      tile_of<P, kRows>(height, a, row, w, panel, out, out_stride, add);
      row += height;
    }
  }
}

// ---- operands -----------------------------------------------------------------------------------

template <class P>
void activate(float* x, std::size_t columns, Activation activation) noexcept {
  if (activation == Activation::kNone) return;
  const bool is_gelu = activation == Activation::kGelu;
  std::size_t c = 0;
  for (; c + kW <= columns; c += kW) {
    const F v = load(x + c);
    store(x + c, is_gelu ? P::gelu(v) : silu(v));
  }
  if (c < columns) {
    float rest[kW] = {};
    __builtin_memcpy(rest, x + c, (columns - c) * sizeof(float));
    const F v = load(rest);
    store(rest, is_gelu ? P::gelu(v) : silu(v));
    __builtin_memcpy(x + c, rest, (columns - c) * sizeof(float));
  }
}

void pack_float32(float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                  Activation activation, const Packing&) noexcept {
  for (std::size_t r = 0; r < rows; ++r) activate<Float32>(x + r * stride, columns, activation);
}

template <Activation kActivation>
void pack_row_bf16(const float* from, std::size_t columns, std::size_t words, char* out) noexcept {
  const auto apply = [](F v) noexcept {
    if constexpr (kActivation == Activation::kGelu) return gelu_coarse(v);
    if constexpr (kActivation == Activation::kSilu) return silu(v);
    return v;
  };
  std::size_t c = 0;
  for (; c + kW <= columns; c += kW) Simd::store_bf16(out + 2 * c, apply(load(from + c)));
  if (c == 2 * words) return;
  float rest[kW] = {};  // what is beyond the row is packed as zeros
  __builtin_memcpy(rest, from + c, (columns - c) * sizeof(float));
  char packed[2 * kW];
  Simd::store_bf16(packed, apply(load(rest)));
  __builtin_memcpy(out + 2 * c, packed, 4 * words - 2 * c);
}

void pack_bf16(float* x, std::size_t stride, std::size_t rows, std::size_t columns,
               Activation activation, const Packing& to) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    auto* out = reinterpret_cast<char*>(to.words + r * to.stride);
    const float* from = x + r * stride;
    switch (activation) {
      case Activation::kNone:
        pack_row_bf16<Activation::kNone>(from, columns, to.stride, out);
        break;
      case Activation::kGelu:
        pack_row_bf16<Activation::kGelu>(from, columns, to.stride, out);
        break;
      case Activation::kSilu:
        pack_row_bf16<Activation::kSilu>(from, columns, to.stride, out);
        break;
    }
  }
}

void pack_int8(float* x, std::size_t stride, std::size_t rows, std::size_t columns,
               Activation activation, const Packing& to) noexcept {
  constexpr int kOffset = Simd::kUnsigned ? 128 : 0;
  for (std::size_t r = 0; r < rows; ++r) {
    float* from = x + r * stride;
    F high = splat(-3.0e38F);
    F low = splat(3.0e38F);
    std::size_t c = 0;
    if (activation == Activation::kGelu) {
      for (; c + kW <= columns; c += kW) {
        const F v = gelu_coarse(load(from + c));
        store(from + c, v);
        high = max(high, v);
        low = min(low, v);
      }
    } else {
      activate<Int8>(from, columns, activation);
      for (; c + kW <= columns; c += kW) {
        high = max(high, load(from + c));
        low = min(low, load(from + c));
      }
    }
    float top = Simd::max_lanes(high);
    float bottom = -Simd::max_lanes(-low);
    if (c < columns) {
      if (activation == Activation::kGelu) {
        activate<Int8>(from + c, columns - c, activation);
      }
      for (std::size_t i = c; i < columns; ++i) {
        top = from[i] > top ? from[i] : top;
        bottom = from[i] < bottom ? from[i] : bottom;
      }
    }
    // The middle is a whole number of steps, so that rounding to steps is one fused operation;
    // that may move it by half a step, hence 126.5. A row without width is its middle alone.
    const float half = 0.5F * (top - bottom);
    const float center = 0.5F * (top + bottom);
    const float step = half * (1.0F / 126.5F);
    const bool wide = step > 1e-30F && step > 2.5e-7F * (center < 0.0F ? -center : center);
    const float inverse = wide ? 1.0F / step : 0.0F;
    const float steps = wide ? (center * inverse + kRoundMagic) - kRoundMagic : 0.0F;
    to.scale[r] = wide ? step : top - top + half - half;  // 0, or NaN where the row is not finite
    to.middle[r] = wide ? steps * step : center;
    auto* out = reinterpret_cast<char*>(to.words + r * to.stride);
    const F scale = splat(inverse);
    const float shift = kRoundMagic - steps;
    const F offset = splat(shift);
    for (c = 0; c + kW <= columns; c += kW) {
      Simd::store_i8(out + c, as_int(fma(load(from + c), scale, offset)) + kOffset);
    }
    for (; c < 4 * to.stride; ++c) {
      int q = 0;
      if (c < columns) {
        const float t = from[c] * inverse + shift;
        __builtin_memcpy(&q, &t, sizeof q);
      }
      out[c] = static_cast<char>(q + kOffset);
    }
  }
}

// ---- between the products -----------------------------------------------------------------------

/// Mean and reciprocal deviation of one row.
inline void moments(const float* x, std::size_t columns, float eps, float& mean,
                    float& inverse) noexcept {
  // Four partial sums: one would wait for itself at every addition.
  F part[4] = {};
  std::size_t c = 0;
  for (; c + 4 * kW <= columns; c += 4 * kW) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) part[i] = part[i] + load(x + c + i * kW);
  }
  for (; c + kW <= columns; c += kW) part[0] = part[0] + load(x + c);
  float sum = add_lanes((part[0] + part[1]) + (part[2] + part[3]));
  for (; c < columns; ++c) sum += x[c];
  mean = sum / static_cast<float>(columns);
  F square[4] = {};
  const F center = splat(mean);
  for (c = 0; c + 4 * kW <= columns; c += 4 * kW) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
      const F d = load(x + c + i * kW) - center;
      square[i] = fma(d, d, square[i]);
    }
  }
  for (; c + kW <= columns; c += kW) {
    const F d = load(x + c) - center;
    square[0] = fma(d, d, square[0]);
  }
  float variance = add_lanes((square[0] + square[1]) + (square[2] + square[3]));
  for (; c < columns; ++c) variance += (x[c] - mean) * (x[c] - mean);
  // A row too large for its squares must not pass as one of zeros: inf - inf is NaN.
  inverse =
      1.0F / __builtin_sqrtf(variance / static_cast<float>(columns) + eps) + (variance - variance);
}

void norm_row(const float* x, std::size_t columns, const float* gain, const float* offset,
              float eps, float* out) noexcept {
  float mean;
  float inverse;
  moments(x, columns, eps, mean, inverse);
  std::size_t c = 0;
  for (; c + kW <= columns; c += kW) {
    store(out + c, fma((load(x + c) - mean) * inverse, load(gain + c), load(offset + c)));
  }
  for (; c < columns; ++c) out[c] = (x[c] - mean) * inverse * gain[c] + offset[c];
}

void norm(const float* x, std::size_t stride, std::size_t rows, std::size_t columns,
          const float* gain, const float* offset, float eps, float* out) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    norm_row(x + r * stride, columns, gain, offset, eps, out + r * stride);
  }
}

void modulated_norm(const float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                    const Modulation& m, const float* gain, const float* offset, float inner_eps,
                    float eps, float* out) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t record = r / m.per_record * m.stride;
    norm_row(x + r * stride, columns, m.scale + record, m.shift + record, inner_eps,
             out + r * stride);
    norm_row(out + r * stride, columns, gain, offset, eps, out + r * stride);
  }
}

void gated_add(float* x, std::size_t stride, std::size_t rows, std::size_t columns,
               const Modulation& m, const float* y, std::size_t y_stride) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    const float* gate = m.gate + r / m.per_record * m.stride;
    float* to = x + r * stride;
    const float* from = y + r * y_stride;
    std::size_t c = 0;
    for (; c + kW <= columns; c += kW) {
      store(to + c, fma(load(gate + c), load(from + c), load(to + c)));
    }
    for (; c < columns; ++c) to[c] += gate[c] * from[c];
  }
}

inline float dot(const float* a, const float* b, std::size_t n) noexcept {
  F even = F{};
  F odd = F{};
  std::size_t i = 0;
  for (; i + 2 * kW <= n; i += 2 * kW) {
    even = fma(load(a + i), load(b + i), even);
    odd = fma(load(a + i + kW), load(b + i + kW), odd);
  }
  for (; i + kW <= n; i += kW) even = fma(load(a + i), load(b + i), even);
  float total = add_lanes(even + odd);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

/// Softmax over each of `groups` runs of `count` scores, in place. The exponentials of all runs are
/// taken together, whole vectors at a time; scores has room for a vector more.
inline void softmax(float* scores, std::size_t groups, std::size_t count) noexcept {
  for (std::size_t g = 0; g < groups; ++g) {
    float* score = scores + g * count;
    float top = score[0];
    for (std::size_t i = 1; i < count; ++i) top = score[i] > top ? score[i] : top;
    for (std::size_t i = 0; i < count; ++i) score[i] -= top;
  }
  for (std::size_t i = 0; i < groups * count; i += kW)
    store(scores + i, exponential(load(scores + i)));
  for (std::size_t g = 0; g < groups; ++g) {
    float* score = scores + g * count;
    float total = 0.0F;
    for (std::size_t i = 0; i < count; ++i) total += score[i];
    const float inverse = 1.0F / total;
    for (std::size_t i = 0; i < count; ++i) score[i] *= inverse;
  }
}

/// out = sum_k scores[k] values[k], over all keys of the window.
inline void mix(const AttentionArgs& args, const float* scores, std::size_t item, std::size_t head,
                float* out) noexcept {
  const std::size_t width = args.head_dim;
  std::size_t c = 0;
  for (; c + kW <= width; c += kW) {
    F sum = F{};
    const float* score = scores;
    for (std::size_t f = 0; f < args.frame_count; ++f) {
      const KeyFrame& frame = args.frames[f];
      const float* value =
          frame.values + item / frame.divisor * args.tokens * args.stride + head * width + c;
      for (std::size_t t = 0; t < args.tokens; ++t) {
        sum = fma(splat(*score++), load(value + t * args.stride), sum);
      }
    }
    store(out + c, sum);
  }
  for (; c < width; ++c) {
    float sum = 0.0F;
    const float* score = scores;
    for (std::size_t f = 0; f < args.frame_count; ++f) {
      const KeyFrame& frame = args.frames[f];
      const float* value =
          frame.values + item / frame.divisor * args.tokens * args.stride + head * width + c;
      for (std::size_t t = 0; t < args.tokens; ++t) sum += *score++ * value[t * args.stride];
    }
    out[c] = sum;
  }
}

/// Scores of one query against all keys of the window, for every head: [head][frame][token].
inline void compare(const AttentionArgs& args, const float* query, std::size_t item) noexcept {
  const std::size_t keys = args.frame_count * args.tokens;
  for (std::size_t f = 0; f < args.frame_count; ++f) {
    const KeyFrame& frame = args.frames[f];
    const float* first = frame.keys + item / frame.divisor * args.tokens * args.stride;
    for (std::size_t t = 0; t < args.tokens; ++t) {
      float* score = args.scores + f * args.tokens + t;
      const float* key = first + t * args.stride;
      for (std::size_t head = 0; head < args.heads; ++head) {
        score[head * keys] =
            dot(query + head * args.head_dim, key + head * args.head_dim, args.head_dim);
      }
    }
  }
}

void attention(const AttentionArgs& args) noexcept {
  const std::size_t keys = args.frame_count * args.tokens;
  for (std::size_t item = 0; item < args.items; ++item) {
    for (std::size_t token = 0; token < args.tokens; ++token) {
      const std::size_t row = (item * args.tokens + token) * args.stride;
      compare(args, args.queries + row, item);
      softmax(args.scores, args.heads, keys);
      for (std::size_t head = 0; head < args.heads; ++head) {
        mix(args, args.scores + head * keys, item, head, args.out + row + head * args.head_dim);
      }
    }
  }
}

// ---- the ceiling --------------------------------------------------------------------------------

template <class P, std::size_t kOps>
double spin(std::size_t rounds) noexcept {
  constexpr std::size_t kSums = 12;
  typename P::Sum sum[kSums] = {};
  I a = I{} + 0x01010101;
  I b = I{} + 0x01010101;
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (std::size_t s = 0; s < kSums; ++s) {
      sum[s] = P::dot(sum[s], a, b);
      JEPA_EDGE_KEEP(sum[s]);
    }
  }
  return static_cast<double>(rounds) * kSums * kW * kOps;
}

constexpr Kernels kTable{
    Simd::kName,
    kPanel,
    Simd::kUnsigned,
    {true, Simd::kFastBf16, Simd::kFastInt8},
    {gemm<Float32>, gemm<BFloat16>, gemm<Int8>},
    {pack_float32, pack_bf16, pack_int8},
    modulated_norm,
    norm,
    gated_add,
    attention,
    {spin<Float32, 2>, spin<BFloat16, 4>, spin<Int8, 8>},
};

}  // namespace
}  // namespace jepa_edge::kernels
