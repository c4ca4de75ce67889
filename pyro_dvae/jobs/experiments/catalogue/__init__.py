"""Experiments by source; a further file here declares its own in a tuple ``EXPERIMENTS``."""
