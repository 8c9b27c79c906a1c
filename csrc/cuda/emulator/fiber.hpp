// SPDX-License-Identifier: Apache-2.0
// A function with a stack of its own, that can be left in the middle and taken up again.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace jepa_edge::cuda_emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes the next resume() start `body` from its beginning; what ran before is forgotten.
  /// body must not throw, and must end in leave().
  void start(void (*body)());
  /// Runs the fiber until it leaves.
  void resume();
  /// Back to whoever resumed. Only from within.
  void leave();

 private:
  static void enter();

  std::byte* stack_;  // a page that must not be touched, then the stack
  void (*body_)() = nullptr;
#if defined(__x86_64__)
  void* here_ = nullptr;  // stack pointers
  void* there_ = nullptr;
#else
  ucontext_t here_{};
  ucontext_t there_{};
#endif
  // What AddressSanitizer must know of stacks.
  void* fake_here_ = nullptr;
  void* fake_there_ = nullptr;
  const void* there_bottom_ = nullptr;
  std::size_t there_size_ = 0;
};

}  // namespace jepa_edge::cuda_emulation
