// SPDX-License-Identifier: Apache-2.0
// CUDA on the CPU, for tests alone: kernels and their host code run unchanged, slowly, and
// strictly.
//
// Blocks run one after another, in turn from the first and from the last. The threads of a block
// are fibers, in turn from the first and from the last as well, that switch where threads meet: at
// __syncthreads, __syncwarp, shuffles, ballots and matrix products. A meeting that not all of its
// threads come to is a failure. Memory of the device is full of NaN at first, ends at a page that
// must not be touched, and is closed to the host. Work on a stream waits until somebody waits for
// it, so that a forgotten wait shows.
//
// Not here: inline PTX, cooperative groups, textures, dynamic parallelism, <<<>>>.
#pragma once

#include "api.hpp"
#include "functions.hpp"
#include "numbers.hpp"
#include "threads.hpp"
#include "vectors.hpp"
#include "warp_matrix.hpp"
