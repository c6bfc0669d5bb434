"""Bundles on their way to this device: kept over restarts, and used only once they are whole."""
