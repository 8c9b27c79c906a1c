// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

#include "jepa_edge/thread_pool.hpp"
#include "support/allocation_counter.hpp"

using jepa_edge::ThreadPool;

TEST_CASE("every index is run once, by a worker of the pool") {
  for (const std::size_t workers : {1U, 2U, 3U, 8U}) {
    ThreadPool pool(workers);
    CHECK(pool.workers() == workers);
    for (const std::size_t count : {0U, 1U, 2U, 7U, 1000U}) {
      std::vector<int> runs(count, 0);  // not atomic: a second runner is a race that TSan sees
      std::vector<std::size_t> by(count, std::numeric_limits<std::size_t>::max());
      pool.run(count, [&](std::size_t worker, std::size_t index) {
        ++runs[index];
        by[index] = worker;
      });
      for (std::size_t index = 0; index < count; ++index) {
        REQUIRE(runs[index] == 1);
        REQUIRE(by[index] < workers);
      }
    }
  }
}

TEST_CASE("jobs in quick succession see their own task and each other's results") {
  ThreadPool pool(4);
  std::vector<std::size_t> values(5, 0);
  for (std::size_t round = 0; round < 3000; ++round) {
    // The task lives on this round's stack: a worker that comes late must not touch it.
    const auto add = [&values, round](std::size_t, std::size_t index) { values[index] += round; };
    pool.run(1 + round % values.size(), add);
  }
  std::vector<std::size_t> expected(values.size(), 0);
  for (std::size_t round = 0; round < 3000; ++round) {
    for (std::size_t index = 0; index <= round % values.size(); ++index) {
      expected[index] += round;
    }
  }
  CHECK(values == expected);
}

TEST_CASE("workers that sleep wake up, and help") {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than they spin
    // Both must be inside at once for either to get out.
    std::atomic<int> inside{0};
    pool.run(2, [&](std::size_t, std::size_t) {
      inside.fetch_add(1);
      while (inside.load() < 2) {
        std::this_thread::yield();
      }
    });
    CHECK(inside.load() == 2);
  }
}

TEST_CASE("the caller sleeps until the slowest worker is done") {
  ThreadPool pool(3);
  std::atomic<int> done{0};
  pool.run(3, [&](std::size_t, std::size_t index) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * index));
    done.fetch_add(1);
  });
  CHECK(done.load() == 3);
}

TEST_CASE("two workers' scratch memory is never shared") {
  ThreadPool pool(3);
  std::vector<std::size_t> scratch(pool.workers() * 64, 0);
  for (int round = 0; round < 100; ++round) {
    pool.run(20, [&](std::size_t worker, std::size_t) { ++scratch[worker * 64]; });
  }
  std::size_t total = 0;
  for (const std::size_t count : scratch) {
    total += count;
  }
  CHECK(total == 2000);
}

TEST_CASE("small jobs stay on the caller") {
  ThreadPool pool(4);
  const auto caller = std::this_thread::get_id();
  for (int round = 0; round < 100; ++round) {
    pool.run(1, [&](std::size_t worker, std::size_t index) {
      CHECK(worker == 0);
      CHECK(index == 0);
      CHECK(std::this_thread::get_id() == caller);
    });
  }
}

TEST_CASE("a pool that idles or was never used can go") {
  for (int round = 0; round < 20; ++round) {
    ThreadPool unused(3);
    ThreadPool used(3);
    used.run(5, [](std::size_t, std::size_t) {});
    if (round % 2 == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

TEST_CASE("pools of several threads do not meet") {
  std::atomic<int> total{0};
  const auto owner = [&] {
    ThreadPool pool(2);
    for (int round = 0; round < 200; ++round) {
      pool.run(4, [&](std::size_t, std::size_t) { total.fetch_add(1); });
    }
  };
  std::thread other(owner);
  owner();
  other.join();
  CHECK(total.load() == 1600);
}

TEST_CASE("running a job allocates nothing") {
  ThreadPool pool(3);
  std::vector<int> runs(100, 0);
  const jepa_edge::testing::AllocationCounter counter;
  for (int round = 0; round < 50; ++round) {
    pool.run(runs.size(), [&](std::size_t, std::size_t index) { ++runs[index]; });
  }
  const std::size_t allocations = counter.count();
  CHECK(allocations == 0);
  CHECK(runs == std::vector<int>(100, 50));
}

TEST_CASE("a pool of nobody is refused") { CHECK_THROWS_AS(ThreadPool(0), std::invalid_argument); }
