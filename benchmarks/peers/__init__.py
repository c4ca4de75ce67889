"""The peers of the speed benchmarks: contenders of one training step, and whole training scripts.

Every contender runs in a process of its own (:mod:`peers.worker`), so that libraries do not compete for
threads; nothing here is imported by the package.
"""
