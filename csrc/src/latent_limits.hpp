// SPDX-License-Identifier: Apache-2.0
// Bounds of a latent variable's heads, the same on every backend.
#pragma once

namespace jepa_edge::latent {

/// Standardized inputs are cut here: a head must not extrapolate without bounds on a new scene.
inline constexpr float kInputLimit = 6.0F;

/// The head may move a log variance this far from its average over the fitting data.
inline constexpr float kLogLimit = 3.0F;

}  // namespace jepa_edge::latent
