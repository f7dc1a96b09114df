"""``oculox export`` from the command line."""

import json

import pytest

from oculox.cli.main import main


def test_a_file_a_table_and_sizes(lively_pt, tmp_path, capsys):
    path = tmp_path / "m.torchscript"
    assert main(["export", str(lively_pt), "--format", "torchscript", "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert "batch 3, 64 x 64" in out
    assert "FAILED" not in out
    assert f"{path}  " in out
    assert path.is_file()


def test_json_and_ap(lively_pt, tiny_data, tmp_path, capsys):
    path = tmp_path / "m.pt2"
    words = ["--format", "pt2", "--data", str(tiny_data), "--imgsz", "64,96", "--json"]
    assert main(["export", str(lively_pt), *words, "--output", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == [str(path)]
    assert all(row["ok"] for row in report["parity"])
    assert abs(report["ap"]["checkpoint"] - report["ap"]["exported"]) <= 0.002


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onxx"], "did you mean 'onnx'"),
        (["--format", "onnx", "--half", "--int8"], "exclude each other"),
        (["--format", "onnx", "--int8"], "--calib"),
        (["--format", "onnx", "--batch", "many"], "--batch takes a number or dynamic"),
        (["--format", "onnx", "--imgsz", "big"], "--imgsz takes"),
        (["--format", "onnx", "--output", "x.xml"], "ends in .onnx"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, message, lively_pt, capsys):
    assert main(["export", str(lively_pt), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_benchmark_prints_a_table_and_writes_json_and_plot(lively_pt, tmp_path, capsys):
    target, plot = tmp_path / "b.json", tmp_path / "b.png"
    words = ["--formats", "torch,torchscript", "--images", "2"]
    files = ["--json", str(target), "--plot", str(plot)]
    assert main(["benchmark", str(lively_pt), *words, *files]) == 0
    assert "| torchscript |" in capsys.readouterr().out
    assert len(json.loads(target.read_text())["measurements"]) == 2
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_without_a_result_fails(lively_pt, capsys):
    assert main(["benchmark", str(lively_pt), "--formats", "pt2-int8", "--images", "1"]) == 1
    assert "not measured" in capsys.readouterr().out
