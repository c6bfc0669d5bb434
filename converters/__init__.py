"""One file per target format, each ending in ``CONVERTER = …``."""
