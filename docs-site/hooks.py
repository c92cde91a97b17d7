"""The site's pages are those of the repository, as they stand: those at its root join the ones of docs/, and links between the
two are written anew. A link to a file that is no page (code, configuration) stays as text: the site has no such files.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Where a page of the root goes in the site.
PAGES = {name: name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")} | {"README.md": "index.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    source = next((name for name, target in PAGES.items() if target == page.file.src_uri), None)
    here = PurePosixPath(source or f"docs/{page.file.src_uri}").parent

    def written_anew(found):
        image, text, link = found.groups()
        path, mark, anchor = link.partition("#")
        if not path or "://" in path:
            return found[0]
        target = normpath(str(here / path))
        if target.startswith(".."):
            raise ValueError(f"{page.file.src_uri}: {link} leads out of the repository")
        if target == "docs/decisions":  # a folder on the way to its first record
            target = "docs/decisions/0001-one-integer-per-subscriber.md"
        inside = PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if inside is None or files.get_file_from_path(inside) is None:
            if not (ROOT / target).exists():
                raise ValueError(f"{page.file.src_uri}: {link} leads nowhere")
            return text
        away = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"{image}[{text}]({away}{inside}{mark}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(written_anew, part) for part in parts)
