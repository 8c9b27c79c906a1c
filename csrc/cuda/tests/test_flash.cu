// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ac_attention.hpp"
#include "jepa_edge/random.hpp"

namespace {

using namespace jepa_edge::cuda;

template <typename T>
double wide(T value) {
  return static_cast<double>(static_cast<float>(value));
}

template <typename T>
DeviceBuffer<T> on_device(const std::vector<T>& values) {
  DeviceBuffer<T> buffer(values.size());
  buffer.upload(values);
  return buffer;
}

/// (rows, heads, tokens, padded), zero where a head is padded.
template <typename T>
std::vector<T> drawn(unsigned seed, std::size_t rows, std::size_t padded, std::size_t head) {
  std::vector<float> numbers(rows * padded);
  jepa_edge::standard_normal(seed, 7, numbers);
  std::vector<T> out;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    out.push_back(static_cast<T>(i % padded < head ? 1.5F * numbers[i] : 0.0F));
  }
  return out;
}

struct Case {
  unsigned tokens, heads, head, frames;
  std::size_t rows;
};

/// Largest error, relative to the largest value, against softmax in float64 from its definition.
template <typename T>
double error_of(const Case& c) {
  const unsigned width = c.heads * c.head + 3;
  const FrameAttention<T> attention(c.tokens, c.heads, c.head, width);
  const std::size_t padded = attention.padded();
  const std::size_t frame = std::size_t{c.heads} * c.tokens * padded;
  const auto queries = drawn<T>(1, c.rows * c.heads * c.tokens, padded, c.head);
  const auto device_queries = on_device(queries);
  std::vector<std::vector<T>> keys, values;
  std::vector<DeviceBuffer<T>> device;
  SeenFrames<T> seen{};
  for (unsigned f = 0; f < c.frames; ++f) {
    // Frame 0 is shared by all rows, where there are several.
    const std::size_t rows = f == 0 && c.frames > 1 ? 1 : c.rows;
    keys.push_back(drawn<T>(10 + f, rows * c.heads * c.tokens, padded, c.head));
    values.push_back(drawn<T>(20 + f, rows * c.heads * c.tokens, padded, c.head));
    device.push_back(on_device(keys[f]));
    seen.keys[f] = device.back().data();
    device.push_back(on_device(values[f]));
    seen.values[f] = device.back().data();
    seen.row_stride[f] = rows == 1 ? 0 : frame;
  }
  seen.count = c.frames;
  const std::vector<T> untouched(c.rows * c.tokens * width, static_cast<T>(77.0F));
  const auto device_mixed = on_device(untouched);
  const Stream stream;
  attention.enqueue(device_queries.data(), seen, device_mixed.data(), c.rows, stream.get());
  stream.wait();
  std::vector<T> mixed(untouched.size());
  check(cudaMemcpy(mixed.data(), device_mixed.data(), mixed.size() * sizeof(T),
                   cudaMemcpyDeviceToHost),
        "cudaMemcpy");

  double largest = 0.0, worst = 0.0;
  for (std::size_t r = 0; r < c.rows; ++r) {
    for (unsigned h = 0; h < c.heads; ++h) {
      for (unsigned q = 0; q < c.tokens; ++q) {
        std::vector<double> out(c.head);
        double total = 0.0;
        for (unsigned f = 0; f < c.frames; ++f) {
          const std::size_t at = (seen.row_stride[f] == 0 ? 0 : r * frame) + h * c.tokens * padded;
          for (unsigned k = 0; k < c.tokens; ++k) {
            double score = 0.0;
            for (unsigned i = 0; i < c.head; ++i) {
              score += wide(queries[r * frame + (h * c.tokens + q) * padded + i]) *
                       wide(keys[f][at + k * padded + i]);
            }
            const double weight = std::exp(score / std::sqrt(static_cast<double>(c.head)));
            total += weight;
            for (unsigned i = 0; i < c.head; ++i) {
              out[i] += weight * wide(values[f][at + k * padded + i]);
            }
          }
        }
        for (unsigned i = 0; i < c.head; ++i) {
          const double got = wide(mixed[(r * c.tokens + q) * width + h * c.head + i]);
          largest = std::max(largest, std::fabs(out[i] / total));
          worst = std::isfinite(got) ? std::max(worst, std::fabs(got - out[i] / total)) : INFINITY;
        }
      }
      for (unsigned q = 0; q < c.tokens; ++q) {
        for (unsigned i = c.heads * c.head; i < width; ++i) {
          REQUIRE(wide(mixed[(r * c.tokens + q) * width + i]) == 77.0);
        }
      }
    }
  }
  return worst / largest;
}

const Case kCases[] = {
    {1, 1, 2, 1, 1},   {6, 2, 6, 1, 3},   {16, 1, 16, 2, 1},  {18, 2, 64, 1, 2},
    {33, 1, 40, 3, 2}, {66, 2, 32, 2, 1}, {100, 1, 64, 1, 1}, {5, 1, 128, 2, 2},
};

}  // namespace

TEST_CASE("attention of a frame is softmax over all frames it sees") {
  for (const Case& c : kCases) {
    CAPTURE(c.tokens);
    CAPTURE(c.head);
    CAPTURE(c.frames);
    CHECK(error_of<float>(c) < 2e-6);
    CHECK(error_of<__half>(c) < 2e-3);           // 2 roundings of 2^-11: of weights and of the sum
    CHECK(error_of<__nv_bfloat16>(c) < 1.6e-2);  // of 2^-8
  }
}

TEST_CASE("attention takes less shared memory than every Jetson has") {
  CHECK(FrameAttention<__half>(258, 16, 64, 1024).shared_bytes() < 100 * 1024);
  CHECK(FrameAttention<__nv_bfloat16>(1026, 8, 128, 1024).shared_bytes() < 100 * 1024);
  CHECK(FrameAttention<float>(258, 16, 64, 1024).shared_bytes() < 48 * 1024);
  CHECK_THROWS_AS(FrameAttention<float>(4, 1, 130, 130), std::invalid_argument);
}
