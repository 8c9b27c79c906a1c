// SPDX-License-Identifier: Apache-2.0
// Attention of one frame's tokens over all frames that it sees, itself last. Nothing is masked: a
// frame sees its own tokens and those of older frames whole (V-JEPA 2-AC's block-causal attention).
// Source of the online softmax: Dao et al. 2022 (https://arxiv.org/abs/2205.14135), algorithm 1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "launch.hpp"

namespace jepa_edge::cuda {

constexpr unsigned kMostFrames = 8;  ///< in a window, as in training

/// Keys and values by frame, oldest first: (rows, heads, tokens, padded head) each.
template <typename T>
struct SeenFrames {
  const T* keys[kMostFrames];
  const T* values[kMostFrames];
  std::size_t row_stride[kMostFrames];  ///< numbers to the next row's; 0 where rows share a frame
  unsigned count;
};

struct AttentionShape {
  unsigned tokens;  ///< of a frame
  unsigned heads;
  unsigned head_dim;  ///< numbers of a head that count; the rest of a padded head is zero
  unsigned width;     ///< numbers from one token to the next in what comes out
  float scale;        ///< of the scores, times log2(e): the exponentials are powers of two
};

constexpr unsigned kKeyTile = 64;   ///< keys in shared memory at once
constexpr unsigned kRowTile = 16;   ///< queries of a warp
constexpr unsigned kHeadSlack = 8;  ///< between rows in shared memory, against bank conflicts
constexpr unsigned kScoreLead = kKeyTile + 4;

/// 16 bytes, moved as one.
struct alignas(16) Sixteen {
  std::uint32_t words[4];
};

/// Sizes in shared memory of a head of 16 * tiles numbers.
template <unsigned kTiles>
struct FlashMemory {
  static constexpr unsigned kHead = 16 * kTiles;
  static constexpr unsigned kLead = kHead + kHeadSlack;
  /// Queries of a warp, later its weights: rows long enough for both.
  static constexpr unsigned kWeightLead = (kHead > kKeyTile ? kHead : kKeyTile) + kHeadSlack;
  static constexpr std::size_t bytes(unsigned warps) {
    const std::size_t tile = 2 * sizeof(std::uint16_t) * kKeyTile * kLead;
    const std::size_t own = sizeof(std::uint16_t) * kRowTile * kWeightLead +
                            sizeof(float) * kRowTile * kScoreLead + sizeof(float) * kRowTile;
    return tile + warps * own;
  }
};

/// 16-bit T on the matrix units, sums in float32. One block per (tile of queries, head, row), of
/// any number of warps; each has 16 queries. Dynamic shared memory: FlashMemory.
/// queries (rows, heads, tokens, 16 * kTiles); mixed (rows, tokens, width).
template <typename T, unsigned kTiles>
__global__ void flash_attention(const T* queries, SeenFrames<T> seen, T* mixed,
                                AttentionShape shape) {
  namespace wmma = nvcuda::wmma;
  using Memory = FlashMemory<kTiles>;
  using Sums = wmma::fragment<wmma::accumulator, 16, 16, 16, float>;
  constexpr unsigned kHead = Memory::kHead;
  constexpr unsigned kLead = Memory::kLead;
  constexpr unsigned kWords = kHead * sizeof(T) / sizeof(Sixteen);  // of a row, in Sixteen
  constexpr unsigned kSub = kKeyTile / 16;

  const unsigned warps = blockDim.x / 32;
  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  T* const key_tile = dynamic_shared<T>();
  T* const value_tile = key_tile + kKeyTile * kLead;
  T* const all_weights = value_tile + kKeyTile * kLead;
  T* const weights = all_weights + warp * kRowTile * Memory::kWeightLead;
  float* const all_scores =
      reinterpret_cast<float*>(all_weights + warps * kRowTile * Memory::kWeightLead);
  float* const scores = all_scores + warp * kRowTile * kScoreLead;
  float* const factors = all_scores + warps * kRowTile * kScoreLead + warp * kRowTile;

  const unsigned head = blockIdx.y;
  const std::size_t row = blockIdx.z;
  const unsigned first_query = (blockIdx.x * warps + warp) * kRowTile;
  const bool active = first_query < shape.tokens;
  const std::size_t of_head = std::size_t{head} * shape.tokens * kHead;

  wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> query[kTiles];
  Sums sums[kTiles];
  Sums rows;  // which row each number of a fragment belongs to: the layout is the chip's own
  if (active) {
    const T* const from = queries + row * shape.heads * shape.tokens * kHead + of_head;
    for (unsigned i = lane; i < kRowTile * kWords; i += 32) {
      const unsigned q = i / kWords;
      Sixteen piece{};
      if (first_query + q < shape.tokens) {
        piece = reinterpret_cast<const Sixteen*>(from + (first_query + q) * kHead)[i % kWords];
      }
      reinterpret_cast<Sixteen*>(weights + q * Memory::kWeightLead)[i % kWords] = piece;
    }
    for (unsigned i = lane; i < kRowTile * 16; i += 32) {
      scores[i / 16 * kScoreLead + i % 16] = static_cast<float>(i / 16);
    }
    __syncwarp();
    wmma::load_matrix_sync(rows, scores, kScoreLead, wmma::mem_row_major);
    for (unsigned i = 0; i < kTiles; ++i) {
      wmma::load_matrix_sync(query[i], weights + 16 * i, Memory::kWeightLead);
      wmma::fill_fragment(sums[i], 0.0F);
    }
  }

  // Two lanes per query, for its even and its odd keys.
  const unsigned mine = lane / 2;
  const unsigned side = lane % 2;
  float highest = -INFINITY;
  float total = 0.0F;
  for (unsigned frame = 0; frame < seen.count; ++frame) {
    const T* const keys = seen.keys[frame] + row * seen.row_stride[frame] + of_head;
    const T* const values = seen.values[frame] + row * seen.row_stride[frame] + of_head;
    for (unsigned first = 0; first < shape.tokens; first += kKeyTile) {
      const unsigned left = shape.tokens - first;
      const unsigned here = left < kKeyTile ? left : kKeyTile;
      const unsigned subtiles = (here + 15) / 16;
      __syncthreads();
      for (unsigned i = threadIdx.x; i < 16 * subtiles * kWords; i += blockDim.x) {
        const unsigned k = i / kWords;
        Sixteen key{};
        Sixteen value{};
        if (k < here) {
          key = reinterpret_cast<const Sixteen*>(keys + (first + k) * kHead)[i % kWords];
          value = reinterpret_cast<const Sixteen*>(values + (first + k) * kHead)[i % kWords];
        }
        reinterpret_cast<Sixteen*>(key_tile + k * kLead)[i % kWords] = key;
        reinterpret_cast<Sixteen*>(value_tile + k * kLead)[i % kWords] = value;
      }
      __syncthreads();
      if (!active) continue;

      for (unsigned j = 0; j < kSub; ++j) {
        if (j >= subtiles) break;
        Sums score;
        wmma::fill_fragment(score, 0.0F);
        for (unsigned i = 0; i < kTiles; ++i) {
          // Rows of keys are columns of their transpose.
          wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::col_major> key;
          wmma::load_matrix_sync(key, key_tile + 16 * j * kLead + 16 * i, kLead);
          wmma::mma_sync(score, query[i], key, score);
        }
        wmma::store_matrix_sync(scores + 16 * j, score, kScoreLead, wmma::mem_row_major);
      }
      __syncwarp();

      float best = highest;
      for (unsigned k = side; k < here; k += 2) {
        best = fmaxf(best, shape.scale * scores[mine * kScoreLead + k]);
      }
      best = fmaxf(best, __shfl_xor_sync(0xFFFFFFFFU, best, 1));
      const float factor = exp2f(highest - best);
      float sum = 0.0F;
      for (unsigned k = side; k < 16 * subtiles; k += 2) {
        const float weight =
            k < here ? exp2f(shape.scale * scores[mine * kScoreLead + k] - best) : 0.0F;
        sum += weight;
        weights[mine * Memory::kWeightLead + k] = static_cast<T>(weight);
      }
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
      total = total * factor + sum;
      highest = best;
      if (side == 0) factors[mine] = factor;
      __syncwarp();

      for (unsigned e = 0; e < static_cast<unsigned>(Sums::num_elements); ++e) {
        const float correction = factors[static_cast<unsigned>(rows.x[e])];
        for (unsigned i = 0; i < kTiles; ++i) sums[i].x[e] *= correction;
      }
      for (unsigned j = 0; j < kSub; ++j) {
        if (j >= subtiles) break;
        wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> weight;
        wmma::load_matrix_sync(weight, weights + 16 * j, Memory::kWeightLead);
        for (unsigned i = 0; i < kTiles; ++i) {
          wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::row_major> value;
          wmma::load_matrix_sync(value, value_tile + 16 * j * kLead + 16 * i, kLead);
          wmma::mma_sync(sums[i], weight, value, sums[i]);
        }
      }
      __syncwarp();
    }
  }
  if (!active) return;
  if (side == 0) factors[mine] = 1.0F / total;
  T* const to = mixed + (row * shape.tokens + first_query) * shape.width + head * shape.head_dim;
  for (unsigned begin = 0; begin < kTiles; begin += kSub) {
    __syncwarp();
    for (unsigned i = begin; i < begin + kSub && i < kTiles; ++i) {
      wmma::store_matrix_sync(scores + 16 * (i - begin), sums[i], kScoreLead, wmma::mem_row_major);
    }
    __syncwarp();
    const unsigned columns =
        16 * begin >= shape.head_dim ? 0 : min(shape.head_dim - 16 * begin, kKeyTile);
    for (unsigned i = lane; i < kRowTile * columns; i += 32) {
      const unsigned q = i / columns;
      const unsigned c = i % columns;
      if (first_query + q < shape.tokens) {
        to[std::size_t{q} * shape.width + 16 * begin + c] =
            static_cast<T>(scores[q * kScoreLead + c] * factors[q]);
      }
    }
  }
}

constexpr unsigned kPlainWarps = 4;
constexpr unsigned kPlainQueries = 4;  ///< of a warp
constexpr unsigned kPlainKeys = 32;    ///< one per lane
constexpr unsigned kPlainLanes = 4;    ///< numbers of a head per lane, at most

/// Dynamic shared memory of plain_attention, bytes.
constexpr std::size_t plain_attention_bytes(unsigned head) {
  return sizeof(float) * (2 * kPlainKeys + kPlainWarps * kPlainQueries) * (head + 1);
}

/// The same in float32, without matrix units. Blocks of 4 warps, one per (16 queries, head, row).
/// head: numbers of a padded head, at most 128.
[[maybe_unused]] static __global__ void plain_attention(const float* queries,
                                                        SeenFrames<float> seen, float* mixed,
                                                        AttentionShape shape, unsigned head_size) {
  const unsigned lead = head_size + 1;
  float* const key_tile = dynamic_shared<float>();
  float* const value_tile = key_tile + kPlainKeys * lead;
  float* const query_tile = value_tile + kPlainKeys * lead;

  const unsigned warp = threadIdx.x / 32;
  const unsigned lane = threadIdx.x % 32;
  const unsigned head = blockIdx.y;
  const std::size_t row = blockIdx.z;
  const unsigned first_query = blockIdx.x * kPlainWarps * kPlainQueries;
  const std::size_t of_head = std::size_t{head} * shape.tokens * head_size;
  const float* const from = queries + row * shape.heads * shape.tokens * head_size + of_head;
  for (unsigned i = threadIdx.x; i < kPlainWarps * kPlainQueries * head_size; i += blockDim.x) {
    const unsigned q = i / head_size;
    const bool there = first_query + q < shape.tokens;
    query_tile[q * lead + i % head_size] =
        there ? from[(first_query + q) * head_size + i % head_size] : 0.0F;
  }

  float highest[kPlainQueries];
  float total[kPlainQueries];
  float sums[kPlainQueries][kPlainLanes];
  for (unsigned q = 0; q < kPlainQueries; ++q) {
    highest[q] = -INFINITY;
    total[q] = 0.0F;
    for (unsigned i = 0; i < kPlainLanes; ++i) sums[q][i] = 0.0F;
  }
  for (unsigned frame = 0; frame < seen.count; ++frame) {
    const float* const keys = seen.keys[frame] + row * seen.row_stride[frame] + of_head;
    const float* const values = seen.values[frame] + row * seen.row_stride[frame] + of_head;
    for (unsigned first = 0; first < shape.tokens; first += kPlainKeys) {
      const unsigned here = min(shape.tokens - first, kPlainKeys);
      __syncthreads();
      for (unsigned i = threadIdx.x; i < here * head_size; i += blockDim.x) {
        const unsigned k = i / head_size;
        key_tile[k * lead + i % head_size] = keys[std::size_t{first} * head_size + i];
        value_tile[k * lead + i % head_size] = values[std::size_t{first} * head_size + i];
      }
      __syncthreads();
      for (unsigned q = 0; q < kPlainQueries; ++q) {
        const float* const query = query_tile + (warp * kPlainQueries + q) * lead;
        float score = -INFINITY;
        if (lane < here) {
          score = 0.0F;
          for (unsigned i = 0; i < head_size; ++i) score += query[i] * key_tile[lane * lead + i];
          score *= shape.scale;
        }
        float best = fmaxf(highest[q], score);
        for (unsigned step = 16; step > 0; step /= 2) {
          best = fmaxf(best, __shfl_xor_sync(0xFFFFFFFFU, best, step));
        }
        const float factor = exp2f(highest[q] - best);
        const float weight = lane < here ? exp2f(score - best) : 0.0F;
        float sum = weight;
        for (unsigned step = 16; step > 0; step /= 2) {
          sum += __shfl_xor_sync(0xFFFFFFFFU, sum, step);
        }
        total[q] = total[q] * factor + sum;
        highest[q] = best;
        for (unsigned i = 0; i < kPlainLanes; ++i) sums[q][i] *= factor;
        for (unsigned k = 0; k < here; ++k) {
          const float seen_weight = __shfl_sync(0xFFFFFFFFU, weight, k);
          for (unsigned i = 0; i < kPlainLanes; ++i) {
            const unsigned c = lane + 32 * i;
            if (c < head_size) sums[q][i] += seen_weight * value_tile[k * lead + c];
          }
        }
      }
    }
  }
  for (unsigned q = 0; q < kPlainQueries; ++q) {
    const unsigned query = first_query + warp * kPlainQueries + q;
    if (query >= shape.tokens) break;
    float* const to = mixed + (row * shape.tokens + query) * shape.width + head * shape.head_dim;
    for (unsigned i = 0; i < kPlainLanes; ++i) {
      const unsigned c = lane + 32 * i;
      if (c < shape.head_dim) to[c] = sums[q][i] / total[q];
    }
  }
}

}  // namespace jepa_edge::cuda
