"""What other programs reach over the network: KServe v2 over HTTP, and metrics."""
