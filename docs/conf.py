"""How the site is built: ``python -m sphinx -n -W --keep-going -b html docs build/docs/html``; for Chinese see below.

The same sources make both languages: with ``-D language=zh_CN`` the strings come from ``locale/zh_CN``, and the site
goes to ``build/docs/html/zh``. Nothing is fetched: inventories of other projects lie in ``_inv``, formulas are MathML.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torchbasics

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx
    from sphinx.config import Config

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

SITE = "https://org.github.io/torchbasics/"
REPOSITORY = "https://github.com/org/torchbasics"

project = "torchbasics"
author = "The torchbasics developers"
copyright = author  # noqa: A001  # Sphinx's name
release = version = torchbasics.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.linkcode",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_sitemap",
    "sphinx_llms_txt",
    "sphinxext.opengraph",
    "notfound.extension",
    # of this folder
    "chinese_search",
    "cli_reference",
    "docstrings",
    "live",
    "mathml",
    "repository",
    "tables",
    "zoo",
]
exclude_patterns = ["_*", "hub", "locale", "weights/index.md"]
templates_path = ["_templates"]
default_role = "py:obj"
add_module_names = False
nitpicky = True

# Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist", "smartquotes"]
myst_heading_anchors = 4

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_preprocess_types = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# Other projects' names, from small inventories that scripts/make_inventories.py writes.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "_inv/python.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable", "_inv/torch.inv"),
    "numpy": ("https://numpy.org/doc/stable", "_inv/numpy.inv"),
    "matplotlib": ("https://matplotlib.org/stable", "_inv/matplotlib.inv"),
}
linkcheck_anchors = False
linkcheck_timeout = 30
linkcheck_retries = 2
linkcheck_workers = 4
linkcheck_ignore = [rf"{REPOSITORY}(?!$)", SITE, r"https?://localhost"]

# Chinese
language = "en"
locale_dirs = ["locale"]
gettext_compact = False
gettext_uuid = False
gettext_additional_targets: list[str] = []

# Pages
html_theme = "pydata_sphinx_theme"
html_title = "torchbasics"
html_baseurl = SITE
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = True  # llms.txt is made of it
html_show_sourcelink = False
html_math_renderer = "mathml"
html_context = {"default_mode": "auto", "site": SITE, "repository": REPOSITORY}
html_theme_options = {
    "logo": {
        "image_light": "_static/logo-light.svg",
        "image_dark": "_static/logo-dark.svg",
        "alt_text": "torchbasics",
    },
    "icon_links": [{"name": "GitHub", "url": REPOSITORY, "icon": "fa-brands fa-github"}],
    "navbar_persistent": ["search-button"],
    "navbar_end": ["language", "theme-switcher", "navbar-icon-links"],
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "github-dark-high-contrast",
}
html_sidebars: dict[str, list[str]] = {page: [] for page in ("index", "start", "live", "cli", "search", "404")}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
ogp_site_url = SITE
ogp_site_name = "torchbasics"
ogp_social_cards = {"enable": False}
ogp_enable_meta_description = True
sitemap_url_scheme = "{link}"
sitemap_excludes = ["search.html", "genindex.html", "404.html"]
notfound_urls_prefix = "/torchbasics/"
llms_txt_title = "torchbasics"
llms_txt_uri_template = "{base_url}{docname}.html"


def for_language(app: Sphinx, config: Config) -> None:
    """Set what differs in Chinese: the address below the English site's, and what is in no message catalog."""
    if config.language == "zh_CN":
        config.html_baseurl = config.ogp_site_url = f"{SITE}zh/"
        config.notfound_urls_prefix = "/torchbasics/zh/"
        config.notfound_context = {"title": "页面不存在", "body": "<h1>页面不存在</h1>\n\n<p>没有找到要看的内容。</p>"}
        labels = {"header_dropdown_text": "更多", "icon_links_label": "图标链接", "search_bar_text": "搜索文档……"}
        config.html_theme_options |= labels


def tell_untranslated(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: document | None) -> None:
    """Let the template say that a page is in English, of which no more than the title is translated."""
    if doctree is None or app.config.language != "zh_CN":
        return
    done, of = (doctree["translation_progress"][key] for key in ("translated", "total"))  # 0 of 0: has no catalog
    context["untranslated"] = 2 * done <= of
    if context["untranslated"] and done:
        context["body"] = context["body"].replace("<h1>", '<h1 lang="zh-CN">', 1)


def keep_anchors(app: Sphinx, doctree: document) -> None:
    """Keep the page's table of anchors, which MyST replaces by each translated heading's own."""
    if slugs := getattr(doctree, "myst_slugs", None):
        app.env.metadata[app.env.docname]["myst_slugs"] = slugs


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return where the source of a documented object is shown."""
    from docstrings import source  # noqa: PLC0415  # found by the path set above

    return source(REPOSITORY, info["module"], info["fullname"]) if domain == "py" else None


def setup(app: Sphinx) -> None:
    """Hook in what depends on the language."""
    app.connect("config-inited", for_language, priority=100)
    app.connect("doctree-read", keep_anchors)
    app.connect("html-page-context", tell_untranslated)
