// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace jepa_edge {

/// What a call in the control loop ended with: those calls neither throw nor allocate.
enum class Status : std::uint8_t {
  kOk = 0,
  kNonFiniteInput = 1,   ///< NaN or Inf in a latent, an action or a goal; nothing was computed
  kNonFiniteOutput = 2,  ///< finite inputs, but at least one future diverged
  kBadShape = 3,         ///< sizes disagree with the model or exceed what was reserved at load
  kFailed = 4,           ///< a user's objective raised; the binding holds the reason
};

}  // namespace jepa_edge
