"""The documentation is true: commands parse, links resolve, tables agree with the code."""

import ast
import importlib
import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import oculox
from oculox.api import list_models
from oculox.cli.console import with_options
from oculox.cli.main import command_line
from oculox.config import config_to_dict, known_keys, load_config, recipe_names
from oculox.config.load import RENAMED_KEYS
from oculox.config.schema import Config
from oculox.exporting.targets import TARGETS
from oculox.training.log import StepRecord
from oculox.version import __version__

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
KEYS = frozenset(known_keys())
KEY = re.compile(rf"\b(?:{'|'.join(Config.model_fields)})(?:\.[a-z_0-9]+)+\b")
FILE_SUFFIXES = (
    *(".xml", ".onnx", ".torchscript", ".pt2", ".ncnn", ".tflite", ".mlpackage"),
    *(".md", ".py", ".pt", ".json", ".yaml", ".jsonl", ".txt"),
)

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)


class Code(NamedTuple):
    """A fenced block or an inline span; `language` is empty where none is named."""

    block: bool
    language: str
    text: str


def codes(text):
    """All code of a page."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    blocks = [Code(True, found[1], found[2]) for found in fence.finditer(text)]
    spans = re.findall(r"`([^`]+)`", fence.sub("", text))
    return [*blocks, *(Code(False, "", " ".join(span.split())) for span in spans)]


def commands(text):
    """(words after ``oculox``, whether it is a whole command line) of a page."""
    for code in codes(text):
        lines = code.text.replace("\\\n", " ").splitlines() if code.block else [code.text]
        if code.language in ("", "sh", "console"):
            for line in lines:
                match = re.match(r"(?:\$ |torchrun .*-m |accelerate .*-m )?oculox (.+)", line)
                if match:
                    words = match[1].partition(" > ")[0]
                    yield shlex.split(words, comments=True), code.block


def parse(words, *, whole):
    """Walk down to the command and parse the rest as a shell would have it parsed."""
    command, words = command_line(), list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options
    assert not unknown, f"no options {unknown}"
    if whole:
        command.make_context(command.name, words)


def table_rows(text, *, columns):
    """Cells of all table rows with that many columns, heads and rules left out."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == columns and not line.startswith("| ---"):
            yield cells


def test_there_are_commands_to_check():
    found = [c for page in PAGES for c in commands(page.read_text("utf-8"))]
    assert sum(whole for _, whole in found) > 20
    assert {"train", "eval", "predict", "data", "weights", "config"} <= {
        words[0] for words, _ in found
    }


@each_page
def test_commands_parse(page):
    for words, whole in commands(page.read_text("utf-8")):
        try:
            parse(words, whole=whole)
        except Exception as error:
            raise AssertionError(f"oculox {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize(
    "wrong",
    ["oculox trian yolox-s", "oculox train yolox-s --weight x", "oculox eval", "oculox data x"],
)
def test_wrong_commands_are_noticed(wrong):
    [(words, whole)] = commands(f"```sh\n{wrong}\n```")
    with pytest.raises(Exception, match=r"no command|no options|Missing"):
        parse(words, whole=whole)


def shell_lines(text):
    """Commands for a shell in the blocks of a page, without what is in quotes, and comments."""
    for code in codes(text):
        if code.block and code.language in ("", "sh", "console"):
            for line in code.text.replace("\\\n", " ").splitlines():
                if re.match(r"(?:\$ )?(?:oculox|torchrun|accelerate|pip|python|make) ", line):
                    yield re.sub(r"'[^']*'|\"[^\"]*\"", "", line).partition(" #")[0]


@each_page
def test_brackets_are_quoted(page):
    """A bare [ is a pattern: zsh refuses it, and bash may take it for a file."""
    assert [line for line in shell_lines(page.read_text("utf-8")) if "[" in line] == []


def test_a_bare_bracket_is_noticed():
    page = "```sh\noculox train x input.size=[384,640]\npip install 'oculox[onnx]'  # [a]\n```"
    assert ["[" in line for line in shell_lines(page)] == [True, False]


@each_page
def test_keys_exist(page):
    text = page.read_text("utf-8")
    if page.name == "migrating.md":
        # The left column is about other projects.
        text = "\n".join(line.split(" | ")[-1] for line in text.splitlines())
    named = {m[0] for code in codes(text) if not code.block for m in KEY.finditer(code.text)}
    named |= {
        word.split("=")[0] for words, _ in commands(text) for word in words if KEY.match(word)
    }
    if page.name == "configuration.md":
        assert named >= set(RENAMED_KEYS)
        named -= set(RENAMED_KEYS)
    unknown = {k for k in named - KEYS if not k.endswith(FILE_SUFFIXES)}
    assert not unknown


@each_page
def test_settings_are_valid(page):
    text = page.read_text("utf-8")
    settings = [
        word
        for words, _ in commands(text)
        for word in words
        if KEY.match(word) and not word.endswith(FILE_SUFFIXES)
    ]
    for code in codes(text):
        if not code.block and KEY.match(code.text):
            together = code.text.partition(" --")[0]
            settings += [s for s in re.split(rf" (?={KEY.pattern})", together) if "=" in s]
    for setting in settings:
        load_config("yolox-s", [setting])


@each_page
def test_links_resolve(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, target


def printed_messages():
    """The fixed parts of each message in the code; values stand between them."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            texts = node.values if isinstance(node, ast.JoinedStr) else [node]
            parts = [
                with_options(text.value)
                for text in texts
                if isinstance(text, ast.Constant) and isinstance(text.value, str)
            ]
            if sum(map(len, parts)) >= 15:
                yield parts


def is_printed(message, printed):
    """Whether the message holds all parts of one of those, in order."""

    def holds(parts):
        at = 0
        for part in parts:
            at = message.find(part, at)
            if at < 0:
                return False
            at += len(part)
        return True

    return any(map(holds, printed))


def test_messages_of_troubleshooting_are_printed():
    text = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    messages = [code.text.strip() for code in codes(text) if code.language == "text"]
    printed = list(printed_messages())
    assert len(messages) > 20
    assert [m for m in messages if not is_printed(m, printed)] == []
    assert not is_printed(messages[0].replace("was detected", "was found"), printed)


@each_page
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for code in codes(page.read_text("utf-8")):
        for line in code.text.splitlines():
            if line.startswith("make "):
                assert set(line.partition("#")[0].split()[1:]) <= targets, line


@each_page
def test_python_compiles_and_its_imports_exist(page):
    for code in codes(page.read_text("utf-8")):
        if code.language != "python":
            continue
        for node in ast.walk(ast.parse(code.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("oculox"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def unguarded(tree):
    """Names of the called functions that may start processes outside of a main guard."""
    for node in tree.body:
        if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
                name = ast.unparse(call.func).rpartition(".")[2]
                if name in ("train", "evaluate"):
                    yield name


def test_the_public_names_are_listed():
    page = (ROOT / "docs/python.md").read_text("utf-8")
    first = page.partition("```python\n")[2].partition("```")[0]
    names = re.findall(r"\w+", first.replace("from oculox import", ""))
    assert {*names, "__version__"} == set(oculox.__all__)


@each_page
def test_python_that_starts_processes_is_guarded(page):
    """Where they are not forked, they import the script anew and would start again."""
    for code in codes(page.read_text("utf-8")):
        if code.language == "python":
            assert list(unguarded(ast.parse(code.text))) == [], code.text


def test_figures_of_the_nano_are_the_measured_ones():
    text = (ROOT / "docs/benchmarks/nano.json").read_text("utf-8")
    measured = {row["format"]: row for row in json.loads(text)["measurements"]}
    page = (ROOT / "docs/benchmarks.md").read_text("utf-8")
    rows = table_rows(page.split("| runtime |")[0], columns=6)
    told = {name: cells for name, *cells in rows if name != "format"}
    assert told.keys() == measured.keys()
    for name, row in measured.items():
        figures = [f"{row[key]:.1f}" for key in ("megabytes", "median_ms", "min_ms")]
        assert told[name][:4] == [*figures, f"{row['ap']:.4f}"]
    ap = told["torch"][3]
    for page, start in (("README.md", "| AP of the official nano"), ("docs/deploy.md", "| checkp")):
        lines = (ROOT / page).read_text("utf-8").splitlines()
        [line] = [line for line in lines if line.startswith(start)]
        assert f" {ap} |" in line


# A figure that stands on several pages, and the pages: a new measurement changes all of them.
FIGURES = {
    "2 min 16 s": ("docs/quickstart.md", "docs/experiments.md"),
    "1.75 times": ("README.md", "docs/performance.md"),
    "2.73 s": ("docs/cluster.md", "docs/performance.md"),
    "2.3 to 2.5 times": ("docs/training.md", "docs/experiments.md"),
    "0.598": ("README.md", "docs/own-data.md", "docs/experiments.md"),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_several_pages_agree(figure):
    for page in FIGURES[figure]:
        assert figure in " ".join((ROOT / page).read_text("utf-8").split()), page


def test_every_key_is_described_with_its_default():
    text = (ROOT / "docs/configuration.md").read_text("utf-8")
    rows = [cells for cells in table_rows(text, columns=3) if cells[0].startswith("`")]
    described = {key.strip("`"): yaml.safe_load(default.strip("`")) for key, default, _ in rows}
    defaults = config_to_dict(Config())
    expected = {key: _at(defaults, key) for key in known_keys()}
    assert described == expected
    assert len(rows) == len(expected)


def test_what_recipes_change_is_told():
    text = (ROOT / "docs/configuration.md").read_text("utf-8")
    told = {
        cells[0].strip("`"): re.findall(r"`([^`]+)`", cells[1])
        for cells in table_rows(text, columns=2)
    }
    base = config_to_dict(Config())
    for recipe in recipe_names():
        actual = config_to_dict(load_config(recipe))
        changed = {k for k in KEYS - {"model.name"} if _at(actual, k) != _at(base, k)}
        assert {setting.split("=")[0] for setting in told[recipe]} == changed
        assert config_to_dict(load_config(recipe, told[recipe])) == actual
        for ending in ("-adamw", "-finetune"):
            changed = load_config(recipe, told[ending]).model_copy(update={"recipe": ending[1:]})
            assert changed == load_config(recipe + ending)


def test_networks_in_the_readme():
    rows = table_rows((ROOT / "README.md").read_text("utf-8"), columns=4)
    told = {cells[0].strip("`"): cells[1:] for cells in rows}
    for row in list_models():
        size = f"{row['parameters'] / 1e6:.2f} M"
        assert told[row["name"]] == [size, str(row["input"][0]), str(row["published_ap"])]


def test_log_fields_are_described():
    text = (ROOT / "docs/training.md").read_text("utf-8")
    cells = itertools.chain.from_iterable(
        re.findall(r"`(\w+)`", c[0]) for c in table_rows(text, columns=2)
    )
    assert set(StepRecord.__dataclass_fields__) <= set(cells)


def test_the_readme_names_this_version():
    assert f"\nVersion {__version__}, " in (ROOT / "README.md").read_text("utf-8")


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]


def test_layers_are_described():
    contract = (
        (ROOT / "pyproject.toml").read_text("utf-8").partition("layers = [")[2].partition("]")[0]
    )
    layers = set(re.findall(r"oculox\.\w+", contract))
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    assert len(layers) > 10
    assert layers <= set(re.findall(r"`(oculox\.\w+)`", text))


def test_files_named_by_the_architecture_exist():
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    files = re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", text)
    package = ROOT / "src/oculox"
    assert len(files) > 20
    assert not [
        f for f in files if not (package / f).exists() and not (package / "models" / f).exists()
    ]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(*extras):
    """(package, oldest version) of the base install and of extras."""
    optional = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(r for extra in extras for r in optional[extra])]
    pattern = r"([\w-]+)(?:>=([\w.]+))?"
    return {m[1]: m[2] for m in (re.match(pattern, r) for r in listed) if m[1] != "oculox"}


def test_dependencies_are_described():
    text = (ROOT / "docs/dependencies.md").read_text("utf-8")
    described = {cells[0].strip("`") for cells in table_rows(text, columns=3)} - {"package"}
    assert described == {*requirements()}
    extras = {cells[0].strip("`") for cells in table_rows(text, columns=2)} - {"extra"}
    assert extras == {*PROJECT["optional-dependencies"]}


def test_extras_are_named_where_they_are_needed():
    """Those of the formats on the page of deployment, those of the trackers on that of training."""
    named = set()
    for page in PAGES:
        for code in codes(page.read_text("utf-8")):
            for found in re.findall(r"(?:oculox|'\.)\[([\w,]+)\]", code.text):
                named |= set(found.split(","))
    assert named <= {*PROJECT["optional-dependencies"]}
    deploy = (ROOT / "docs/deploy.md").read_text("utf-8")
    named |= set(re.findall(r"`\[(\w+)\]`", deploy))
    assert named == {*PROJECT["optional-dependencies"]} - {"dev", "docs"}


def test_formats_that_can_be_exported_are_not_left_to_other_projects():
    rows = table_rows((ROOT / "docs/migrating.md").read_text("utf-8"), columns=2)
    named = [row for row in rows for name in TARGETS if name.upper() in row[0] + row[1]]
    assert len(named) >= 2
    assert [row for row in named if "oculox export --format" not in row[1]] == []


def test_the_oldest_versions_are_those_that_are_tested():
    text = (ROOT / "constraints-oldest.txt").read_text("utf-8")
    pinned = dict(line.split("==") for line in text.splitlines() if "==" in line)
    extras = ("onnx", "openvino", "ncnn", "coreml", "serve", "parquet", "ray", "tensorboard")
    oldest = requirements(*extras)
    del oldest["torch"]
    assert oldest
    for name, version in oldest.items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pinned[name]), name


def _at(tree, key):
    for part in key.split("."):
        tree = tree[part]
    return tree
