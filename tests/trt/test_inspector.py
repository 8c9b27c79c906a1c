# SPDX-License-Identifier: Apache-2.0
"""The engine inspector's JSON, as NVIDIA's documentation prints it."""

from __future__ import annotations

import pytest

from jepa_edge.errors import BundleError
from jepa_edge.trt.inspector import UNKNOWN, Inspection, parse_layers

# The convolution is NVIDIA's example; the others have the same fields.
DETAILED = """{"Layers": [
{"Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
 "LayerType": "CaskConvolution",
 "Inputs": [{"Name": "gpu_0/res3_3", "Dimensions": [16,512,28,28],
   "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
 "Outputs": [{"Name": "gpu_0/res4_0", "Dimensions": [16,256,28,28],
   "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
 "Weights": {"Type": "Int8", "Count": 131072},
 "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"},
{"Name": "__myl_Quan_myl0_1", "LayerType": "kgen",
 "Inputs": [{"Name": "a", "Format/Datatype": "Half"}, {"Name": "s", "Format/Datatype": "Float"}],
 "Outputs": [{"Name": "b", "Format/Datatype": "Int8"}], "TacticName": "__myl_Quan_0x1"},
{"Name": "attention", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Float"}]},
{"Name": "tokens", "LayerType": "Gather",
 "Inputs": [{"Format/Datatype": "BFloat16"}, {"Format/Datatype": "Int64"}]},
{"Name": "small", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "FP8"}]},
{"Name": "smaller", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Half"},
  {"Format/Datatype": "Int4"}]},
{"Name": "pixels", "LayerType": "Cast", "Inputs": [{"Format/Datatype": "UInt8"}],
 "Outputs": [{"Format/Datatype": "Float"}]},
{"Name": "constant", "LayerType": "Constant", "Outputs": [{"Format/Datatype": "Float"}]},
{"Name": "signal", "LayerType": "signal"}
], "Bindings": ["frames", "latents"]}"""


def test_a_layer_runs_in_the_narrowest_type_that_it_reads() -> None:
    layers = parse_layers(DETAILED)
    assert [layer.precision for layer in layers] == [
        "int8",
        "fp16",
        "fp32",
        "bf16",
        "fp8",
        "int4",
        "integer",
        "fp32",
        UNKNOWN,
    ]
    assert layers[0].kind == "CaskConvolution"
    assert layers[0].tactic.endswith("i8i8_i8i32_f32")
    assert Inspection(layers=layers, memory_bytes=0).precisions["fp32"] == 2


# As TensorRT 11 splits the field (NVIDIA's migration guide, IEngineInspector).
DETAILED_11 = """{"Layers": [
{"Name": "a", "LayerType": "gemm", "Inputs": [{"Name": "x", "Dimensions": [1, 8],
   "Datatype": "Int8", "Format": "Row major linear"}],
 "Constants": [{"Name": "w", "Dimensions": [8, 8], "Datatype": "Int8"}],
 "Outputs": [{"Name": "y", "Datatype": "Float"}], "TacticName": "sm80_i8i8"},
{"Name": "b", "LayerType": "gemm", "Inputs": [{"Name": "y", "Datatype": "Half"}],
 "Constants": [{"Name": "v", "Datatype": "Int4"}]},
{"Name": "c", "LayerType": "kgen", "Inputs": [{"Name": "z", "Datatype": "BFloat16"}]}
], "I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Int8"}]}"""


def test_tensorrt_11_tells_types_in_a_field_of_their_own() -> None:
    layers = parse_layers(DETAILED_11)
    assert [layer.precision for layer in layers] == ["int8", "int4", "bf16"]


# As TensorRT 10 tells an engine with a dynamic batch, on a Jetson.
DYNAMIC = """{"Layers": [
{"Name": "c", "LayerType": "CaskConvolution",
 "Inputs": [{"Name": "x", "Dimensions": [-1,3,8,8],
   "Format/Datatype": "N/A due to dynamic shapes"}],
 "Outputs": [{"Name": "y", "Format/Datatype": "N/A due to dynamic shapes"}],
 "Weights": {"Type": "Int8", "Count": 13824}, "Bias": {"Type": "Float", "Count": 12},
 "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32"},
{"Name": "m", "LayerType": "CaskGemmMatrixMultiply",
 "Inputs": [{"Name": "y", "Format/Datatype": "N/A due to dynamic shapes"}],
 "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize64x64x64"},
{"Name": "r", "LayerType": "Reformat",
 "Inputs": [{"Name": "z", "Format/Datatype": "N/A due to dynamic shapes"}]}
]}"""


def test_where_shapes_are_dynamic_weights_and_kernels_tell_the_precision() -> None:
    layers = parse_layers(DYNAMIC)
    assert [layer.precision for layer in layers] == ["int8", "fp16", UNKNOWN]


def test_names_alone_tell_no_precision() -> None:
    (layer,) = parse_layers('{"Layers": ["conv + relu"], "Bindings": []}')
    assert (layer.name, layer.precision) == ("conv + relu", UNKNOWN)


def test_what_is_no_inspectors_answer_is_refused() -> None:
    with pytest.raises(BundleError, match="engine inspector told no layers"):
        parse_layers("Engine could not be inspected")
