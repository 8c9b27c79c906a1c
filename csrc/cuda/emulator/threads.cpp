// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fiber.hpp"

thread_local uint3 threadIdx;
thread_local uint3 blockIdx;
thread_local dim3 blockDim;
thread_local dim3 gridDim;

namespace jepa_edge::cuda_emulation {
namespace {

constexpr std::size_t kSharedAlign = 128;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Thread {
  Fiber fiber;
  uint3 index{};
  State state = State::kReady;
  Place place{};
  unsigned mask = 0;
  void* brought = nullptr;
  void (*resolve)(const Lanes&) = nullptr;
};

/// Bits of lanes.
struct Warp {
  unsigned alive = 0;
  unsigned waiting = 0;  ///< at a meeting of the warp
  bool ended = false;    ///< a lane has, since the others began to wait
};

/// The block that runs on this thread of the host.
struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<std::byte> shared;
  std::size_t count = 0;  ///< of this block's threads; the others are spare
  std::size_t waiting = 0;
  std::size_t done = 0;
  std::size_t current = 0;
  const std::function<void()>* kernel = nullptr;
  std::exception_ptr thrown;
  std::uint64_t launches = 0;
};

thread_local Block block;

std::string at(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

void run_thread() {
  try {
    (*block.kernel)();
  } catch (...) {
    block.thrown = std::current_exception();
  }
  Thread& self = *block.threads[block.current];
  self.state = State::kDone;
  ++block.done;
  Warp& warp = block.warps[block.current / 32];
  warp.alive &= ~(1U << block.current % 32);
  warp.ended = true;
  self.fiber.leave();
}

void leave() { block.threads[block.current]->fiber.leave(); }

/// A block barrier opens when all threads came; one that has ended never comes.
void open_block_barrier() {
  const Place place = block.threads[block.current]->place;
  for (std::size_t i = 0; i < block.count; ++i) {
    Thread& thread = *block.threads[i];
    if (thread.place.line != place.line || std::string_view(thread.place.file) != place.file) {
      throw Failure("threads of a block meet at different barriers: " + at(place) + " and " +
                    at(thread.place));
    }
    thread.state = State::kReady;
  }
  block.waiting = 0;
}

/// Lets the warp's meeting take place if all that live in the mask have come.
void try_warp_meeting(std::size_t index) {
  const Thread& self = *block.threads[index];
  const std::size_t first = index / 32 * 32;
  Warp& warp = block.warps[index / 32];
  const unsigned come = self.mask & warp.alive;
  if ((come & ~warp.waiting) != 0) return;
  Lanes lanes{};
  static thread_local char nothing;
  for (std::size_t lane = 0; lane < 32; ++lane) {
    if ((come >> lane & 1U) == 0) continue;
    const Thread& other = *block.threads[first + lane];
    if (other.mask != self.mask) return;
    if (other.resolve != self.resolve) {
      throw Failure("lanes of a warp meet for different things: " + at(self.place) + " and " +
                    at(other.place));
    }
    lanes[lane] = other.brought != nullptr ? other.brought : &nothing;
  }
  if (self.resolve != nullptr) self.resolve(lanes);
  for (std::size_t lane = 0; lane < 32; ++lane) {
    if (lanes[lane] != nullptr) block.threads[first + lane]->state = State::kReady;
  }
  warp.waiting &= ~come;
}

[[noreturn]] void report_stuck() {
  for (std::size_t i = 0; i < block.count; ++i) {
    const Thread& thread = *block.threads[i];
    if (thread.state == State::kDone) continue;
    throw Failure("a kernel hangs: thread " + std::to_string(i) + " of " +
                  std::to_string(block.count) + " waits at the " +
                  (thread.state == State::kAtBlock ? "block's" : "warp's") + " meeting at " +
                  at(thread.place) + ", to which not all threads come (" +
                  std::to_string(block.done) + " have ended)");
  }
  throw Failure("a kernel hangs");
}

void run_block(bool backwards) {
  block.done = 0;
  block.waiting = 0;
  block.thrown = nullptr;
  block.warps.assign((block.count + 31) / 32, {});
  for (std::size_t n = 0; n < block.count; ++n) block.warps[n / 32].alive |= 1U << n % 32;
  std::size_t i = 0;
  for (unsigned z = 0; z < blockDim.z; ++z) {
    for (unsigned y = 0; y < blockDim.y; ++y) {
      for (unsigned x = 0; x < blockDim.x; ++x) {
        Thread& thread = *block.threads[i++];
        thread.index = {x, y, z};
        thread.state = State::kReady;
        thread.fiber.start(run_thread);
      }
    }
  }
  while (block.done < block.count) {
    bool moved = false;
    for (std::size_t n = 0; n < block.count; ++n) {
      block.current = backwards ? block.count - 1 - n : n;
      Thread& thread = *block.threads[block.current];
      if (thread.state == State::kAtWarp && block.warps[block.current / 32].ended) {
        try_warp_meeting(block.current);
      }
      if (thread.state != State::kReady) continue;
      moved = true;
      threadIdx = thread.index;
      thread.fiber.resume();
      if (block.thrown != nullptr) std::rethrow_exception(block.thrown);
    }
    if (!moved) report_stuck();
  }
}

}  // namespace

void run_grid(const dim3& blocks, const dim3& threads, std::size_t shared_bytes,
              const std::function<void()>& kernel) {
  gridDim = blocks;
  blockDim = threads;
  block.kernel = &kernel;
  block.count = static_cast<std::size_t>(threads.x) * threads.y * threads.z;
  while (block.threads.size() < block.count) block.threads.push_back(std::make_unique<Thread>());
  const bool odd = block.launches++ % 2 == 1;
  const std::size_t count = static_cast<std::size_t>(blocks.x) * blocks.y * blocks.z;
  for (std::size_t n = 0; n < count; ++n) {
    const std::size_t i = odd ? count - 1 - n : n;
    blockIdx = {static_cast<unsigned>(i % blocks.x), static_cast<unsigned>(i / blocks.x % blocks.y),
                static_cast<unsigned>(i / blocks.x / blocks.y)};
    block.shared.assign(shared_bytes + 2 * kSharedAlign, std::byte{0xFF});
    run_block((i + (odd ? 1 : 0)) % 2 == 1);
    const auto* end = static_cast<std::byte*>(dynamic_shared_bytes()) + shared_bytes;
    if (*std::min_element(end, end + kSharedAlign) != std::byte{0xFF}) {
      throw Failure("a kernel wrote beyond its " + std::to_string(shared_bytes) +
                    " bytes of dynamic shared memory");
    }
  }
}

void* dynamic_shared_bytes() {
  const auto start = reinterpret_cast<std::uintptr_t>(block.shared.data());
  return block.shared.data() + (kSharedAlign - start % kSharedAlign) % kSharedAlign;
}

void block_barrier(Place place) {
  Thread& self = *block.threads[block.current];
  self.state = State::kAtBlock;
  self.place = place;
  if (++block.waiting == block.count) {
    open_block_barrier();
  } else {
    leave();
  }
}

void warp_meeting(unsigned mask, void* brought, void (*resolve)(const Lanes&), Place place) {
  Thread& self = *block.threads[block.current];
  if ((mask >> lane_index() & 1U) == 0) {
    throw Failure("a lane is not in the mask of its own meeting: " + at(place));
  }
  Warp& warp = block.warps[block.current / 32];
  if (warp.waiting == 0) warp.ended = false;
  warp.waiting |= 1U << lane_index();
  self.state = State::kAtWarp;
  self.place = place;
  self.mask = mask;
  self.brought = brought;
  self.resolve = resolve;
  try_warp_meeting(block.current);
  if (self.state != State::kReady) leave();
}

unsigned lane_index() { return static_cast<unsigned>(block.current % 32); }

}  // namespace jepa_edge::cuda_emulation
