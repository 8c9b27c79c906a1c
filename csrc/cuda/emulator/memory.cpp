// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

#include "api.hpp"
#include "streams.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace jepa_edge::cuda_emulation {
namespace {

struct Allocation {
  std::byte* pages;
  std::size_t room;  ///< of the pages, without the one behind them
  std::size_t bytes;
  bool pinned;

  /// As close to the end of the pages as 32 bytes allow.
  [[nodiscard]] std::byte* start() const { return pages + room - (bytes + 31) / 32 * 32; }
};

struct Allocations {
  std::map<std::uintptr_t, Allocation> by_end;  ///< by the address behind the last byte
  int works = 0;
};
Allocations& allocations() {
  static Allocations instance;
  return instance;
}

void protect(const Allocation& allocation, bool open) {
  mprotect(allocation.pages, allocation.room, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

std::uintptr_t number(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

const Allocation* find(const void* address) {
  const auto& map = allocations().by_end;
  const auto found = map.upper_bound(number(address));
  if (found == map.end() || number(address) < found->first - found->second.bytes) return nullptr;
  return &found->second;
}

/// A page that nobody may touch lies behind it.
cudaError_t allocate(void** memory, std::size_t bytes, bool pinned) {
  *memory = nullptr;
  if (bytes == 0) return cudaSuccess;
  const std::size_t page = page_bytes();
  const std::size_t room = (bytes + page - 1) / page * page;
  void* pages =
      mmap(nullptr, room + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  const Allocation allocation{static_cast<std::byte*>(pages), room, bytes, pinned};
  protect(allocation, true);
  std::byte* end = allocation.start() + bytes;
  std::memset(allocation.start(), 0xFF, bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(pages, room);
  __asan_poison_memory_region(end, static_cast<std::size_t>(allocation.pages + room - end));
#endif
  if (!pinned && allocations().works == 0) protect(allocation, false);
  allocations().by_end.emplace(number(end), allocation);
  *memory = allocation.start();
  return cudaSuccess;
}

cudaError_t release(void* memory, bool pinned) {
  if (memory == nullptr) return cudaSuccess;
  const Allocation* found = find(memory);
  if (found == nullptr || found->pinned != pinned || found->start() != memory) {
    return cudaErrorInvalidValue;
  }
  const Allocation allocation = *found;
  allocations().by_end.erase(number(allocation.start()) + allocation.bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(allocation.pages, allocation.room);
#endif
  munmap(allocation.pages, allocation.room + page_bytes());
  return cudaSuccess;
}

}  // namespace

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Owner owner_of(const void* address, std::size_t bytes) {
  const Allocation* found = find(address);
  if (found == nullptr) return Owner::kHost;
  if (number(address) + bytes > number(found->start()) + found->bytes) {
    throw Failure("a copy or set of " + std::to_string(bytes) + " bytes leaves its allocation of " +
                  std::to_string(found->bytes));
  }
  return found->pinned ? Owner::kPinned : Owner::kDevice;
}

bool is_reachable(const void* address) {
  if (address == nullptr) return true;
  const std::lock_guard lock(mutex());
  // One behind the last byte is where an empty range may point.
  return find(address) != nullptr || allocations().by_end.contains(number(address));
}

DeviceWorks::DeviceWorks() {
  if (allocations().works++ > 0) return;
  for (const auto& [end, allocation] : allocations().by_end) {
    if (!allocation.pinned) protect(allocation, true);
  }
}
DeviceWorks::~DeviceWorks() {
  if (--allocations().works > 0) return;
  for (const auto& [end, allocation] : allocations().by_end) {
    if (!allocation.pinned) protect(allocation, false);
  }
}

}  // namespace jepa_edge::cuda_emulation

using namespace jepa_edge::cuda_emulation;

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  const std::lock_guard lock(mutex());
  if (is_capturing()) return fail(cudaErrorStreamCaptureUnsupported);
  return fail(allocate(memory, bytes, false));
}
cudaError_t cudaFree(void* memory) {
  const std::lock_guard lock(mutex());
  if (memory == nullptr) return cudaSuccess;
  if (is_capturing()) return fail(cudaErrorStreamCaptureUnsupported);
  run_all();
  return fail(release(memory, false));
}
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  const std::lock_guard lock(mutex());
  return fail(allocate(memory, bytes, true));
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}
cudaError_t cudaFreeHost(void* memory) {
  const std::lock_guard lock(mutex());
  run_all();
  return fail(release(memory, true));
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = std::size_t{8} << 30U;
  std::size_t used = 0;
  const std::lock_guard lock(mutex());
  for (const auto& [end, allocation] : allocations().by_end) used += allocation.room;
  *free = *total - std::min(used, *total);
  return cudaSuccess;
}
