// SPDX-License-Identifier: Apache-2.0
// What kernels here rely on: meetings of threads, warp products, narrow numbers, streams, graphs.
// The same on a GPU and in the emulation; what only the emulation finds is at the end.
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "device.hpp"
#include "jepa_edge/random.hpp"
#include "launch.hpp"

using jepa_edge::cuda::allow_shared;
using jepa_edge::cuda::CudaError;
using jepa_edge::cuda::DeviceBuffer;
using jepa_edge::cuda::Graph;
using jepa_edge::cuda::launch;
using jepa_edge::cuda::PinnedBuffer;
using jepa_edge::cuda::Stream;

namespace {

template <typename T>
std::vector<T> download(const DeviceBuffer<T>& buffer, const Stream& stream) {
  PinnedBuffer<T> host(buffer.size());
  jepa_edge::cuda::check(cudaMemcpyAsync(host.data(), buffer.data(), buffer.size() * sizeof(T),
                                         cudaMemcpyDeviceToHost, stream.get()),
                         "download");
  stream.wait();
  return {host.data(), host.data() + host.size()};
}

/// Sums 256 numbers per block in a tree: every level needs its barrier.
__global__ void tree_sum(const float* in, float* out) {
  float* shared = jepa_edge::cuda::dynamic_shared<float>();
  const unsigned i = threadIdx.x;
  shared[i] = in[blockIdx.x * blockDim.x + i];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (i < half) shared[i] += shared[i + half];
    __syncthreads();
  }
  if (i == 0) out[blockIdx.x] = shared[0];
}

/// The same through a static array and shuffles of warps.
__global__ void warp_sum(const float* in, float* out) {
  __shared__ float parts[8];
  float sum = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, by);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < 8 ? parts[threadIdx.x] : 0.0F;
    for (unsigned by = 4; by > 0; by /= 2) sum += __shfl_down_sync(0xFFFFFFFFU, sum, by);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
  }
}

__global__ void votes(unsigned* out) {
  const unsigned even = __ballot_sync(0xFFFFFFFFU, threadIdx.x % 2 == 0);
  const int third = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x) * 10, 3);
  if (threadIdx.x == 7) {
    out[0] = even;
    out[1] = static_cast<unsigned>(third);
  }
}

__global__ void count_up(int* count, int by) { atomicAdd(count, by); }

template <typename T>
__global__ void warp_product(const T* a, const T* b, float* c) {
  namespace wmma = nvcuda::wmma;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> left;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::col_major> right;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
  wmma::fill_fragment(sum, 1.0F);
  for (int k = 0; k < 32; k += 16) {
    wmma::load_matrix_sync(left, a + k, 32);
    wmma::load_matrix_sync(right, b + k, 32);
    wmma::mma_sync(sum, left, right, sum);
  }
  wmma::store_matrix_sync(c, sum, 16, wmma::mem_row_major);
}

__global__ void convert(const float* in, unsigned short* half, unsigned short* brain,
                        unsigned char* byte, float* back, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  half[i] = __half_as_ushort(__float2half_rn(in[i]));
  brain[i] = __bfloat16_as_ushort(__float2bfloat16_rn(in[i]));
  byte[i] = __nv_cvt_float_to_fp8(in[i], __NV_SATFINITE, __NV_E4M3);
  back[3 * i] = __half2float(__float2half_rn(in[i]));
  back[3 * i + 1] = __bfloat162float(__float2bfloat16_rn(in[i]));
  back[3 * i + 2] = __half2float(__half(__nv_cvt_fp8_to_halfraw(byte[i], __NV_E4M3)));
}

/// The nearest number with `digits` binary digits (fewer below 2^lowest), ties to even.
double nearest(double x, int digits, int lowest, double largest) {
  const int exponent = std::max(std::ilogb(x), lowest);
  const double step = std::ldexp(1.0, exponent + 1 - digits);
  const double rounded = std::nearbyint(x / step) * step;
  return std::abs(rounded) > largest ? std::copysign(HUGE_VAL, x) : rounded;
}

}  // namespace

TEST_CASE("threads of a block and lanes of a warp meet") {
  const Stream stream;
  std::vector<float> values(3 * 256);
  jepa_edge::standard_normal(1, 2, values);
  DeviceBuffer<float> in(values.size());
  in.upload(values);
  DeviceBuffer<float> out(3);
  for (const bool tree : {true, false}) {
    launch(tree ? tree_sum : warp_sum, {3, 256, tree ? 1024U : 0U}, stream.get(), in.data(),
           out.data());
    const auto sums = download(out, stream);
    for (std::size_t b = 0; b < 3; ++b) {
      double expected = 0.0;
      for (std::size_t i = 0; i < 256; ++i) expected += values[b * 256 + i];
      CHECK(sums[b] == doctest::Approx(expected).epsilon(1e-4));
    }
  }
  DeviceBuffer<unsigned> words(2);
  launch(votes, {1, 32}, stream.get(), words.data());
  const auto found = download(words, stream);
  CHECK(found[0] == 0x55555555U);
  CHECK(found[1] == 30);
}

TEST_CASE("warps multiply matrices") {
  const Stream stream;
  std::vector<float> numbers(2 * 16 * 32);
  jepa_edge::standard_normal(3, 4, numbers);
  DeviceBuffer<float> out(256);
  const auto run = [&](auto kernel, auto narrow, auto wide) {
    using T = decltype(narrow(0.0F));
    std::vector<T> values(numbers.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = narrow(numbers[i]);
    DeviceBuffer<T> in(values.size());
    in.upload(values);
    launch(kernel, {1, 32}, stream.get(), in.data(), in.data() + 512, out.data());
    const auto c = download(out, stream);
    for (std::size_t row = 0; row < 16; ++row) {
      for (std::size_t column = 0; column < 16; ++column) {
        double expected = 1.0;
        for (std::size_t k = 0; k < 32; ++k) {
          expected +=
              static_cast<double>(wide(values[row * 32 + k])) * wide(values[512 + column * 32 + k]);
        }
        CHECK(c[row * 16 + column] == doctest::Approx(expected).epsilon(1e-4));
      }
    }
  };
  run(
      warp_product<__half>, [](float x) { return __float2half_rn(x); },
      [](__half x) { return __half2float(x); });
  run(
      warp_product<__nv_bfloat16>, [](float x) { return __float2bfloat16_rn(x); },
      [](__nv_bfloat16 x) { return __bfloat162float(x); });
}

TEST_CASE("narrow numbers are the nearest ones") {
  std::vector<float> values{0.0F,    -0.0F,   1.0F,    -1.0F,         448.0F,   464.0F,
                            1e30F,   -500.0F, 65504.F, 65519.F,       65520.0F, 1e-3F,
                            2e-3F,   1e-8F,   6e-8F,   3e-5F,         0.0625F,  1.0625F,
                            1.1875F, 1.3125F, 17.0F,   1.00048828125F};
  std::vector<float> drawn(500);
  jepa_edge::standard_normal(5, 6, drawn);
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    values.push_back(std::ldexp(drawn[i], static_cast<int>(i % 40) - 26));
  }
  const std::size_t n = values.size();
  const Stream stream;
  DeviceBuffer<float> in(n), back(3 * n);
  in.upload(values);
  DeviceBuffer<unsigned short> sixteen(n), brain(n);
  DeviceBuffer<unsigned char> byte(n);
  launch(convert, {jepa_edge::cuda::blocks_for(n, 128), 128}, stream.get(), in.data(),
         sixteen.data(), brain.data(), byte.data(), back.data(), static_cast<int>(n));
  const auto found = download(back, stream);
  const auto bits = download(sixteen, stream);
  const auto bytes = download(byte, stream);
  for (std::size_t i = 0; i < n; ++i) {
    CAPTURE(values[i]);
    const double x = values[i];
    CHECK(found[3 * i] == static_cast<float>(nearest(x, 11, -14, 65504.0)));
    CHECK(found[3 * i + 1] == static_cast<float>(nearest(x, 8, -126, 3.4e38)));
    CHECK(found[3 * i + 2] ==
          static_cast<float>(nearest(std::fmax(-448.0, std::fmin(448.0, x)), 4, -6, 448.0)));
    CHECK((bits[i] & 0x8000U) == (std::signbit(values[i]) ? 0x8000U : 0U));
  }
  CHECK(bits[2] == 0x3C00);
  CHECK(bytes[2] == 0x38);
  CHECK(bytes[4] == 0x7E);
}

TEST_CASE("a graph replays with the arguments it was captured with") {
  const Stream stream;
  const std::vector<int> zero{0};
  DeviceBuffer<int> count(1);
  count.upload(zero);
  int by = 3;
  const Graph graph = Graph::capture(stream, [&] {
    launch(count_up, {2, 5}, stream.get(), count.data(), by);
    launch(count_up, {1, 1}, stream.get(), count.data(), 100);
  });
  by = 1000;
  CHECK(download(count, stream)[0] == 0);  // captured, not run
  graph.replay(stream);
  graph.replay(stream);
  CHECK(download(count, stream)[0] == 260);
  CHECK_THROWS_AS(Graph().replay(stream), CudaError);
  CHECK_THROWS_AS(Graph::capture(stream, [&] { stream.wait(); }), CudaError);
  graph.replay(stream);  // what was abandoned does no harm
  CHECK(download(count, stream)[0] == 390);
}

TEST_CASE("launches that no GPU would take are refused") {
  const Stream stream;
  DeviceBuffer<int> count(1);
  CHECK_THROWS_AS(launch(count_up, {1, 1025}, stream.get(), count.data(), 1), CudaError);
  CHECK_THROWS_AS(launch(count_up, {1, 1, 60 << 10}, stream.get(), count.data(), 1), CudaError);
  allow_shared(count_up, 60 << 10);
  count.upload(std::vector<int>{0});
  launch(count_up, {1, 1, 60 << 10}, stream.get(), count.data(), 1);
  CHECK(download(count, stream)[0] == 1);
}

#ifdef JEPA_EDGE_CUDA_EMULATE

namespace {

__global__ void half_of_a_block_waits(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1.0F;
}
__global__ void different_barriers(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0F;
}
__global__ void half_of_a_warp_shuffles(float* out) {
  float x = 1.0F;
  if (threadIdx.x < 16) {
    x = __shfl_xor_sync(0xFFFFFFFFU, x, 1);
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = x;
}
__global__ void writes_beyond(float* out) {
  jepa_edge::cuda::dynamic_shared<float>()[8 + threadIdx.x] = 1.0F;
  out[threadIdx.x] = 1.0F;
}

}  // namespace

TEST_CASE("the emulation reports what hangs or breaks a GPU") {
  const Stream stream;
  DeviceBuffer<float> out(64);
  for (auto* kernel : {half_of_a_block_waits, different_barriers, half_of_a_warp_shuffles}) {
    launch(kernel, {1, 64}, stream.get(), out.data());
    CHECK_THROWS_AS(stream.wait(), CudaError);
    CHECK(jepa_edge::cuda_emulation::take_failure().find("test_emulator.cu:") != std::string::npos);
  }
  launch(writes_beyond, {1, 1, 32}, stream.get(), out.data());
  CHECK_THROWS_AS(stream.wait(), CudaError);
  CHECK(jepa_edge::cuda_emulation::take_failure().find("beyond its 32 bytes") != std::string::npos);
  launch(half_of_a_block_waits, {1, 32}, stream.get(), out.data());
  CHECK(download(out, stream)[31] == 1.0F);
}

TEST_CASE("the emulation gives memory full of NaN, and takes none of the host's") {
  const Stream stream;
  DeviceBuffer<float> out(3);
  for (const float value : download(out, stream)) CHECK(std::isnan(value));
  float here[64] = {};
  CHECK_THROWS_AS(launch(half_of_a_block_waits, {1, 32}, stream.get(), &here[0]), CudaError);
  CHECK(cudaMemcpy(out.data(), here, 13, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(out.data(), here, 4, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
}

#endif
