"""The report in a browser: nothing to scroll sideways, nothing in the console, nothing asked of the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunecore.report.compare import comparison_page, rows_of
from prunecore.report.facts import read_run
from prunecore.report.html import write_report
from tests.report.browser import CHROMIUM, browser
from tests.report.hand_runs import changed, make
from tests.report.test_html import HOSTILE, ROUNDS, TRIALS


@pytest.mark.nightly
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_pages_fit_both_widths_in_light_and_in_dark(tmp_path: Path) -> None:
    names = [*HOSTILE, *(f"a.very.long.name.of.a.module.{n}." + 60 * "x" for n in range(30))]
    widths = [{"group": name, "before": 64, "after": 32} for name in names]
    unprunable = [{"module": name, "reason": 80 * "why"} for name in names]
    wide = changed(widths=widths, unprunable=unprunable, notes=[200 * "n"], algorithm=80 * "a")
    steps = [{**step, "widths": [(name, 64, 32) for name in names]} for step in ROUNDS]
    runs = [make(tmp_path / "plain"), make(tmp_path / "wide", wide, steps=steps, trials=TRIALS)]
    pages = [write_report(run) for run in runs]
    compared = tmp_path / "compared.html"
    compared.write_text(comparison_page(rows_of({run: read_run(run) for run in runs})))
    with browser() as chromium:
        for page in (*pages, compared):
            for width in (1280, 390):
                papers = set()
                for dark in (False, True):
                    seen = chromium.look(page, width, dark=dark)
                    assert (seen.inner, seen.scroll) == (width, width), page
                    assert (seen.faults, seen.requests) == ((), ()), page
                    papers.add(chromium.value("getComputedStyle(document.body).backgroundColor"))
                    shown = chromium.value(
                        "[...document.querySelectorAll('svg.plot')].filter(e => e.getBoundingClientRect().width).length"
                    )
                    assert shown == chromium.value("document.querySelectorAll('figure').length") > 0
                assert len(papers) == 2
