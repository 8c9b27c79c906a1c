// SPDX-License-Identifier: Apache-2.0
// One table per instruction set that this build holds.
#pragma once

#include "kernels.hpp"

namespace jepa_edge::kernels {

#if defined(__x86_64__)
const Kernels& avx512_bf16() noexcept;
const Kernels& avx512() noexcept;
const Kernels& avx2() noexcept;
#elif defined(__aarch64__)
const Kernels& neon_bf16() noexcept;
const Kernels& neon_dotprod() noexcept;
const Kernels& neon() noexcept;
#endif
const Kernels& portable() noexcept;

}  // namespace jepa_edge::kernels
