"""The pages in a real browser: by mouse and by keyboard, light and dark, wide and narrow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cag_uda.report import write_comparison, write_report
from cag_uda.report.palette import safe_palette
from tests.support.report_trees import (
    CLASSES,
    PALETTE,
    STAGES,
    drawn_labels,
    make_run,
    mistaken,
    scene,
)

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>"
UNNAMED = """() => [...document.querySelectorAll("input, button, canvas, img, [tabindex], summary")]
  .filter((each) => !each.closest("[hidden]") && each.id !== "content")
  .filter((each) => ![each.getAttribute("aria-label"), each.getAttribute("alt"), each.textContent,
    ...[...(each.labels ?? [])].map((label) => label.textContent
      + (label.querySelector("img")?.alt ?? ""))].some((name) => name?.trim()))
  .map((each) => each.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("no chromium to open the page with")
    flags = "--no-sandbox --disable-gpu --disable-background-networking"
    flags += " --disable-component-update --disable-sync"
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=flags.split())
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("browser") / "run"))


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page; at the end it must have made no request, no error and no sideways scroll."""
    opened: list[Any] = []
    faults: list[str] = []
    requests: list[str] = []

    def open_page(path: Path, width_px: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width_px, "height": 800}, color_scheme=scheme
        )
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        painted(page)
        opened.append((page, path, width_px))
        return page

    yield open_page
    for page, path, width_px in opened:
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
        assert page.evaluate("window.hacked") is None
        assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}
        page.context.close()
    assert faults == []


def painted(page: Any) -> None:
    """Wait until what was asked for has been drawn."""
    page.wait_for_selector("main:not([aria-busy])")


def pixel(page: Any, canvas: str, x: float, y: float) -> list[int]:
    """Colour of a canvas at a place, as shares of its width and height."""
    colour: list[int] = page.evaluate(
        """([canvas, x, y]) => {
          const of = document.querySelector(canvas);
          const one = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
          const context = one.getContext("2d");
          context.drawImage(of, -Math.floor(x * of.width), -Math.floor(y * of.height));
          return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        }""",
        [canvas, x, y],
    )
    return colour


def choose(page: Any, group: str, value: str) -> None:
    page.locator(f'input[name="{group}"][value="{value}"]').press("Space")
    painted(page)


def strength(page: Any, key: str) -> None:
    page.locator("#strength").focus()
    page.keyboard.press(key)
    painted(page)


@pytest.mark.parametrize(("width_px", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_part_opens(open_page: Open, report: Path, width_px: int, scheme: str) -> None:
    page = open_page(report, width_px, scheme)
    for part in ("viewer", "labelling", "maps"):
        assert page.locator(f"#{part}").is_visible(), part
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in background.strip("rgb()").split(",")]
    assert (max(levels) < 40) == (scheme == "dark")
    assert page.evaluate(UNNAMED) == []
    # One pane of two at a time: the delivered network's first.
    panes = page.locator("#confusion-0, #confusion-1")
    assert [pane.is_visible() for pane in panes.all()] == [False, True]
    choose(page, "confusion", "0")
    assert [pane.is_visible() for pane in panes.all()] == [True, False]


def test_divider_by_mouse_and_keyboard(open_page: Open, report: Path) -> None:
    page = open_page(report)
    slider, frame = page.locator(".slider"), page.locator(".frame")
    clip = "getComputedStyle(document.querySelector('canvas.right')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 50%)"
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "55"
    assert page.evaluate(clip) == "inset(0px 0px 0px 55%)"
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 30, steps=3)
    page.mouse.up()
    assert slider.input_value() == "25"
    page.keyboard.press("Home")
    assert page.evaluate(clip) == "inset(0px 0px 0px 0%)"


def test_focus_can_be_seen_along_the_whole_page(open_page: Open, report: Path) -> None:
    page = open_page(report)
    frame = "getComputedStyle(document.querySelector('.frame')).outlineStyle"
    seen = set()
    for _ in range(48):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
              const of = document.activeElement;
              const shown = of.matches(".slider") ? of.closest(".frame")
                : of.matches(".choices input, .thumbnails input, .switch input")
                  ? of.nextElementSibling : of;
              return [of.name || of.className || of.id || of.tagName,
                getComputedStyle(shown).outlineStyle];
            }"""
        )
        assert focused[1] == "solid", focused
        seen.add(focused[0])
        if "slider" in focused[0]:
            assert page.evaluate(frame) == "solid"
    assert {"slider", "sample", "left", "right", "labelled-stage"} <= seen


def test_stage_and_picture_by_mouse_and_keyboard(open_page: Open, report: Path) -> None:
    page = open_page(report)
    tags, looks = page.locator(".tag"), page.locator(".looks")
    assert tags.all_text_contents() == ["source-only", "stage-2"]
    before = page.evaluate("document.querySelector('canvas.right').toDataURL()")
    looks.get_by_label("stage-1 on the right").click()
    painted(page)
    assert tags.all_text_contents() == ["source-only", "stage-1"]
    assert page.evaluate("document.querySelector('canvas.right').toDataURL()") != before
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    painted(page)
    assert tags.all_text_contents() == ["source-only", "truth"]
    share = page.locator('[data-right-of="3-stage-2"]')
    _, ids = scene(0)
    right = (mistaken(ids, 0.9 - 1.5 * 0.483, seed=0) == ids).mean()
    assert share.text_content().replace("\u202f", " ") == f"{100 * right:.1f} %"
    page.locator(".thumbnails input").nth(1).click()
    painted(page)
    assert share.text_content().replace("\u202f", " ") != f"{100 * right:.1f} %"
    page.keyboard.press("ArrowLeft")
    painted(page)
    assert share.text_content().replace("\u202f", " ") == f"{100 * right:.1f} %"


def test_colours_are_those_of_the_classes_in_both_palettes(open_page: Open, report: Path) -> None:
    page = open_page(report, 390)
    strength(page, "End")
    choose(page, "left", "truth")
    _, ids = scene(0)
    places = [(x, y) for x in (3, 20, 44) for y in (2, 17, 30)]
    safe = safe_palette(len(CLASSES))
    for palette, press in ((PALETTE, False), (safe, True)):
        if press:
            page.locator("#safe-colours").focus()
            page.keyboard.press("Space")
            painted(page)
        for x, y in places:
            shown = pixel(page, "canvas.left", (x + 0.5) / 48, (y + 0.5) / 36)
            assert shown == list(palette[ids[y, x]]), (x, y)
    swatch = page.evaluate(
        "getComputedStyle(document.querySelector('[data-class=\"3\"] i')).backgroundColor"
    )
    assert swatch == f"rgb({safe[3][0]}, {safe[3][1]}, {safe[3][2]})"
    # The sheet below is painted anew too, and the choice is remembered.
    first = page.locator(".strip img[data-look='truth']").first
    assert first.get_attribute("data-painted") == "safe"
    page.reload()
    painted(page)
    assert page.locator("#safe-colours").is_checked()


def test_mistakes_and_one_class_alone(open_page: Open, report: Path) -> None:
    page = open_page(report)
    strength(page, "End")
    page.locator("#mistakes").check()
    painted(page)
    _, ids = scene(0)
    predicted = mistaken(ids, 0.9 - 1.5 * STAGES[0][4], seed=0)
    for wrong in (True, False):
        y, x = np.argwhere((predicted != ids) == wrong)[7]
        shown = pixel(page, "canvas.left", (x + 0.5) / 48, (y + 0.5) / 36)
        assert (shown == PALETTE[predicted[y, x]]) == wrong
    page.locator("#mistakes").uncheck()
    road = page.locator("#viewer button[data-class='3']")
    road.click()
    painted(page)
    assert page.locator("button[data-class='3'][aria-pressed='true']").count() == 3
    for same in (True, False):
        y, x = np.argwhere((predicted == 3) == same)[7]
        shown = pixel(page, "canvas.left", (x + 0.5) / 48, (y + 0.5) / 36)
        assert (shown == PALETTE[predicted[y, x]]) == same
    road.click()
    assert page.locator("button[aria-pressed='true']").count() == 0


def test_class_under_the_pointer_is_named(open_page: Open, report: Path) -> None:
    page = open_page(report)
    frame = page.locator(".frame")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 20.5 / 48 * box["width"], box["y"] + 17.5 / 36 * box["height"])
    painted(page)
    _, ids = scene(0)
    assert f"truth: {CLASSES[ids[17, 20]]}" in page.locator("#reading").text_content()


def test_pseudo_labels_of_both_kinds(open_page: Open, report: Path) -> None:
    page = open_page(report)
    cells = drawn_labels(0, "anchor", 48)
    truth = scene(0)[1][2::4, 2::4]
    labelled = cells != 255
    caption = page.locator("figure[data-kind='anchor'] figcaption").text_content()
    coverage = f"coverage {100 * labelled.mean():.1f}"
    precision = f"precision {100 * (cells == truth)[labelled].mean():.1f}"
    assert coverage in caption
    assert precision in caption
    assert page.locator("figure[data-kind='confidence'] canvas").is_visible()
    choose(page, "labelled-view", "1")
    assert page.locator(".verdicts").is_visible()
    for is_right in (True, False):
        row, column = np.argwhere(labelled & ((cells == truth) == is_right))[0]
        red, _, blue = pixel(
            page, "figure[data-kind='anchor'] canvas", (column + 0.5) / 12, (row + 0.5) / 9
        )
        assert (blue > red) == is_right
    choose(page, "labelled-stage", "0")
    choose(page, "labelled-sample", "1")
    assert coverage not in page.locator("figure[data-kind='anchor'] figcaption").text_content()


def test_maps_follow_stage_and_class(open_page: Open, report: Path) -> None:
    page = open_page(report)
    captions = page.locator(".plots figcaption")
    assert captions.all_text_contents() == [
        "source-only, source", "source-only, target", "stage-2, source", "stage-2, target",
    ]  # fmt: skip
    drawing = "document.querySelector('.plots canvas').toDataURL()"
    before = page.evaluate(drawing)
    choose(page, "map-above", "2")
    assert captions.first.text_content() == "stage-1, source"
    after = page.evaluate(drawing)
    assert after != before
    page.locator("#maps button[data-class='0']").click()
    painted(page)
    assert page.evaluate(drawing) not in (before, after)
    on_ring = page.evaluate(
        """() => {
          const { extent, maps } = JSON.parse(document.getElementById("feature-maps").textContent);
          const [left, right, bottom, top] = extent;
          const canvas = document.querySelector(".plots canvas");
          const [width, height] = [canvas.clientWidth, canvas.clientHeight];
          const unit = Math.min(width / (right - left), height / (top - bottom));
          const [x, y] = maps[2].anchors[0];
          return [0.5 + (unit * (x - (left + right) / 2) - 6) / width,
            0.5 - unit * (y - (bottom + top) / 2) / height];
        }"""
    )
    # The anchor of the class is a ring of six pixels in its colour, above all points.
    assert pixel(page, ".plots canvas", *on_ring) == list(PALETTE[0])


def test_value_of_a_loss_under_the_pointer(open_page: Open, report: Path) -> None:
    page = open_page(report)
    chart = page.locator(".chart:has(.value)").filter(has_text="source-only").last
    at_end = chart.locator(".value").first.text_content()
    chart.locator(".area").hover(position={"x": 10, "y": 50})
    assert chart.locator(".value").first.text_content() != at_end


def test_target_without_labels(open_page: Open, tmp_path: Path) -> None:
    page = open_page(write_report(make_run(tmp_path / "run", labels=False)), 390)
    assert page.locator(".tag").all_text_contents() == ["source-only", "stage-2"]
    assert page.locator("#mistakes").count() == 0
    caption = page.locator("figure[data-kind='anchor'] figcaption").text_content()
    assert "coverage here" in caption
    assert "precision" not in caption


def test_comparison_opens(open_page: Open, tmp_path: Path) -> None:
    make_run(tmp_path / "cag-0")
    cells = [{"seed": 0, "miou": 0.48, "iou": None, "time_s": 9, "run": "cag-0"}]
    methods = [{"name": "cag", "cells": cells}, {"name": HOSTILE, "description": HOSTILE}]
    content = {"name": HOSTILE, "classes": CLASSES, "palette": PALETTE, "methods": methods}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    path = write_comparison(tmp_path / "comparison.json")
    for width_px, scheme in ((1280, "dark"), (390, "light")):
        page = open_page(path, width_px, scheme)
        assert page.locator(".tag").all_text_contents() == ["image", "cag"]
        assert page.evaluate(UNNAMED) == []
        choose(page, "right", "truth")
        assert page.locator(".tag").all_text_contents() == ["image", "truth"]


def test_hostile_names_stay_text(open_page: Open, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", classes=[HOSTILE, *CLASSES[1:]])
    hostile_file = HOSTILE.replace("/", "")
    for sample in (run / "samples" / "0", *run.glob("stages/*/samples/0.png")):
        sample.rename(sample.with_name(hostile_file + sample.suffix))
    for labels in run.glob("stages/*/pseudo_labels/0-anchor.png"):
        labels.rename(labels.with_name(f"0-{hostile_file}.png"))
    scores = json.loads((run / "scores.json").read_text())
    for name in ("recipe", "source", "target"):
        scores[name] = HOSTILE
    scores["stages"][1]["name"] = scores["stages"][1]["method"] = HOSTILE
    (run / "scores.json").write_text(json.dumps(scores))
    criteria = {"records": [{"step": 1, "network": None, "criteria": {HOSTILE: 0.5}}]}
    (run / "stages/0-source-only/criteria.json").write_text(json.dumps(criteria))
    page = open_page(write_report(run), 390)
    choose(page, "right", "1-warm-up")
    assert page.locator(".tag.right").text_content() == HOSTILE
    page.locator("#maps button[data-class='0']").click()
    page.locator(".thumbnails input").nth(1).click()
    painted(page)
