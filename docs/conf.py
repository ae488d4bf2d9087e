"""Sphinx configuration. `make docs` builds the site, offline and with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

from fletcher import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Fletcher"
author = "The Fletcher authors"
project_copyright = "The Fletcher authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated_reference"]
exclude_patterns = ["_extensions", "RELEASING.md"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 4  # links such as cli.md#exit-codes

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute that is also a property is documented once
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"Fletcher {release}"
html_copy_source = False
html_show_sourcelink = False
# The site has everything that a page needs: no fonts, scripts or images come from other hosts.
html_static_path: list[str] = []
