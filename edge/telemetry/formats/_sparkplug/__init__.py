"""A Sparkplug 3.0 edge node; after the specification of the Eclipse Foundation, chapters 4 to 6."""
