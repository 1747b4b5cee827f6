"""The report as its reader gets it: one page, nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from sdi.runtime.common.images import write_image
from sdi.train.data import Pair
from sdi.train.evaluation.evaluate import CleanSteel, Evaluation, evaluate
from sdi.train.evaluation.maps import FolderMaps
from sdi.train.evaluation.paper_tables import paper_rows
from sdi.train.evaluation.report import report_html, write_report
from sdi.train.scores import Scorer

NAMES = [f"In_{i}" for i in range(44)]


class Page(HTMLParser):
    """Tags, pictures by their text, and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.images: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.data: list[str] = []
        self.spec(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        if tag == "img":
            self.images.append((given["alt"] or "", given["src"] or ""))
        if "href" in given:
            self.links.append(given["href"] or "")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.data.append(data.strip())


@pytest.fixture
def evaluations(tmp_path: Path) -> Callable[[list[str]], list[Evaluation]]:
    """Maps that are the worse the later the picture, and the truth itself to compare with."""

    def make(names: list[str]) -> list[Evaluation]:
        pairs = []
        for number, name in enumerate(names):
            mask = np.zeros((40, 60), np.uint8)
            mask[5:30, 5:12] = 255
            noise = np.random.default_rng(number).random(mask.shape) < number / 60
            for folder, image in (("images", mask // 2), ("masks", mask), ("maps", np.where(noise, 255 - mask, mask))):
                (tmp_path / folder).mkdir(exist_ok=True)
                write_image(tmp_path / folder / f"{name}.png", image)
            pairs.append(Pair(name, tmp_path / "images" / f"{name}.png", tmp_path / "masks" / f"{name}.png"))
        sources = [FolderMaps(tmp_path / "maps", "ours & <i>others</i>"), FolderMaps(tmp_path / "masks", "truth")]
        return [evaluate(pairs, source, Scorer()) for source in sources]

    return make


def test_nothing_lies_beside_the_page(evaluations: Callable[[list[str]], list[Evaluation]], tmp_path: Path) -> None:
    path = write_report(tmp_path, evaluations(NAMES[:3]), None, "three pictures")
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "index.html"
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "@import" not in text
    assert "url(" not in text
    assert all(src.startswith("data:image/") for _, src in page.images)
    assert set(page.links) == {row.url for row in paper_rows() if row.url}


def test_pictures_truths_and_maps_are_what_was_scored(
    evaluations: Callable[[list[str]], list[Evaluation]], tmp_path: Path
) -> None:
    page = Page(report_html(evaluations(NAMES[:5]), None, "five"))
    for alt, src in page.images:
        kind, _, name = alt.partition(" of ")
        if not name:
            continue
        shown = cv2.imdecode(np.frombuffer(decoded(src), np.uint8), cv2.IMREAD_GRAYSCALE)
        folder = {"picture": "images", "truth": "masks", "map": "maps"}[kind]
        expected = cv2.imread(str(tmp_path / folder / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        difference = np.abs(shown.astype(int) - expected)
        assert difference.mean() < 4 if kind == "picture" else difference.max() == 0, alt  # the picture is a JPEG


def test_twenty_worst_and_twenty_best(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(evaluations(NAMES), None, "44 pictures"))
    assert {"The 20 worst", "The 20 best"} <= set(page.data)
    shown = [alt.removeprefix("map of ") for alt, _ in page.images if alt.startswith("map of ")][-40:]
    worst, best = shown[:20], shown[20:]
    assert best[0] == "In_0"
    assert "In_43" in worst[:3]
    assert not set(worst) & set(best)
    number = [int(name.removeprefix("In_")) for name in shown]
    assert np.mean(number[:20]) > 30
    assert np.mean(number[20:]) < 14


def test_failure_classes_have_their_rule_and_examples(
    evaluations: Callable[[list[str]], list[Evaluation]],
) -> None:
    made = evaluations(NAMES[:8])
    text = report_html(made, None, "eight")
    assert "Tiny defects" not in Page(text).data  # 175 of 2,400 pixels are more than 2 %
    assert {case.failures for case in made[0].cases} == {()}
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 5:6] = 255
    for case in made[0].cases:
        write_image(case.pair.mask, mask)
    pairs = [case.pair for case in made[0].cases]
    source = FolderMaps(pairs[0].image.parent, "images")
    page = Page(report_html([evaluate(pairs, source, Scorer())], None, "eight"))
    assert {"Tiny defects", "The 4 worst", "The 4 best"} <= set(page.data)
    assert any("at most 2% of the picture" in text for text in page.data)
    assert sum(alt.startswith("truth of") for alt, _ in page.images) == 6 + 4 + 4


def test_names_and_labels_are_text(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    text = report_html(evaluations(["<b>&In_1", '"In_2']), None, "<script>alert(1)</script>")
    page = Page(text)
    assert not page.tags & {"script", "i"}
    assert "ours & <i>others</i>" in page.data
    assert "<b>&In_1" in page.data


def test_says_when_the_papers_figures_are_of_other_pictures(
    evaluations: Callable[[list[str]], list[Evaluation]],
) -> None:
    page = Page(report_html(evaluations(NAMES[:2]), None, "two"))
    assert "Not comparable:" in page.data
    assert {"TSERNet", "CSEPNet (ResNet-50)", "this run", "compared", "published"} <= set(page.data)


def test_clean_steel_is_told(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    clean = CleanSteel(0.5, {"good_1": 0.0, "good_2": 0.02, "good_3": 0.01})
    page = Page(report_html(evaluations(NAMES[:2]), clean, "two"))
    assert {"mean over 3 pictures", "1.0000 %", "worst: good_2", "2.0000 %"} <= set(page.data)
    assert "Clean steel" not in Page(report_html(evaluations(NAMES[:2]), None, "two")).data


def test_curves_are_drawn(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(evaluations(NAMES[:3]), None, "three"))
    (curves,) = [src for _, src in page.images if src.startswith("data:image/svg+xml;base64,")]
    root = ElementTree.fromstring(decoded(curves))
    assert root.tag.endswith("svg")
    lines = [e for e in root.iter() if e.get("id", "").startswith("line2d")]
    assert len(lines) > 5


def test_one_picture_is_enough(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(evaluations(NAMES[:1]), None, "one"))
    assert "The 1 worst" in page.data
    assert not any("best" in text for text in page.data if text.startswith("The "))


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(";base64,")[2], validate=True)
