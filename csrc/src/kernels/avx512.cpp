// SPDX-License-Identifier: Apache-2.0
#include "avx512_simd.hpp"

// After the Simd that it uses.
#include "body.hpp"
#include "tables.hpp"

namespace jepa_edge::kernels {
const Kernels& avx512() noexcept { return kTable; }
}  // namespace jepa_edge::kernels
