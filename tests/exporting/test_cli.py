"""``oculox export`` from the command line."""

import json
import shutil

import pytest

from oculox.cli.main import main
from oculox.exporting.targets import TARGETS
from oculox.files import free_path


def test_the_help_names_all_formats(capsys):
    assert main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in TARGETS)
    assert "docs/" not in text


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


def test_a_new_file_each_time(lively_pt, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(lively_pt, "mine.pt")
    words = ["export", "mine.pt", "--format", "torchscript", "--json"]
    for file in ("mine.torchscript", "mine-2.torchscript"):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out)["files"] == [file]
    path = tmp_path / "mine.torchscript"
    before = path.stat().st_mtime_ns
    assert main([*words, "--output", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before
    assert main([*words, "--output", str(path), "--overwrite"]) == 0
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("kind", "output", "beside"),
    [("openvino", "a.xml", "a.bin"), ("tensorrt", "a.engine", "a.engine.oculox.json")],
)
def test_what_goes_beside_a_file_replaces_nothing(
    kind, output, beside, lively_pt, tmp_path, capsys
):
    (tmp_path / beside).write_text("mine")
    words = ["export", str(lively_pt), "--format", kind, "--output", str(tmp_path / output)]
    assert main(words) == 2
    assert f"{tmp_path / beside} exists; name another --output" in capsys.readouterr().err
    assert (tmp_path / beside).read_text() == "mine"
    target = TARGETS[kind]
    free = free_path(tmp_path / output, suffix=target.suffix, companions=target.companions)
    assert free == tmp_path / f"a-2{target.suffix}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onxx"], "did you mean 'onnx'"),
        (["--format", "onnx", "--precision", "int8"], "--calib"),
        (["--format", "onnx", "--batch", "0"], "batch must be at least 1"),
        (["--format", "onnx", "--batch", "9" * 23], "at least 1 and at most 65536, got 999"),
        (["--format", "onnx", "--output", "x.xml"], "ends in .onnx"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, message, lively_pt, capsys):
    assert main(["export", str(lively_pt), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "many"], "expected a number or dynamic, got 'many'"),
        (["--imgsz", "big"], "expected a number or height,width, got 'big'"),
        (["--imgsz", "1,2,3"], "expected a number or height,width"),
        (["--precision", "bf16"], "--precision"),
    ],
)
def test_options_that_do_not_parse(words, message, lively_pt, capsys):
    assert main(["export", str(lively_pt), "--format", "onnx", *words]) == 2
    assert message in capsys.readouterr().err


def test_benchmark_prints_a_table_or_json_and_draws(lively_pt, tmp_path, capsys):
    plot = tmp_path / "b.png"
    words = ["--formats", "torch,torchscript", "--samples", "2"]
    assert main(["benchmark", str(lively_pt), *words]) == 0
    assert "| torchscript |" in capsys.readouterr().out
    assert main(["benchmark", str(lively_pt), *words, "--json", "--plot", str(plot)]) == 0
    assert len(json.loads(capsys.readouterr().out)["measurements"]) == 2
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_benchmark_without_a_result_fails(lively_pt, capsys):
    assert main(["benchmark", str(lively_pt), "--formats", "pt2-int8", "--samples", "1"]) == 1
    assert "not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_an_export_from_and_to_storage(s3, lively_pt, tiny_data):
    s3.put("bucket-export", {"model.pt": lively_pt.read_bytes()})
    s3.put_folder("bucket-export", tiny_data / "val2017", below="images/")
    target = "s3://bucket-export/model.torchscript"
    words = ["export", "s3://bucket-export/model.pt", "--format", "torchscript"]
    assert main([*words, "--output", target]) == 0
    assert main(["predict", target, "s3://bucket-export/images", "--no-draw"]) == 0
    assert main([*words, "--output", target]) == 2  # it exists
