"""What an engine on this machine says to the operators of a model."""
