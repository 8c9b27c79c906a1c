// SPDX-License-Identifier: Apache-2.0
// Matrix products of cuBLASLt. Bias, scales and activations belong to the kernels around them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "device.hpp"

namespace jepa_edge::cuda {

/// How operands of the products are held, and their result: float32 -> float32, float16 ->
/// float16, bfloat16 -> bfloat16, int8 -> int32, float8 (e4m3) -> bfloat16. Sums are float32, or
/// int32.
enum class Precision : std::uint8_t { kFloat32, kFloat16, kBFloat16, kInt8, kFloat8 };

[[nodiscard]] std::size_t operand_bytes(Precision precision) noexcept;
[[nodiscard]] std::size_t result_bytes(Precision precision) noexcept;
/// What inputs and outputs of a product must be multiples of: 1, or 8 for 16-bit numbers, or 16 for
/// 8-bit ones.
[[nodiscard]] std::size_t gemm_multiple(Precision precision) noexcept;
/// Whether rows of operands carry a scale of their own, and outputs one each.
[[nodiscard]] __host__ __device__ constexpr bool is_scaled(Precision precision) noexcept {
  return precision == Precision::kInt8 || precision == Precision::kFloat8;
}
/// Whether a chip computes it with its matrix units (float32: always).
[[nodiscard]] bool is_supported(Precision precision, const DeviceInfo& device) noexcept;

/// What all products of one engine share: the library's handle and its scratch memory.
class GemmLibrary {
 public:
  /// Throws CudaError where cuBLASLt is missing or refuses the device.
  GemmLibrary();
  ~GemmLibrary();
  GemmLibrary(const GemmLibrary&) = delete;
  GemmLibrary& operator=(const GemmLibrary&) = delete;

 private:
  friend class Gemm;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// C (rows, outputs) = A (rows, inputs) * W (outputs, inputs)^T, all row-major and contiguous.
/// One shape, its algorithm chosen at construction. inputs and outputs must be multiples of
/// gemm_multiple (pad with zeros), operands and results start at multiples of 16 bytes.
class Gemm {
 public:
  /// Throws CudaError where the library has no algorithm, std::invalid_argument for bad sizes.
  Gemm(GemmLibrary& library, Precision precision, std::size_t rows, std::size_t outputs,
       std::size_t inputs);
  ~Gemm();
  Gemm(Gemm&&) noexcept;
  Gemm& operator=(Gemm&&) noexcept;

  /// Enqueues the product; may be captured.
  void run(const void* a, const void* w, void* c, cudaStream_t stream) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace jepa_edge::cuda
