"""From bundles on a workstation to devices that serve them."""
