"""``report.html``: what it says, that it needs nothing else, and that names cannot break it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from recbole_mm.experiment.store import Store
from recbole_mm.report.comparison.ablation import changes, reading, sentence
from recbole_mm.report.comparison.page import write_page
from recbole_mm.report.comparison.sentences import short_number, verdicts
from recbole_mm.report.table import Row, make_table
from tests.report.made_rows import row

pytest.importorskip("jinja2")
SPLIT = {"hash": "abc123", "train": 1000, "valid": 100, "test": 120, "items": 80}
EVIL = '<img src=x onerror="alert(1)">&$x^2$'


@dataclass
class MadeRuns:
    """As much of a comparison as its report reads."""

    store: Store
    rows: list[Row]
    protocol: SimpleNamespace
    names: list[str] = field(default_factory=lambda: ["GRCN", "LightGCN"])
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    jobs: int = 1
    splits: dict = field(default_factory=lambda: dict.fromkeys((1, 2, 3), SPLIT))
    found: dict = field(default_factory=dict)

    def ordered(self):
        return self.rows

    def say(self, text):
        raise AssertionError(text)


def made(folder, rows, **protocol):
    names = list(dict.fromkeys(entry.model for entry in rows))
    terms = {
        "dataset": "shop",
        "settings": {name: {"epochs": 3, "data_path": "here", "layers": len(name)} for name in names},
        "shared": {"valid_metric": "Recall@10", "benchmark_filename": None, "topk": [10]},
        "fingerprint": "f00",
        "notes": [],
        "failures": {},
        **protocol,
    }
    return MadeRuns(Store(folder), rows, SimpleNamespace(**terms), names)


def page(folder, rows, baseline="LightGCN", notes=(), **protocol):
    runs = made(folder, rows, **protocol)
    return write_page(runs, make_table(rows, baseline), baseline, list(notes)).read_text(encoding="utf-8")


def text_of(html):
    """What a reader sees, one space for any white space."""

    class Words(HTMLParser):
        words: list[str] = []
        hidden = 0

        def handle_starttag(self, tag, attrs):
            self.hidden += tag in ("style", "script", "svg")

        def handle_endtag(self, tag):
            self.hidden -= tag in ("style", "script", "svg")

        def handle_data(self, data):
            if not self.hidden:
                self.words.append(data)

    reader = Words()
    reader.words = []
    reader.feed(html)
    return " ".join(" ".join(reader.words).split())


@pytest.fixture(scope="module")
def rows():
    return [
        row("GRCN", 0.5),
        row("GRCN", 0.3, variant="image permuted"),
        row("GRCN", 0.5, variant="text permuted"),
        row("GRCN", 0.35, variant="without image"),
        row("VBPR", 0.4005),
        row("LightGCN", 0.4),
        row("BPR", 0.2),
        Row("MML", failures=["ValueError: no time field"]),
    ]


@pytest.fixture(scope="module")
def html(rows, tmp_path_factory):
    return page(tmp_path_factory.mktemp("page"), rows, notes=["\\* differs"])


def test_the_page_says_who_beats_whom(rows, html):
    text = text_of(html)
    table = make_table(rows, "LightGCN")
    difference, low, high = (table[f"recall@10_difference{end}"][0] for end in ("", "_low", "_high"))
    numbers = [f"{number:.3f}".replace("0.", ".") for number in (difference, low, high)]
    assert f"GRCN beats LightGCN on Recall@10 by {numbers[0]} [{numbers[1]}, {numbers[2]}], 3 seeds." in text
    assert re.search(r"BPR loses to LightGCN on Recall@10 by \.\d+ \[\.\d+, \.\d+\], 3 seeds\.", text)
    assert re.search(r"VBPR and LightGCN cannot be told apart on Recall@10: [+-]\.\d+ \[-\.\d+, \+\.\d+\], 3", text)
    assert "The other metrics" in text and "GRCN beats LightGCN on NDCG@10" in text
    assert "failed: ValueError: no time field" in text and "* differs" in text


def test_the_page_says_what_the_ablation_means(rows, html):
    table = make_table(rows, "LightGCN")
    found = changes(table, "recall@10")["GRCN"]
    assert [change.variant for change in found] == ["image permuted", "text permuted", "without image"]
    assert [change.worse for change in found] == [True, False, True]
    line = sentence(found)
    assert re.fullmatch(r"image rows permuted: -\.\d{3}; text rows permuted: [+-]\.\d+; without image: -\.\d{3}", line)
    assert reading(found) == (
        "It relies on its image rows. No loss can be told where its text rows are those of other items."
    )
    text = text_of(html)
    assert f"GRCN on Recall@10: {line}." in text and "every item has the image features of another one" in text


def test_the_page_says_what_was_run(html):
    text = text_of(html)
    for part in ("split abc123", "1,000 / 100 / 120 pairs", "80 items ranked; seeds 1, 2, 3", "hash of its files f00"):
        assert part in text
    assert "recbole 1.2.1" in text and "every model epochs=3 GRCN layers=4 " in text and "data_path" not in text


def test_the_page_needs_nothing_else(html):
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", html) and "@import" not in html
    assert "http" not in html and html.count("<script>") == 1 and "url(" not in html.replace("url(#", "")
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))  # every picture has its own
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert used and used <= set(names)
    assert html.count('role="img"') == 2 + 1 + 1 + 1  # two metrics, ablation, time, curves
    assert "#000000" not in html and "currentColor" in html


def test_cells_sort_by_their_number(html, rows):
    found = [float(value) for value in re.findall(r'data-value="([^"]+)"', html)]
    assert make_table(rows, None)["recall@10"][0] in found
    assert html.count("<td") and html.count('<th scope="row">') == len(rows)


def test_names_cannot_break_the_page(tmp_path):
    rows = [row(EVIL, 0.5), row(EVIL, 0.3, variant=f"{EVIL} permuted"), row("B", 0.2)]
    rows[0].failures.append(EVIL)
    rows[0].records[1]["health"] = {"alarms": [{"name": "loss", "text": EVIL}]}
    html = page(tmp_path, rows, "B", [EVIL], dataset=EVIL, settings={EVIL: {EVIL: EVIL}})
    assert "<img" not in html and "onerror=" not in re.sub(r"onerror=&#34;", "", html)
    text = text_of(html)
    assert f"{EVIL} beats B" in text
    assert f"{EVIL}, seed 1 : {EVIL}" in text  # what the health check said


def test_health_notes_stand_once_with_their_seeds(tmp_path, html, monkeypatch):
    nothing = dict.fromkeys(("metrics", "curves", "time", "ablation"), ())
    monkeypatch.setattr("recbole_mm.report.comparison.page.figures", lambda *arguments: nothing)
    rows = [row("GRCN", 0.5), row("LightGCN", 0.4)]
    for seed in (1, 2, 3):
        alarms = [{"name": "loss", "text": f"The loss did not fall: 0.{seed}."}] if seed != 2 else []
        rows[0].records[seed]["health"] = {"alarms": alarms, "measured": {}}
    text = text_of(page(tmp_path, rows, notes=["Health, GRCN: The loss did not fall.", "Another note."]))
    assert "What the health check said GRCN, seeds 1, 3 : The loss did not fall: 0.1. What was run" in text
    assert "Health, GRCN" not in text and "Another note." in text
    for seed in (1, 3):
        rows[0].records[seed]["health"] = {"alarms": []}
    assert "What the health check said No training looked wrong." in text_of(page(tmp_path, rows))
    assert "health check" not in text_of(html)


def test_slices_stand_beside_a_random_ranking(tmp_path, monkeypatch):
    rows = [row("GRCN", 0.5), row("LightGCN", 0.4)]
    nothing = dict.fromkeys(("metrics", "curves", "time", "ablation"), ())
    monkeypatch.setattr("recbole_mm.report.comparison.page.figures", lambda *arguments: nothing)
    for entry, value in zip(rows, (0.25, 0.125)):
        for record in entry.records.values():
            counts = {"cases[tail_items]": 7, "positives[tail_items]": 7}
            record["slices"] = {**counts, "recall@10[tail_items]": value, "recall@10[tail_items,random]": 0.05}
    text = text_of(page(tmp_path, rows))
    assert "Recall@10 tail_items GRCN 0.2500 LightGCN 0.1250 random ranking 0.0500 cases 7" in text


@pytest.mark.parametrize("rows", [[Row("A", failures=["x"])], [row("A", 0.4, seeds=(1,))]], ids=["failed", "alone"])
def test_little_to_show_is_a_page(rows, tmp_path):
    text = text_of(page(tmp_path, rows, "A"))
    assert "What was run" in text and "Who beats whom" not in text and "Do the modalities matter" not in text


def test_errors_are_better_when_smaller():
    rows = [row("A", 0.3), row("BB", 0.5)]
    for entry in rows:
        for seed in entry.records:
            entry.records[seed]["test"] = {"rmse": entry.records[seed]["test"]["recall@10"]}
            entry.users[seed] = {"user": entry.users[seed]["user"], "rmse": entry.users[seed]["recall@10"]}
    (verdict,) = verdicts(make_table(rows, "BB"), rows)
    assert re.fullmatch(r"A beats BB on Rmse by \.\d{3} \[\.1\d+, \.2\d+\], 3 seeds", str(verdict))


def test_without_users_nothing_is_tested_but_the_ablation_stands():
    rows = [row("A", 0.5), row("A", 0.3, variant="without image")]
    for entry in rows:
        entry.users.clear()
    table = make_table(rows, None)
    assert verdicts(table, rows) == []
    (change,) = changes(table, "recall@10")["A"]
    assert not change.worse and change.difference == pytest.approx(table["recall@10"][1] - table["recall@10"][0])


def test_the_same_results_give_the_same_page(rows, html, tmp_path):
    assert page(tmp_path, rows, notes=["\\* differs"]) == html


def test_short_numbers():
    assert [short_number(value) for value in (0.0112, -0.5, 1.25, 0.0, 0.0039)] == [
        ".011", "-.500", "1.250", ".0000", ".0039",
    ]  # fmt: skip
