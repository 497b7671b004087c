"""The documentation: links resolve, commands parse, and the README is short."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from seer_edge.cli.flags import parse

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PAGES = sorted([*PROJECT.glob("*.md"), *DOCS.rglob("*.md")])
README_LINES_MAX = 130

FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)|(?:href|src)=\"([^\"]+)\"", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)


def prose(text: str) -> str:
    """Remove fenced and indented code blocks and code spans."""
    text = FENCE.sub("", text)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return CODE.sub("", text)


def links(text: str) -> Iterator[str]:
    """Yield the targets of inline links, images, reference definitions and HTML attributes."""
    for match in LINK.finditer(prose(text)):
        yield next(target for target in match.groups() if target)


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub and the website make them."""
    found: Counter[str] = Counter()
    names = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def problem(page: Path, target: str) -> str | None:
    """Say why `target`, linked from `page`, does not resolve."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None  # on the web
    name, _, anchor = target.partition("#")
    path = (page.parent / unquote(name)).resolve() if name else page
    if not path.exists():
        return "no such file"
    if DOCS in page.parents and DOCS not in path.parents:
        return "outside docs/, which the website does not contain; write the path as code"
    if path.is_dir():
        return "a folder, which the website cannot show; link its README.md"
    if anchor and anchor not in anchors(path.read_text()):
        return "no such heading"
    return None


def commands(text: str) -> Iterator[str]:
    """Yield the `seer-edge` command lines of the code blocks, without comments and placeholders."""
    for line in text.replace("\\\n", "").splitlines():
        shown = re.match(r"(?: {4}|.*? -- )(seer-edge .*)", line)
        if shown is None or "…" in line:
            continue
        yield shown[1].partition(" > ")[0].partition(" | ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_resolve(page: Path) -> None:
    broken = {target: found for target in links(page.read_text()) if (found := problem(page, target))}
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_commands_are_accepted_by_the_parser(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands(page.read_text()):
        parse(shlex.split(command, comments=True)[1:])


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= README_LINES_MAX


def test_every_page_is_linked_from_another_page() -> None:
    linked = {
        (page.parent / unquote(target.partition("#")[0])).resolve()
        for page in PAGES
        for target in links(page.read_text())
    }
    assert {page for page in PAGES if page not in linked} <= {PROJECT / "README.md", PROJECT / "AGENTS.md"}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One\n\n## Two words, `code`\n\n## One\n\n```\n# Three\n```\n")
    page.write_text(
        "[a](other.md#two-words-code) [b](other.md#one-1) [c](other.md#three) [d](none.md) `[e](none2.md)`\n\n"
        "    [f](none3.md)\n\n"
        '![g](none.png) <img src="none.svg"> [h](https://example.org) [i](#here)\n\n[j]: none4.md\n'
    )
    broken = [target for target in links(page.read_text()) if problem(page, target)]
    assert broken == ["other.md#three", "none.md", "none.png", "none.svg", "#here", "none4.md"]
