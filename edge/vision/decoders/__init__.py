"""One file per decoder, found by its name: how a model's outputs become an answer."""
