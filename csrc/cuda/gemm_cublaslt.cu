// SPDX-License-Identifier: Apache-2.0
#include <cublasLt.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "gemm.hpp"

namespace jepa_edge::cuda {
namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20U;
constexpr std::uint32_t kAlignment = 16;  // bytes, of every matrix and, where its width allows, row

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
  [[nodiscard]] Handle* out() { return &handle_; }
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
};

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
  check_blas(cublasLtMatrixLayoutCreate(to.a.out(), type.operand, inputs, rows,
                                        static_cast<std::int64_t>(inputs)),
             "cublasLtMatrixLayoutCreate");
  check_blas(cublasLtMatrixLayoutCreate(to.c.out(), type.result, outputs, rows,
                                        static_cast<std::int64_t>(outputs)),
             "cublasLtMatrixLayoutCreate");

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
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(to.handle, to.product.get(), to.w.get(), to.a.get(),
                                     to.c.get(), to.c.get(), preference.get(), 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    throw CudaError("cuBLASLt has no algorithm for a product of " + shape +
                    " in this precision on this device (" + cublasLtGetStatusString(status) +
                    "); choose another precision");
  }
  to.algorithm = found.algo;
  to.workspace_bytes = found.workspaceSize;
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
  check_blas(
      cublasLtMatmul(i.handle, i.product.get(),
                     i.integers ? static_cast<const void*>(&one_integer) : &one, w, i.w.get(), a,
                     i.a.get(), i.integers ? static_cast<const void*>(&zero_integer) : &zero, c,
                     i.c.get(), c, i.c.get(), &i.algorithm, i.workspace, i.workspace_bytes, stream),
      "cublasLtMatmul");
}

}  // namespace jepa_edge::cuda
