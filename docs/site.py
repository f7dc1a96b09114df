"""Pages of the site that stand outside of docs/, and the links to them (a hook of MkDocs)."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "deploy/cpp/README.md": "cpp.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE.txt",
    "NOTICE": "NOTICE.txt",
}
REFERENCE = "# Python API reference\n\nThe public names, from their docstrings.\n\n::: oculox\n"
# Of the README: the site has its own list of pages, and a page of the license.
LIST_OF_PAGES = re.compile(r"^## Documentation\n.*?(?=^## )", re.DOTALL | re.MULTILINE)
LICENSE = re.compile(r"^#(# License and citation\n.*)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    root = Path(config.config_file_path).parent
    for source, target in OUTSIDE.items():
        text = (root / source).read_text("utf-8")
        if target == "index.md":
            license_text = LINK.sub(r"../\1", LICENSE.findall(text)[0])
            files.append(File.generated(config, "license.md", content=license_text))
            text = LICENSE.sub("", LIST_OF_PAGES.sub("", text))
        files.append(File.generated(config, target, content=text))
    files.append(File.generated(config, "reference.md", content=REFERENCE))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links, which are right in the repository, to their place on the site."""
    del config, files
    sources = {target: source for source, target in OUTSIDE.items()}
    here = posixpath.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def moved(link: re.Match[str]) -> str:
        source = posixpath.normpath(posixpath.join(here, link[1]))
        target = OUTSIDE.get(source, posixpath.relpath(source, "docs"))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)
