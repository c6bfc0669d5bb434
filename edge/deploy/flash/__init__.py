"""Images and boards: a system that installs its release at the first boot."""
