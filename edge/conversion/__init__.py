"""Model -> checks -> converters -> measurement -> gate -> bundle."""
