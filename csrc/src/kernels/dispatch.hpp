// SPDX-License-Identifier: Apache-2.0
// Apart from kernels.hpp: files compiled for one instruction set see no standard library templates.
#pragma once

#include <string_view>

#include "kernels.hpp"

namespace jepa_edge::kernels {

/// The table named so, or of the best instruction set for "auto".
/// Throws std::invalid_argument when this processor or build has none of that name.
const Kernels& require(std::string_view isa);

}  // namespace jepa_edge::kernels
