"""One file for each experiment; a new one is a new file here that declares ``EXPERIMENT``."""
