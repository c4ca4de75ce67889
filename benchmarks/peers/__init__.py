"""The peers of the speed benchmarks: contenders of one training step, and whole training scripts.

Every contender runs in its own process (:mod:`peers.worker`), so that libraries do not compete for threads.
The package imports nothing from here.
"""
