"""The report in headless Chromium: opened from disk, read, clicked, filtered, saved and printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from report_fixture import synthetic_results, write_drift, write_logs

from hwfit.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'hwfit[dev]')")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (apt-get install chromium)")

NAMES = [row["name"] for row in synthetic_results()["rows"]]
PICK = "joint 6 ms"


@dataclass
class Seen:
    """A page, and what it said and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def scroll(self) -> None:
        """Past everything, so that every figure is drawn."""
        self.page.evaluate(
            """async () => {
                for (const place of document.querySelectorAll('.plot')) {
                    place.scrollIntoView();
                    while (!place.querySelector('.main-svg')) await new Promise(requestAnimationFrame);
                }
            }"""
        )

    def boxes(self, plot: str, what: str) -> dict[str, tuple[float, float, float, float]]:
        """Text -> left, top, right, bottom of what is written in a figure, relative to it."""
        found = self.page.evaluate(
            """([plot, what]) => {
                const place = document.getElementById(plot), home = place.getBoundingClientRect();
                return [...place.querySelectorAll(what)].map(e => {
                    const {left, top, right, bottom} = e.getBoundingClientRect();
                    const box = [left - home.left, top - home.top, right - home.left, bottom - home.top];
                    return [e.textContent, box];
                });
            }""",
            [plot, what],
        )
        return {f"{i} {text}": tuple(box) for i, (text, box) in enumerate(found)}

    def point(self, plot: str, row: str) -> tuple[float, float]:
        """Where on the screen the measured mark of a row is."""
        return tuple(
            self.page.evaluate(
                """([plot, row]) => {
                    const place = document.getElementById(plot);
                    place.scrollIntoView({block: 'center'});
                    const mark = place.data.find(t => t.meta && t.meta.role === 'mark' && t.meta.row === row);
                    const {xaxis, yaxis} = place._fullLayout, home = place.getBoundingClientRect();
                    const x = xaxis._offset + xaxis.d2p(mark.x[0]), y = yaxis._offset + yaxis.d2p(mark.y[0]);
                    return [home.left + x, home.top + y];
                }""",
                [plot, row],
            )
        )

    def rows(self, where: str = "") -> list[str]:
        """Names of the table's rows that are shown, and match `where`."""
        found = f"Array.from(document.querySelectorAll('tr[data-row]{where}'), r => r.hidden ? null : r.dataset.row)"
        table = f"{found}.filter((name, i, all) => name !== null && all.indexOf(name) === i)"
        return self.page.evaluate(table)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    run, raw = tmp_path_factory.mktemp("run"), synthetic_results(blocks=24)
    (run / "results.json").write_text(json.dumps(raw))
    write_logs(run, raw)
    write_drift(run, PICK)
    return write_report(run).as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(chromium: Any, report: str, width: int, **options: Any) -> Seen:
    page = chromium.new_page(viewport={"width": width, "height": 900}, **options)
    seen = Seen(page)
    page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(report)
    seen.scroll()
    return seen


@pytest.fixture(scope="module")
def desk(chromium: Any, report: str) -> Seen:
    return opened(chromium, report, 1280, accept_downloads=True)


@pytest.fixture(scope="module")
def phone(chromium: Any, report: str) -> Seen:
    return opened(chromium, report, 390, has_touch=True, is_mobile=True)


@pytest.fixture
def desktop(desk: Seen) -> Iterator[Seen]:
    """The one desktop page, with nothing selected or filtered before and after."""
    yield desk
    desk.page.keyboard.press("Escape")
    desk.page.evaluate("document.querySelectorAll('#filter input:not(:checked)').forEach(box => box.click())")


def test_it_opens_without_a_complaint_and_asks_for_nothing_else(desktop: Seen, report: str) -> None:
    assert desktop.complaints == []
    assert [url for url in desktop.requests if not url.startswith(("data:", "blob:"))] == [report]
    places = desktop.page.locator(".plot").count()
    assert places == desktop.page.locator(".plot .main-svg:first-child").count() == 22


@pytest.mark.parametrize("width", ["desk", "phone"])
def test_no_words_of_a_figure_cover_each_other_or_its_edge(width: str, request: pytest.FixtureRequest) -> None:
    seen: Seen = request.getfixturevalue(width)
    for plot in seen.page.evaluate("[...document.querySelectorAll('.plot')].map(place => place.id)"):
        words = seen.boxes(
            plot, ".annotation-text, .bartext, .xtick text, .ytick text, .x2tick text, .y2tick text, .xtitle, .x2title"
        )
        size = seen.page.evaluate(
            "id => [document.getElementById(id).clientWidth, document.getElementById(id).clientHeight]", plot
        )
        for text, (left, top, right, bottom) in words.items():
            assert left >= -1, (plot, text)
            assert top >= -1, (plot, text)
            assert right <= size[0] + 1, (plot, text)
            assert bottom <= size[1] + 1, (plot, text)
        for (a, one), (b, other) in combinations(words.items(), 2):
            across, down = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
            assert min(across, down) < 2.5, f"{plot}: '{a}' covers '{b}'"  # line boxes are a little higher than letters


def test_hovering_a_point_tells_its_figures(desktop: Seen) -> None:
    desktop.page.mouse.move(*desktop.point("pareto-decode", PICK))
    words = desktop.page.locator("#pareto-decode .hoverlayer .hovertext")
    words.wait_for(timeout=3000)
    assert PICK in words.text_content()
    assert "decode 5.92 ms" in words.text_content()


def test_clicking_a_point_selects_its_model_everywhere(desktop: Seen) -> None:
    desktop.page.mouse.click(*desktop.point("pareto-decode", PICK))
    assert desktop.rows(".selected") == [PICK]
    assert desktop.page.locator("figure.selected").get_attribute("data-row") == PICK
    assert desktop.page.locator(".drift.selected").get_attribute("data-row") == PICK
    assert set(desktop.page.locator("[aria-pressed=true]").evaluate_all("all => all.map(b => b.dataset.select)")) == {
        PICK
    }
    assert desktop.page.locator(".strip").text_content().startswith(f"{PICK} joint search; decode 5.92 ms")
    bars = "layers => layers.data[0].customdata.filter((name, i) => (layers.data[0].marker.opacity || [])[i] === 1)"
    desktop.page.locator("#layers-decode").scroll_into_view_if_needed()
    desktop.page.wait_for_function(f"({bars})(document.getElementById('layers-decode'))[0] === '{PICK}'")
    desktop.page.mouse.click(*desktop.point("predicted-prefill", "uniform w8"))
    assert desktop.rows(".selected") == ["uniform w8"]
    desktop.page.locator(".strip [data-clear]").click()
    assert desktop.rows(".selected") == []
    assert not desktop.page.locator(".strip").is_visible()


def test_the_keyboard_goes_through_the_models(desktop: Seen) -> None:
    desktop.page.locator("#pareto-decode").focus()
    fastest_first = sorted(synthetic_results(24)["rows"], key=lambda row: row["decode"]["measured"])
    for row in fastest_first[:3]:
        desktop.page.keyboard.press("ArrowRight")
        assert desktop.rows(".selected") == [row["name"]]
    desktop.page.keyboard.press("ArrowLeft")
    assert desktop.rows(".selected") == [fastest_first[1]["name"]]
    desktop.page.keyboard.press("Escape")
    assert desktop.rows(".selected") == []
    desktop.page.locator("tr button[data-select='uniform w4']").focus()
    desktop.page.keyboard.press("Enter")
    assert desktop.rows(".selected") == ["uniform w4"]


def test_filters_take_models_out_of_every_section(desktop: Seen) -> None:
    desktop.page.locator("#filter input[value=uniform]").uncheck()
    desktop.page.locator("#filter input[value=missed]").uncheck()
    left = [name for name in NAMES if not name.startswith("uniform") and name != "joint 5 ms"]
    assert desktop.rows() == left
    assert desktop.page.locator("#count").text_content() == f"{len(left)} of {len(NAMES)} models shown"
    assert not desktop.page.locator("figure[data-row='joint 5 ms']").is_visible()
    for plot in ("pareto-decode", "pareto-prefill", "predicted-decode"):
        desktop.page.locator(f"#{plot}").scroll_into_view_if_needed()
        marks = (
            "id => document.getElementById(id).data.filter(t => t.meta && t.meta.role === 'mark').map(t => t.meta.row)"
        )
        desktop.page.wait_for_function(f"({marks})('{plot}').length === {len(left)}")
        assert desktop.page.evaluate(marks, plot) == left
    desktop.page.locator("#layers-decode").scroll_into_view_if_needed()
    desktop.page.wait_for_function(f"document.getElementById('layers-decode').data[0].y.length === {len(left)}")
    assert desktop.page.evaluate("document.getElementById('layers-decode').data[0].y") == left


@pytest.mark.parametrize(
    "plot", ["pareto-decode", "predicted-prefill", "blocks-2", "layers-decode", "training-1", "drift-0"]
)
def test_figures_are_saved_as_svg_with_title_and_legend(desktop: Seen, plot: str) -> None:
    with desktop.page.expect_download() as download:
        desktop.page.locator(f"figure:has(#{plot}) button[data-save=svg]").click()
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == f"{plot}.svg"
    assert text.startswith("<svg")
    assert desktop.page.locator(f"#{plot}").get_attribute("aria-label") in text
    assert 'class="legend"' in text


def test_a_figure_is_saved_as_png(desktop: Seen) -> None:
    with desktop.page.expect_download() as download:
        desktop.page.locator("figure:has(#pareto-decode) button[data-save=png]").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_every_figure_can_be_saved_by_a_button_with_a_name(desktop: Seen) -> None:
    found = desktop.page.locator("figure.fig").evaluate_all(
        "all => all.map(f => [...f.querySelectorAll('[data-save]')].map(b => b.getAttribute('aria-label')))"
    )
    assert len(found) == desktop.page.locator(".plot").count()
    assert all(len(names) == 2 and all(name.startswith("Save “") for name in names) for names in found)
    assert len({name for names in found for name in names}) == 2 * len(found)


def test_a_phone_shows_it_without_scrolling_sideways(phone: Seen) -> None:
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    assert phone.page.locator(".numbers").first.is_visible()
    names = set(phone.boxes("pareto-decode", ".annotation-text"))
    assert sum(name.split(" ", 1)[1].isdigit() for name in names) == len(NAMES)
    phone.page.touchscreen.tap(*phone.point("pareto-decode", PICK))
    assert phone.rows(".selected") == [PICK]
    assert phone.complaints == []


def test_it_prints_on_paper_with_every_figure(desktop: Seen) -> None:
    assert desktop.page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    desktop.page.emulate_media(media="print")
    hidden = [desktop.page.locator(what).first.is_visible() for what in ("nav", ".save", ".strip", "fieldset")]
    desktop.page.emulate_media(media="screen")
    assert hidden == [False] * 4
    assert desktop.complaints == []
