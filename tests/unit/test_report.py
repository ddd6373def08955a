"""The report page: complete, self-contained, escaped, and made of whatever a run has."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stoker.errors import RunBroken
from stoker.runs import Run
from stoker.runs.charts import Series, compact, line_chart
from stoker.runs.differences import differences, refusals
from stoker.runs.evaluation import read_evaluation
from stoker.runs.markup import Html, join, tag, text
from stoker.runs.report import page, write_report
from stoker.runs.summary import summarise

VOID = {"meta", "link", "br", "img", "line", "path", "circle", "rect"}
NASTY = ["<script>alert('x')</script>", "a&b\"'>", "caf\u00e9 \u732b", "bad\udcff\x1b[31m\0", "{{body}}\\1"]


class Page(HTMLParser):
    """Checks that elements are closed in order, and gathers what a test asks about."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader reads."""
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a name."""
        return [attributes for found, attributes in self.tags if found == name]


def made(root: Path, *, epochs: int = 3, classes: list[str] | None = None, **fields: Any) -> Run:
    """Return a run as a training leaves it, without an evaluation."""
    record = {
        "recipe": "cifar10.small",
        "command": ["stoker", "train", "cifar10.small", "--data", "my data"],
        "folder": "/work/project",
        "configuration": {"epochs": 3, "batch_size": 64, "nested": {"learning_rate": 0.1}},
        "seed": 7,
        "data": {"source": "cifar10", "fingerprint": "sha256:f00", "train_images": 50000, "test_images": 10000, "classes": classes or ["cat", "dog"]},
        "git": {"commit": "c0ffee", "dirty": True, "diff": "-a < b\n+a > b\n", "untracked": ["x.py"]},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "host": {"hostname": "atlas", "cpu": "EPYC", "limits": {"cores": 16, "memory_total_bytes": 2**37}, "gpus": [{"name": "NVIDIA H200"}] * 2},
    }
    run = Run.create(root, run_id="mine", record=record | fields)
    for epoch in range(1, epochs + 1):
        run.log("epoch", epoch=epoch, step=epoch * 10, train_loss=2 / epoch, test_loss=2.1 / epoch, train_accuracy=1 - 0.5 / epoch,
                test_accuracy=1 - 0.6 / epoch, learning_rate=0.1 / epoch, images_per_s=1000.0 + epoch, train_s=2.0, eval_s=0.5)  # fmt: skip
        run.log("speed", step=epoch * 10, images_per_s=1000.0 + epoch, elapsed_s=2.0 * epoch)
    kept = {"name": "bf16", "kept": True, "why": "faster", "ratio": 2.8}
    choices = [kept, {"name": "compile", "kept": False, "why": "too few steps", "ratio": None}]
    result = {"test_accuracy": 0.8, "best_test_accuracy": 0.81, "epochs": epochs, "steps": 30, "train_s": 6.0, "total_s": 9.0, "images_per_s": 1002.0}
    run.update(status="done", choices=choices, result=result)
    return run


def evaluated(run: Run, confusion_CC: Any, pixels_NHWC: np.ndarray, true_N: Any, predicted_N: Any, confidence_N: Any) -> None:
    """Write evaluation.npz."""
    np.savez(
        run.path / "evaluation.npz",
        confusion_CC=np.asarray(confusion_CC, dtype=np.int64),
        wrong_pixels_NHWC=pixels_NHWC,
        wrong_true_N=np.asarray(true_N, dtype=np.int64),
        wrong_predicted_N=np.asarray(predicted_N, dtype=np.int64),
        wrong_confidence_N=np.asarray(confidence_N, dtype=np.float32),
    )


def pixels(*shape: int) -> np.ndarray:
    """Return noise as images."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_page_says_all_that_the_run_knows(tmp_path: Path) -> None:
    run = made(tmp_path)
    evaluated(run, [[90, 10], [3, 97]], pixels(2, 8, 8, 3), [0, 1], [1, 0], [0.6, 0.9])
    path = write_report(run)
    assert path == run.path / "report.html"
    found = Page(path.read_text(encoding="utf-8"))
    for words in ("cifar10.small", "80.00 %", "best 81.00 %", "6.0 s", "1,002", "2 × NVIDIA H200", "3 of 3 epochs, 30 steps",
                  "13 of 200 test images are wrong", "2.80 ×", "too few steps", "nested.learning_rate", "c0ffee", "sha256:f00", "2.13.0",
                  "stoker repeat mine", "stoker export mine", "--data 'my data'", "git checkout c0ffee", "-a < b", "x.py", "128.0 GiB"):  # fmt: skip
        assert words in found.text, words


def test_nothing_on_the_page_is_fetched_and_no_script_runs(tmp_path: Path) -> None:
    run = made(tmp_path, classes=NASTY[:2])
    evaluated(run, [[9, 1], [3, 7]], pixels(2, 8, 8, 3), [0, 1], [1, 0], [0.6, 0.9])
    source = page(run)
    found = Page(source)
    assert not {"script", "iframe", "link", "object", "embed", "base", "form"} & {name for name, _ in found.tags}
    for _, attributes in found.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href", "srcset", "action"):
                assert (value or "").startswith("data:image/png;base64,")
    assert "url(" not in source
    assert "@import" not in source
    assert any("default-src 'none'" in (attributes.get("content") or "") for attributes in found.all("meta"))


def test_what_strangers_wrote_is_escaped(tmp_path: Path) -> None:
    run = made(tmp_path, classes=NASTY, recipe=NASTY[0], command=["stoker", "--set", NASTY[0]], folder=NASTY[1], configuration={NASTY[0]: NASTY[1]})
    evaluated(run, np.ones((5, 5)), pixels(3, 8, 8, 1), [0, 3, 99], [1, 4, -1], [0.5, math.nan, 0.2])
    run.update(choices=[{"name": NASTY[0], "kept": 1, "why": NASTY[1], "ratio": "x"}], host={NASTY[0]: NASTY[3], "gpus": [{"name": NASTY[0]}]})
    path = write_report(run)
    found = Page(path.read_text(encoding="utf-8"))
    assert "script" not in {name for name, _ in found.tags}
    assert NASTY[0] in found.text
    assert "café 猫" in found.text
    assert "{{body}}\\1" in found.text
    assert "class 99" in found.text
    assert "\x1b" not in path.read_text(encoding="utf-8")


def test_pictures_are_whole_and_in_their_order(tmp_path: Path) -> None:
    run = made(tmp_path)
    colours = pixels(40, 8, 8, 3)
    evaluated(run, [[50, 50], [0, 9]], colours, [0] * 40, [1] * 40, np.linspace(0.1, 0.9, 40))
    images = Page(page(run)).all("img")
    assert len(images) == 36
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(str(image["src"]).partition(",")[2])))) for image in images]
    assert np.array_equal(shown[0], colours[39])  # the most certain mistake first
    assert np.array_equal(shown[35], colours[4])
    assert images[0]["alt"] == "cat, taken for dog"


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 8, 8), (2, 300, 200, 3), (2, 8, 8, 4), (2, 5, 9, 3)])
def test_grey_and_large_and_oblong_pictures(tmp_path: Path, shape: tuple[int, ...]) -> None:
    run = made(tmp_path)
    evaluated(run, [[1, 1], [1, 1]], pixels(*shape), [0, 1], [1, 0], [0.5, 0.5])
    found = read_evaluation(run.path / "evaluation.npz")
    assert found is not None
    image = Image.open(io.BytesIO(found.wrong[0].png))
    assert max(image.size) <= 144
    assert image.size[0] / image.size[1] == pytest.approx(shape[2] / shape[1], abs=0.02)
    assert len(Page(page(run)).all("img")) == 2


@pytest.mark.parametrize(("count", "matrix"), [(2, True), (30, True), (31, False), (1000, False)])
def test_many_classes_are_shown_as_pairs(tmp_path: Path, count: int, matrix: bool) -> None:
    confusion_CC = np.eye(count, dtype=np.int64) * 50
    confusion_CC[0, 1] = 25
    run = made(tmp_path, classes=[f"kind {index}" for index in range(count)])
    evaluated(run, confusion_CC, pixels(0, 8, 8, 3), [], [], [])
    source = page(run)
    found = Page(source)
    assert ("Confusion matrix" in found.text) is matrix
    assert matrix or "kind 0 kind 1 25 33.3 %" in found.text
    assert len(source) < 200_000


def test_a_run_of_one_epoch(tmp_path: Path) -> None:
    found = Page(page(made(tmp_path, epochs=1)))
    assert "There is no evaluation.npz" in found.text
    assert found.all("circle")


def test_a_run_that_died_before_its_first_epoch(tmp_path: Path) -> None:
    run = Run.create(tmp_path, run_id="mine", record={})
    run.close()
    found = Page(page(run))
    assert "died" in found.text
    assert "No epoch was finished" in found.text


def test_values_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    run = made(tmp_path, epochs=0)
    for epoch, loss in enumerate((2.0, 1.5, math.nan, 1.0, math.inf), start=1):
        run.log("epoch", epoch=epoch, step=epoch, train_loss=loss, train_accuracy=math.nan)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "epoch", "epoch": 6, "train_loss": NaN, "learning_rate": Infinity}\n')
    source = page(run)
    assert "not finite" in Page(source).text
    assert "No finite values were recorded." in source
    assert not re.search(r'(?:d|cx|cy|x|y)="[^"]*(?:nan|inf)', source, re.IGNORECASE)


@pytest.mark.parametrize("garbage", [b"", b"PK\x03\x04 torn", b"\x93NUMPY"])
def test_a_broken_evaluation_is_said(tmp_path: Path, garbage: bytes) -> None:
    run = made(tmp_path)
    (run.path / "evaluation.npz").write_bytes(garbage)
    with pytest.raises(RunBroken, match=r"evaluation\.npz"):
        read_evaluation(run.path / "evaluation.npz")
    assert "cannot be read" in Page(page(run)).text


def test_an_evaluation_with_pickled_or_foreign_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.npz"
    confusions = (np.array([object()]), np.zeros((2, 3), dtype=int), np.zeros((2, 2)))
    for arrays in ({"other": np.zeros(1)}, *({"confusion_CC": confusion_CC} for confusion_CC in confusions)):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(RunBroken):
            read_evaluation(path)


def test_a_record_of_strange_values_still_gives_a_page(tmp_path: Path) -> None:
    strange = {"data": "x", "git": [1], "host": 3, "packages": [], "choices": {"a": 1}, "command": "x", "configuration": 1, "stoker": "1"}
    run = Run.create(tmp_path, run_id="mine", record=strange)
    run.close()
    assert "mine" in Page(page(run)).text


def test_mutilated_records_give_a_page_a_summary_and_a_comparison(tmp_path: Path) -> None:
    draws = random.Random(3)
    wrong: list[Any] = [None, 1, -1.5, "x", [], {}, [1, {"a": [{"b": 1}]}], True, {"a": {"b": []}}, math.nan, 10**400, "\udc80"]

    def mutilated(value: Any) -> Any:
        if draws.random() < 0.12:
            return draws.choice(wrong)
        if isinstance(value, dict):
            return {key: mutilated(entry) for key, entry in value.items() if draws.random() > 0.05}
        return [mutilated(entry) for entry in value] if isinstance(value, list) else value

    run = made(tmp_path)
    evaluated(run, [[9, 1], [3, 7]], pixels(1, 8, 8, 3), [0], [1], [0.9])
    whole = run.record()
    for _ in range(200):
        (run.path / "run.json").write_text(json.dumps(mutilated(whole)))
        with contextlib.suppress(RunBroken):
            record = run.record()
            assert Page(page(run)).all("h1")
            assert summarise(run).id == "mine"
            assert refusals(whole, record) == [] or differences(whole, record)


def test_figures_have_names_and_descriptions_and_tables_have_captions(tmp_path: Path) -> None:
    run = made(tmp_path)
    evaluated(run, [[9, 1], [3, 7]], pixels(1, 8, 8, 3), [0], [1], [0.9])
    source = page(run)
    found = Page(source)
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    pictures = [attributes for attributes in found.all("svg") if attributes.get("role") == "img"]
    assert len(pictures) == 4
    for attributes in pictures:
        assert set(str(attributes["aria-labelledby"]).split()) <= ids
    assert len(found.all("table")) == len(found.all("caption"))
    assert all(attributes.get("alt") for attributes in found.all("img"))
    assert [name for name, _ in found.tags if name == "h1"] == ["h1"]
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


def test_a_resumed_session_goes_on_on_the_time_axis(tmp_path: Path) -> None:
    run = made(tmp_path, epochs=0)
    for elapsed_s in (1.0, 2.0, 3.0, 1.0, 2.0):
        run.log("speed", step=1, images_per_s=10.0, elapsed_s=elapsed_s)
    assert "at seconds of training 5;" in page(run)


def test_many_points_are_thinned(tmp_path: Path) -> None:
    series = Series(name="x", look="test", points=[(float(index), float(index % 7)) for index in range(100_000)])
    assert len(line_chart("c", "C", [series], x_label="step", show=compact)) < 20_000


def test_markup_escapes_all_but_html() -> None:
    assert tag("a", "<b>", Html("<i>"), None, class_='x"y', aria_label=None) == '<a class="x&quot;y">&lt;b&gt;<i></a>'
    assert join("&", tag("br")) == "&amp;<br/>"
    assert text("\udc80\x00a\nb") == "\ufffd\ufffda\nb"


def test_numbers_for_axes() -> None:
    assert [compact(value) for value in (0, 0.00075, 0.25, 1200, 45_000, 1.25e6, -3)] == ["0", "7.5e-4", "0.25", "1,200", "45k", "1.25M", "-3"]
