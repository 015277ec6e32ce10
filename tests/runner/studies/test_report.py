"""The report of a study: all that it should say, nothing empty, and the same after an interruption."""

import json
import re

import pytest
from PIL import Image

from helpers.fixtures import made_up_sweep
from helpers.pages import faults, violations
from helpers.studies import ADAM, NO_MNIST, SGD, report_of, runs, study_of
from trainopt.runner.studies.report import write_overview
from trainopt.runner.studies.schema import Claim, StudyFigure, StudyTable

pytestmark = pytest.mark.draws


def body(text):
    return text.partition("## Provenance")[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(result, report.md) of a study with a little of everything."""
    return report_of(tmp_path_factory.mktemp("made"))


def test_verdicts_are_counted(made):
    result, text = made
    assert result.claims == {"reproduced": 1, "contradicted": 1, "not run": 2}
    assert result.ours == {"reproduced": 1}
    assert result.cells == {"reproduced": 1, "contradicted": 1, "not comparable": 1, "not run": 2}
    sentence = "Claims: 1 reproduced, 1 contradicted, 2 not run. Questions of ours: 1 reproduced. Published values: "
    sentence += "1 reproduced, 1 contradicted"
    assert f"**{sentence}" in text
    first, last = result.lines
    assert first.startswith(f"made_up, scale smoke. {sentence}")
    assert last.endswith("made_up/smoke/report.md, report.html")


def test_claims_stand_with_their_figures(made):
    text = made[1]
    assert "# Adam & SGD\n\nNobody, Something, 2020\n\nScale **smoke**: an mlp on digits, 4 seeds.\n" in text
    assert "- **1. ✓ reproduced**: Adam ends above SGD (table 1).\n" in text
    # values 82.0 to 82.3 and 79.7 to 80.0: half an interval is 3.182 * 0.1291 / 2; of their differences twice that
    assert (
        "  adam: 82.15 ± 0.21; sgd: 79.85 ± 0.21 (n = 4 each); difference: +2.30 (+1.89 to +2.71), p = 0.0004" in text
    )
    assert "- **2. ✗ contradicted** (opposite sign): SGD ends above Adam" in text
    assert "- **5. ✓ reproduced**: SGD ends above 79 % (a question of ours)" in text


def test_claims_that_were_not_run_are_one_line_for_each_reason(tmp_path):
    too = Claim("All differs, too", "table 3", "below", ["adam", "sgd"], scales=["paper"])
    part = Claim("SGD on digits as on MNIST", "table 2", "above", ["sgd", "later"])  # has a result of its own
    _, text = report_of(tmp_path, study_of(claims=[*study_of().claims, too, part]))
    html = (tmp_path / "made_up/smoke/report.html").read_text()
    scale = "checked at scale paper only"
    not_run = {NO_MNIST: "3. Adam on MNIST ends above 90 %", scale: "4. All differs at full size; 6. All differs, too"}
    listed = "".join(f"- **○ not run** ({reason}): {items}.\n" for reason, items in not_run.items())
    assert f"\n{listed}\n## Published" in text
    assert text.count(" differs at full size") == html.count(" differs at full size") == 1
    assert f'<span>{not_run[scale]}<span class="soft">{scale}</span></span>' in html
    assert f"- **7. ○ not run** ({NO_MNIST}): {part.text} (table 2).\n  sgd: 79.85 ± 0.21 (n = 4)\n" in text
    table = f"({NO_MNIST}): Table 5: on MNIST."
    assert f"\n- **○ not run** {table}\n" in text
    assert f"○ not run {table}</p>" in html


@pytest.mark.slow
def test_a_claim_about_a_time_says_on_what_it_depends(made, tmp_path):
    rule = "Seconds depend on the machine and on what else ran on it"
    assert rule not in made[1]
    times = {
        name: {"sweep": "methods", "where": {"optimizer": name}, "value": "train_seconds"} for name in ("adam", "sgd")
    }
    claims = [Claim("Adam is faster", "table 1", "below", ["adam", "sgd"])]
    assert rule in body(report_of(tmp_path, study_of(values=times, claims=claims))[1])


def test_tables_stand_beside_what_was_published(made):
    text = made[1]
    assert "### Table 1: final top-1 (%)\n" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["", "", "published", "ours", "verdict"] in rows
    assert ["digits", "Adam", "82.30", "82.15 ± 0.21", "✓ reproduced"] in rows
    assert ["", "SGD", "90.00 (sd 0.10)", "79.85 ± 0.21", "✗ contradicted"] in rows
    assert ["MNIST", "Adam", "99.00", "–", "○ not run"] in rows
    assert "≠ not comparable with the published values: digits instead of ImageNet." in text
    assert ["Adam on digits (for ImageNet)", "0.20", "0.30 ± 0.00"] in rows
    assert "### Table 5" not in text


def test_reasons_are_gathered_with_all_that_they_concern(made):
    (line,) = [line for line in made[1].splitlines() if line.startswith(f"- {NO_MNIST}: ")]
    assert line.endswith("claim 3; table 1 (1 value); table 5 (1 value); plot of figure 9")


def test_the_circumstances_are_told(made):
    end = made[1].partition("## Provenance")[2]
    assert "Run 2026-11-02." in end
    assert re.search(r"\| methods +\| +8 \| +0 \| +0 to 3 \|", end)
    assert "trainopt reproduce made_up --scale smoke --out" in end
    assert re.search(r"trainopt -m optimizer=adam,sgd model.weights=\S+/sweeps/a.pt\n", end)
    assert "\n- commit: abc\n" in end
    assert "Tuned learning rates" not in end


def test_nothing_is_empty(made):
    text = made[1]
    lines = [line for line in text.splitlines() if line]
    for head, after in zip(lines, [*lines[1:], "## "], strict=True):
        level = len(head) - len(head.lstrip("#"))
        assert not level or not after.startswith("#") or after.startswith("#" * (level + 1))
    assert not re.search(r"\bnan\b", text)
    assert "None" not in text
    assert "\n\n\n" not in text


def test_figures_are_there_in_both_formats_with_the_papers_number(made):
    folder = made[0].report.parent
    figures = sorted(folder.glob("figure-*.svg"))
    assert [path.stem for path in figures] == ["figure-1-accuracy", "figure-2-time-and-accuracy"]
    for path in figures:
        assert (
            f"![{'Accuracy (figure 7)' if '1' in path.stem else 'Time and accuracy (figure 8)'}]({path.stem}.png)"
            in made[1]
        )
        with Image.open(path.with_suffix(".png")) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 10


def test_the_page_needs_nothing_from_elsewhere(made):
    text = (made[0].report.parent / "report.html").read_text()
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", text)
    assert len(addresses) >= 4
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "@import" not in text
    assert "url(" not in text
    assert "<b>" not in text
    for said in ("Adam &amp; SGD", "✗ contradicted", "82.15 ± 0.21", NO_MNIST, "p = 0.0004"):
        assert said in text


def test_the_page_can_be_read_by_all(made):
    page = made[0].report.parent / "report.html"
    assert faults(page.read_text()) == []
    pdfs = sorted(path.name for path in page.parent.glob("figure-*.pdf"))
    assert re.findall('download="(.*?)"', page.read_text()) == pdfs != []


@pytest.mark.slow
def test_the_page_violates_no_rule_of_axe(made, tmp_path):
    assert violations(made[0].report.parent / "report.html", tmp_path) == []


def test_what_the_file_asks_for_in_vain_is_one_line_and_the_rest_is_written(tmp_path):
    values = {
        "adam": {"sweep": "methods", "where": {"optimizer": "adma"}, "value": "final.top1"},
        "sgd": {"sweep": "methods", "where": {"optimizer": "sgd"}, "value": "final.top1"},
        "later": {"sweep": "methods", "where": {"optimizer": "sgd"}, "value": "final.tp1"},
    }
    figures = [StudyFigure("A", "figure 1", "methods", "stps", {"kind": "test", "column": "top1"}, by=["optimizer"])]
    rows = {"Adam": {"where": ADAM}}
    reference = {"Adam": {"digits": "82"}}
    tables = [
        StudyTable("top-1", "table 1", rows, {"digits": {"sweep": "methods"}}, {"value": "final.top1"}, reference)
    ]
    result, text = report_of(tmp_path, study_of(values=values, figures=figures, tables=tables))
    assert [line.partition(": ")[2][:29] for line in result.problems] == [
        "values.adam: where: no run of",
        "values.later: value: final.tp",
        "tables[0].reference.Adam.digi",
        "figures[0]: x: must be one of",
    ]
    for problem in result.problems:
        assert f"> Warning: {problem}" in text
        assert f"warning: {problem}" in result.lines
    assert result.claims["not run"] == 4


def test_diverged_runs_and_those_that_never_got_there_are_told(tmp_path):
    made = runs()
    made[0]["status"] = "diverged"
    reach = {"row": {"kind": "test", "column": "top1", "reach": 81, "axis": "epochs"}}
    values = {name: {"sweep": "methods", "where": {"optimizer": name}, **reach} for name in ("adam", "sgd")}
    values["later"] = {"sweep": "methods", "where": {"optimizer": "adam"}, "value": "final.top1"}
    claims = [
        Claim("Adam reaches it before SGD", "figure 1", "below", ["adam", "sgd"]),
        Claim("Adam ends above 50 %", "figure 1", "above", ["later", 50.0]),
    ]
    result, text = report_of(tmp_path, study_of(values=values, claims=claims, tables=[], figures=[]), made)
    assert "adam: reached in 3 of 4 runs, 1 diverged; sgd: reached in 0 of 4 runs" in text
    assert ", 1 diverged (n = 4) vs. 50; difference: " in text
    assert "A diverged run counts as" in text
    assert "later than all others" in text
    assert sum(result.claims.values()) == 2


@pytest.mark.slow
def test_a_study_that_was_interrupted_and_continued_has_the_report_of_one_that_was_not(tmp_path):
    begun = [{**about, "status": "missing"} if about["seed"] else about for about in runs()]
    study = study_of()
    study.figures.pop(1)  # one is enough
    result, text = report_of(tmp_path / "a", study, begun, "incomplete")
    assert result.claims["not run"] == 4
    assert "3 of 4 runs of the sweep methods failed or never ended" in text
    folder = tmp_path / "a/made_up/smoke/sweeps/methods"
    made_up_sweep(folder, [about for about in runs() if about["seed"]])
    plan = (tmp_path / "b/made_up/smoke/sweeps/methods") / "sweep.json"
    _, undisturbed = report_of(tmp_path / "b", study)
    (folder / "sweep.json").write_text(plan.read_text())
    _, continued = report_of(tmp_path / "a", study)
    assert body(continued) == body(undisturbed)
    for figure in (tmp_path / "b/made_up/smoke").glob("figure-*.svg"):
        assert figure.read_bytes() == (tmp_path / "a/made_up/smoke" / figure.name).read_bytes()


def test_nothing_run_is_a_report_too(tmp_path):
    result, text = report_of(tmp_path, made=[{**about, "status": "missing"} for about in runs()], state="incomplete")
    assert result.claims == {"not run": 4}
    assert result.date == ""
    assert "- 8 of 8 runs are not done: claims 1, 2" in text
    assert "trainopt reproduce made_up" in text
    study = study_of(claims=[], tables=[], figures=[])
    empty, text = report_of(tmp_path / "none", study)
    assert "No claims" in empty.lines[0]
    assert "## Claims" not in text


def test_the_effort_of_searches_is_told(tmp_path):
    searched = [{"choices": ADAM, "config": {"optimizer.lr": rate}, "seed": 9} for rate in (0.1, 0.01)]
    searched += [{"choices": SGD, "config": {"optimizer.lr": rate}, "seed": 9} for rate in (0.1, 0.01)]
    _, text = report_of(tmp_path, study_of(tables=[], figures=[]), searched=searched)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["methods", "Adam", "lr = 0.1", "2", "80"] in rows
    assert ["methods", "SGD", "lr = 0.1", "2", "80"] in rows
    assert ["methods", "8", "0", "0 to 3"] in [row[:4] for row in rows]  # trials are no runs


def test_an_overview_has_a_row_a_study(made, tmp_path):
    result = made[0]
    write_overview([result.report.parent, tmp_path], result.report.parent.parent / "overview.md")
    head, _, row = (result.report.parent.parent / "overview.md").read_text().splitlines()
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == [
        "[made_up](smoke/report.md)",
        "Adam & SGD",
        "smoke",
        "1 reproduced, 1 contradicted, 2 not run",
        "1 reproduced",
    ]
    assert cells[5] == "1 reproduced, 1 contradicted, 1 not comparable, 2 not run"
    assert cells[6] == "2026-11-02"
    assert head.count("|") == row.count("|")
    written = json.loads((result.report.parent / "result.json").read_text())
    earlier = {**written, "scale": "paper", "claims": {}, "cells": {"not run": 1, "not reproduced": 2}, "date": ""}
    nothing = {key: value for key, value in earlier.items() if key != "ours"}  # as version 0.2.0 wrote it
    (tmp_path / "result.json").write_text(json.dumps(nothing))
    write_overview([tmp_path], tmp_path / "all.md")
    cells = [cell.strip() for cell in (tmp_path / "all.md").read_text().splitlines()[2].split("|")[1:-1]]
    assert cells[2:] == ["paper", "–", "–", "1 not run, 2 not reproduced", "–"]
