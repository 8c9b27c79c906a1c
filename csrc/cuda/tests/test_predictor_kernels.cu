// SPDX-License-Identifier: Apache-2.0
// The kernels between an AdaLN predictor's products, each against plain loops in float64, in every
// precision. What they write is compared as numbers: operands times the scale of their row.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "jepa_edge/random.hpp"
#include "kernels/activation.cuh"
#include "kernels/attention_window.cuh"
#include "kernels/norm.cuh"
#include "launch.hpp"

using namespace jepa_edge::cuda;

namespace {

using Numbers64 = std::vector<double>;

std::vector<float> drawn(std::size_t count, std::uint64_t stream, float spread = 1.0F,
                         float center = 0.0F) {
  std::vector<float> values(count);
  jepa_edge::standard_normal(17, stream, values);
  for (float& value : values) value = center + spread * value;
  return values;
}

template <typename T>
DeviceBuffer<T> uploaded(const std::vector<T>& values) {
  DeviceBuffer<T> buffer(values.size());
  buffer.upload(values);
  return buffer;
}

template <typename T>
std::vector<T> downloaded(const DeviceBuffer<T>& buffer) {
  std::vector<T> values(buffer.size());
  check(cudaMemcpy(values.data(), buffer.data(), values.size() * sizeof(T), cudaMemcpyDeviceToHost),
        "copy");
  return values;
}

/// Results of a product as a kernel finds them, and the numbers that they stand for.
template <Precision precision>
struct DrawnProducts {
  DrawnProducts(std::size_t rows, std::size_t columns, std::uint64_t stream) : width(columns) {
    const auto values = drawn(rows * columns, stream);
    const auto plus = drawn(columns, stream + 1, 0.1F);
    const auto row_scale = drawn(rows, stream + 2, 0.1F, 1.0F);
    const auto column_scale = drawn(columns, stream + 3, 1e-4F, 1e-3F);
    std::vector<Result<precision>> raw;
    for (std::size_t i = 0; i < values.size(); ++i) {
      double scale = 1.0;
      if constexpr (precision == Precision::kInt8) {
        raw.push_back(static_cast<Result<precision>>(std::lrint(1000.0F * values[i])));
      } else if constexpr (precision == Precision::kFloat8) {
        raw.push_back(__float2bfloat16_rn(1000.0F * values[i]));
      } else {
        raw.push_back(operand<precision>(values[i]));
      }
      if (is_scaled(precision)) {
        scale = static_cast<double>(row_scale[i / columns]) * column_scale[i % columns];
      }
      numbers.push_back(scale * number(raw.back()) + plus[i % columns]);
    }
    results = uploaded(raw);
    bias = uploaded(plus);
    if (is_scaled(precision)) {
      row_scales = uploaded(row_scale);
      column_scales = uploaded(column_scale);
    }
  }
  [[nodiscard]] Products<Result<precision>> get() const {
    return {results.data(), row_scales.data(), column_scales.data(), bias.data(),
            static_cast<unsigned>(width)};
  }
  std::size_t width;
  Numbers64 numbers;
  DeviceBuffer<Result<precision>> results;
  DeviceBuffer<float> row_scales, column_scales, bias;
};

template <Precision precision>
struct OperandRows {
  OperandRows(std::size_t rows, std::size_t columns)
      : width(columns), values(rows * columns), scales(rows) {}
  [[nodiscard]] Operands<Operand<precision>> get() const {
    return {values.data(), is_scaled(precision) ? scales.data() : nullptr,
            static_cast<unsigned>(width)};
  }
  /// Compares the first `columns` of each row; the others must be zero.
  void compare(const Numbers64& expected, std::size_t columns) const {
    const auto got = downloaded(values);
    const auto scale = downloaded(scales);
    const double step = precision == Precision::kFloat32    ? 3e-6
                        : precision == Precision::kFloat16  ? 1e-3
                        : precision == Precision::kBFloat16 ? 5e-3
                        : precision == Precision::kInt8     ? 0.6 / 127.0
                                                            : 0.04;
    double worst = 0.0;
    for (std::size_t row = 0; row < scale.size(); ++row) {
      double largest = 1e-3;
      for (std::size_t c = 0; c < columns; ++c) {
        largest = std::max(largest, std::abs(expected[row * columns + c]));
      }
      for (std::size_t c = 0; c < width; ++c) {
        const double x = number(got[row * width + c]) *
                         (is_scaled(precision) ? static_cast<double>(scale[row]) : 1.0);
        const double off = std::abs(x - (c < columns ? expected[row * columns + c] : 0.0));
        worst = std::max(worst, std::isnan(off) ? HUGE_VAL : off / largest);
      }
    }
    CHECK(worst < step);
  }
  std::size_t width;
  DeviceBuffer<Operand<precision>> values;
  DeviceBuffer<float> scales;
};

void normalize(double* x, std::size_t n, double eps) {
  double mean = 0.0;
  for (std::size_t i = 0; i < n; ++i) mean += x[i] / static_cast<double>(n);
  double variance = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
  }
  for (std::size_t i = 0; i < n; ++i) x[i] = (x[i] - mean) / std::sqrt(variance + eps);
}

template <typename F>
void in_every_precision(F&& f) {
  const DeviceInfo device = device_info();
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat16, Precision::kBFloat16,
                                    Precision::kInt8, Precision::kFloat8}) {
    if (!is_supported(precision, device)) continue;
    CAPTURE(static_cast<int>(precision));
    with_precision(precision, f);
  }
}

// Three candidates with two futures each, two tokens: a first frame that the futures share, then
// two of their own, from the window's second position on.
constexpr unsigned kTokens = 2;
constexpr unsigned kFrames = 3;
constexpr std::size_t kRows = (3 + 6 + 6) * kTokens;
constexpr Pass kPass{kTokens, 3, 6, 1, 2, 1, 1, 4};

struct Row {
  std::size_t frame, item, token, candidate;
};
std::vector<Row> rows_of_pass() {
  std::vector<Row> rows;
  for (std::size_t frame = 0; frame < kFrames; ++frame) {
    for (std::size_t item = 0; item < (frame == 0 ? 3U : 6U); ++item) {
      for (std::size_t token = 0; token < kTokens; ++token) {
        rows.push_back({frame, item, token, frame == 0 ? item : item / 2});
      }
    }
  }
  return rows;
}

constexpr std::size_t kSize = 50;
constexpr std::size_t kWidth = 64;
constexpr std::size_t kRecords = 3 * 4;  // candidates times actions

/// Rows (kRows, kSize) through LN(LN(x) * scale + shift) * gain + offset; shift at `column`.
Numbers64 ada_norm(Numbers64 x, const Numbers64& records, std::size_t record_width,
                   std::size_t column, const std::vector<float>& gain,
                   const std::vector<float>& offset) {
  const auto rows = rows_of_pass();
  for (std::size_t row = 0; row < x.size() / kSize; ++row) {
    double* at = &x[row * kSize];
    const double* record =
        &records[(1 + rows[row].frame + 4 * rows[row].candidate) * record_width + column];
    normalize(at, kSize, 1e-6);
    for (std::size_t i = 0; i < kSize; ++i) at[i] = at[i] * record[kWidth + i] + record[i];
    normalize(at, kSize, 1e-5);
    for (std::size_t i = 0; i < kSize; ++i) at[i] = at[i] * gain[i] + offset[i];
  }
  return x;
}

}  // namespace

TEST_CASE("the residual stream begins, is added to and normed as loops do it") {
  in_every_precision([](auto p) {
    constexpr Precision precision = decltype(p)::value;
    const auto rows = rows_of_pass();
    const Stream stream;
    const Shape by_row{static_cast<unsigned>(kRows), 32};
    const DrawnProducts<precision> records(kRecords, 6 * kWidth, 1);
    const auto gain = drawn(kSize, 10, 0.1F, 1.0F);
    const auto offset = drawn(kSize, 11, 0.1F);
    const auto gain_at = uploaded(gain);
    const auto offset_at = uploaded(offset);
    const Norm norm{gain_at.data(), offset_at.data(), 1e-5F, static_cast<unsigned>(kSize)};
    const AdaNorm<Result<precision>> ada{{records.get(), 3 * kWidth}, 1e-6F, norm, kWidth};
    OperandRows<precision> out(kRows, kWidth);

    // Latents: the first frame from one place for all, later ones with a stride.
    const auto latents = drawn(2000, 12);
    const auto positions = drawn(4 * kTokens * kSize, 13);
    const auto latents_at = uploaded(latents);
    const auto positions_at = uploaded(positions);
    const LatentRows from{latents_at.data(),   0,    latents_at.data() + 150, 310, 105,
                          positions_at.data(), kSize};
    Numbers64 x;
    for (const Row& row : rows) {
      for (std::size_t i = 0; i < kSize; ++i) {
        const std::size_t at = row.frame == 0 ? 0 : 150 + (row.frame - 1) * 105 + row.item * 310;
        x.push_back(static_cast<double>(latents[at + row.token * kSize + i]) +
                    positions[((1 + row.frame) * kTokens + row.token) * kSize + i]);
      }
    }
    DeviceBuffer<float> residual(kRows * kWidth);
    launch(begin_from_latents<precision>, by_row, stream.get(), kPass, from, residual.data(), ada,
           out.get());
    stream.wait();
    out.compare(ada_norm(x, records.numbers, 6 * kWidth, 3 * kWidth, gain, offset), kSize);

    launch(latents_to_operands<precision>, by_row, stream.get(), kPass, from, out.get());
    stream.wait();
    out.compare(x, kSize);

    // x + gate * branch, from the second frame on.
    const std::size_t first = 6;
    const DrawnProducts<precision> branch(kRows - first, kWidth, 20);
    for (std::size_t row = first; row < kRows; ++row) {
      const std::size_t record = 1 + rows[row].frame + 4 * rows[row].candidate;
      for (std::size_t i = 0; i < kSize; ++i) {
        x[row * kSize + i] += records.numbers[record * 6 * kWidth + 2 * kWidth + i] *
                              branch.numbers[(row - first) * kWidth + i];
      }
    }
    const auto added = uploaded(downloaded(residual));  // a copy, for the second kernel
    const Shape later{static_cast<unsigned>(kRows - first), 32};
    const Modulation<Result<precision>> gate{records.get(), 0};
    OperandRows<precision> part(kRows - first, kWidth);
    const auto behind = [&](const Numbers64& all) {
      return Numbers64(all.begin() + static_cast<std::ptrdiff_t>(first * kSize), all.end());
    };
    launch(add_and_modulate<precision>, later, stream.get(), kPass, static_cast<unsigned>(first),
           residual.data() + first * kWidth, branch.get(), gate, ada, part.get());
    stream.wait();
    part.compare(behind(ada_norm(x, records.numbers, 6 * kWidth, 3 * kWidth, gain, offset)), kSize);
    const auto stored = downloaded(residual);
    double worst = 0.0;
    for (std::size_t row = first; row < kRows; ++row) {
      for (std::size_t i = 0; i < kSize; ++i) {
        worst = std::max(worst, std::abs(stored[row * kWidth + i] - x[row * kSize + i]));
      }
    }
    CHECK(worst < 1e-5);

    launch(add_and_end<precision>, later, stream.get(), kPass, static_cast<unsigned>(first),
           added.data() + first * kWidth, branch.get(), gate, norm, part.get());
    stream.wait();
    Numbers64 ended = behind(x);
    for (std::size_t row = 0; row < ended.size() / kSize; ++row) {
      normalize(&ended[row * kSize], kSize, 1e-5);
      for (std::size_t i = 0; i < kSize; ++i) {
        ended[row * kSize + i] = ended[row * kSize + i] * gain[i] + offset[i];
      }
    }
    part.compare(ended, kSize);

    // From the product of an input layer.
    const DrawnProducts<precision> projected(kRows, kWidth, 30);
    Numbers64 y;
    for (std::size_t i = 0; i < kRows * kSize; ++i) {
      y.push_back(projected.numbers[i / kSize * kWidth + i % kSize]);
    }
    launch(begin_from_product<precision>, by_row, stream.get(), kPass, projected.get(),
           residual.data(), ada, out.get());
    stream.wait();
    out.compare(ada_norm(y, records.numbers, 6 * kWidth, 3 * kWidth, gain, offset), kSize);
  });
}

TEST_CASE("attention over a window is the definition's") {
  in_every_precision([](auto p) {
    constexpr Precision precision = decltype(p)::value;
    for (const auto& [heads, size] :
         {std::pair{3U, 18U}, std::pair{2U, 64U}, std::pair{1U, 100U}}) {
      CAPTURE(size);
      const std::size_t used = heads * size;
      const std::size_t width = (used + 15) / 16 * 16;
      const auto rows = rows_of_pass();
      // An older frame that all candidates share, and the pass's own.
      const DrawnProducts<precision> old(kTokens, 3 * width, 40);
      const DrawnProducts<precision> own(kRows, 3 * width, 50);
      // Columns of both come from one matrix; attention reads no bias.
      const auto scales = drawn(3 * width, 43, 1e-4F, 1e-3F);
      const auto scales_at = uploaded(scales);
      const auto values = [&](const DrawnProducts<precision>& of) {
        Numbers64 plain;
        const auto raw = downloaded(of.results);
        const auto row_scales =
            is_scaled(precision) ? downloaded(of.row_scales) : std::vector<float>();
        for (std::size_t i = 0; i < raw.size(); ++i) {
          plain.push_back(number(raw[i]));
          if (is_scaled(precision)) {
            plain.back() *=
                static_cast<double>(row_scales[i / (3 * width)]) * scales[i % (3 * width)];
          }
        }
        return plain;
      };
      const Numbers64 old_values = values(old);
      const Numbers64 own_values = values(own);

      WindowAttention<Result<precision>> a{};
      const auto frame = [&](const DrawnProducts<precision>& of, std::size_t row, unsigned share) {
        const Result<precision>* from = of.results.data() + row * 3 * width;
        return KeyFrame<Result<precision>>{
            from + width, from + 2 * width,
            is_scaled(precision) ? of.row_scales.data() + row : nullptr,
            static_cast<unsigned>(3 * width), share};
      };
      const std::size_t first = 6;  // only later frames ask
      a.queries = own.results.data() + first * 3 * width;
      a.query_row_scales = is_scaled(precision) ? own.row_scales.data() + first : nullptr;
      a.query_stride = static_cast<unsigned>(3 * width);
      a.query_scales = scales_at.data();
      a.key_scales = scales_at.data() + width;
      a.value_scales = scales_at.data() + 2 * width;
      a.heads = heads;
      a.head_dim = size;
      a.frames[0] = frame(old, 0, 0);
      a.frames[1] = frame(own, 0, 1);
      a.frames[2] = frame(own, 6, 2);
      a.frames[3] = frame(own, 18, 2);

      Numbers64 expected;
      for (std::size_t row = first; row < kRows; ++row) {
        for (unsigned head = 0; head < heads; ++head) {
          const double* query = &own_values[row * 3 * width + head * size];
          Numbers64 sum(size);
          double total = 0.0;
          const auto see = [&](const double* of_row) {
            double score = 0.0;
            for (unsigned c = 0; c < size; ++c) score += query[c] * of_row[width + head * size + c];
            total += std::exp(score);
            for (unsigned c = 0; c < size; ++c) {
              sum[c] += std::exp(score) * of_row[2 * width + head * size + c];
            }
          };
          for (std::size_t t = 0; t < kTokens; ++t) see(&old_values[t * 3 * width]);
          for (std::size_t other = 0; other < kRows; ++other) {
            const bool same = rows[other].frame == 0 ? rows[other].candidate == rows[row].candidate
                                                     : rows[other].item == rows[row].item;
            if (same && rows[other].frame <= rows[row].frame) see(&own_values[other * 3 * width]);
          }
          for (const double value : sum) expected.push_back(value / total);
        }
      }
      OperandRows<precision> out(kRows - first, width);
      const Stream stream;
      launch(size <= 64 ? attend_window<precision, 2> : attend_window<precision, 4>,
             {static_cast<unsigned>(kRows - first), heads * 32}, stream.get(), kPass,
             static_cast<unsigned>(first), a, out.get());
      stream.wait();
      out.compare(expected, used);
    }
  });
}

TEST_CASE("actions are scored and embedded, activations are the functions'") {
  const auto silu = [](double x) { return x / (1.0 + std::exp(-x)); };
  in_every_precision([&](auto p) {
    constexpr Precision precision = decltype(p)::value;
    const Stream stream;
    const DrawnProducts<precision> wide(5, 304, 60);
    OperandRows<precision> out(5, 304);
    launch(gelu<precision>, {5, 64}, stream.get(), wide.get(), out.get());
    stream.wait();
    Numbers64 expected;
    for (const double x : wide.numbers) {
      expected.push_back(0.5 * x * std::erfc(-x / std::sqrt(2.0)));
    }
    out.compare(expected, 304);

    const DrawnProducts<Precision::kBFloat16> condition(5, 304, 70);
    launch(silu_rows<Precision::kBFloat16, precision>, {5, 64}, stream.get(), condition.get(),
           out.get());
    stream.wait();
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = silu(condition.numbers[i]);
    out.compare(expected, 304);

    const auto actions = drawn(4 * 3, 80);
    const auto mean = drawn(3, 81);
    const auto inv_std = drawn(3, 82, 0.1F, 1.0F);
    const auto weight = drawn(3 * 32, 83);
    const auto bias = drawn(32, 84);
    const auto actions_at = uploaded(actions);
    const auto mean_at = uploaded(mean);
    const auto inv_std_at = uploaded(inv_std);
    const auto weight_at = uploaded(weight);
    const auto bias_at = uploaded(bias);
    OperandRows<precision> embedded(4, 32);
    launch(embed_actions<precision>, {4, 32, 3 * sizeof(float)}, stream.get(), actions_at.data(),
           ActionLayer{mean_at.data(), inv_std_at.data(), weight_at.data(), bias_at.data(), 3},
           embedded.get());
    stream.wait();
    Numbers64 hidden;
    for (std::size_t row = 0; row < 4; ++row) {
      for (std::size_t o = 0; o < 32; ++o) {
        double sum = bias[o];
        for (std::size_t i = 0; i < 3; ++i) {
          sum += (static_cast<double>(actions[row * 3 + i]) - mean[i]) * inv_std[i] *
                 weight[i * 32 + o];
        }
        hidden.push_back(silu(sum));
      }
    }
    embedded.compare(hidden, 32);
  });
}

TEST_CASE("predictions go to every future of a candidate") {
  in_every_precision([](auto p) {
    constexpr Precision precision = decltype(p)::value;
    const DrawnProducts<precision> from(4, 16, 90);  // two items of two tokens
    DeviceBuffer<float> latents(6 * 40);
    latents.upload(std::vector<float>(6 * 40, -7.0F));
    const Stream stream;
    launch(write_latents<Result<precision>>, {4, 32}, stream.get(), from.get(), kTokens, 9U, 3U,
           latents.data() + 20, std::size_t{40});
    stream.wait();
    const auto got = downloaded(latents);
    for (std::size_t future = 0; future < 6; ++future) {
      for (std::size_t i = 0; i < 40; ++i) {
        const bool written = i >= 20 && i < 38;
        const std::size_t row = future / 3 * 2 + (i - 20) / 9;
        CHECK(
            got[future * 40 + i] ==
            doctest::Approx(written ? from.numbers[row * 16 + (i - 20) % 9] : -7.0).epsilon(1e-5));
      }
    }
  });
}
