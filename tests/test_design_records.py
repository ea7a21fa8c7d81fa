"""The design records: complete, linked, and with an index of the constants in the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path("docs", "design")
HEADINGS = ["Question", "Decision", "Evidence", "Tried and rejected", "Reproduce", "Commit"]
CONSTANT = re.compile(r"^[A-Z][A-Z0-9_]+ =", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INDEX_ROW = re.compile(r"^\| `(skparse/[\w/]+\.py)` \| `(\w+)` \| \[[^\]]+\]\(([\w-]+\.md)\) \|$")


def indexed_files(root):
    """Files whose constants are in the index."""
    return [
        *sorted(root.glob("skparse/_training/*.py")),
        *sorted(root.glob("skparse/dask/*.py")),
        root / "skparse" / "_predictor.py",
        root / "skparse" / "_compression.py",
    ]


def constants_of(path, *, numeric):
    """Names of the upper-case constants of a module, all or those with a number in them.

    A recipe, a tuple of functions, is upper-case as well and nothing that was measured.
    """
    source = path.read_text(encoding="utf-8")
    upper = {match.group().removesuffix(" =") for match in CONSTANT.finditer(source)}
    values = {
        node.targets[0].id: node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return {name for name in upper & set(values) if not numeric or has_number(values[name])}


def has_number(expression):
    return any(
        isinstance(node, ast.Constant) and isinstance(node.value, int | float)
        for node in ast.walk(expression)
    )


def read_index(root):
    """(module, constant, record) of every row of the table of constants."""
    text = (root / RECORDS / "index.md").read_text(encoding="utf-8")
    _, table = text.split("## Index of constants")
    return [match.groups() for match in map(INDEX_ROW.match, table.splitlines()) if match]


def links_of(path):
    """Relative targets of the links of a Markdown file, without the part after a #."""
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    return [target.split("#")[0] for target in targets if "://" not in target]


RECORD_FILES = sorted(path.name for path in (ROOT / RECORDS).glob("*.md"))
RECORD_FILES.remove("index.md")


def test_every_numeric_constant_has_a_row_in_the_index_and_no_row_is_stale():
    rows = read_index(ROOT)
    listed = {(module, constant) for module, constant, _ in rows}
    assert len(rows) == len(listed)  # no constant twice
    files = indexed_files(ROOT)
    named = {path: path.relative_to(ROOT).as_posix() for path in files}
    numeric = {(named[path], name) for path in files for name in constants_of(path, numeric=True)}
    assert numeric
    assert numeric - listed == set()
    present = {(named[path], name) for path in files for name in constants_of(path, numeric=False)}
    assert listed - present == set()


@pytest.mark.parametrize("name", RECORD_FILES)
def test_a_record_is_listed_has_the_fixed_headings_and_names_its_constants(name):
    index = (ROOT / RECORDS / "index.md").read_text(encoding="utf-8")
    records = index.split("## Records")[1].split("## Open questions")[0]
    assert f"]({name})" in records
    assert f"\n{name.removesuffix('.md')}\n" in records  # in the table of contents
    text = (ROOT / RECORDS / name).read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    for part in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]:
        assert part.strip()
    for _, constant, record in read_index(ROOT):
        assert record != name or f"`{constant}`" in text


@pytest.mark.parametrize(
    "path",
    [RECORDS / "index.md", *(RECORDS / name for name in RECORD_FILES), Path("README.md")],
    ids=str,
)
def test_every_link_leads_to_an_existing_file(path):
    for target in links_of(ROOT / path):
        assert not target or (ROOT / path.parent / target).is_file(), target


def test_nothing_refers_to_the_former_single_page():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("skparse/**/*.py")]:
        assert "docs/design.md" not in path.read_text(encoding="utf-8"), path


def test_a_constant_is_found_and_a_tuple_of_functions_is_left_out(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "TEXT = (connect, train)\nRANGE = 0.5, 1\nlower = 1\ndef f():\n    A_B = 1\n"
    )
    assert constants_of(module, numeric=True) == {"RANGE"}
    assert constants_of(module, numeric=False) == {"TEXT", "RANGE"}
