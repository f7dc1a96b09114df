"""One convention for all commands (docs/cli.md), checked by walking through all of them."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from oculox import api
from oculox.cli import options as o
from oculox.cli.console import with_options
from oculox.cli.main import command_line
from oculox.errors import UsageError
from oculox.weights.convert import convert_weights


def walk(group, words=()):
    """(name, command) of all commands below a group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


COMMANDS = dict(walk(command_line()))
each_command = pytest.mark.parametrize("name", COMMANDS)
PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text("utf-8")


def options(name):
    """Option -> parameter of a command."""
    return {
        option: parameter
        for parameter in COMMANDS[name].params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }


def test_all_commands_are_walked_through():
    assert len(COMMANDS) == 26
    assert {"train", "data check", "weights list"} <= set(COMMANDS)


@each_command
def test_json_is_a_flag_everywhere(name):
    flag = options(name)["--json"]
    assert flag.is_flag
    assert flag.default is False
    assert flag.help == options("eval")["--json"].help


SHARED = {
    "--conf": o.Conf,
    "--iou": o.Iou,
    "--max-det": o.MaxDet,
    "--classes": o.Classes,
    "--agnostic-nms": o.AgnosticNms,
    "--imgsz": o.ImageSize,
    "--tta": o.Tta,
    "--tile": o.Tile,
    "--tile-overlap": o.TileOverlap,
    "--device": o.Device,
    "--devices": o.Devices,
    "--precision": o.Precision,
    "--backend": o.Backend,
    "--batch": o.Batch,
    "--workers": o.Workers,
    "--data": o.Data,
    "--images": o.Images,
    "--calib": o.Calibration,
    "--overwrite": o.Overwrite,
    "--json": o.Json,
    "--no-draw": o.NoDraw,
    "--max-frames": o.MaxFrames,
    "--report": o.Report,
}
OWN = {
    ("data check", "--imgsz"),  # the same type, about the statistics
    ("data stats", "--imgsz"),
    ("data convert", "--classes"),  # those to write, not a filter
    ("data split", "--classes"),
    ("data demo", "--overwrite"),  # of a folder that is an argument
    ("data tile", "--overwrite"),
    ("data pack", "--overwrite"),
    ("weights convert", "--overwrite"),
    ("export", "--batch"),  # a number or dynamic
    ("export", "--precision"),  # of the file
    ("predict", "--workers"),  # of Ray
    ("serve", "--workers"),  # processes of the server
}


@pytest.mark.parametrize("option", SHARED)
def test_shared_options_are_the_same_everywhere(option):
    found = {
        name: inspect.get_annotations(inspect.unwrap(command.callback), eval_str=True)
        for name, command in COMMANDS.items()
        if option in options(name) and (name, option) not in OWN
    }
    assert found
    for name, annotations in found.items():
        assert annotations[options(name)[option].name] == SHARED[option], name


@each_command
def test_words_that_mean_the_same(name):
    found = options(name)
    forbidden = {"--force", "--input-size", "--imsize", "--nms-iou", "--half", "--int8", "--gpu"}
    assert not forbidden & set(found)
    assert not [option for option in found if re.fullmatch("-[a-zA-Z]", option)]
    for option in ("--overwrite", "--nms", "--recursive"):
        assert option not in found or found[option].is_flag
    # click writes the brackets and dots of its usage line itself.
    arguments = [param for param in COMMANDS[name].params if param.param_type_name == "argument"]
    assert not [param for param in arguments if set(param.metavar or "") & set("[].")]
    if "--imgsz" in found:
        assert found["--imgsz"].metavar == "S|H,W"
    if "--devices" in found:
        assert found["--devices"].default == 1


@each_command
def test_every_option_is_explained(name):
    command = COMMANDS[name]
    assert all(parameter.help for parameter in command.params)
    assert not command.get_short_help_str(60).endswith("...")
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("option", [option for option in SHARED if option != "--calib"])
def test_shared_options_are_described(option):
    assert f"`{option}" in PAGE


PYTHON = {
    "eval": api.evaluate,
    "compare": api.compare,
    "export": api.export,
    "benchmark": api.benchmark,
    "predict": api.Detector.__init__,
    "track": api.Detector.track,
    "data check": api.check_data,
    "data convert": api.convert,
}
DIFFERENT = {
    "export": {"batch"},  # "1" on the command line, where it may be "dynamic" too
    "benchmark": {"formats"},  # one text there, a sequence here
    "predict": {"batch"},  # images come one after the other there, in a list here
    "data check": {"imgsz"},
}


@pytest.mark.parametrize("name", PYTHON)
def test_defaults_are_those_of_the_python_functions(name):
    theirs = {
        key: parameter.default
        for key, parameter in inspect.signature(PYTHON[name]).parameters.items()
    }
    ours = {parameter.name: parameter.default for parameter in COMMANDS[name].params}
    common = set(ours) & set(theirs) - DIFFERENT.get(name, set())
    assert len(common) > 3
    assert {key: ours[key] for key in common if theirs[key] is not inspect.Parameter.empty} == {
        key: theirs[key] for key in common if theirs[key] is not inspect.Parameter.empty
    }


@pytest.mark.parametrize(
    ("text", "size"), [("640", (640, 640)), ("480,640", (480, 640)), ("480x640", (480, 640))]
)
def test_sizes(text, size):
    assert o.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "1,2,3", "640,", "6.5"])
def test_what_is_no_size(text):
    with pytest.raises(typer.BadParameter, match="expected a number or height,width"):
        o.parse_size(text)


@pytest.mark.parametrize(
    "words",
    [
        ("config", "yolox-s"),
        ("models",),
        ("weights", "list"),
        ("weights", "info", "{weights}"),
        ("weights", "convert", "{weights}", "{tmp}/copy.safetensors"),
        ("data", "demo", "{tmp}/demo", "--train", 1, "--val", 1, "--width", 64, "--height", 64),
        ("data", "check", "{data}"),
        ("data", "stats", "{data}"),
        ("data", "view", "{data}", "--output", "{tmp}/view.html"),
        ("data", "label", "{weights}", "{data}/val2017", "--output", "{tmp}/labels"),
        ("data", "convert", "{data}", "{tmp}/new", "--from", "coco"),
        ("data", "tile", "{data}", "{tmp}/new", "--size", 64),
        ("eval", "{weights}", "--data", "{data}", "--workers", 0),
        ("predict", "{weights}", "{data}/val2017", "--output", "{tmp}/found"),
        ("track", "{weights}", "{data}/val2017", "--output", "{tmp}/found"),
    ],
)
def test_json_and_nothing_else_on_standard_output(oculox, eager_pt, tiny_data, tmp_path, words):
    fill = {"{weights}": eager_pt, "{data}": tiny_data, "{tmp}": tmp_path}
    texts = [str(word) for word in words]
    for mark, value in fill.items():
        texts = [text.replace(mark, str(value)) for text in texts]
    outcome = oculox(*texts, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)


def test_default_outputs_number_themselves(oculox, eager_pt, tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/predict", "runs/predict-2", "runs/predict-3"):
        outcome = oculox("predict", eager_pt, tiny_data / "val2017/000001.jpg", "--json")
        assert outcome.json["output"] == folder


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "none.pt", "{image}"),
        ("predict", "{weights}", "{image}", "--imgsz", "65"),
        ("predict", "{weights}", "none.jpg", "--output", "new/found"),
        ("track", "{weights}", "none.mp4", "--output", "new/found"),
        ("track", "{weights}", "{image}", "--imgsz", "65", "--output", "new/found"),
        ("export", "{weights}", "--format", "onnx", "--output", "new/m.xml"),
        ("export", "{weights}", "--format", "onnx", "--imgsz", "65", "--output", "new/m.onnx"),
        ("data", "convert", "none", "new/data", "--from", "voc"),
        ("data", "tile", "none", "new/data"),
        ("data", "check", "none", "--fix", "new/clean"),
        ("data", "view", "none", "--output", "new/view.html"),
        ("data", "label", "{weights}", "none", "--output", "new/labels"),
        ("data", "demo", "new/demo", "--train", "0"),
        ("weights", "convert", "none.pt", "new/out.pth"),
        ("demo", "--output", "{image}"),
    ],
)
def test_a_refused_command_leaves_nothing(
    oculox, eager_pt, tiny_data, tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    image = str(tiny_data / "val2017/000001.jpg")
    outcome = oculox(*(w.format(weights=eager_pt, image=image) for w in words))
    assert outcome.code in (1, 2)
    assert outcome.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "yolox-nano", "--data", "{data}"),
        ("eval", "yolox-nano", "--data", "{data}", "--devices", 2),
        ("predict", "yolox-nano", "{data}/val2017"),
        ("export", "yolox-nano", "--format", "onnx"),
        ("benchmark", "yolox-nano"),
        ("train", "yolox-nano", "data.root={data}", "--weights", "yolox-nano"),
        ("train", "yolox-nano", "data.root={data}", "--weights", "yolox-nano", "--devices", 2),
        ("weights", "info", "yolox-nano"),
        ("weights", "convert", "yolox-nano", "out.pth"),
    ],
)
def test_weights_may_be_a_published_name(oculox, tiny_data, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OCULOX_MIRROR", (tmp_path / "mirror").as_uri())
    outcome = oculox(*(str(word).format(data=tiny_data) for word in words))
    assert outcome.code == 1
    assert "mirror/yolox_nano.pth: no such file; download https://" in outcome.error
    assert outcome.err.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


HEAVY = ("torch", "numpy", "cv2", "matplotlib", "accelerate", "supervision", "rich")


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        ("train", "--help"),
        ("data", "check", "--help"),
        ("config", "yolox-s"),
        ("weights", "list"),
        None,
    ],
)
def test_light_commands_import_nothing_heavy(words):
    start = "import oculox" if words is None else f"from oculox.cli.main import main; main({words})"
    code = f"import sys; {start}; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("oculox pre", "predict"),
        ("oculox data ch", "check"),
        ("oculox train yolox-ti", "yolox-tiny yolox-tiny-adamw yolox-tiny-finetune"),
        ("oculox config yolox-s-", "yolox-s-adamw yolox-s-finetune"),
    ],
)
def test_shell_completion(typed, expected):
    words = typed.split()
    done = subprocess.run(
        [sys.executable, "-m", "oculox"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "_OCULOX_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
    )
    assert done.stdout.split() == expected.split(), done.stderr


def texts_of_the_library():
    """(file, text) of every string outside the command line, docstrings left out."""
    package = Path(api.__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if path.parent.name == "cli":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in docs:
                yield path.relative_to(package).as_posix(), text


def test_the_library_names_arguments_and_no_options():
    """A Python program has no options; the words of a command line, such as `--output`, are."""
    found = [
        (path, text)
        for path, text in texts_of_the_library()
        if re.search(
            r"(?<![\w-])--[a-z]",
            text.replace("docker: --shm-size", "").replace("oculox train --resume", ""),
        )
        and not re.fullmatch("--[a-z]+", text)
    ]
    assert not found


def test_arguments_that_messages_name_are_options_of_commands():
    known = {option for name in COMMANDS for option in options(name)}
    named = {
        with_options(word)
        for _, text in texts_of_the_library()
        for word in re.findall("`[a-z_]+`", text)
    }
    assert len(named) > 8
    assert named <= known


def test_the_library_warns_in_the_way_that_the_command_line_shows_as_a_line():
    source = Path(api.__file__).parents[1]
    calls = [
        (path.name, call)
        for path in source.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "warnings.warn"
    ]
    assert len(calls) > 5
    category = re.compile(r"OculoxWarning|RenamedKeyWarning")
    assert [name for name, call in calls if not category.search(ast.unparse(call))] == []


def test_the_command_line_shows_arguments_as_options(oculox, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"")
    outcome = oculox("weights", "convert", tmp_path / "b.pth", tmp_path / "a.pt")
    assert outcome.error.endswith("name another file, or pass --overwrite to replace it")
    with pytest.raises(UsageError, match="name another file, or pass `overwrite` to replace it"):
        convert_weights(tmp_path / "b.pth", tmp_path / "a.pt")
