"""`oculox compare`, and the page of `oculox eval`."""

from html_page import Page, check_alone
from oculox.evaluation.metrics import METRICS


def test_eval_writes_a_page(oculox, eager_pt, tiny_data, tmp_path):
    path = tmp_path / "report.html"
    words = ("--data", tiny_data, "--workers", 0, "--json", "--report", path)
    outcome = oculox("eval", eager_pt, *words)
    assert outcome.code == 0, outcome.err
    assert f"report in {path}" in outcome.err
    page = Page(path)
    check_alone(page)
    shown = [row[1] for row in page.tables["COCO metrics"]]
    metrics = outcome.json["metrics"]
    assert shown == [f"{metrics[n]:.3f}" if metrics[n] >= 0 else "-" for n in METRICS]


def test_two_sizes_compared(oculox, eager_pt, three_classes_pt, tiny_data, tmp_path):
    path = tmp_path / "compare.html"
    words = ("--data", tiny_data, "--workers", 0, "--draws", 20)
    outcome = oculox("compare", eager_pt, eager_pt, *words, "--json", "--report", path)
    assert outcome.code == 0, outcome.err
    printed = outcome.json
    assert [row["name"] for row in printed["metrics"]] == list(METRICS)
    assert {row["difference"] for row in printed["metrics"]} <= {0, None}
    assert (printed["models"], printed["evaluated"]) == ([str(eager_pt)] * 2, 4)
    page = Page(path)
    check_alone(page)
    assert [row[1] for row in page.tables["COCO metrics"]] == [
        "-" if row["a"] < 0 else f"{row['a']:.3f}" for row in printed["metrics"]
    ]
    out = oculox("compare", eager_pt, eager_pt, *words).out
    assert "B - A" in out
    assert len(out.splitlines()) == 13
    refused = oculox("compare", eager_pt, three_classes_pt, *words)
    assert refused.code == 1
    assert f"wrong class count: model B ({three_classes_pt}) predicts 3 classes" in refused.error


def test_the_number_of_draws_is_checked(oculox, eager_pt):
    outcome = oculox("compare", eager_pt, eager_pt, "--draws", -1)
    assert outcome.code == 2
