"""``python -m pyro_dvae`` is the command ``pyro-dvae``."""

from pyro_dvae.cli import main

if __name__ == "__main__":
    main(prog_name="pyro-dvae")
