"""Curves as pictures and as a page: places of points and bands, hostile names, odd data."""

import re
from pathlib import Path

import pytest

from workbench.report_curves import POINTS, Chart, Line, Table, drawings, lines_of, write_page, write_pictures

LINE = Line("one", [1, 10, 100], [0.2, 0.4, 0.6], [0.1, 0.3, 0.5], [0.3, 0.5, 0.7])


def chart(*lines: Line, share: bool = True) -> Chart:
    return Chart("Heading", "name", "k", "share", lines, share=share)


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def test_points_lie_where_their_numbers_are() -> None:
    broad, narrow = drawings(chart(LINE))
    for drawn in (broad, narrow):
        [line] = drawn["lines"]
        (x0, y0), (x1, y1), (x2, y2) = places(line["path"])
        assert (x0, x2) == (drawn["left"], drawn["right"])
        assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1), "a logarithmic axis"
        assert y0 > y1 > y2 and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
        assert len(places(line["band"])) == 6
        inside = [drawn["top"] <= y <= drawn["bottom"] for _, y in places(line["band"])]
        assert all(inside)
        assert drawn["y_ticks"][0]["text"].endswith("%")


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    ks = list(range(1, 1001))
    values = [k / 1000 for k in ks]
    broad, narrow = drawings(chart(Line("long", ks, values)))
    counts = [len(places(drawn["lines"][0]["path"])) for drawn in (broad, narrow)]
    assert 40 < counts[1] < counts[0] <= POINTS + 2
    for drawn in (broad, narrow):
        assert places(drawn["lines"][0]["path"])[-1] == (drawn["right"], drawn["top"])


@pytest.mark.parametrize(
    ("xs", "ys"), [([5.0], [0.3]), ([1, 2], [-3.0, -3.0]), ([1, 2], [0.0, 0.0]), ([1e-3, 1e12], [-1e6, 2e6])]
)
def test_odd_numbers_are_drawn(xs: list[float], ys: list[float]) -> None:
    for drawn in drawings(chart(Line("odd", xs, ys), share=False)):
        for x, y in places(drawn["lines"][0]["path"]):
            assert drawn["left"] <= x <= drawn["right"] and drawn["top"] - 0.1 <= y <= drawn["bottom"] + 0.1
        assert 2 <= len(drawn["y_ticks"]) <= 8


def test_pictures_and_page(tmp_path: Path) -> None:
    law = Line("law", [1, 100], [0.2, 0.6], dashed=True, colour=1)
    shown = chart(LINE, law)
    [picture] = write_pictures(tmp_path, [shown])
    assert picture.read_bytes().startswith(b"\x89PNG")
    evil = "<script>alert(1)</script>\u202e"
    table = Table("Numbers", ["k", "value"], [["1", evil], ["2", ""]], evil)
    write_page(
        tmp_path / "report.html", evil, [shown, table], facts={"Task": evil, "Empty": ""}, summary=evil,
        notes=[evil], command="workbench pass_at_k", versions={"numpy": "2"},
    )  # fmt: skip
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "\u202e" not in page and "⟨U+202E⟩" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "default-src 'none'" in page
    assert page.count('class="line s1 dashed"') == 3, "two sizes and the legend"
    assert "Empty" not in page and "workbench pass_at_k" in page


def test_a_table_in_columns() -> None:
    told = lines_of(Table("", ["k", "value"], [["1", "10 %"], ["16", "9 %"]], "Caption."))
    assert told.splitlines() == ["Caption.", " k  value", " 1   10 %", "16    9 %"]
