// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

void define_color(pybind11::module_& m);
void define_engine(pybind11::module_& m);
void define_gaussian(pybind11::module_& m);
void define_latent_variable(pybind11::module_& m);
void define_planner(pybind11::module_& m);
void define_random(pybind11::module_& m);
void define_resize(pybind11::module_& m);

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ core of jepa_edge. Use the Python classes in front of it.";
  define_color(m);
  define_engine(m);
  define_gaussian(m);
  define_latent_variable(m);
  define_planner(m);
  define_random(m);
  define_resize(m);
}
