"""What the TensorRT runtime is made of."""
