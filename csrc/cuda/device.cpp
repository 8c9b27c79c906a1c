// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

namespace jepa_edge::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report it again
  throw CudaError(std::string(what) + ": " + cudaGetErrorString(status) + " (" +
                  cudaGetErrorName(status) + ")");
}

DeviceInfo device_info(int device) {
  DeviceInfo info{};
  int count = 0;
  // Neither call fails for want of a driver: they say 0.
  check(cudaDriverGetVersion(&info.driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&info.runtime), "cudaRuntimeGetVersion");
  if (info.driver == 0) {
    throw CudaError(
        "this machine has no NVIDIA driver, expected one of CUDA " +
        std::to_string(info.runtime / 1000) +
        " or newer; install it (on a Jetson it comes with JetPack), or plan with device \"cpu\"");
  }
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || device < 0 || device >= count) {
    cudaGetLastError();
    throw CudaError("no CUDA device " + std::to_string(device) + ": the driver (CUDA " +
                    std::to_string(info.driver / 1000) + "." +
                    std::to_string(info.driver % 1000 / 10) + ") shows " + std::to_string(count) +
                    (status == cudaSuccess ? std::string()
                                           : std::string(" (") + cudaGetErrorString(status) + ")") +
                    "; look at nvidia-smi, or plan with device \"cpu\"");
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.processors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  info.shared_bytes = properties.sharedMemPerBlockOptin;
  return info;
}

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}
Stream::~Stream() { cudaStreamDestroy(stream_); }
void Stream::wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

Graph::~Graph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void Graph::begin(const Stream& stream) {
  // Relaxed: the driver may load a kernel's code when it is first captured.
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed),
        "cudaStreamBeginCapture");
}

void Graph::abandon(const Stream& stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream.get(), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}

Graph Graph::end(const Stream& stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  Graph made;
  const cudaError_t status = cudaGraphInstantiate(&made.graph_, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  return made;
}

void Graph::replay(const Stream& stream) const {
  if (graph_ == nullptr) throw CudaError("replay of a graph that was not captured");
  check(cudaGraphLaunch(graph_, stream.get()), "cudaGraphLaunch");
}

}  // namespace jepa_edge::cuda
