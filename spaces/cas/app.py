"""A page that compares any two vision models by the Correspondence Alignment Score (CAS).

    python spaces/cas/app.py

starts it on this machine, without a network or an account. Three small trained models and pairs of views come with it.
This file lays out the page and `handlers.py` does the work behind it. `score.py` computes; `show.py` and `page/` draw.
`limits.py`, `models.py`, `downloads.py` and `media.py` handle everything that strangers send.
"""

import os
import sys
import threading
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from singlelife.machine import configure_cpu

configure_cpu()

import gradio as gr
import show
from handlers import AT_ONCE, FIRST, PAIRS_OF_VIDEO, Handlers, add_api
from limits import Limits, closing
from score import Bench, built_in_models

PAIRS = [
    ("64 simulated pairs", "simulated"),
    ("24 real pairs (an office)", "real_office"),
    ("My two pictures", "pictures"),
    ("My video", "video"),
]
_KEPT_FOR = 1800  # seconds that the page keeps a visitor's own views and results
_HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_AT_ONCE: dict[str, Any] = {"queue": False, **_HIDDEN}
_INSTANT: dict[str, Any] = {"concurrency_limit": 8, "concurrency_id": "instant", **_HIDDEN}
_COMPARING: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "compare", **_HIDDEN}


def build(local: bool) -> gr.Blocks:
    """Build the page. With `local`, visitors may name folders of this machine (see `opens_folders`)."""
    bench, at = Bench(Limits.from_environment(), local=local), SimpleNamespace()
    with gr.Blocks(
        title="CAS: do two vision models agree?", analytics_enabled=False, delete_cache=(600, 1800)
    ) as page:
        gr.HTML(
            "<h1>Do two vision models agree about where things are?</h1><p>Choose two models. Both look at pairs of "
            "views of one place; the score says how often they match the same patches.</p>",
            elem_classes="title",
        )
        # The name by which the bench finds the result.
        at.token = gr.State(time_to_live=_KEPT_FOR, delete_callback=bench.forget)
        at.target_view, at.source_view, at.clip = (gr.State(time_to_live=_KEPT_FOR) for _ in range(3))
        with gr.Tabs() as at.tabs:
            with gr.Tab("Compare", id="compare"):
                _lay_out_choice(at, local)
                at.status = gr.HTML(elem_id="status")
                at.score = gr.HTML(elem_id="score")
                at.look, at.strip = _element("look"), _element("strip")
            with gr.Tab("Many models", id="matrix"):
                at.grid = _element("matrix")
                gr.Markdown(
                    "Two models of lives that never shared a frame agree. The model of a still camera agrees with "
                    "neither. Untrained models agree with no trained one, and a little with each other, because both "
                    "look at the same bright patches."
                )
            with gr.Tab("What is CAS?", id="about"):
                gr.HTML(show.page_file("cas.svg"), elem_classes="about")
                gr.Markdown(show.page_file("about.md"), elem_classes="about")
        handlers = Handlers(at, bench)
        _connect_results(page, at, handlers)
        _connect_comparison(page, at, handlers)
        add_api(bench)
    threading.Thread(target=handlers.warm_up).start()
    return page


def _lay_out_choice(at: SimpleNamespace, local: bool) -> None:
    """Which models, which pairs, and the buttons."""
    where = "from the list, ORG/NAME[@REVISION] on the Hub" + (", or a folder" if local else "")
    with gr.Row():
        at.model_a, at.model_b = (
            gr.Dropdown(
                built_in_models(), value=value, label=f"Model {letter.upper()}", info=where, allow_custom_value=True,
                min_width=280, elem_id=f"model-{letter}",
            )
            for letter, value in zip("ab", FIRST, strict=True)
        )  # fmt: skip
    at.pairs = gr.Radio(PAIRS, value="simulated", label="Pairs of views", elem_id="pairs")
    with gr.Row(visible=False) as at.picture_inputs:
        at.target, at.source = (
            gr.Image(
                label=f"{name} view",
                type="filepath",
                image_mode=None,  # the file as it is: Gradio would decode it before its size is known
                sources=["upload", "webcam", "clipboard"],
                height=260,
                elem_id=f"{name.lower()}-view",
            )
            for name in ("Target", "Source")
        )
    with gr.Row(visible=False) as at.video_inputs:
        at.gap = gr.Slider(
            0.1, 3, 0.5, step=0.1, label="1. Seconds between the two views", elem_id="gap",
            info=f"The page draws {PAIRS_OF_VIDEO} pairs from your video, then deletes it.",
        )  # fmt: skip
        at.video = gr.File(
            label="2. A video: a few seconds from a moving camera", file_types=["video"], type="filepath",
            elem_id="video", height=150,
        )  # fmt: skip
    with gr.Row():
        at.compare = gr.Button("Compare", variant="primary", scale=3, elem_id="compare")
        at.cancel = gr.Button("Cancel", variant="stop", visible=False, scale=1, elem_id="cancel")


def _element(name: str) -> gr.HTML:
    """An element that `page/NAME.js` draws from its value."""
    return gr.HTML(
        html_template=show.page_file(f"{name}.html"),
        css_template=show.page_file(f"{name}.css"),
        js_on_load=show.page_file(f"{name}.js"),
        apply_default_css=False,
        elem_id=name,
    )


def _connect_results(page: gr.Blocks, at: SimpleNamespace, do: Handlers) -> None:
    """Connect what needs no comparison: the first score, the matrix and its cells, other pairs of a result."""
    choice, result = [at.model_a, at.model_b, at.pairs], [at.status, at.score, at.look, at.strip, at.token]
    page.load(do.example, None, [*choice, *result], **_INSTANT)
    page.load(partial(show.matrix, do.bench), None, at.grid, **_INSTANT)
    at.grid.select(do.open_cell, None, [*choice, *result, at.tabs], **_INSTANT)
    at.strip.select(do.look_at, at.token, [at.look, at.status], **_INSTANT)


def _connect_comparison(page: gr.Blocks, at: SimpleNamespace, do: Handlers) -> None:
    """Connect what a visitor fills in, and the Compare and Cancel buttons."""
    at.pairs.change(
        lambda pairs: (gr.update(visible=pairs == "pictures"), gr.update(visible=pairs == "video")),
        at.pairs, [at.picture_inputs, at.video_inputs], **_AT_ONCE,
    )  # fmt: skip
    for image, view in ((at.target, at.target_view), (at.source, at.source_view)):
        image.change(do.take_picture, image, view, **_HIDDEN)
    at.video.change(do.take_video, [at.video, at.gap], [at.clip, at.status], **_COMPARING)
    asked = [at.model_a, at.model_b, at.pairs, at.target_view, at.source_view, at.clip]
    begun = [at.status, at.compare, at.cancel]
    ended = [*begun, at.score, at.look, at.strip, at.token]
    at.compare.click(do.begin, asked, begun, **_AT_ONCE).then(
        do.run, None, ended, trigger_mode="multiple", **_COMPARING
    )
    at.cancel.click(do.cancel, None, ended, **_AT_ONCE)
    page.unload(do.leave)


def opens_folders(host: str, share: bool = False) -> bool:
    """Whether visitors may name folders of this machine as models: only if nobody but its owner can open the page."""
    return "SPACE_ID" not in os.environ and not share and host in ("127.0.0.1", "localhost", "::1")


def main(host: str = "", port: int | None = None, share: bool = False, open_browser: bool = False) -> int:
    """Serve the page until it is interrupted.

    Args:
        host: the address to listen on. The default is this machine alone; on the Hub, every address.
        port: the default is the variable GRADIO_SERVER_PORT, or the first free port from 7860.
        share: let anyone who has its address open the page, through a Gradio tunnel.
        open_browser: open the page in a browser.
    """
    host = host or ("0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1")
    page = build(local=opens_folders(host, share))
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page.queue(max_size=64, default_concurrency_limit=8)
    try:
        page.launch(
            server_name=host, server_port=port, share=share, inbrowser=open_browser, theme=theme,
            css=show.page_file("page.css"), mcp_server=find_spec("mcp") is not None, ssr_mode=False, show_error=False,
            max_file_size="64mb", footer_links=["api", "settings"],
        )  # fmt: skip
    finally:
        closing.set()
    return 0


if __name__ == "__main__":
    sys.exit(main())
