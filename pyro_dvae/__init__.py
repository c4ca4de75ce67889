"""Denoising variational inference for Pyro.

The public names stand in ``__init__.pyi`` and are loaded when they are first used: importing the package, and
``pyro-dvae --help``, do not wait for torch.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

__version__ = _version("pyro-dvae")
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
