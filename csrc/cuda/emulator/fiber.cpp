// SPDX-License-Identifier: Apache-2.0
#include "fiber.hpp"

#include <sys/mman.h>

#include <new>

#include "memory.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// void jepa_edge_fiber_switch(void** save, void* load): what a call must preserve goes on the
// stack, the stack pointer is exchanged, and the other side's comes off its own.
extern "C" void jepa_edge_fiber_switch(void** save, void* load);
asm(R"(
.text
.globl jepa_edge_fiber_switch
.hidden jepa_edge_fiber_switch
.type jepa_edge_fiber_switch, @function
jepa_edge_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size jepa_edge_fiber_switch, .-jepa_edge_fiber_switch
)");
#endif

namespace jepa_edge::cuda_emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStack = std::size_t{256} << 10U;
#else
constexpr std::size_t kStack = std::size_t{64} << 10U;  // a multiple of every page size
#endif

thread_local Fiber* entering = nullptr;

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, page_bytes() + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<std::byte*>(memory);
  mprotect(stack_, page_bytes(), PROT_NONE);
}

Fiber::~Fiber() { munmap(stack_, page_bytes() + kStack); }

void Fiber::start(void (*body)()) {
  body_ = body;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_ + page_bytes(), kStack);
#endif
  fake_here_ = nullptr;
#if defined(__x86_64__)
  // Six preserved registers, the address to return to, and the return address of that function.
  auto** top = reinterpret_cast<void**>(stack_ + page_bytes() + kStack);
  for (int i = 1; i <= 8; ++i) top[-i] = nullptr;
  top[-2] = reinterpret_cast<void*>(&Fiber::enter);
  here_ = top - 8;
#else
  getcontext(&here_);
  here_.uc_stack.ss_sp = stack_ + page_bytes();
  here_.uc_stack.ss_size = kStack;
  here_.uc_link = nullptr;
  makecontext(&here_, &Fiber::enter, 0);
#endif
}

void Fiber::enter() {
  Fiber* fiber = entering;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &fiber->there_bottom_, &fiber->there_size_);
#endif
  fiber->body_();
  __builtin_trap();
}

void Fiber::resume() {
  entering = this;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_there_, stack_ + page_bytes(), kStack);
#endif
#if defined(__x86_64__)
  jepa_edge_fiber_switch(&there_, here_);
#else
  swapcontext(&there_, &here_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_there_, nullptr, nullptr);
#endif
}

void Fiber::leave() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_here_, there_bottom_, there_size_);
#endif
#if defined(__x86_64__)
  jepa_edge_fiber_switch(&here_, there_);
#else
  swapcontext(&here_, &there_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_here_, &there_bottom_, &there_size_);
#endif
}

}  // namespace jepa_edge::cuda_emulation
