"""The page in a real browser: opened from a file, sorted, filtered, pointed at, by keys, dark, printed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments.cli import main
from tests.experiments.report.browser import Browser, chromium
from tests.experiments.report.studies import write_study
from tests.experiments.runs_on_disk import params, write_run

pytestmark = pytest.mark.browser
TABLE = "#configurations tbody tr:not([hidden])"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, and a run whose name would be a script."""
    chromium()
    root = tmp_path_factory.mktemp("page")
    runs = write_study(root, levels=(0.5, 0.9), blocks=2, steps=20)
    write_run(
        runs / "<script>document.title='caught'<∕script>", params(seed=9, tag="<img src=x onerror=alert(1)>")
    )
    cache = str(root / "cache")
    made = CliRunner(env={"XDG_CACHE_HOME": cache}).invoke(
        main, ["compare", str(runs), "--html", str(root / "p.html")]
    )
    assert made.exit_code == 0, made.output
    return root / "p.html"


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def shown(browser: Browser, page: Path) -> Iterator[Browser]:
    """The page, opened anew; whatever a test does, it neither complains nor asks for anything."""
    browser.media()
    browser.open(page)
    yield browser
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]


def column(browser: Browser, number: int) -> list[str]:
    return list(
        browser.run(f"[...document.querySelectorAll('{TABLE}')].map((r) => r.cells[{number}].textContent)")
    )


def set_value(browser: Browser, selector: str, value: str, event: str = "input") -> None:
    browser.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = '{value}';"
        f"e.dispatchEvent(new Event('{event}')); }})()"
    )


def tip(browser: Browser) -> str:
    return str(
        browser.run("document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').textContent")
    )


def test_it_opens_from_a_file_and_no_name_becomes_a_script(shown: Browser) -> None:
    assert shown.run("location.protocol") == "file:"
    assert shown.run("document.title") == "Comparison of 22 runs"
    assert shown.run("document.querySelectorAll('img').length") == 0
    assert shown.run("document.querySelector('h2').textContent").startswith("Warnings")
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")


def test_columns_sort_both_ways_with_unknown_last(shown: Browser) -> None:
    heads = shown.run(
        "[...document.querySelectorAll('#configurations thead button')].map((b) => b.textContent)"
    )
    perplexity = heads.index("perplexity ↓")
    click = f"document.querySelectorAll('#configurations thead button')[{perplexity}].click()"
    order = f"document.querySelectorAll('#configurations thead th')[{perplexity}].getAttribute('aria-sort')"

    def values() -> list[float]:
        return [float(cell.split()[0]) for cell in column(shown, perplexity) if cell]

    shown.run(click)
    assert shown.run(order) == "ascending"
    assert values() == sorted(values())
    shown.run(click)
    assert shown.run(order) == "descending"
    assert values() == sorted(values(), reverse=True)
    worse = heads.index("worse by")
    shown.run(f"document.querySelectorAll('#configurations thead button')[{worse}].click()")
    assert column(shown, worse)[-2:] == ["", ""]  # the dense ones are worse by nothing
    assert shown.run(order) == "none"


def test_a_head_is_a_button_that_keys_reach(shown: Browser) -> None:
    shown.run("document.querySelector('#configurations thead button').focus()")
    assert shown.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown.key("Tab")
    assert shown.run("document.activeElement.textContent") == "state"
    assert shown.run("document.activeElement.tagName") == "BUTTON"


def test_filters_hide_rows_and_fade_their_marks(shown: Browser) -> None:
    set_value(shown, "[data-filter=configurations]", "global 0.9")
    assert column(shown, 0) == ["magnitude-global-s0.9"]
    assert shown.run("document.querySelector('[data-count=configurations]').textContent") == "1 of 8"
    assert shown.run("document.querySelectorAll('#quality figure:first-child .mark:not(.out)').length") == 1
    set_value(shown, "[data-filter=configurations]", "no such words")
    assert "nothing matches" in shown.run("document.querySelector('[data-count=configurations]').textContent")
    set_value(shown, "[data-filter=configurations]", "")
    set_value(shown, "[data-state=configurations]", "failed", "change")
    assert column(shown, 0) == ["random-s0.9"]


def test_pointing_at_a_mark_tells_what_it_is(shown: Browser) -> None:
    assert tip(shown) == ""
    last = "find((r) => r.textContent.startsWith('random-s0.9')).dataset.row"
    row = shown.run(f"[...document.querySelectorAll('{TABLE}')].{last}")
    shown.hover(f'#quality .mark[data-row="{row}"] .shape')
    said = tip(shown)
    assert said.startswith("random-s0.9\nsparsity: 90.00 %\nperplexity")
    assert "2 finished, 1 failed" in said
    assert shown.run(
        f"document.querySelector('#configurations tr[data-row=\"{row}\"]').classList.contains('hot')"
    )
    shown.key("Escape")
    assert tip(shown) == ""


def test_pointing_at_a_curve_a_cell_and_an_overlap(shown: Browser) -> None:
    line = "document.querySelector('#training .run polyline')"
    places = f"{line}.getAttribute('points').split(' ')[3].split(',').map(Number)"
    x, y = shown.run(places)
    shown.hover("#training svg.chart", right=x / 640, down=y / 400)
    assert re.search(r"^dense · mean of 3 runs\nstep 4: training loss, logarithmic 0.75$", tip(shown))
    shown.hover("svg.heat", right=0.5, down=0.9)
    assert re.search(r"layers\.\d\..*\n\d+\.\d\d % sparse$", tip(shown))
    shown.hover(".matrix td[data-tip]")
    assert re.search(r"overlap 0\.\d{4}, by chance 0\.\d{4}", tip(shown))


def test_arrow_keys_walk_through_every_picture(shown: Browser) -> None:
    for section in ("quality", "pareto", "training", "layers"):
        shown.run(f"document.querySelector('#{section} svg[data-kind]').focus()")
        said = []
        for _ in range(3):
            shown.key("ArrowRight")
            said.append(tip(shown))
        assert all(said), section
        assert len(set(said)) == 3, section


def test_axes_of_the_front_can_be_chosen(shown: Browser) -> None:
    visible = (
        "[...document.querySelectorAll('#fronts figure:not([hidden]) strong')].map((s) => s.textContent)"
    )
    assert shown.run(visible) == ["perplexity against sparsity found"]
    set_value(shown, "#front-x", "flops", "change")
    set_value(shown, "#front-y", "accuracy", "change")
    assert shown.run(visible) == ["accuracy against FLOPs of a step against dense, estimated"]


def test_configs_of_any_two_runs(shown: Browser) -> None:
    rows = (
        "[...document.querySelectorAll('#diff-rows tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    (only,) = shown.run(rows)
    assert only[:2] == ["init.callbacks.SparseMaskCallback.mask_path", "not there"]
    shown.run("document.querySelector('#diff-swap').click()")
    assert shown.run(rows) == [[only[0], only[2], only[1]]]
    odd = shown.run(
        "[...document.querySelector('#diff-a').options].find((o) => o.text.includes('seed 9')).value"
    )
    set_value(shown, "#diff-a", odd, "change")
    assert ["init.tag", '"<img src=x onerror=alert(1)>"', "not there"] in shown.run(rows)


def test_dark_light_and_narrow(shown: Browser, page: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = shown.run(background)
    first = shown.screenshot()
    shown.media(scheme="dark")
    assert shown.run(background) != light
    dark = shown.screenshot()
    assert min(len(first), len(dark)) > 20_000
    assert first != dark
    shown.media(scheme="dark", media="print")
    assert shown.run(background) == "rgb(255, 255, 255)"
    shown.media()
    shown.open(page, width=700, height=900)
    assert shown.run("document.documentElement.scrollWidth <= innerWidth")


def test_printed_it_is_a_few_pages_with_everything_open(shown: Browser) -> None:
    pdf = shown.pdf()
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 14
