// SPDX-License-Identifier: Apache-2.0
// What was allocated, for whom, and who may touch it now.
#pragma once

#include <cstddef>

namespace jepa_edge::cuda_emulation {

/// Of the machine: 4 KB, or more on some ARM systems.
std::size_t page_bytes();

enum class Owner { kHost, kDevice, kPinned };

/// Whose memory [address, address + bytes) is; throws Failure where it leaves its allocation.
Owner owner_of(const void* address, std::size_t bytes);

/// While one exists the device works: its memory is open.
class DeviceWorks {
 public:
  DeviceWorks();
  ~DeviceWorks();
  DeviceWorks(const DeviceWorks&) = delete;
  DeviceWorks& operator=(const DeviceWorks&) = delete;
};

}  // namespace jepa_edge::cuda_emulation
