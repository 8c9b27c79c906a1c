// SPDX-License-Identifier: Apache-2.0
#include "gemm.hpp"

#include "numbers.hpp"

namespace jepa_edge::cuda {

std::size_t operand_bytes(Precision precision) noexcept {
  return with_precision(precision, [](auto p) { return sizeof(Operand<p>); });
}

std::size_t result_bytes(Precision precision) noexcept {
  return with_precision(precision, [](auto p) { return sizeof(Result<p>); });
}

bool is_supported(Precision precision, const DeviceInfo& device) noexcept {
  const int capability = 10 * device.major + device.minor;
  switch (precision) {
    case Precision::kFloat32:
      return true;
    case Precision::kFloat16:
      return capability >= 70;
    case Precision::kInt8:
      return capability >= 75;
    case Precision::kBFloat16:
      return capability >= 80;
    case Precision::kFloat8:
      return capability >= 89;
  }
  return false;
}

std::size_t gemm_multiple(Precision precision) noexcept {
  switch (precision) {
    case Precision::kFloat32:
      return 1;
    case Precision::kFloat16:
    case Precision::kBFloat16:
      return 8;
    case Precision::kInt8:
    case Precision::kFloat8:
      return 16;
  }
  return 16;
}

}  // namespace jepa_edge::cuda
