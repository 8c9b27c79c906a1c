// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

void define_ac(pybind11::module_& m);
void define_device(pybind11::module_& m);
void define_noise(pybind11::module_& m);
void define_pictures(pybind11::module_& m);
void define_planner(pybind11::module_& m);
void define_rollout(pybind11::module_& m);

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "GPU core of jepa_edge. Use the Python classes in front of it (jepa_edge.cuda).";
  define_device(m);
  define_noise(m);
  define_rollout(m);
  define_ac(m);
  define_planner(m);
  define_pictures(m);
}
