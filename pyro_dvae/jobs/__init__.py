"""Runs: a folder that holds one training run, from its options to its pictures."""
