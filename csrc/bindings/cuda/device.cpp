// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

#include <pybind11/pybind11.h>

#include "gemm.hpp"
#include "jepa_edge/safetensors.hpp"

namespace py = pybind11;

namespace {

using jepa_edge::cuda::DeviceInfo;
using jepa_edge::cuda::Precision;

}  // namespace

void define_device(py::module_& m) {
  py::register_local_exception<jepa_edge::cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
  py::register_local_exception<jepa_edge::FileError>(m, "FileError", PyExc_ValueError);
  py::enum_<Precision>(m, "Precision", py::module_local())
      .value("FLOAT32", Precision::kFloat32)
      .value("FLOAT16", Precision::kFloat16)
      .value("BFLOAT16", Precision::kBFloat16)
      .value("INT8", Precision::kInt8)
      .value("FLOAT8", Precision::kFloat8);
  py::class_<DeviceInfo>(m, "DeviceInfo")
      .def_readonly("name", &DeviceInfo::name)
      .def_readonly("major", &DeviceInfo::major)
      .def_readonly("minor", &DeviceInfo::minor)
      .def_readonly("processors", &DeviceInfo::processors)
      .def_readonly("memory_bytes", &DeviceInfo::memory_bytes)
      .def_readonly("shared_bytes", &DeviceInfo::shared_bytes)
      .def_readonly("driver", &DeviceInfo::driver)
      .def_readonly("runtime", &DeviceInfo::runtime);
  m.def("device_info", &jepa_edge::cuda::device_info, py::arg("device") = 0,
        py::call_guard<py::gil_scoped_release>());
  m.def("is_supported", &jepa_edge::cuda::is_supported, py::arg("precision"), py::arg("device"));
#ifdef JEPA_EDGE_CUDA_EMULATE
  m.attr("EMULATED") = true;
#else
  m.attr("EMULATED") = false;
#endif
}
