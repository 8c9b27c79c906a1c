// SPDX-License-Identifier: Apache-2.0
// Matrix products of every precision against loops in float64, through capture and replay.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "gemm.hpp"
#include "jepa_edge/random.hpp"
#include "numbers.hpp"

using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::Gemm;
using jepa_edge::cuda::GemmLibrary;
using jepa_edge::cuda::Graph;
using jepa_edge::cuda::number;
using jepa_edge::cuda::Operand;
using jepa_edge::cuda::Precision;
using jepa_edge::cuda::Result;
using jepa_edge::cuda::Stream;
using jepa_edge::cuda::with_precision;

namespace {

template <Precision precision>
std::vector<Operand<precision>> drawn(std::size_t count, std::uint64_t stream) {
  std::vector<float> values(count);
  jepa_edge::standard_normal(7, stream, values);
  const float scale = jepa_edge::cuda::is_scaled(precision) ? 40.0F : 1.0F;
  std::vector<Operand<precision>> operands(count);
  for (std::size_t i = 0; i < count; ++i) {
    operands[i] = jepa_edge::cuda::operand<precision>(scale * values[i]);
  }
  return operands;
}

template <Precision precision>
void compare(std::size_t rows, std::size_t outputs, std::size_t inputs) {
  const auto a = drawn<precision>(rows * inputs, 1);
  const auto w = drawn<precision>(outputs * inputs, 2);
  DeviceBuffer<Operand<precision>> left(a.size());
  DeviceBuffer<Operand<precision>> right(w.size());
  DeviceBuffer<Result<precision>> out(rows * outputs);
  left.upload(a);
  right.upload(w);
  GemmLibrary library;
  const Gemm gemm(library, precision, rows, outputs, inputs);
  const Stream stream;
  const Graph graph = Graph::capture(
      stream, [&] { gemm.run(left.data(), right.data(), out.data(), stream.get()); });
  graph.replay(stream);
  stream.wait();
  std::vector<Result<precision>> c(out.size());
  jepa_edge::cuda::check(
      cudaMemcpy(c.data(), out.data(), c.size() * sizeof(c[0]), cudaMemcpyDeviceToHost), "copy");
  // A result is rounded once, after sums in float32: relative to the size of what is summed.
  const double rounding = precision == Precision::kInt8      ? 0.0
                          : precision == Precision::kFloat32 ? 1e-6
                          : precision == Precision::kFloat16 ? 6e-4
                                                             : 5e-3;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t output = 0; output < outputs; ++output) {
      double sum = 0.0;
      double size = 0.0;
      for (std::size_t i = 0; i < inputs; ++i) {
        const double term =
            static_cast<double>(number(a[row * inputs + i])) * number(w[output * inputs + i]);
        sum += term;
        size += term * term;
      }
      const double got = number(c[row * outputs + output]);
      const double allowed = rounding * (std::abs(sum) + 4.0 * std::sqrt(size));
      if (std::abs(got - sum) > allowed) {  // CHECK of each would take most of the time
        CAPTURE(row);
        CAPTURE(output);
        CHECK(got == doctest::Approx(sum));
      }
    }
  }
}

}  // namespace

TEST_CASE("products agree with loops in every precision") {
  const auto device = jepa_edge::cuda::device_info();
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat16, Precision::kBFloat16,
                                    Precision::kInt8, Precision::kFloat8}) {
    if (!jepa_edge::cuda::is_supported(precision, device)) continue;
    CAPTURE(static_cast<int>(precision));
    with_precision(precision, [](auto p) {
      compare<p>(1, 16, 16);
      compare<p>(37, 48, 32);
      compare<p>(130, 64, 208);
    });
  }
}

TEST_CASE("products of no size are refused") {
  GemmLibrary library;
  CHECK_THROWS_AS(Gemm(library, Precision::kFloat32, 0, 16, 16), std::invalid_argument);
  CHECK_THROWS_AS(Gemm(library, Precision::kFloat16, 4, 12, 16), std::invalid_argument);
  CHECK_THROWS_AS(Gemm(library, Precision::kInt8, 4, 16, 24), std::invalid_argument);
}
