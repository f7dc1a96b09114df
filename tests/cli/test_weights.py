import json
from pathlib import Path

import pytest

from oculox.cli.main import main


@pytest.fixture
def official(shared: Path) -> str:
    return str(shared / "weights/yolox_nano.pth")


def test_info(official: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", official]) == 0
    out = capsys.readouterr().out
    for text in ("megvii", "yolox-nano", "80: person, bicycle", "416x416", "BGR, 0-255"):
        assert text in out
    file = str(shared / "weights/mindyolo_yolox_nano_formula.ckpt")
    assert main(["weights", "info", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"]["placement"] == "center"


def test_convert(official: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ckpt = str(tmp_path / "nano.ckpt")
    assert main(["weights", "convert", official, ckpt]) == 0
    out, err = capsys.readouterr()
    assert "yolox-nano, 80 classes, in the layout of mindyolo" in out
    assert "note: MindYOLO feeds RGB 0-1" in err
    assert main(["weights", "convert", official, ckpt]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["weights", "convert", official, ckpt, "--overwrite", "--adapt-input"]) == 0
    assert capsys.readouterr().err == ""
    safe = str(tmp_path / "nano.safetensors")
    assert main(["weights", "convert", ckpt, safe, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "oculox"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "none.ckpt"], 1, "none.ckpt: no such file"),
        (["convert", "none.pt", "out.ckpt"], 1, "none.pt: no such file"),
        (["convert", "none.pt", "out.xyz"], 2, "out.xyz: weights are written as"),
        (["get", "yolox-z"], 2, "did you mean 'yolox-"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["weights", *arguments]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_get_from_a_mirror(
    official: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "yolox_nano.pth").write_bytes(Path(official).read_bytes())
    monkeypatch.setenv("OCULOX_MIRROR", mirror.as_uri())
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "cache"))
    # The file of the reference data is not the release itself: its checksum differs.
    assert main(["weights", "get", "yolox-nano"]) == 1
    err = capsys.readouterr().err
    assert "not the published yolox-nano" in err
    assert "nothing was kept" in err
    assert not [path for path in tmp_path.rglob("cache/*") if path.is_file()]
    own = tmp_path / "cache/yolox_nano.pth"
    own.parent.mkdir(exist_ok=True)
    own.write_bytes(b"mine")
    assert main(["weights", "get", "yolox-nano"]) == 1
    assert "weights of your own are named by their path" in capsys.readouterr().err
    assert own.read_bytes() == b"mine"


def test_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path))
    monkeypatch.delenv("OCULOX_MIRROR", raising=False)
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert "yolox-darknet53" in out
    assert "oculox weights get NAME" in out
    (tmp_path / "yolox_s.pth").write_text("")
    assert main(["weights", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["yolox-s"]["cached"], rows["yolox-m"]["cached"]) == (True, False)


def test_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path))
    kept = tmp_path / "runtimes" / "a" / "model.onnx"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(300))
    (tmp_path / "yolox_s.pth").write_text("weights")
    assert main(["weights", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path / "runtimes"),
        "bytes": 300,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["yolox_s.pth"]
    assert main(["weights", "clear"]) == 0
    assert capsys.readouterr().out.startswith("0.0 MB removed from ")
