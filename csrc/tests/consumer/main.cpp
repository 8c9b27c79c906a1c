// SPDX-License-Identifier: Apache-2.0
#include <jepa_edge/random.hpp>
#include <jepa_edge/safetensors.hpp>
#include <jepa_edge/thread_pool.hpp>
#include <vector>

int main() {
  std::vector<float> numbers(8);
  jepa_edge::ThreadPool pool(2);
  pool.run(2, [&](std::size_t, std::size_t index) {
    jepa_edge::standard_normal(1, index, std::span(numbers).subspan(4 * index, 4));
  });
  try {
    const jepa_edge::Safetensors none("/nonexistent");
  } catch (const jepa_edge::FileError&) {
    return numbers[0] == numbers[4] ? 1 : 0;
  }
  return 1;
}
