from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recbole_mm.report.plots import draw_all, draw_curves, draw_metrics, draw_time
from recbole_mm.report.render import latex, markdown, paired_markdown
from recbole_mm.report.statistics import holm
from recbole_mm.report.table import Row, make_table
from tests.report.made_rows import METRICS, row


@pytest.fixture(scope="module")
def rows():
    return [
        row("MMGCN", 0.5, params={"learning_rate": 0.00123456, "n_layers": 2}),
        row("MMGCN", 0.45, variant="image permuted"),
        row("LightGCN", 0.4),
        row("BPR", 0.3),
        Row("MML", failures=["ValueError: no time field", "ValueError: no time field"]),
    ]


def test_tests_are_over_users_averaged_over_seeds_and_corrected_together(rows):
    table = make_table(rows, "BPR")
    ours, theirs = (
        np.mean([users["recall@10"] for users in entry.users.values()], axis=0) for entry in (rows[0], rows[3])
    )
    assert table["recall@10_p_t"][0] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert table["recall@10_difference"][0] == pytest.approx((ours - theirs).mean())
    assert table["reference"].tolist() == ["BPR", "MMGCN", "BPR", "", ""]
    raw = [table[f"{metric}_p_wilcoxon"][place] for place in range(3) for metric in METRICS]
    adjusted = [table[f"{metric}_p_wilcoxon_holm"][place] for place in range(3) for metric in METRICS]
    assert adjusted == pytest.approx(holm(raw))


def test_users_are_matched_by_id_and_seeds_that_only_one_model_has_are_left_out():
    left, right = row("A", 0.5, seeds=(1, 2)), row("BB", 0.5, seeds=(1,))
    right.users[1] = {name: values[::-1][:40] for name, values in right.users[1].items()}
    table = make_table([left, right], "BB")
    ours = left.users[1]["recall@10"]
    theirs = dict(zip(right.users[1]["user"], right.users[1]["recall@10"]))
    shared = [user for user in left.users[1]["user"] if user in theirs]
    expected = stats.ttest_rel([ours[int(user)] for user in shared], [theirs[user] for user in shared]).pvalue
    assert len(shared) == 40 and table["recall@10_p_t"][0] == pytest.approx(expected)


def test_without_a_baseline_or_users_there_are_no_tests(rows):
    assert make_table(rows[2:4], None)["recall@10_p_t"].isna().all()
    bare = row("A", 0.5)
    bare.users.clear()
    assert make_table([bare, rows[3]], "BPR")["recall@10_p_t"].isna().all()


def test_costs_failures_and_chosen_options(rows):
    table = make_table(rows, "BPR")
    assert table["train_seconds"][0] == pytest.approx(20.0) and table["epochs"][0] == 10
    assert table["params"][0] == "learning_rate=0.00123, n_layers=2"
    assert table["runs"].tolist() == [3, 3, 3, 3, 0] and table["failure"][4] == "ValueError: no time field"
    assert table["interval"][0] == "over runs" and pd.isna(table["device_memory_mib"][0])


def test_markdown_marks_the_best_and_the_different(rows):
    table = make_table(rows, "BPR")
    lines = markdown(table, ["first note"]).splitlines()
    assert lines[0].startswith("| model | recall@10 | ndcg@10 | epochs |")
    mmgcn, permuted, _, bpr, mml = lines[2:7]
    assert f"**{table['recall@10'][0]:.4f}**\\*" in mmgcn and "**" not in bpr and "\\*" not in bpr
    assert permuted.startswith("| MMGCN, image permuted |") and "**" not in permuted
    assert "failed: ValueError: no time field" in mml
    assert len({line.count("|") for line in lines[:7]}) == 1 and "- first note" in lines
    low, high = table["recall@10_low"][0], table["recall@10_high"][0]
    assert f"[{low:.4f}, {high:.4f}]" in mmgcn


def test_every_test_has_a_line(rows):
    table = make_table(rows, "BPR")
    lines = paired_markdown(table).splitlines()
    assert len(lines) == 2 + 3 * len(METRICS) and lines[2].startswith("| MMGCN - BPR | recall@10 | +0.")
    low, high = table["recall@10_difference_low"][0], table["recall@10_difference_high"][0]
    assert low < table["recall@10_difference"][0] < high and f"[{low:+.4f}, {high:+.4f}]" in lines[2]
    assert "< .0001" in lines[2] and lines[4].startswith("| MMGCN, image permuted - MMGCN |")
    assert paired_markdown(make_table(rows[:1], None)) == ""


def test_partly_failed_models_say_so(rows):
    partial = row("GRCN", 0.4, failures=["RuntimeError: nan"])
    text = markdown(make_table([partial, rows[3]], "BPR"))
    assert "GRCN (some seeds failed, see below)" in text and "- GRCN: RuntimeError: nan" in text


def test_latex_is_a_booktabs_table(rows):
    text = latex(make_table(rows, "BPR"), ["50 % of it"])
    assert text.startswith("% 50 % of it\n\\begin{tabular}{lrrrr}\n\\toprule\nModel & Recall@10 & NDCG@10 &")
    assert "\\textbf{" in text and "$^{*}$" in text and "failed: ValueError: no time field" in text
    assert "$\\pm$" in text and text.count("\\\\") == 6 and text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert "a\\_b" in latex(make_table([row("a_b", 0.5)], None))
    assert "10\\^{}6\\~{}x" in latex(make_table([row("10^6~x", 0.5)], None))


def test_smaller_is_better_where_it_is():
    left, right = row("A", 0.5), row("B", 0.4)
    for entry in (left, right):
        for record in entry.records.values():
            record["test"] = {"rmse": record["test"]["recall@10"]}
    text = markdown(make_table([left, right], "B"))
    assert "**" not in text.splitlines()[2] and "**" in text.splitlines()[3]


def test_an_empty_comparison_is_a_table():
    table = make_table([Row("A", failures=["ImportError: no lightgbm"])], "A")
    assert table["runs"].tolist() == [0] and "failed" in markdown(table) and "failed" in latex(table)


def boxes(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def overlap(left, right):
    return left.x0 < right.x1 and right.x0 < left.x1 and left.y0 < right.y1 and right.y0 < left.y1


MANY = ("MMGCN", "GRCN", "DualGNN", "MMGCL", "MGAT", "HCGCN", "UVCAN", "CMBF", "MCPTR", "MML", "LightGCN", "BPR")


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("draw", ["metrics", "curves", "time"])
def test_labels_are_legible_and_do_not_overlap(draw, count):
    made = [row(name, 0.3 + 0.01 * place) for place, name in enumerate(MANY[:count])]
    if count > 3:
        made.insert(1, row("MMGCN", 0.31, variant="image permuted"))
    plain = [entry for entry in made if not entry.variant]
    figure = {
        "metrics": lambda: draw_metrics(made, "BPR"),
        "curves": lambda: draw_curves(plain),
        "time": lambda: draw_time(plain),
    }[draw]()
    renderer = boxes(figure)
    texts = []
    for axis in figure.axes:  # matplotlib keeps labels of ticks outside the picture, which it does not draw
        for side, (low, high) in ((axis.xaxis, sorted(axis.get_xlim())), (axis.yaxis, sorted(axis.get_ylim()))):
            texts += [tick.label1 for tick in side.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += [text for axis in figure.axes for text in (axis.xaxis.label, axis.yaxis.label)]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    assert all(text.get_fontsize() >= 8 for text in shown)
    clashes = [
        (one.get_text(), other.get_text())
        for place, one in enumerate(shown)
        for other in shown[:place]
        if overlap(one.get_window_extent(renderer), other.get_window_extent(renderer))
    ]
    assert clashes == []
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert draw == "metrics" or legends == [entry.label for entry in plain]


def test_models_differ_by_more_than_colour():
    figure = draw_curves([row(name, 0.4) for name in MANY])
    lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 12
    time = draw_time([row(name, 0.4) for name in MANY])
    assert len({container[0].get_marker() for container in time.axes[0].containers}) == 12


def test_curves_average_the_epochs_that_all_seeds_have():
    figure = draw_curves([row("A", 0.4)])
    line = next(line for line in figure.axes[0].lines if line.get_label() == "A")
    assert list(line.get_xdata()) == list(range(1, 10))
    assert line.get_ydata()[0] == pytest.approx(0.4 * 0.5 + 0.02)


def test_a_wide_interval_does_not_squeeze_the_bars():
    wide = row("A", 0.4, seeds=(1, 2))
    wide.records[1]["test"]["recall@10"] = 0.1
    wide.records[2]["test"]["recall@10"] = 0.7
    figure = draw_metrics([wide, row("B", 0.4)], None)
    assert figure.axes[0].get_xlim()[1] <= 0.8 and figure.axes[0].get_xlim()[0] == 0


def test_the_same_results_give_the_same_pictures(rows, tmp_path):
    for name in ("a", "b"):
        files = draw_all(rows, "BPR", tmp_path / name)
    assert sorted(file.name for file in files) == [
        f"{name}.{kind}" for name in ("curves", "metrics", "time") for kind in ("pdf", "png")
    ]
    for file in files:
        assert file.read_bytes() == (tmp_path / "a" / file.name).read_bytes()


def test_nothing_to_draw_is_no_picture(tmp_path):
    assert draw_all([Row("A", failures=["x"])], None, tmp_path) == []
    untrained = row("Pop", 0.1)
    for record in untrained.records.values():
        record["curve"] = []
    assert {file.stem for file in draw_all([untrained], None, tmp_path)} == {"metrics", "time"}


def test_one_run_has_an_interval_over_users(rows):
    single = row("A", 0.4, seeds=(1,))
    table = make_table([single], None)
    assert table["interval"][0] == "over users" and math.isnan(table["recall@10_std"][0])


def test_an_interval_that_leaves_the_picture_ends_in_an_arrow():
    wide, narrow = row("A", 0.4, seeds=(1, 2)), row("B", 0.4)
    wide.records[1]["test"]["recall@10"], wide.records[2]["test"]["recall@10"] = 0.1, 0.7
    figure = draw_metrics([wide, narrow], None, ["recall@10"], "Test metrics on $x^2$")
    (axis,) = figure.axes
    ends = {(round(line.get_ydata()[0]), line.get_marker()) for line in axis.lines if line.get_marker() != "None"}
    assert ends == {(0, "<"), (0, ">"), (1, "|")}
    low, high = axis.get_xlim()
    for line in axis.lines:
        assert low <= min(line.get_xdata()) and max(line.get_xdata()) <= high
    assert figure.get_supxlabel() == "an arrow: the interval goes on"
    assert figure.get_suptitle() == "Test metrics on \\$x^2\\$"  # drawn as written, not as a formula
    assert draw_metrics([narrow], None).get_supxlabel() == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((3.0, 4.0), ["3", "4"]), ((0.04, 0.6), ["0.05", "0.1", "0.2", "0.5"]), ((5.0, 3e5), ["1,000", "100,000"])],
)
def test_times_are_plain_numbers(seconds, expected):
    rows = [row(name, 0.4) for name in ("A", "B")]
    for entry, time in zip(rows, seconds):
        for record in entry.records.values():
            record["time"]["train"] = time
    (axis,) = draw_time(rows).axes
    shown = [axis.xaxis.get_major_formatter()(tick) for tick in axis.xaxis.get_majorticklocs()]
    assert set(expected) <= set(shown) and len(axis.xaxis.get_minorticklocs()) == 0
    assert 2 <= len(shown) <= 8 and all(re.fullmatch(r"[\d,.]+", text) for text in shown)
