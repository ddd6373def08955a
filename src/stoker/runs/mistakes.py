"""The part of the report about mistakes: the confusion matrix (or its worst pairs) and wrong examples as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stoker.runs.evaluation import Evaluation, Wrong, data_address
from stoker.runs.markup import Html, tag

MOST_CLASSES = 30
"""A larger matrix can be read by nobody: the most confused pairs are shown instead."""
_NARROW = 12
"""Up to so many classes the matrix leaves room for the pairs beside it."""
_PAIRS = 20
_SMALL = 96
"""Images up to this side are shown pixel by pixel, larger ones smoothly."""


def confusion(found: Evaluation, classes: Sequence[str]) -> Html:
    """Return the section with the confusion matrix, or above MOST_CLASSES classes the most confused pairs and the weakest classes."""
    total, count = int(found.confusion_CC.sum()), len(found.confusion_CC)
    said = tag("p", f"{found.wrong_count:,} of {total:,} test images are wrong.", class_="muted") if total else None
    if not total:
        said = tag("p", "No test image was evaluated.", class_="muted")
    if count <= MOST_CLASSES:
        beside = _pairs(found, classes, _PAIRS // 2) if count <= _NARROW and found.wrong_count else None
        return tag("section", tag("h2", "Confusion matrix"), said, tag("div", _matrix(found, classes), beside, class_="beside"))
    lists = tag("div", _pairs(found, classes, _PAIRS), _weakest(found, classes), class_="pairs")
    return tag("section", tag("h2", "Most confused classes"), said, lists)


def wrong_examples(found: Evaluation, classes: Sequence[str]) -> Html:
    """Return the section with pictures: what it is, what the model took it for, and how sure it was."""
    of = f"{len(found.wrong)} of {found.wrong_count:,}" if found.wrong_count > len(found.wrong) else "All that are wrong"
    return tag(
        "section",
        tag("h2", "Wrong examples"),
        tag("p", f"{of}; the most certain mistakes first. Above what it is, below what the model took it for and its confidence.", class_="muted"),
        tag("ul", *(tag("li", _picture(entry, classes)) for entry in found.wrong), class_="pictures"),
    )


def _picture(entry: Wrong, classes: Sequence[str]) -> Html:
    true, taken = _name(classes, entry.true), _name(classes, entry.predicted)
    sure = f" {100 * entry.confidence:.0f}\N{NO-BREAK SPACE}%" if math.isfinite(entry.confidence) else ""
    image = tag("img", src=data_address(entry.png), alt=f"{true}, taken for {taken}", class_="small" if entry.side <= _SMALL else None)
    return tag("figure", image, tag("figcaption", tag("b", true), tag("span", f"→ {taken}{sure}", class_="taken")))


def _name(classes: Sequence[str], index: int) -> str:
    return classes[index] if 0 <= index < len(classes) else f"class {index}"


def _matrix(found: Evaluation, classes: Sequence[str]) -> Html:
    rows, recalls = found.confusion_CC.tolist(), found.recalls()
    long = max((len(name) for name in classes), default=0) > 5 or len(rows) > 12
    head = [tag("th", tag("span", name, class_="upright" if long else None, title=name), scope="col") for name in classes[: len(rows)]]
    body = []
    for true, row in enumerate(rows):
        total = sum(row)
        cells = [_cell(count, total, true == taken) for taken, count in enumerate(row)]
        recall = recalls[true]
        cells.append(tag("td", "–" if recall is None else f"{100 * recall:.1f} %", class_="recall"))
        body.append(tag("tr", tag("th", classes[true], scope="row", title=classes[true]), *cells))
    legend = "Rows: what it is. Columns: what the model took it for. On the diagonal, in bold: right. Last: share that is right."
    caption = tag("caption", tag("span", legend))
    corner = tag("tr", tag("td", class_="recall"), *head, tag("th", "right", scope="col"))
    table = tag("table", caption, tag("thead", corner), tag("tbody", *body), class_="confusion many" if len(rows) > 16 else "confusion")
    return tag("div", table, class_="scroll", role="region", aria_label="Confusion matrix", tabindex="0")


def _cell(count: int, total: int, right: bool) -> Html:
    share = count / total if total else 0.0
    if right:
        return tag("td", f"{count:,}", class_="hit strong" if share > 0.5 else "hit", style=f"--share:{share:.3f}")
    if count == 0:
        return tag("td", "·", class_="none")
    return tag("td", f"{count:,}", style=f"--share:{min(0.85, 0.1 + 1.2 * math.sqrt(share)):.3f}")  # a few percent already matter: hence the root


def _pairs(found: Evaluation, classes: Sequence[str], count: int) -> Html:
    rows = [
        tag("tr", tag("td", _name(classes, true)), tag("td", _name(classes, taken)), _number(f"{images:,}"), _number(f"{100 * share:.1f} %"))
        for true, taken, images, share in found.most_confused(count)
    ]
    caption = f"The pairs that are mistaken most, of {len(found.confusion_CC):,} classes"
    if not rows:
        return tag("p", "No image was taken for another class.", class_="muted")
    return _table(caption, ("Is", "Taken for"), ("Images", "Of its class"), rows)


def _weakest(found: Evaluation, classes: Sequence[str]) -> Html:
    recalls = sorted((recall, index) for index, recall in enumerate(found.recalls()) if recall is not None)
    totals = found.confusion_CC.sum(axis=1)
    rows = [
        tag("tr", tag("td", _name(classes, index)), _number(f"{int(totals[index]):,}"), _number(f"{100 * recall:.1f} %"))
        for recall, index in recalls[:_PAIRS]
    ]
    return _table("The classes that are recognised least", ("Class",), ("Images", "Right"), rows)


def _number(shown: str) -> Html:
    return tag("td", shown, class_="number")


def _table(caption: str, words: tuple[str, ...], numbers: tuple[str, ...], rows: list[Html]) -> Html:
    head = (*(tag("th", name, scope="col") for name in words), *(tag("th", name, scope="col", class_="number") for name in numbers))
    return tag("table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="wide")
