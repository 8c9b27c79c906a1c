// SPDX-License-Identifier: Apache-2.0
#include "streams.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "memory.hpp"

using jepa_edge::cuda_emulation::DeviceWorks;
using jepa_edge::cuda_emulation::fail;
using jepa_edge::cuda_emulation::Failure;
using jepa_edge::cuda_emulation::is_capturing;
using jepa_edge::cuda_emulation::mutex;
using jepa_edge::cuda_emulation::Owner;
using jepa_edge::cuda_emulation::owner_of;
using jepa_edge::cuda_emulation::run_all;

using Work = std::function<void()>;
using Lock = std::lock_guard<std::recursive_mutex>;

struct CUgraph_st {
  std::vector<Work> nodes;
  std::vector<cudaStream_t> joined;  ///< streams that an event brought into the capture
};
struct CUgraphExec_st {
  std::vector<Work> nodes;
};
struct CUstream_st {
  std::shared_ptr<CUgraph_st> capture;  ///< null where it does not capture
  bool owns_capture = false;
};
struct CUevent_st {
  std::shared_ptr<CUgraph_st> capture;
  std::uint64_t position = 0;  ///< behind the last work before it
  std::chrono::steady_clock::time_point time{};
  bool recorded = false;
};

namespace {

struct Queue {
  struct Item {
    cudaStream_t stream;
    Work work;
  };
  std::deque<Item> items;
  std::uint64_t first = 0;  ///< position of items.front()
  std::map<const void*, std::size_t> allowed_shared;
  int captures = 0;
  cudaError_t last = cudaSuccess;
  std::string failure;
};
Queue& queue() {
  static Queue instance;
  return instance;
}

constexpr std::size_t kSharedBytes = 48U << 10U;
constexpr std::size_t kMostSharedBytes = 163U << 10U;  // of an Orin

/// Runs what was enqueued before a position, on all streams: an order that every event allows.
cudaError_t run_until(std::uint64_t position) {
  Queue& q = queue();
  if (!q.failure.empty()) return fail(cudaErrorLaunchFailure);
  if (q.first >= position || q.items.empty()) return cudaSuccess;
  const DeviceWorks works;
  while (q.first < position && !q.items.empty()) {
    const Work work = std::move(q.items.front().work);
    q.items.pop_front();
    ++q.first;
    try {
      work();
    } catch (const std::exception& error) {
      q.failure = error.what();
      std::fprintf(stderr, "emulated CUDA: %s\n", error.what());
      q.first += q.items.size();
      q.items.clear();
      return fail(cudaErrorLaunchFailure);
    }
  }
  return cudaSuccess;
}

std::uint64_t end_of(cudaStream_t stream) {
  const Queue& q = queue();
  for (std::size_t i = q.items.size(); i > 0; --i) {
    if (q.items[i - 1].stream == stream) return q.first + i;
  }
  return 0;
}

cudaError_t enqueue(cudaStream_t stream, Work work) {
  if (stream != nullptr && stream->capture != nullptr) {
    stream->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  if (stream == nullptr && is_capturing()) return fail(cudaErrorStreamCaptureUnsupported);
  Queue& q = queue();
  if (!q.failure.empty()) return fail(cudaErrorLaunchFailure);
  q.items.push_back({stream, std::move(work)});
  return cudaSuccess;
}

bool agrees(Owner to, Owner from, cudaMemcpyKind kind) {
  const bool into_device = to == Owner::kDevice;
  const bool from_device = from == Owner::kDevice;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !into_device && !from_device;
    case cudaMemcpyHostToDevice:
      return into_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !into_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return into_device && from_device;
    default:
      return true;
  }
}

/// Whether a copy may be made; complains where it leaves an allocation.
cudaError_t inspect(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  try {
    return agrees(owner_of(to, bytes), owner_of(from, bytes), kind) ? cudaSuccess
                                                                    : cudaErrorInvalidValue;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "emulated CUDA: %s\n", failure.what());
    return cudaErrorInvalidValue;
  }
}

}  // namespace

namespace jepa_edge::cuda_emulation {

std::recursive_mutex& mutex() {
  static std::recursive_mutex instance;
  return instance;
}
cudaError_t fail(cudaError_t error) {
  if (error != cudaSuccess) queue().last = error;
  return error;
}
bool is_capturing() { return queue().captures > 0; }
cudaError_t run_all() { return run_until(queue().first + queue().items.size()); }

cudaError_t enqueue_work(cudaStream_t stream, std::function<void()> work) {
  const Lock lock(mutex());
  return enqueue(stream, std::move(work));
}

cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                           std::function<void()> call) {
  const Lock lock(mutex());
  const dim3& g = config.gridDim;
  const dim3& b = config.blockDim;
  const std::size_t threads = std::size_t{b.x} * b.y * b.z;
  const auto found = queue().allowed_shared.find(kernel);
  const std::size_t shared = found == queue().allowed_shared.end() ? kSharedBytes : found->second;
  if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7FFFFFFFU || g.y > 65535 || g.z > 65535 ||
      threads < 1 || threads > 1024 || b.z > 64) {
    return fail(cudaErrorInvalidConfiguration);
  }
  if (config.dynamicSmemBytes > shared) return fail(cudaErrorInvalidValue);
  return enqueue(config.stream, [config, call = std::move(call)] {
    run_grid(config.gridDim, config.blockDim, config.dynamicSmemBytes, call);
  });
}

std::string take_failure() {
  const Lock lock(mutex());
  queue().last = cudaSuccess;
  return std::exchange(queue().failure, {});
}

}  // namespace jepa_edge::cuda_emulation

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  const Lock lock(mutex());
  if (value < 0 || static_cast<std::size_t>(value) > kMostSharedBytes) {
    return fail(cudaErrorInvalidValue);
  }
  queue().allowed_shared[kernel] = std::max(kSharedBytes, static_cast<std::size_t>(value));
  return cudaSuccess;
}

// ---- copies -------------------------------------------------------------------------------------

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Lock lock(mutex());
  if (bytes == 0) return cudaSuccess;
  const cudaError_t error = inspect(to, from, bytes, kind);
  if (error != cudaSuccess) return fail(error);
  const bool captured = stream != nullptr && stream->capture != nullptr;
  if (!captured && owner_of(from, bytes) == Owner::kHost) {
    // Pageable memory is read before the call returns.
    auto copy = std::make_shared<std::vector<char>>(static_cast<const char*>(from),
                                                    static_cast<const char*>(from) + bytes);
    return enqueue(stream, [to, copy] { std::memcpy(to, copy->data(), copy->size()); });
  }
  const cudaError_t status = enqueue(stream, [=] { std::memmove(to, from, bytes); });
  if (status == cudaSuccess && !captured && owner_of(to, bytes) == Owner::kHost) {
    return cudaStreamSynchronize(stream);  // and written before it returns
  }
  return status;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(mutex());
  if (is_capturing()) return fail(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  const cudaError_t error = inspect(to, from, bytes, kind);
  if (error != cudaSuccess) return fail(error);
  // Not behind the other streams: those here do not wait for the default one.
  const DeviceWorks works;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  const Lock lock(mutex());
  if (bytes == 0) return cudaSuccess;
  const cudaError_t error = inspect(memory, memory, bytes, cudaMemcpyDeviceToDevice);
  if (error != cudaSuccess) return fail(error);
  return enqueue(stream, [=] { std::memset(memory, value, bytes); });
}

cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  const Lock lock(mutex());
  if (is_capturing()) return fail(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  const cudaError_t error = inspect(memory, memory, bytes, cudaMemcpyDeviceToDevice);
  if (error != cudaSuccess) return fail(error);
  const DeviceWorks works;
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

// ---- streams and events -------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(mutex());
  if (stream == nullptr) return fail(cudaErrorInvalidResourceHandle);
  run_until(end_of(stream));
  if (stream->owns_capture) --queue().captures;
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(mutex());
  if (stream != nullptr && stream->capture != nullptr) {
    return fail(cudaErrorStreamCaptureUnsupported);
  }
  return run_until(end_of(stream));
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(mutex());
  return is_capturing() ? fail(cudaErrorStreamCaptureUnsupported) : run_all();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  const Lock lock(mutex());
  return enqueue(stream, [=] { function(argument); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(mutex());
  if (event == nullptr) return fail(cudaErrorInvalidResourceHandle);
  run_until(event->position);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex());
  event->recorded = true;
  event->capture = stream != nullptr ? stream->capture : nullptr;
  if (event->capture != nullptr) return cudaSuccess;
  const cudaError_t error =
      enqueue(stream, [event] { event->time = std::chrono::steady_clock::now(); });
  event->position = queue().first + queue().items.size();
  return error;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(mutex());
  // Work runs in the order of enqueueing, which is after the event. A capture spreads this way.
  if (event->capture != nullptr && stream != nullptr && stream->capture == nullptr) {
    stream->capture = event->capture;
    stream->capture->joined.push_back(stream);
  }
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(mutex());
  if (event->capture != nullptr) return fail(cudaErrorStreamCaptureUnsupported);
  return run_until(event->position);
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(mutex());
  if (!start->recorded || !end->recorded) return fail(cudaErrorInvalidResourceHandle);
  if (queue().first < std::max(start->position, end->position)) return fail(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

// ---- graphs -------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(mutex());
  if (stream == nullptr || stream->capture != nullptr) {
    return fail(cudaErrorStreamCaptureUnsupported);
  }
  stream->capture = std::make_shared<CUgraph_st>();
  stream->owns_capture = true;
  ++queue().captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(mutex());
  *graph = nullptr;
  if (stream == nullptr || !stream->owns_capture) return fail(cudaErrorInvalidValue);
  for (CUstream_st* other : stream->capture->joined) other->capture = nullptr;
  *graph = new CUgraph_st(*stream->capture);
  stream->capture = nullptr;
  stream->owns_capture = false;
  --queue().captures;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock(mutex());
  *status = stream != nullptr && stream->capture != nullptr ? cudaStreamCaptureStatusActive
                                                            : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  if (graph == nullptr) return fail(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Lock lock(mutex());
  if (executable == nullptr) return fail(cudaErrorInvalidValue);
  return enqueue(stream, [nodes = executable->nodes] {
    for (const Work& node : nodes) node();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

// ---- the device ---------------------------------------------------------------------------------

cudaError_t cudaGetLastError() {
  const Lock lock(mutex());
  return std::exchange(queue().last, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  const Lock lock(mutex());
  return queue().last;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return fail(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "emulation on the CPU");
  properties->totalGlobalMem = std::size_t{8} << 30U;
  properties->sharedMemPerBlock = kSharedBytes;
  properties->sharedMemPerBlockOptin = kMostSharedBytes;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->major = 9;
  properties->multiProcessorCount = 4;
  properties->integrated = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties{};
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return fail(cudaErrorInvalidValue);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
