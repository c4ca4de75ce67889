"""For the documentation's site: the docstrings' roles of Sphinx as Markdown reads them."""

import re

from markdown import Extension
from markdown.preprocessors import Preprocessor


class _Roles(Preprocessor):
    """``:class:`~pyro_dvae.bounds.DenoisingELBO``` becomes the last name as code, and ``::`` a colon."""

    def run(self, lines):
        text = "\n".join(lines)
        text = re.sub(r":(?:class|data|func|meth|mod):`(~?)([\w.]+)`", _name, text)
        return re.sub(r"::$", ":", text, flags=re.MULTILINE).split("\n")


def _name(found):
    return f"`{found[2].rpartition('.')[2] if found[1] else found[2]}`"


class _Extension(Extension):
    def extendMarkdown(self, md):  # noqa: N802 - Markdown's name
        md.preprocessors.register(_Roles(md), "roles", 35)


def on_config(config):
    """Add the extension to those of mkdocs.yml."""
    config.markdown_extensions.append(_Extension())
    return config
