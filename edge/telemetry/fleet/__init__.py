"""The operator's side: what a fleet is in, and how it is brought to another version."""
