"""The report as its reader gets it: one page, nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from sdi.runtime.common.errors import InputError
from sdi.runtime.common.images import write_image
from sdi.train.data import Pair
from sdi.train.evaluation.baseline import Baseline, keep_evaluation, read_baseline
from sdi.train.evaluation.evaluate import CleanSteel, Evaluation, evaluate
from sdi.train.evaluation.maps import FolderMaps
from sdi.train.evaluation.paper_tables import KINDS, paper_rows
from sdi.train.evaluation.report import report_html, write_report
from sdi.train.evaluation.results import DefectRule, Results
from sdi.train.scores import Scorer

NAMES = [f"In_{i}" for i in range(44)]
POINTS = DefectRule().points


class Page(HTMLParser):
    """Tags, pictures by their text, and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.images: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.data: list[str] = []
        self.feed(text)

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
        return [evaluate(pairs, source, Scorer(), points=POINTS) for source in sources]

    return make


def test_nothing_lies_beside_the_page(evaluations: Callable[[list[str]], list[Evaluation]], tmp_path: Path) -> None:
    path = write_report(tmp_path, Results(evaluations(NAMES[:3]), data="three pictures"))
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "index.html"
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "@import" not in text
    assert "url(" not in text
    assert all(src.startswith("data:image/") for _, src in page.images)
    assert not page.links
    assert "TSERNet 2022" not in page.data  # whose scores are of other pictures
    alone = Page(report_html(Results(evaluations(NAMES[:3])[:1], data="three pictures")))
    assert not any("other methods" in text for text in alone.data)


def test_pictures_truths_and_maps_are_what_was_scored(
    evaluations: Callable[[list[str]], list[Evaluation]], tmp_path: Path
) -> None:
    page = Page(report_html(Results(evaluations(NAMES[:5]), data="five")))
    overlays = [alt for alt, _ in page.images if alt.startswith("overlay of")]
    assert len(overlays) == sum(alt.startswith("truth of") for alt, _ in page.images) > 0
    for alt, src in page.images:
        kind, _, name = alt.partition(" of ")
        if not name or kind == "overlay":
            continue
        shown = cv2.imdecode(np.frombuffer(decoded(src), np.uint8), cv2.IMREAD_GRAYSCALE)
        folder = {"picture": "images", "truth": "masks", "map": "maps"}[kind]
        expected = cv2.imread(str(tmp_path / folder / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        difference = np.abs(shown.astype(int) - expected)
        assert difference.mean() < 4 if kind == "picture" else difference.max() == 0, alt  # the picture is a JPEG


def test_twenty_worst_and_twenty_best(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(Results(evaluations(NAMES), data="44 pictures")))
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
    text = report_html(Results(made, data="eight"))
    assert "Tiny defects" not in Page(text).data  # 175 of 2,400 pixels are more than 2 %
    assert {case.failures for case in made[0].cases} == {()}
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 5:6] = 255
    for case in made[0].cases:
        write_image(case.pair.mask, mask)
    pairs = [case.pair for case in made[0].cases]
    source = FolderMaps(pairs[0].image.parent, "images")
    page = Page(report_html(Results([evaluate(pairs, source, Scorer(), points=POINTS)], data="eight")))
    assert {"Tiny defects", "The 4 worst", "The 4 best"} <= set(page.data)
    assert any("at most 2% of the picture" in text for text in page.data)
    assert sum(alt.startswith("truth of") for alt, _ in page.images) == 6 + 4 + 4


def test_names_and_labels_are_text(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    text = report_html(Results(evaluations(["<b>&In_1", '"In_2']), data="<script>alert(1)</script>"))
    page = Page(text)
    assert not page.tags & {"script", "i"}
    assert "ours & <i>others</i>" in page.data
    assert "<b>&In_1" in page.data


def test_the_papers_methods_stand_beside_by_kind(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(Results(evaluations(NAMES[:2]), data="two", dataset="SD-saliency-900")))
    wanted = {"TSERNet 2022", "CSEPNet-ResNet 2022", "MINet 2020", "this run", "compared", "printed", "measured"}
    assert wanted <= set(page.data)
    assert set(page.links) == {row.url for row in paper_rows() if row.url}
    kinds = [text for text in page.data if text in KINDS]
    assert kinds == list(KINDS)
    steel = page.data[page.data.index("steel") : page.data.index("camouflaged objects")]
    assert {"ours & <i>others</i>", "truth", "EDRNet 2020"} <= set(steel)


def test_both_protocols_stand_side_by_side(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    made = [replace(each, test_split=frozenset(NAMES[:2])) for each in evaluations(NAMES[:6])]
    page = Page(report_html(Results(made, data="all", dataset="SD-saliency-900")))
    assert {"360 test pictures", "all 6 pictures", "test split", "training split", "quoted"} <= set(page.data)
    row = page.data[page.data.index("BC 2014") :]
    row = row[: row.index("published maps")]
    assert [row[1], row[8], row[9], row[11]] == [".5925", ".1560", ".5942", ".1554"]
    table = made[0].table()
    own = page.data[page.data.index("this run") - 11 : page.data.index("this run")]
    assert [own[0], own[8]] == [f"{table[group]['S']:.4f}"[1:] for group in ("test split", "all")]
    assert table["test split"]["S"] != table["all"]["S"]


def test_remote_sensing_has_its_own_table(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(Results(evaluations(NAMES[:2]), data="two", dataset="ORSSD")))
    assert {"CorrNet 2022", "CSEPNet, Table 5", ".9380"} <= set(page.data)
    assert "TSERNet 2022" not in page.data


def test_pictures_without_a_defect_are_no_defect_class(
    evaluations: Callable[[list[str]], list[Evaluation]],
) -> None:
    (made, _) = evaluations(["coil_1", "coil_2", "ok_1", "ok_2"])
    for case in made.cases[2:]:
        write_image(case.pair.mask, np.zeros((40, 60), np.uint8))
    pairs = [case.pair for case in made.cases]
    again = evaluate(pairs, FolderMaps(pairs[0].image.parent.parent / "maps", "ours"), Scorer(), points=POINTS)
    assert {name: len(cases) for name, cases in again.groups().items()} == {"all": 2, "class coil": 2, "no defect": 2}


def test_defects_are_counted(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    results = Results(evaluations(NAMES[:3]), data="three", rule=DefectRule(mm_per_pixel=0.5))
    page = Page(report_html(results))
    assert {"By defect", "found by half", "a square metre", "class In"} <= set(page.data)
    assert "defects found over false regions a megapixel" in [alt for alt, _ in page.images]
    _, truth = results.evaluations
    found = results.defects(truth).found()["all"]
    assert found["defects"] == found["found_50"] >= 3
    assert results.defects(truth).iou() == 1


def test_clean_steel_is_told(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    clean = CleanSteel(0.5, {"good_1": 0.0, "good_2": 0.02, "good_3": 0.01})
    page = Page(report_html(Results(evaluations(NAMES[:2]), clean, data="two")))
    assert {"mean over 3 pictures", "1.0000 %", "worst: good_2", "2.0000 %"} <= set(page.data)
    assert "Clean steel" not in Page(report_html(Results(evaluations(NAMES[:2]), data="two"))).data


def test_curves_are_drawn(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(Results(evaluations(NAMES[:3]), data="three")))
    (curves,) = [src for alt, src in page.images if alt.startswith("precision over recall")]
    root = ElementTree.fromstring(decoded(curves))
    assert root.tag.endswith("svg")
    lines = [e for e in root.iter() if e.get("id", "").startswith("line2d")]
    assert len(lines) > 5


def test_one_picture_is_enough(evaluations: Callable[[list[str]], list[Evaluation]]) -> None:
    page = Page(report_html(Results(evaluations(NAMES[:1]), data="one")))
    assert "The 1 worst" in page.data
    assert not any("best" in text for text in page.data if text.startswith("The "))


def test_before_and_now_are_compared_picture_by_picture(
    evaluations: Callable[[list[str]], list[Evaluation]], tmp_path: Path
) -> None:
    noisy, perfect = evaluations(NAMES[:30:5])
    keep_evaluation(tmp_path, noisy)
    baseline = read_baseline(tmp_path)
    changes = baseline.changes(perfect)
    assert [change.case.pair.name for change in changes] == ["In_25", "In_20", "In_15", "In_10", "In_5", "In_0"]
    assert changes[-1].gain == pytest.approx(0)
    for change, case in zip(changes, noisy.cases[::-1], strict=True):
        np.testing.assert_array_equal(change.preview_before, case.preview)
        assert change.s_before == case.measured.stretched.s
    assert baseline.counts(perfect) == (5, 0)
    page = Page(report_html(Results([perfect], data="six", baseline=baseline)))
    assert {"Before and now", "The 5 that gained most"} <= set(page.data)
    assert not any("lost most" in text for text in page.data)
    change = perfect.table()["all"]["S"] - noisy.table()["all"]["S"]
    assert f"+{change:.4f}".replace("0.", ".", 1) in page.data
    assert sum(alt.startswith("map before of") for alt, _ in page.images) == 5
    back = Page(report_html(Results([noisy], data="six", baseline=kept(tmp_path, perfect))))
    assert "The 5 that lost most" in back.data


def test_a_baseline_of_other_pictures_or_masks_is_refused(
    evaluations: Callable[[list[str]], list[Evaluation]], tmp_path: Path
) -> None:
    ours, _ = evaluations(NAMES[:4])
    fewer = replace(ours, cases=ours.cases[:-1])
    with pytest.raises(InputError, match="made of other pictures: 1 are in one of the two alone: In_3"):
        kept(tmp_path, ours).changes(fewer)
    redrawn = replace(ours, cases=[*ours.cases[:-1], replace(ours.cases[-1], truth_sha256="0" * 64)])
    with pytest.raises(InputError, match="made with other masks of 1 pictures: In_3"):
        kept(tmp_path, ours).changes(redrawn)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is no report of sdi-eval"),
        ("{", "is damaged"),
        ("[]", "has format None, this sdi reads 1"),
        ('{"format": "sdi-evaluation", "format_version": 2}', "has format 2, this sdi reads 1"),
        ('{"format": "sdi-evaluation", "format_version": 1, "pictures": {"a": {}}}', "is damaged"),
    ],
)
def test_what_is_no_baseline_is_explained(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError, match=told):
        read_baseline(tmp_path)


def kept(folder: Path, evaluation: Evaluation) -> Baseline:
    keep_evaluation(folder, evaluation)
    return read_baseline(folder)


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(";base64,")[2], validate=True)
