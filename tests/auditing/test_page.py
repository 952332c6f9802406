"""The page for colleagues: what it says, that it is whole, and that it behaves in a browser."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import robust_npe as rn
from robust_npe.auditing.page import page
from robust_npe.plotting.audit import figures
from tests.auditing.common import PRIOR, QUICK, WEAK, exact, pairs, simulate

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Collects tags, and checks that they are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] not in ("script", "style") else ""

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    theta, x = pairs(3, seed=5)
    report = rn.audit(
        exact,
        x,
        theta,
        simulator=simulate,
        prior=PRIOR,
        method=WEAK,
        settings=replace(QUICK, num_pictured=2),
        theta_names=["mass", "<b>rate</b>"],
    )
    return report, report.save(tmp_path_factory.mktemp("audit"))


def test_the_page_is_whole_and_loads_nothing(saved):
    _, folder = saved
    text = (folder / "audit.html").read_text()
    assert len(text.encode()) < 3_000_000
    reader = Reader(text)
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    anchors = [a["href"] for a in reader.all("a")]
    assert len(anchors) > 8
    assert {anchor[1:] for anchor in anchors} <= set(ids)
    labelled = {a["for"] for a in reader.all("label")}
    assert {a["id"] for a in reader.all("input")} == labelled
    assert all(
        a["aria-labelledby"] in ids for a in reader.all("section") if len(a) > 1 and "id" not in a
    )
    addresses = [a[k] for _, a in reader.tags for k in ("src", "href") if k in a]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", text).replace("http-equiv", "")
    assert len(reader.all("html")) == len(reader.all("h1")) == 1
    assert dict(reader.tags[0][1])["lang"] == "en"


def test_every_picture_is_there_in_words_too(saved):
    _, folder = saved
    images = Reader((folder / "audit.html").read_text()).all("img")
    assert len(images) == 4 + 2 * 4 * 3  # four of all observations; three for each of four radii
    assert all(len(image["alt"]) > 30 for image in images)
    pictures = {path.read_bytes() for path in folder.glob("*.png")}
    shown = {base64.b64decode(image["src"].partition(",")[2]) for image in images}
    assert shown == pictures
    words = [i["alt"] for i in images if i["alt"].startswith("Posteriors")]
    assert sum("epsilon 0.5, KL" in alt for alt in words) == 2


def test_the_page_says_what_the_tables_say(saved):
    report, folder = saved
    text = Reader((folder / "audit.html").read_text()).text
    assert report.verdict in text
    assert (folder / "verdict.txt").read_text() == f"{report.verdict}\n"
    assert report.unit in text
    assert "<b>rate</b>" in text  # a name is no markup
    for row in report.findings.table.to_dict("records"):
        assert row["largest KL"] in text
    for title in ("Clean quality", "Can the attack be believed?", "What to do next"):
        assert title in text
    assert all(step in text for step, _ in report.next_steps)


def test_the_soundness_of_each_radius_stands_below_it(saved):
    report, folder = saved
    page = (folder / "audit.html").read_text()
    text = page.partition("<caption>Flags of the attack</caption>")[2]
    cells = [re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", row) for row in text.split("</tr>")]
    assert cells[0] == ["flag", "epsilon 0.25", "epsilon 0.5", "epsilon 1", "limits", "meaning"]
    (error,) = (row for row in cells if row and row[0] == "gradient_error")
    table = report.tables["soundness"]
    values = table[table.statistic == "gradient_error"].set_index("epsilon").value
    assert [float(cell) for cell in error[1:4]] == pytest.approx(values.tolist(), rel=0.01)


def test_what_does_not_fit_is_left_out_and_said(saved, monkeypatch):
    report, folder = saved
    drawn = {path.stem: path.read_bytes() for path in folder.glob("*.png")}
    one = sum(
        len(v) for k, v in drawn.items() if f"_{report.tables['x'].observation.iloc[0]}_" in k
    )
    monkeypatch.setattr("robust_npe.auditing.page.MOST_BYTES", int(1.2 * one))
    text = page(report, drawn)
    assert "1 more observation(s)" in text
    assert text.count('class="stages"') == 1


def test_pictures_keep_their_size_and_show_the_change(saved):
    report, _ = saved
    drawn = figures(report.tables, report.attack, report.task)
    i = report.tables["x"].observation.iloc[0]
    for kind in ("x", "posterior", "predictive"):
        stages = [drawn[f"{kind}_{i}_{k}"] for k in range(4)]
        assert len({tuple(figure.get_size_inches()) for figure in stages}) == 1
        limits = [[a.get_ylim() for a in figure.axes][-1] for figure in stages]
        assert all(limit == pytest.approx(limits[0]) for limit in limits) or kind == "posterior"
    moved = drawn[f"x_{i}_3"].axes[1].patches
    heights = [bar.get_height() for bar in moved]
    table = report.tables["x"][report.tables["x"].observation == i]
    clean, last = (table[table.epsilon == e].value.to_numpy() for e in (0.0, 1.0))
    assert heights == pytest.approx((last - clean).tolist())


@pytest.fixture
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=400,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(driver)
    found = selenium.Chrome(options, service)
    yield found
    found.quit()


def test_the_page_in_a_browser(saved, browser):
    _, folder = saved
    browser.get((folder / "audit.html").as_uri())
    group = browser.find_element("css selector", ".stages")
    slider, output = (group.find_element("css selector", tag) for tag in ("input", "output"))

    def visible():
        shown = [s for s in group.find_elements("css selector", ".stage") if s.is_displayed()]
        assert len(shown) == 1
        return shown[0].find_element("css selector", "img").get_attribute("alt")

    before, told = visible(), output.text
    assert "epsilon 1" in before
    slider.send_keys("\ue012")  # the left arrow key
    assert "epsilon 0.5" in visible()
    assert output.text != told
    assert slider.get_attribute("aria-valuetext") == output.text
    slider.send_keys("\ue011")  # home
    assert "not perturbed" in visible()
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= browser.execute_script("return window.innerWidth")
    images = browser.execute_script("return [...document.images].every(i => i.naturalWidth > 0)")
    assert images
    assert browser.get_log("browser") == []
    sent = [entry["message"] for entry in browser.get_log("performance")]
    asked = [re.search(r'"url":"([^"]{0,60})', m) for m in sent if "requestWillBeSent" in m]
    assert all(a[1].startswith(("file:", "data:")) for a in asked if a)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    style = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(style) == "rgb(20, 23, 26)"


def test_the_page_without_javascript(saved, browser):
    _, folder = saved
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get((folder / "audit.html").as_uri())
    shown = browser.find_elements("css selector", ".stage")
    assert len(shown) == 8
    assert all(stage.is_displayed() for stage in shown)
    assert not any(s.is_displayed() for s in browser.find_elements("css selector", ".slider"))


def test_an_image_is_drawn_by_its_task():
    vae = rn.tasks.VAE()
    theta, x = rn.simulate(vae, 1, seed=1)
    weights = 0.1 * theta.new_ones(x.shape[1], vae.dim_theta)

    def posterior(x):
        from torch.distributions import Independent, Normal

        return Independent(Normal(x @ weights, 0.3), 1)

    report = rn.audit(posterior, x, simulator=vae, method=WEAK, settings=QUICK)
    drawn = figures(report.tables, report.attack, report.task)
    assert [len(axes.images) for axes in drawn["x_0_2"].axes] == [1, 1]
