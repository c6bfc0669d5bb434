"""What INT8 needs around the vendors' quantizers: sound samples, even channels, true biases."""
