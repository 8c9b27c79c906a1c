// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "gemm.hpp"

namespace jepa_edge::cuda {
namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20U;
constexpr std::uint32_t kAlignment = 16;  // bytes, of every matrix and, where its width allows, row
// Fewer rows are computed as so many in int8, and where there is no algorithm for them: int8 ones
// may have none for 16 and fewer (https://github.com/pytorch/pytorch/pull/178469).
constexpr std::size_t kFewestRows = 32;

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(std::string(what) + ": " + cublasLtGetStatusString(status));
}

struct Types {
  cudaDataType_t operand;
  cudaDataType_t result;
  cublasComputeType_t compute;
  cudaDataType_t scale;
};

Types types(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F};
    case Precision::kFloat16:
      return {CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F, CUDA_R_32F};
    case Precision::kBFloat16:
      return {CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F};
    case Precision::kInt8:
      return {CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I, CUDA_R_32I};
    case Precision::kFloat8:
      return {CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUDA_R_32F};
  }
  throw std::invalid_argument("no such precision");
}

/// A descriptor of the library's, destroyed with this.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_ != nullptr) kDestroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  [[nodiscard]] Handle* out() {
    if (handle_ != nullptr) kDestroy(std::exchange(handle_, nullptr));
    return &handle_;
  }
  [[nodiscard]] Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

}  // namespace

struct GemmLibrary::Impl {
  Owned<cublasLtHandle_t, cublasLtDestroy> handle;
  DeviceBuffer<std::byte> workspace{kWorkspace};
};

GemmLibrary::GemmLibrary() : impl_(std::make_unique<Impl>()) {
  check_blas(cublasLtCreate(impl_->handle.out()), "cublasLtCreate");
}
GemmLibrary::~GemmLibrary() = default;

// In the library's column-major view: C^T (outputs, rows) = W^T^T (outputs, inputs) A^T (inputs,
// rows), so that W is the transposed left operand and A the right one as it is. This is also the
// only layout in which plain int8 and float8 operands are taken.
struct Gemm::Impl {
  cublasLtHandle_t handle;
  void* workspace;
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product;
  Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> w, a, c;
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace_bytes;
  bool integers;
  std::size_t operand_row, result_row, rows;  // bytes, bytes, asked for
  /// Operands and results of kFewestRows, where the library is given more rows than there are. The
  /// others hold anything: rows do not mix.
  DeviceBuffer<std::byte> more_a, more_c;

  /// Makes the layouts of a and c; false without an algorithm for so many rows.
  bool plan(const Types& type, std::size_t count, std::size_t outputs, std::size_t inputs,
            cublasLtMatmulPreference_t preference, cublasStatus_t& status);
};

bool Gemm::Impl::plan(const Types& type, std::size_t count, std::size_t outputs, std::size_t inputs,
                      cublasLtMatmulPreference_t preference, cublasStatus_t& status) {
  check_blas(cublasLtMatrixLayoutCreate(a.out(), type.operand, inputs, count,
                                        static_cast<std::int64_t>(inputs)),
             "cublasLtMatrixLayoutCreate");
  check_blas(cublasLtMatrixLayoutCreate(c.out(), type.result, outputs, count,
                                        static_cast<std::int64_t>(outputs)),
             "cublasLtMatrixLayoutCreate");
  cublasLtMatmulHeuristicResult_t found{};
  int results = 0;
  status = cublasLtMatmulAlgoGetHeuristic(handle, product.get(), w.get(), a.get(), c.get(), c.get(),
                                          preference, 1, &found, &results);
  if (status != CUBLAS_STATUS_SUCCESS || results == 0) return false;
  algorithm = found.algo;
  workspace_bytes = found.workspaceSize;
  if (count > rows) {
    more_a = DeviceBuffer<std::byte>(count * operand_row);
    more_c = DeviceBuffer<std::byte>(count * result_row);
  }
  return true;
}

Gemm::Gemm(GemmLibrary& library, Precision precision, std::size_t rows, std::size_t outputs,
           std::size_t inputs)
    : impl_(std::make_unique<Impl>()) {
  const std::size_t multiple = gemm_multiple(precision);
  const std::string shape = std::to_string(rows) + " rows, " + std::to_string(outputs) +
                            " outputs and " + std::to_string(inputs) + " inputs";
  if (rows < 1 || outputs < 1 || inputs < 1 || outputs % multiple != 0 || inputs % multiple != 0) {
    throw std::invalid_argument("a product of " + shape + ", expected multiples of " +
                                std::to_string(multiple));
  }
  Impl& to = *impl_;
  const Types type = types(precision);
  to.handle = library.impl_->handle.get();
  to.workspace = library.impl_->workspace.data();
  to.integers = precision == Precision::kInt8;
  check_blas(cublasLtMatmulDescCreate(to.product.out(), type.compute, type.scale),
             "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_blas(cublasLtMatmulDescSetAttribute(to.product.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                            &transposed, sizeof transposed),
             "cublasLtMatmulDescSetAttribute");
  check_blas(cublasLtMatrixLayoutCreate(to.w.out(), type.operand, inputs, outputs,
                                        static_cast<std::int64_t>(inputs)),
             "cublasLtMatrixLayoutCreate");
  to.rows = rows;
  to.operand_row = inputs * operand_bytes(precision);
  to.result_row = outputs * result_bytes(precision);

  Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
  check_blas(cublasLtMatmulPreferenceCreate(preference.out()), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference.get(), what, &value, sizeof value),
               "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignment);
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto plan = [&](std::size_t count) {
    return to.plan(type, count, outputs, inputs, preference.get(), status);
  };
  const bool few = rows < kFewestRows;
  const bool found = !(few && to.integers) && plan(rows);
  if (!found && !(few && plan(kFewestRows))) {
    throw CudaError("cuBLASLt has no algorithm for a product of " + shape +
                    " in this precision on this device (" + cublasLtGetStatusString(status) +
                    "); choose another precision");
  }
}
Gemm::~Gemm() = default;
Gemm::Gemm(Gemm&&) noexcept = default;
Gemm& Gemm::operator=(Gemm&&) noexcept = default;

void Gemm::run(const void* a, const void* w, void* c, cudaStream_t stream) const {
  const Impl& i = *impl_;
  const float one = 1.0F;
  const float zero = 0.0F;
  const std::int32_t one_integer = 1;
  const std::int32_t zero_integer = 0;
  const bool padded = i.more_a.size() > 0;
  void* const made = padded ? i.more_c.data() : c;
  if (padded) {
    check(cudaMemcpyAsync(i.more_a.data(), a, i.rows * i.operand_row, cudaMemcpyDeviceToDevice,
                          stream),
          "copy of operands");
    a = i.more_a.data();
  }
  check_blas(
      cublasLtMatmul(
          i.handle, i.product.get(), i.integers ? static_cast<const void*>(&one_integer) : &one, w,
          i.w.get(), a, i.a.get(), i.integers ? static_cast<const void*>(&zero_integer) : &zero,
          made, i.c.get(), made, i.c.get(), &i.algorithm, i.workspace, i.workspace_bytes, stream),
      "cublasLtMatmul");
  if (padded) {
    check(cudaMemcpyAsync(c, made, i.rows * i.result_row, cudaMemcpyDeviceToDevice, stream),
          "copy of results");
  }
}

}  // namespace jepa_edge::cuda
