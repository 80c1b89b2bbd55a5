"""The Space as programs and assistants call it."""

import asyncio
import re

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from .conftest import SPACE, command_line, same_scores

pytestmark = pytest.mark.integration


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
        ({"model_a": "sim_1", "model_b": "sim_2", "pairs": "/etc"}, "There are the pairs"),
        ({"model_a": "sim_1", "model_b": "sim_2", "k": 65}, "k should be"),
        ({"model_a": "sim_9", "model_b": "sim_2"}, "is no name of a model"),
        ({"model_a": "sim_1", "model_b": "file:///etc/passwd"}, "is no name of a model"),
        ({"model_a": "sim_1", "model_b": "lives/vit@../x"}, "is no revision"),
        ({"model_a": "", "model_b": "sim_2"}, "Which two models"),
        ({"model_a": 5, "model_b": "sim_2"}, "model_a should be a text, not 5"),
        ({"model_a": "sim_1", "model_b": ["sim_2"]}, "model_b should be a text, not"),
        ({"model_a": "sim_1", "model_b": "sim_2", "pairs": {}}, "pairs should be a text"),
        ({"model_a": "sim_1", "model_b": "sim_2", "k": "five"}, "k should be a whole number, not five"),
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
