"""KServe v2 as data: its messages, and tensors to and from them; knows nothing of transports."""
