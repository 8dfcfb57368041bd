"""The page tells the whole story, from whatever members there are, and nothing in it comes alive."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from nanwatch.errors import BundleError
from nanwatch.records import Cause, Experiment, Frame, PathNode, TensorSummary
from nanwatch.report.finish import finish
from nanwatch.report.page import render

CORPUS = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><script>alert(1)</script>",
    "\u2028\u0000\x1b[31m\udcff",
    "&lt;script&gt;",
    "`<b>bold</b>`",
]
ALLOWED = set(
    """html head meta title style body header div svg path span nav button main p h1 h2 h3 b i dl dt dd section figure
    figcaption table thead tbody tr th td small details summary pre code ul ol li img footer script rect g text tspan
    circle image br""".split()  # noqa: SIM905 - a list of fifty quoted words says less
)


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []
        self.attributes = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def parse(page):
    parser = Elements()
    parser.feed(page)
    return parser


def test_the_page_tells_the_story(gpt_folder, steps):
    finish(gpt_folder, steps)
    page = (gpt_folder / "report.html").read_text()
    for text in (
        "The loss became NaN at step 812",
        "Reproduced, bit for bit",
        "blocks.7.attn",
        "F.softmax(att, dim=-1)",
        "the first NaN was made here",
        "131,072",
        "Softmax over a row that is masked completely",
        "Leave at least one position of every row unmasked",
        "without row 3",
        "args.0, row 3",
        "nll_loss_forward",
        "7 × Block",
        "Gradient size of every tensor",
        "the whole batch",
        "NVIDIA H100",
        "Only rank 0 was replayed",
        "python replay.py --model",
    ):
        assert text in page
    assert "Not everything could be read" not in page


def test_the_page_asks_nobody_for_anything(gpt_folder, steps):
    finish(gpt_folder, steps)
    page = (gpt_folder / "report.html").read_text()
    assert len(page.encode()) < 2_000_000
    parsed = parse(page)
    assert set(parsed.tags) <= ALLOWED
    for name, value in parsed.attributes:
        assert name not in {"style", "srcset", "action"}
        assert not name.startswith("on")
        if name in {"src", "href"}:
            assert value.startswith("data:image/png;base64,")


def test_the_policy_holds_the_hashes_of_style_and_script(gpt_folder):
    page = render(gpt_folder)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("poison", CORPUS, ids=range(len(CORPUS)))
def test_hostile_text_stays_text(tmp_path, build, poison):
    incident = build.gpt_incident()
    origin = dataclasses.replace(
        incident.origin,
        op=poison,
        module=poison,
        module_type=poison,
        param=poison,
        file=poison,
        function=poison,
        code=poison,
        stack=(Frame(poison, 1, poison),),
        inputs=(TensorSummary(poison, (1,), poison, 0.0, 1.0, 0),),
    )
    incident = build.gpt_incident(
        origin=origin,
        path=(PathNode(poison, poison, poison, 1, poison),),
        cause=Cause(poison, "possible", (poison,), (poison,)),
        replay=dataclasses.replace(
            incident.replay, verdict="failed", error=poison, experiments=(Experiment(poison, finite=True, says=poison),)
        ),
        scope=(poison,),
        reason=poison,
    )
    folder = build.write_gpt(tmp_path, incident=incident, poison=lambda text: text + poison)
    finish(folder, build.history(steps=3, tensors=2))
    page = (folder / "report.html").read_text()
    parsed = parse(page)
    assert set(parsed.tags) <= ALLOWED
    assert parsed.tags.count("script") == 1
    assert parsed.tags.count("style") == 1
    assert not any(name.startswith("on") for name, _ in parsed.attributes)
    drawn = parse((folder / "graph.svg").read_text())
    assert set(drawn.tags) <= {"svg", "style", "g", "rect", "path", "text", "tspan", "title"}
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]


def test_hostile_tensor_names_in_the_history_stay_text(gpt_folder, build):
    table = build.history(steps=5, tensors=2)
    names = ["<script>alert(1)</script>" if n else "" for n in table["tensor"].to_pylist()]
    finish(gpt_folder, table.set_column(table.column_names.index("tensor"), "tensor", [names]))
    page = (gpt_folder / "report.html").read_text()
    assert parse(page).tags.count("script") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_each_member_may_be_missing_or_broken(tmp_path, build, rewrite):
    names = ("graph.json", "preview.json", "batch/tree.json", "environment.json", "traceback.txt")
    for i, name in enumerate(names):
        folder = build.write_gpt(tmp_path / str(i))
        (folder / name).unlink()
        assert "The loss became NaN at step 812" in render(folder)
        if name.endswith(".json"):
            for broken in ([1], {"modules": 3, "rows": 3, "entries": 3, "argv": 3}, "x"):
                rewrite(folder, name, broken)
                assert f"{name}:" in render(folder)


def test_a_damaged_history_is_named(gpt_folder):
    (gpt_folder / "history.parquet").write_bytes(b"PAR1 not really")
    assert "history.parquet: ArrowInvalid" in render(gpt_folder)


def test_without_facts_there_is_no_page(gpt_folder):
    (gpt_folder / "incident.json").write_text("{}")
    with pytest.raises(BundleError, match="malformed"):
        render(gpt_folder)


def test_incidents_of_every_phase_have_a_page(tmp_path, build):
    base = build.gpt_incident()
    for phase in ("data", "params", "forward", "loss", "backward", "optimizer"):
        for file in (None, "/x/y.py"):
            origin = dataclasses.replace(
                base.origin, phase=phase, file=file, module=None, param="head.weight", output=None
            )
            folder = build.write_gpt(tmp_path, incident=build.gpt_incident(id=f"{phase}-{file is None}", origin=origin))
            assert "</html>" in render(folder)


def test_incidents_without_origin_have_a_page(tmp_path, build):
    lost = build.gpt_incident(id="lost", origin=None, path=())
    assert "could not be found" in render(build.write_gpt(tmp_path, incident=lost))
    asked = build.gpt_incident(id="asked", kind="capture", origin=None, path=(), reason="looks <odd>")
    page = render(build.write_gpt(tmp_path, incident=asked))
    assert "Captured on request at step 812" in page
    assert "looks &lt;odd&gt;" in page


def test_pictures_are_shown_as_pictures(image_folder):
    page = render(image_folder)
    assert 'alt="row 5 of args.0 as a picture"' in page
    assert "135 non-finite values" in page


def test_a_history_that_ends_before_the_incident_still_shows_the_step(gpt_folder, build):
    pq.write_table(build.history(steps=20, last=811, bad=False), gpt_folder / "history.parquet")
    assert 'class="fault"' in render(gpt_folder)
