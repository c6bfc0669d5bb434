"""Graphs for TensorRT: precision written in, after its rules."""
