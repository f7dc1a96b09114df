"""Optional packages send nothing to their makers."""

import os
import subprocess
import sys

import pytest

from oculox.extras import require

CODE = """
import sys
from oculox.extras import require
package = require(sys.argv[1], extra="x", purpose="this")
if sys.argv[1] == "onnxruntime":
    package.get_available_providers()
"""


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "nncf"])
def test_no_identity_of_the_machine_is_made(package, tmp_path):
    """Their telemetry writes an identity of the machine into the home folder first of all."""
    pytest.importorskip(package)
    unset = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    subprocess.run(
        [sys.executable, "-c", CODE, package],
        env={**environment, "HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )
    written = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")]
    assert not {"intel", ".intel"} & set(written)
    assert not list(tmp_path.rglob("deviceid"))


@pytest.mark.parametrize("value", [None, "0"])
def test_a_users_own_setting_stays(monkeypatch, value):
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if value is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    require("onnxruntime", extra="onnx", purpose="this")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == (value or "1")
