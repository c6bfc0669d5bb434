"""One TOML file per device; the name of a profile is the stem of its file."""
