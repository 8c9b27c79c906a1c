// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

#include "jepa_edge/predictor.hpp"

namespace jepa_edge {

/// The most operations per second (2 per product) that one core does in a precision, in units of
/// 1e9: dot products on registers alone, best of several short runs, in this thread's CPU time.
/// Throws std::invalid_argument for an instruction set that is not there.
[[nodiscard]] double measure_peak(Precision precision, std::string_view isa = "auto");

/// Milliseconds of this thread's CPU time for one packed product (rows, inputs) x (inputs,
/// outputs), best of several runs, operands in cache: what the engine's own kernels would need for
/// a layer. Throws std::invalid_argument for an instruction set that is not there.
[[nodiscard]] double measure_product(Precision precision, std::size_t rows, std::size_t inputs,
                                     std::size_t outputs, std::string_view isa = "auto");

}  // namespace jepa_edge
