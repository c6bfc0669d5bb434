"""One file per engine, each ending in ``BACKEND = …``."""
