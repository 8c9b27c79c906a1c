// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "jepa_edge/random.hpp"
#include "kernels/random.cuh"
#include "launch.hpp"
#include "linear_rollout.cuh"
#include "planner/search.hpp"

using jepa_edge::cuda::blocks_for;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::launch;
using jepa_edge::cuda::Stream;
using jepa_edge::cuda::testing::downloaded;

namespace {

/// The same number; on a GPU, whose logarithm and sine round otherwise, its neighbour at most.
bool same(float a, float b) {
#ifdef JEPA_EDGE_CUDA_EMULATE
  return a == b;
#else
  return a == b || std::nextafter(a, b) == b;
#endif
}

std::vector<float> drawn(std::uint64_t seed, std::uint64_t stream_number, std::size_t count,
                         const std::uint32_t* shift = nullptr) {
  const Stream stream;
  const DeviceBuffer<float> out(count + 1);
  launch(jepa_edge::cuda::draw_normals, {dim3(blocks_for((count + 3) / 4, 32)), dim3(32)},
         stream.get(), seed, stream_number, shift, out.data(), count);
  stream.wait();
  return downloaded(out.data(), count);
}

}  // namespace

TEST_CASE("the device draws the core's random numbers") {
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{7}, ~std::uint64_t{41}}) {
    for (const std::uint64_t stream : {std::uint64_t{0}, std::uint64_t{0x1234567890ABCDEFU}}) {
      for (const std::size_t count : {1U, 4U, 6U, 1003U}) {
        std::vector<float> expected(count);
        jepa_edge::standard_normal(seed, stream, expected);
        const std::vector<float> got = drawn(seed, stream, count);
        for (std::size_t i = 0; i < count; ++i) {
          REQUIRE(same(got[i], expected[i]));
        }
      }
    }
  }
}

TEST_CASE("a counter on the device says which stream is drawn") {
  DeviceBuffer<std::uint32_t> counter(1);
  counter.upload(std::vector<std::uint32_t>{5});
  CHECK(drawn(3, 2, 11, counter.data()) == drawn(3, 7, 11));
  CHECK(drawn(3, 2, 11, counter.data()) != drawn(3, 2, 11));
}

TEST_CASE("coloured noise has deviation 1 over time and the spectrum of the core's matrix") {
  constexpr std::size_t kHorizon = 6;
  constexpr std::size_t kDim = 3;
  constexpr std::size_t kCount = 5;
  const std::vector<double> matrix = jepa_edge::coloring_matrix(kHorizon, 2.0);
  std::vector<float> white(kCount * kHorizon * kDim);
  jepa_edge::standard_normal(1, 0, white);
  DeviceBuffer<float> from(white.size());
  DeviceBuffer<double> map(matrix.size());
  const DeviceBuffer<float> out(white.size());
  from.upload(white);
  map.upload(matrix);
  const Stream stream;
  launch(jepa_edge::cuda::color_noise, {dim3(1), dim3(32)}, stream.get(), from.data(), map.data(),
         kCount * kDim, kHorizon, kDim, out.data());
  stream.wait();
  const std::vector<float> got = downloaded(out.data(), white.size());
  for (std::size_t c = 0; c < kCount; ++c) {
    for (std::size_t a = 0; a < kDim; ++a) {
      double total = 0.0;
      double squares = 0.0;
      double scale = 0.0;
      for (std::size_t h = 0; h < kHorizon; ++h) {
        const auto value = static_cast<double>(got[(c * kHorizon + h) * kDim + a]);
        total += value;
        squares += value * value;
        double expected = 0.0;
        for (std::size_t i = 0; i < kHorizon; ++i) {
          expected +=
              matrix[h * kHorizon + i] * static_cast<double>(white[(c * kDim + a) * kHorizon + i]);
        }
        scale = h == 0 ? value / expected : scale;
        CHECK(value == doctest::Approx(scale * expected).epsilon(1e-5));
      }
      CHECK(scale > 0.0);
      CHECK((squares - total * total / kHorizon) / (kHorizon - 1) ==
            doctest::Approx(1.0).epsilon(1e-5));
    }
  }
}
