"""``pyro-dvae`` in this process."""

import pytest

from pyro_dvae.cli import main


def call(*arguments, code=0, capsys=None):
    """Run a command, check its exit code, and return what it printed where ``capsys`` is given."""
    if capsys is not None:
        capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    printed = None if capsys is None else capsys.readouterr()
    assert (ended.value.code or 0) == code, printed
    if printed is not None and code == 2:
        assert printed.err.startswith("error: ")
        assert len(printed.err.splitlines()) == 1
    return printed
