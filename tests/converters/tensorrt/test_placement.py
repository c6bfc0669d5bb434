"""Where pairs go, and which layers are left alone."""

from __future__ import annotations

from converters._tensorrt.network import network_of
from converters._tensorrt.placement import place


def _place(model, pictures, exclude=()):  # type: ignore[no-untyped-def]
    return place(network_of(model, pictures[0]), exclude)


def test_large_layers_with_weights_are_quantized(rich, pictures):
    assert _place(rich, pictures).layers == {
        *("first", "short", "second", "third", "left", "right", "up", "deep", "query")
    }


def test_small_layers_vectors_and_attention_are_left_alone_with_the_reason(rich, pictures):
    assert _place(rich, pictures).left_alone == {
        "stem": "3 channels",
        "narrow": "8 channels",
        "vector": "a matrix times one vector",
        "scores": "both operands are activations",
    }


def test_a_gemm_of_many_rows_is_quantized(rich, pictures):
    many = {"image": pictures[0]["image"].repeat(4, axis=0)}
    assert "vector" in place(network_of(rich, many)).layers


def test_only_the_skip_branch_of_a_residual_add_is_quantized(rich, pictures):
    """Of two convolutions the later one is fused with the Add; the shortcut's is the skip."""
    assert _place(rich, pictures).skips == {"sum": "short", "again": "sum_relu"}


def test_an_add_after_a_convolution_that_is_read_elsewhere_is_no_residual(rich, pictures):
    rich.graph.output.append(rich.graph.output[0])
    rich.graph.output[-1].name = "third"
    assert set(_place(rich, pictures).skips) == {"sum"}


def test_excluded_layers_stay_in_float_and_so_do_their_adds(rich, pictures):
    placement = _place(rich, pictures, exclude=("third", "left"))
    assert not {"third", "left"} & placement.layers
    assert placement.left_alone["third"] == "asked for"
    assert set(placement.skips) == {"sum"}


def test_every_quantized_input_gets_one_scale_however_many_read_it(rich, pictures):
    network = network_of(rich, pictures[0])
    tensors = place(network).tensors(network)
    assert len(tensors) == len(set(tensors))
    assert {"stem_relu", "sum_relu", "pool", "short", "tokens"} <= set(tensors)
