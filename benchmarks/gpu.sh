#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that needs an NVIDIA GPU, in one go, on a machine with a driver and the CUDA toolkit:
#
#   benchmarks/gpu.sh                      everything, about 25 minutes on an H200
#   benchmarks/gpu.sh build tests planning some of: build tests sanitize planning tensorrt
#
# build     the GPU core for the chip that is there: its C++ tests and the Python module
# tests     the C++ tests of the GPU core, which CI runs in an emulation, on the GPU itself
# sanitize  the same under compute-sanitizer: memcheck, racecheck, synccheck
# planning  benchmarks/gpu_planning.py: accuracy against the CPU core, then times beside PyTorch
# tensorrt  `jepa-edge build` of a bundle on this machine, and its engines' times
#
# A part that cannot run because something is missing fails the run, after the others were tried;
# MAY_MISS="tensorrt sanitize" lets those be missing. Results: benchmarks/results/gpu_*.json, and
# GPU_OUT (build/gpu) for logs. PYTHON: with torch, numpy, pybind11 (default: .venv's, else python3).
set -uo pipefail
cd "$(dirname "$0")/.."

out=${GPU_OUT:-$PWD/build/gpu}
build=$PWD/build/gpu
bundle=${BUNDLE:-runs/demo/pusht.jepa}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || command -v python3)}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(build tests sanitize planning tensorrt)
mkdir -p "$out" "$build"
failed=()
missing=()

say() { printf '\n== %s\n' "$*"; }
lacks() {
  # lacks PART WHAT HOW: a part cannot run
  echo "gpu.sh: $1 cannot run: $2 is missing; $3" >&2
  missing+=("$1")
}
run() {
  # run PART command...: with a log, and the exit code kept
  local part=$1
  shift
  echo "+ $*"
  if ! "$@" 2>&1 | tee -a "$out/$part.log"; then
    failed+=("$part")
    return 1
  fi
}
has() { "$python" -c "import $1" >/dev/null 2>&1; }

facts() {
  say "what is here"
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi; then
    echo "gpu.sh: there is no NVIDIA driver here (nvidia-smi fails); nothing below can run" >&2
    exit 1
  fi
  "${nvcc:-false}" --version | tail -1 || true
  "$python" --version
}

cublas() {
  # Options for CMake where cuBLASLt is that of the pip package, as PyTorch brings it.
  "$python" - <<'PY'
import importlib.util
from pathlib import Path

spec = importlib.util.find_spec("nvidia")
for root in spec.submodule_search_locations if spec else ():
    for header in Path(root).rglob("include/cublasLt.h"):
        libraries = sorted(header.parents[1].rglob("libcublasLt.so*"))
        if libraries:
            print(f"-DJEPA_EDGE_CUBLAS_INCLUDE={header.parent}")
            print(f"-DJEPA_EDGE_CUBLAS_LIBRARY={libraries[-1]}")
            raise SystemExit
PY
}

build_all() {
  say "build"
  [ -n "${nvcc:-}" ] || { lacks build nvcc "install the CUDA toolkit"; return; }
  command -v cmake >/dev/null || { lacks build cmake "install it"; return; }
  has pybind11 || { lacks build pybind11 "$python -m pip install pybind11"; return; }
  local chip  # Ubuntu 22.04's CMake does not know "native"
  chip=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
  [[ $chip =~ ^[0-9]+$ ]] || chip=native
  local options=(-DJEPA_EDGE_CUDA=ON -DJEPA_EDGE_PYTHON=ON -DJEPA_EDGE_TESTS=ON
    "-DCMAKE_CUDA_ARCHITECTURES=$chip" "-DCMAKE_CUDA_COMPILER=$nvcc"
    "-DPython_EXECUTABLE=$("$python" -c 'import sys; print(sys.executable)')"
    "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)")
  if [ ! -e "$(dirname "$(dirname "$nvcc")")/include/cublasLt.h" ]; then
    mapfile -t -O "${#options[@]}" options < <(cublas)
  fi
  [ -z "${DOCTEST:-}" ] || options+=("-Ddoctest_DIR=$DOCTEST")
  if ! find /usr/include /usr/local/include -name doctest.h -print -quit 2>/dev/null | grep -q . &&
    [ -z "${DOCTEST:-}" ]; then
    [[ " ${parts[*]} " != *" tests "* && " ${parts[*]} " != *" sanitize "* ]] ||
      lacks tests doctest "apt-get install doctest-dev, or DOCTEST=folder of doctestConfig.cmake"
    options=("${options[@]/-DJEPA_EDGE_TESTS=ON/-DJEPA_EDGE_TESTS=OFF}")
  fi
  run build cmake -S . -B "$build" "${options[@]}" &&
    run build cmake --build "$build" -j "$(nproc)"
}

tests() {
  say "C++ tests on the GPU"
  local program=$build/csrc/cuda/tests/jepa_edge_cuda_tests
  [ -x "$program" ] || { lacks tests "$program" "benchmarks/gpu.sh build"; return; }
  run tests "$program"
}

sanitize() {
  say "compute-sanitizer"
  local program=$build/csrc/cuda/tests/jepa_edge_cuda_tests tool
  local sanitizer
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  [ -n "$sanitizer" ] || { lacks sanitize compute-sanitizer "it is part of the toolkit"; return; }
  [ -x "$program" ] || { lacks sanitize "$program" "benchmarks/gpu.sh build"; return; }
  for tool in memcheck racecheck synccheck; do
    # Files of cuBLASLt's kernels are not ours: racecheck looks at those of our namespace.
    local filter=()
    [ "$tool" = memcheck ] || filter=(--kernel-regex kns=jepa_edge)
    # Calls that CUDA refuses are no errors here: tests make some on purpose, and check them.
    run sanitize "$sanitizer" --tool "$tool" "${filter[@]}" --report-api-errors no \
      --error-exitcode 1 "$program" || true
  done
}

planning() {
  say "planning"
  local module
  module=$(find "$build" -maxdepth 1 -name '_cuda*.so' -print -quit)
  [ -n "$module" ] || { lacks planning "the module _cuda" "benchmarks/gpu.sh build"; return; }
  local package
  for package in torch numpy msgspec safetensors; do
    has "$package" || { lacks planning "$package" "$python -m pip install $package"; return; }
  done
  run planning "$python" benchmarks/gpu_planning.py --modules "$build"
}

tensorrt() {
  say "TensorRT"
  has tensorrt || { lacks tensorrt "the Python module tensorrt" "on a Jetson: apt-get install \
python3-libnvinfer; elsewhere NVIDIA's packages for this CUDA"; return; }
  has cuda.bindings || { lacks tensorrt cuda-python "$python -m pip install cuda-python"; return; }
  [ -d "$bundle" ] || { lacks tensorrt "the bundle $bundle" "make demo, or BUNDLE=NAME.jepa"
    return; }
  if has pytest; then
    run tensorrt "$python" -m pytest -q -rs tests/backends/test_on_gpu.py || true
  else
    lacks tensorrt pytest "$python -m pip install pytest"
  fi
  run tensorrt "$python" benchmarks/gpu_tensorrt.py --bundle "$bundle"
}

nvcc=${CUDACXX:-$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)}
facts 2>&1 | tee "$out/facts.log"
[ "${PIPESTATUS[0]}" -eq 0 ] || exit 1
for part in "${parts[@]}"; do
  case $part in
    build) build_all ;;
    tests | sanitize | planning | tensorrt) "$part" ;;
    *) echo "gpu.sh: no part $part; expected some of: build tests sanitize planning tensorrt" >&2
       exit 2 ;;
  esac
done

say "end"
unexpected=()
for part in "${missing[@]}"; do
  [[ " ${MAY_MISS:-} " == *" $part "* ]] || unexpected+=("$part")
done
[ ${#failed[@]} -eq 0 ] || echo "gpu.sh: FAILED: ${failed[*]} (logs in $out)" >&2
[ ${#unexpected[@]} -eq 0 ] || echo "gpu.sh: NOT RUN, something is missing: ${unexpected[*]}" >&2
[ ${#failed[@]} -eq 0 ] && [ ${#unexpected[@]} -eq 0 ] && echo "gpu.sh: all parts passed: ${parts[*]}"
