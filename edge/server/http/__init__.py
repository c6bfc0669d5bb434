"""HTTP/1.1: bytes to requests, responses to bytes; knows nothing of models."""
