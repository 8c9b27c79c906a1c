// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime with owners: errors are exceptions at load, memory and streams free themselves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "portable.hpp"

namespace jepa_edge::cuda {

/// The driver, the device or a launch failed. The message says what was asked for.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws CudaError unless a runtime call went well. what: the call, for the message.
void check(cudaError_t status, const char* what);

struct DeviceInfo {
  std::string name;
  int major;
  int minor;
  int processors;  ///< streaming multiprocessors
  std::size_t memory_bytes;
  std::size_t shared_bytes;  ///< that one block may ask for
  int driver;                ///< 13000 for 13.0
  int runtime;
};

/// Throws CudaError without a driver or device, with how to fix it.
[[nodiscard]] DeviceInfo device_info(int device = 0);

/// Memory on the device. Never resized.
template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t count) : count_(count) {
    if (count > 0)
      check(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T)), "cudaMalloc");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }

  /// Copies from the host and waits: at load only.
  void upload(std::span<const T> values) {
    if (values.size() > count_) throw std::invalid_argument("upload exceeds its buffer");
    check(cudaMemcpy(data_, values.data(), values.size_bytes(), cudaMemcpyHostToDevice),
          "cudaMemcpy to the device");
    // The call may return while the copy is under way, and our streams do not wait for its.
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
};

/// Page-locked memory of the host, which copies can run beside.
template <typename T>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::size_t count) : count_(count) {
    if (count > 0) {
      check(cudaMallocHost(reinterpret_cast<void**>(&data_), count * sizeof(T)), "cudaMallocHost");
    }
  }
  ~PinnedBuffer() { cudaFreeHost(data_); }
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] std::span<T> span() const noexcept { return {data_, count_}; }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
};

/// A stream of its own, that does not wait for the default one.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }
  void wait() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// What was enqueued on a stream between begin and end, to be replayed at once.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  /// enqueue(): only launches, asynchronous copies and sets on the stream; no waiting, no memory.
  template <typename Enqueue>
  static Graph capture(const Stream& stream, Enqueue&& enqueue) {
    begin(stream);
    try {
      std::forward<Enqueue>(enqueue)();
    } catch (...) {
      abandon(stream);
      throw;
    }
    return end(stream);
  }
  void replay(const Stream& stream) const;
  [[nodiscard]] explicit operator bool() const noexcept { return graph_ != nullptr; }

 private:
  static void begin(const Stream& stream);
  static void abandon(const Stream& stream) noexcept;
  static Graph end(const Stream& stream);
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace jepa_edge::cuda
