"""A device without a board: an arm64 system in an image, and QEMU to boot it."""
