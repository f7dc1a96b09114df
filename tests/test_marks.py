"""No tracked text holds a mark of work that was left unfinished."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARKS = re.compile(
    r"(?<!\w)@[A-Za-z][\w .-]*@"  # filled in by nobody
    r"|\b(?:TBD|TODO|FIXME|XXX|TK|HACK|PLACEHOLDER)\b"
    r"|(?i:\blorem\b)"
    r"|\?\?\?"
    r"|\{\{ \w+ \}\}"  # a template's variable
    r"|<(?:your|insert|fill)[ _-][^>]*>"
    r"|^(?:<<<<<<<|=======|>>>>>>>)(?: |$)",  # of a merge
    re.MULTILINE,
)


def unfinished(text):
    """(line, mark) of each."""
    return [(text.count("\n", 0, m.start()) + 1, m[0]) for m in MARKS.finditer(text)]


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no checkout of git")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_nothing_tracked_is_left_unfinished():
    found, texts = [], 0
    for path in tracked_files():
        content = path.read_bytes() if path.is_file() and path != Path(__file__) else b"\0"
        if b"\0" not in content:
            texts += 1
            text = content.decode()
            if path.suffix == ".html":  # templates, which a program fills in
                text = re.sub(r"\{\{ \w+ \}\}", "", text)
            marks = unfinished(text)
            found += [f"{path.relative_to(ROOT)}:{line}: {mark}" for line, mark in marks]
    assert texts > 200
    assert found == []


@pytest.mark.parametrize(
    "planted",
    [
        "It took @demo-minutes@ minutes.",
        "AP @AP50@",
        "# TODO: the rest",
        "| speed | TBD |",
        "FIXME",
        "see section XXX.",
        "Lorem ipsum dolor",
        "took ??? s",
        "a {{ name }} b",
        "pip install <your package>",
        "<<<<<<< HEAD",
        ">>>>>>> main",
    ],
)
def test_a_planted_mark_is_found(planted):
    assert [line for line, _ in unfinished(f"one\n{planted}\n")] == [2]


@pytest.mark.parametrize(
    "fine",
    [
        "",
        "@pytest.mark.slow\n@app.command()\n",
        "a@example.org or b@example.org",
        "@article{yolox2021,\n title = {{YOLOX}: Exceeding {YOLO} Series in 2021},",
        'f"{{0}}" and f"{{root}}"',
        "xxx, todos, what??",
        "images @ scale @ 416",
    ],
)
def test_other_text_is_left_alone(fine):
    assert unfinished(fine) == []
