// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "dispatch.hpp"
#include "jepa_edge/predictor.hpp"
#include "tables.hpp"

namespace jepa_edge {
namespace {

struct Available {
  std::array<const kernels::Kernels*, 4> tables{};
  std::array<std::string_view, 4> names{};
  std::size_t count = 0;

  void add(const kernels::Kernels& table) noexcept {
    names[count] = table.name;
    tables[count++] = &table;
  }
};

Available detect() noexcept {
  Available found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = fma && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) found.add(kernels::avx512_bf16());
  if (avx512) found.add(kernels::avx512());
  if (fma) found.add(kernels::avx2());
#elif defined(__aarch64__)
#if defined(__linux__)
  // Bits of Linux' arch/arm64/include/uapi/asm/hwcap.h, by number: older headers lack the names.
  const bool dotprod = (getauxval(AT_HWCAP) >> 20U & 1U) != 0;
  const unsigned long more = getauxval(AT_HWCAP2);
  const bool i8mm = (more >> 13U & 1U) != 0;
  const bool bf16 = (more >> 14U & 1U) != 0;
  if (dotprod && bf16 && i8mm) found.add(kernels::neon_bf16());
  if (dotprod) found.add(kernels::neon_dotprod());
#endif
  found.add(kernels::neon());
#endif
  found.add(kernels::portable());
  return found;
}

const Available& available() noexcept {
  static const Available found = detect();
  return found;
}

}  // namespace

std::span<const std::string_view> available_isas() noexcept {
  return {available().names.data(), available().count};
}

namespace kernels {

const Kernels& require(std::string_view isa) {
  const Available& all = available();
  if (isa == "auto") return *all.tables[0];
  std::string names = "\"auto\"";
  for (std::size_t i = 0; i < all.count; ++i) {
    if (all.names[i] == isa) return *all.tables[i];
    names += ", \"" + std::string(all.names[i]) + "\"";
  }
  throw std::invalid_argument("instruction set \"" + std::string(isa) +
                              "\" is not available here, expected one of " + names);
}

}  // namespace kernels
}  // namespace jepa_edge
