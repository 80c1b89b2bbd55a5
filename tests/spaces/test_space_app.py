"""The running Space, as visitors use it in a real browser, and as programs and assistants call it."""

import asyncio
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ..hub_server import Fault
from .browser import CHROMIUM, DRIVER, Browser
from .conftest import SPACE, command_line, same_scores

pytestmark = pytest.mark.integration
VIDEO = Path(__file__).parents[1] / "data" / "highway_2s.mp4"


@pytest.fixture(scope="module")
def window(space, tmp_path_factory) -> Iterator[Browser]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        warnings.warn(
            "NO CHROMIUM: THE SPACE IS NOT TESTED IN A BROWSER (apt install chromium chromium-driver)", stacklevel=1
        )
        pytest.skip("NO CHROMIUM: the Space is not tested in a browser")
    browser = Browser(tmp_path_factory.mktemp("chromium"), space.url)
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    window.screen(1280, 1600)
    yield window
    assert window.severe() == []


@pytest.fixture
def models(hub) -> tuple[str, str]:
    """Two models on the loopback Hub."""
    return publish(hub, "lives/singlelife-one", "sim_1"), publish(hub, "lives/singlelife-two", "sim_still")


def publish(hub, name: str, model: str) -> str:
    """Put a model of the page on the loopback Hub."""
    files = {path.name: path.read_bytes() for path in (SPACE / "models" / model).iterdir()}
    hub.put(hub.create(name, "model"), files)
    return name


def test_a_score_is_there_at_once(browser, tmp_path):
    browser.open()
    theirs = command_line(tmp_path, "sim_2", SPACE / "pairs" / "simulated")
    assert browser.score() == pytest.approx(theirs["raw"]["cas"], abs=1e-6)
    assert browser.score("centred") == pytest.approx(theirs["centred"]["cas"], abs=1e-6)
    assert "clearly about where" in browser.one("#score h2").text
    offered = browser.one("#score a[download='cas.json']").get_attribute("href")
    assert browser.run("return fetch(arguments[0]).then((answer) => answer.json())", offered)["num_pairs"] == 64


def test_two_models_of_the_hub(browser, models, tmp_path):
    browser.open()
    for letter, name in zip("ab", models, strict=True):
        browser.type_model(letter, name)
    browser.compare()
    theirs = command_line(tmp_path, "sim_still", SPACE / "pairs" / "simulated")
    assert browser.score() == pytest.approx(theirs["raw"]["cas"], abs=1e-6)
    assert browser.score("centred") == pytest.approx(theirs["centred"]["cas"], abs=1e-6)
    assert all(name in browser.one("#score dl").text for name in models)
    assert "by cross-attention" in browser.one("#score dl").text


def test_what_is_wrong_is_said_as_text_and_takes_the_old_score_away(browser):
    browser.open()
    for name in ("lives/nothing-here", "<img src=x onerror=window.hit=1>"):
        browser.type_model("b", name)
        browser.compare()
        browser.until(lambda name=name: name in browser.one("#status [role=alert]").text, "message")
        browser.until(lambda name=name: name in browser.one(".toast-body").text, "toast")
        assert not browser.shown("[data-score]") and not browser.shown(".look") and not browser.all(".strip button")
        browser.run("document.querySelectorAll('.toast-close').forEach((button) => button.click())")
    assert not browser.all("img[src=x]") and not browser.run("return window.hit")


def test_cancel(browser, hub):
    slow = publish(hub, "lives/singlelife-slow", "sim_2")  # which no other test has the app download
    browser.open()
    hub.faults.append(Fault("GET", ".safetensors", after=1_000_000, silent=20, times=50))  # the Hub falls silent
    browser.type_model("a", slow)
    browser.click("#compare")
    browser.until(lambda: "Downloading" in browser.one("#status").text, "download")
    assert browser.run("return getComputedStyle(document.querySelector('#score')).opacity") == "0.4"  # an older one
    browser.click("#cancel")
    browser.until(lambda: "Cancelled" in browser.one("#status").text, "word that it is cancelled", seconds=5)
    assert not browser.shown("#cancel")
    hub.faults.clear()
    browser.compare()  # the next comparison is as good as any
    browser.until(lambda: slow in browser.one("#score dl").text, "result")
    # Gradio's own script may throw at what a run still says once it is cancelled, and goes on; what is ours must not.
    assert not [message for message in browser.severe() if "/assets/" not in message]


def test_a_patch_shows_where_both_look(browser):
    browser.open()
    before, said = browser.pictures(), browser.one(".look-answer").text
    browser.click_in("canvas[data-view='target']", 0.55, 0.55)
    after = browser.pictures()
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert browser.one(".look-answer").text != said
    assert browser.one("[data-input='row']").get_attribute("value") == "5"
    assert browser.one("[data-input='column']").get_attribute("value") == "5"
    browser.click("[data-input='centred']")
    assert browser.pictures() != after
    # Another pair, by its small picture.
    target = browser.picture("target")
    browser.click("[data-pair='2']")
    browser.until(lambda: browser.picture("target") != target, "other pair")
    assert "Pair 3" in browser.one(".look-ask").text


def test_two_pictures(browser, space, pictures, tmp_path):
    browser.open()
    browser.click("#pairs label:nth-of-type(3)")
    for name, file in zip(("target", "source"), pictures, strict=True):
        browser.until(lambda name=name: browser.all(f"#{name}-view input[type=file]"), "upload")[0].send_keys(
            str(file)
        )
        browser.until(lambda name=name: browser.shown(f"#{name}-view img"), "picture")
    browser.until(lambda: not space.uploaded(), "deletion of the uploads")
    browser.compare()
    theirs = command_line(tmp_path, "sim_2", pictures[0].parent)
    assert browser.score() == pytest.approx(theirs["raw"]["cas"], abs=1e-6)
    assert "on the 64 built-in pairs" in browser.one("[data-score='centred']").text
    browser.compare()  # the same pictures, though their files are gone
    assert browser.score() == pytest.approx(theirs["raw"]["cas"], abs=1e-6)


def test_a_video(browser, space):
    browser.open()
    browser.click("#pairs label:nth-of-type(4)")
    browser.until(lambda: browser.all("#video input[type=file]"), "upload")[0].send_keys(str(VIDEO))
    browser.until(lambda: "Drew 8 pairs" in browser.one("#status").text, "pairs of the video")
    assert space.uploaded() == []
    browser.compare()
    browser.until(lambda: len(browser.all(".strip button")) == 8, "8 pairs")
    assert "8 pairs (your own)" in browser.one("#score dl").text
    browser.compare()  # its pairs are still there
    assert "8 pairs (your own)" in browser.one("#score dl").text


def test_a_cell_of_the_matrix_opens_its_models(browser):
    browser.open()
    browser.click("button[role=tab]:nth-of-type(2)")
    browser.until(lambda: len(browser.all(".matrix td button")) == 30, "matrix")
    browser.click(".matrix button[data-cell='[0,2]']")
    browser.until(lambda: browser.one("#model-b input").get_attribute("value") == "sim_still", "models of the cell")
    browser.until(lambda: browser.shown("#score") and browser.score() < 0.078, "their score")


def test_a_phone(browser):
    browser.screen(390, 844, mobile=True)
    browser.open()
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    compare = browser.run("return document.querySelector('#compare').getBoundingClientRect().toJSON()")
    assert compare["height"] >= 40  # a finger's
    assert compare["bottom"] <= 664  # on the first screen, below a browser's own bars
    for tab in ("Many models", "What is CAS?"):
        browser.run(
            "[...document.querySelectorAll('button[role=tab], .overflow-dropdown button')]"
            ".find((tab) => tab.textContent.trim() === arguments[0]).click()",
            tab,
        )
        browser.until(lambda: browser.shown(".matrix") or browser.shown(".about svg"), tab)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), tab


def test_the_keyboard_is_enough(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open()
    order = []
    for _ in range(60):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        order.append(browser.run("const at = document.activeElement; return at.closest('[id]').id + ' ' + at.tagName"))
        if browser.run("return document.activeElement.dataset.view === 'target'"):
            break
    assert browser.run("return document.activeElement.dataset.view === 'target'"), order
    assert [each for each in order if each.startswith(("model-a", "model-b"))]
    assert any(each.startswith("compare") for each in order)
    before, row = browser.pictures(), browser.one("[data-input='row']").get_attribute("value")
    ActionChains(browser.driver).send_keys(Keys.ARROW_UP).perform()
    browser.until(lambda: browser.pictures() != before, "other picture")
    assert browser.one("[data-input='row']").get_attribute("value") == str(int(row) - 1)
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) != "none"  # where the keyboard is can be seen


# Programs and assistants.


@pytest.fixture(scope="module")
def client(space) -> Client:
    return Client(space.url, verbose=False)


def test_a_program_gets_the_command_lines_scores(client, tmp_path):
    found = client.predict("sim_1", "sim_2", api_name="/compare")
    theirs = command_line(tmp_path, "sim_2", SPACE / "pairs" / "simulated")
    same_scores(found["raw"], theirs["raw"])
    same_scores(found["centred"], theirs["centred"])
    assert "47%" in found["reading"] and "8%" in found["reading"]
    assert len(found["per_pair"]) == 64


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"model_a": "sim_1", "model_b": "sim_2", "pairs": "/etc"}, "no pairs '/etc'"),
        ({"model_a": "sim_1", "model_b": "sim_2", "k": 65}, "k should be"),
        ({"model_a": "sim_9", "model_b": "sim_2"}, "is not a model name"),
        ({"model_a": "", "model_b": "sim_2"}, "Name two models"),
        ({"model_a": "sim_1", "model_b": ["sim_2"]}, "model_b should be a text, not"),
        ({"model_a": "sim_1", "model_b": "sim_2", "pairs": {}}, "pairs should be a text"),
        ({"model_a": "sim_1", "model_b": "sim_2", "k": 2.5}, "k should be a whole number, not 2.5"),
    ],
)
def test_what_is_refused_is_said_without_traces(client, asked: dict, says: str):
    with pytest.raises(AppError, match=says) as refused:
        client.predict(**asked, api_name="/compare")
    assert not re.search(r"Traceback|File \"|site-packages|/root|/home|/tmp", str(refused.value))


def test_only_what_is_meant_can_be_called(client):
    endpoints = client.view_api(return_format="dict")
    assert set(endpoints["named_endpoints"]) == {"/compare"}
    assert not endpoints["unnamed_endpoints"]


def test_an_assistant_calls_it_as_a_tool(space):
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def ask():
        async with (
            streamable_http_client(f"{space.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            answer = await session.call_tool("compare_models", {"model_a": "sim_1", "model_b": "sim_2"})
            return {tool.name: tool for tool in tools}, answer

    tools, answer = asyncio.run(ask())
    assert set(tools) == {"compare_models"}
    assert "Correspondence Alignment Score" in tools["compare_models"].description
    assert {"model_a", "model_b", "pairs", "k"} <= set(tools["compare_models"].inputSchema["properties"])
    assert not answer.isError
    assert "47%" in answer.content[0].text


def test_folders_are_opened_for_the_owner_alone(monkeypatch):
    import app

    monkeypatch.delenv("SPACE_ID", raising=False)
    assert app.opens_folders("127.0.0.1")
    assert not app.opens_folders("127.0.0.1", share=True)
    assert not app.opens_folders("0.0.0.0")
    monkeypatch.setenv("SPACE_ID", "org/cas")
    assert not app.opens_folders("127.0.0.1")
