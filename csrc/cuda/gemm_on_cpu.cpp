// SPDX-License-Identifier: Apache-2.0
// Products in plain loops, for the emulation alone.
#include <stdexcept>
#include <string>
#include <vector>

#include "gemm.hpp"
#include "numbers.hpp"

namespace jepa_edge::cuda {
namespace {

constexpr std::size_t kSums = 16;  // at once, for the compiler's vectors

template <Precision precision>
void multiply(const void* a, const void* w, void* c, std::size_t rows, std::size_t outputs,
              std::size_t inputs) {
  using Sum = std::conditional_t<precision == Precision::kInt8, std::int32_t, float>;
  const auto widen = [](const void* from, std::size_t count) {
    std::vector<Sum> to(count);
    const auto* operands = static_cast<const Operand<precision>*>(from);
    for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<Sum>(number(operands[i]));
    return to;
  };
  const std::vector<Sum> left = widen(a, rows * inputs);
  const std::vector<Sum> right = widen(w, outputs * inputs);
  auto* to = static_cast<Result<precision>*>(c);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t output = 0; output < outputs; ++output) {
      const Sum* x = left.data() + row * inputs;
      const Sum* y = right.data() + output * inputs;
      Sum sums[kSums] = {};
      std::size_t i = 0;
      for (; i + kSums <= inputs; i += kSums) {
        for (std::size_t s = 0; s < kSums; ++s) sums[s] += x[i + s] * y[i + s];
      }
      Sum total = 0;
      for (; i < inputs; ++i) total += x[i] * y[i];
      for (const Sum sum : sums) total += sum;
      Result<precision>& result = to[row * outputs + output];
      if constexpr (precision == Precision::kInt8) {
        result = total;
      } else if constexpr (precision == Precision::kFloat8) {
        result = __float2bfloat16_rn(total);
      } else {
        result = operand<precision>(total);
      }
    }
  }
}

}  // namespace

struct GemmLibrary::Impl {};
GemmLibrary::GemmLibrary() = default;
GemmLibrary::~GemmLibrary() = default;

struct Gemm::Impl {
  Precision precision;
  std::size_t rows, outputs, inputs;
};

Gemm::Gemm(GemmLibrary&, Precision precision, std::size_t rows, std::size_t outputs,
           std::size_t inputs)
    : impl_(new Impl{precision, rows, outputs, inputs}) {
  const std::size_t multiple = gemm_multiple(precision);
  if (rows < 1 || outputs < 1 || inputs < 1 || outputs % multiple != 0 || inputs % multiple != 0) {
    throw std::invalid_argument("a product of " + std::to_string(rows) + " rows, " +
                                std::to_string(outputs) + " outputs and " + std::to_string(inputs) +
                                " inputs, expected multiples of " + std::to_string(multiple));
  }
}
Gemm::~Gemm() = default;
Gemm::Gemm(Gemm&&) noexcept = default;
Gemm& Gemm::operator=(Gemm&&) noexcept = default;

void Gemm::run(const void* a, const void* w, void* c, cudaStream_t stream) const {
  const bool reachable = cuda_emulation::is_reachable(a) && cuda_emulation::is_reachable(w) &&
                         cuda_emulation::is_reachable(c);
  check(reachable ? cudaSuccess : cudaErrorInvalidValue, "operands of a product");
  with_precision(impl_->precision, [&](auto precision) {
    check(cuda_emulation::enqueue_work(stream,
                                       [shape = *impl_, a, w, c] {
                                         multiply<decltype(precision)::value>(
                                             a, w, c, shape.rows, shape.outputs, shape.inputs);
                                       }),
          "product");
  });
}

}  // namespace jepa_edge::cuda
