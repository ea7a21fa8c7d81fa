"""Check the built site: python docs/check_site.py docs/_build/html.

Links to its own pages and their sections have to exist, nothing may be loaded from another host,
and what a newcomer looks for has to be at most two clicks away from the first page.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

TWO_CLICKS = [
    "index.html#install",
    "auto_examples/plot_quickstart.html",
    "user_guide.html#what-to-tune",
    "choosing_k.html",
    "explaining.html",
    "user_guide.html#saving",
    "in_production.html",
    "user_guide.html#questions-and-troubleshooting",
    "generated/skparse.SparseExpertClassifier.html",
]


class Page(HTMLParser):
    """The identifiers of a page, its links, and what a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        address = found.get("href") or found.get("src")
        if address and tag == "a":
            self.links.add(address)
        elif address and found.get("rel") not in ("canonical", "search", "index", "next", "prev"):
            self.loaded.add(address)


def target_of(path, address):
    """Return file and identifier that a link of a page leads to, None for another host."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    name, identifier = urldefrag(address)
    file = (path.parent / unquote(name)).resolve() if urlsplit(name).path else path
    # Browsers look for the text after ":~:" on the page; it names no section.
    return Path(str(file).partition("?")[0]), unquote(identifier).partition(":~:")[0]


def find_faults(root):
    """Yield a line for each fault of the site."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    if not pages:
        yield f"{root} has no pages"
    for path, page in pages.items():
        name = path.relative_to(root)
        for address in sorted(page.links | page.loaded):
            target = target_of(path, address)
            if target is None:
                if address in page.loaded and not address.startswith("data:"):
                    yield f"{name} loads {address}"
                continue
            file, identifier = target
            if not file.exists():
                yield f"{name} links to {address}, which does not exist"
            elif identifier and file in pages and identifier not in pages[file].ids:
                yield f"{name} links to {address}, which has no such section"
    reached = within_two_clicks(root, pages)
    yield from (f"{name} is not within two clicks" for name in TWO_CLICKS if name not in reached)


def within_two_clicks(root, pages):
    """Return the pages and sections that one or two links lead to from the first page."""
    reached = {root / "index.html": {""}}
    for _ in range(2):
        for path in list(reached):
            for address in pages[path].links if path in pages else ():
                file, identifier = target_of(path, address) or (None, "")
                reached.setdefault(file, {""}).add(identifier)
    names = set()
    for file, identifiers in reached.items():
        if file and file.is_relative_to(root):
            name = file.relative_to(root).as_posix()
            names |= {f"{name}#{part}" if part else name for part in identifiers}
    return names


if __name__ == "__main__":
    faults = list(find_faults(Path(sys.argv[1]).resolve()))
    print("\n".join(faults) or "no broken links")
    sys.exit(bool(faults))
