"""The site: `make docs` writes it to site/, where it is read without a network. Warnings are errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from inventories import PROJECTS, write_inventories  # noqa: E402
from reference_pages import write_pages  # noqa: E402

import ardor  # noqa: E402

project = "ardor"
author = "the ardor developers"
copyright = author
version = release = ardor.__version__
html_title = f"ardor {version}"

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(.*\.)?_\w+"),  # private
    (r"py:.*", r"(numpy\.typing|collections|pathlib|typing|datetime|enum|PIL|rich|jinja2|abc|types)(\..*)?"),
    (r"py:.*", r"ardor(\.\w+){3,}"),  # of a module that has no page
    (r"py:.*", r"\w+|nn\.Module|(dict|tuple|list)\[\w+"),  # of annotations that are strings
]
"""Types in signatures that have no entry of their own. The links of pages and docstrings are all checked."""

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4  # the anchors of headings that GitHub makes
myst_links_external_new_tab = False
default_role = "code"
smartquotes_action = "qe"  # no dashes: `--limit` in a sentence stays what is typed
highlight_language = "text"
nb_execution_mode = "off"  # notebooks keep their outputs, which a test makes anew

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

intersphinx_mapping = {name: (url, str(HERE / "_build" / f"{name}.inv")) for name, url in PROJECTS.items()}
write_inventories(HERE / "_build")  # of the names that our pages link to, so that a build needs no network

html_theme = "furo"
STYLE = (Path(ardor.__file__).parent / "reporting" / "style.css").read_text(encoding="utf-8")
"""The style of the report page: the site has its colours and fonts."""


def variables(light: bool) -> dict[str, str]:
    """The theme's variables, from those of the report page for light or dark."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\);", STYLE)
    of = {name: first if light else second for name, first, second in pairs}
    of |= dict(re.findall(r"--(sans|mono): ([^;]+);", STYLE))
    names = {
        "paper": ["background-primary"],
        "faint": ["background-secondary", "code-background", "inline-code-background"],
        "rule": ["background-border"],
        "ink": ["foreground-primary", "api-name", "brand-primary"],
        "muted": ["foreground-secondary", "foreground-muted", "api-pre-name"],
        "accent": ["brand-content", "brand-visited"],
    }
    colours = {f"color-{name}": of[ours] for ours, theirs in names.items() for name in theirs}
    return {"font-stack": of["sans"], "font-stack--monospace": of["mono"], **colours}


html_theme_options = {"light_css_variables": variables(True), "dark_css_variables": variables(False)}
html_static_path = ["site_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Any) -> None:
    """Write the generated pages before Sphinx collects the sources."""
    app.connect("builder-inited", lambda app: write_pages(HERE / "reference"))
