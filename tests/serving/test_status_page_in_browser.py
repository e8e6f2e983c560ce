"""The page of the service in a real browser: hostile names, themes, a phone."""

from __future__ import annotations

import shutil
import time

import pytest
from playwright.sync_api import expect
from service_parts import listening, train

from cnsdiff.serving.app import create_app
from cnsdiff.serving.schemas import EventBody, RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store, Version

pytestmark = pytest.mark.slow
expect.set_options(timeout=20_000)  # the page asks every five seconds
HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=alert(1)>"
GONE = "long" * 30


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    # A slash ends the name of a folder, so this one has none.
    run = train(folder / "run").rename(folder / HOSTILE.replace("/", "-"))
    with Store.open(f"sqlite:///{folder}/store.db") as store:
        service = Service(store)
        service.serve(run)
        other = shutil.copytree(run, folder / "other")
        service.add_version(other, HOSTILE)
        service.activate(HOSTILE, share=0.5)
        store.add_version(Version(GONE, f"/runs/{HOSTILE}{'x' * 300}", 1e9, {"rehearsed": 0.25}))
        items = [26, 6, 33, 7]
        for n in range(150):
            user, item = f"{HOSTILE}{n}", items[n % 4]
            service.recommend(RecommendRequest(user=user))
            event = EventBody(event_id=n, user=user, item=item, timestamp=time.time())
            service.add_events([event])
        service.flush()
        service.refresh()
        with listening(create_app(service)) as place:
            store.activate(GONE, replace=True)
            yield place


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page(browser, place, scheme):
    with browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme) as page:
        problems, asked = [], []
        page.on("console", lambda said: problems.append(said.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(place)
        expect(page.locator("#fresh")).to_contain_text("as of")
        # Names are text to the letter, and nothing of them has run.
        expect(page.locator("#versions")).to_contain_text(HOSTILE)
        expect(page.locator("#arms")).to_contain_text(HOSTILE)
        expect(page.locator("#arms-now")).to_contain_text(f"50 % of the users get {HOSTILE}")
        expect(page.locator("#alarm")).to_contain_text(f"/runs/{HOSTILE}xxx")
        expect(page.locator("#alarm")).to_contain_text("is not a run directory")
        assert page.title() == "cnsdiff service"
        assert page.locator("main img, main script").count() == 0
        expect(page.locator("#cards")).to_contain_text("%of what users take next is in their list")
        # It fits a phone; tables scroll by themselves.
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 1200, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        # Both themes can be read.
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body)"
            ".backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0))"
        )
        assert (ink < 200 and paper > 600) if scheme == "light" else (ink > 600 and paper < 200)
        assert page.locator("#drift polyline").count() == 2
        assert page.locator("#traffic rect").count() > 0
        assert not problems
        assert all(url.startswith((place, "data:")) for url in asked)
