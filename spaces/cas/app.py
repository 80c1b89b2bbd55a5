"""A page that compares any two vision models by the Correspondence Alignment Score (CAS).

    python spaces/cas/app.py

starts it on this machine, without a network or an account: it brings three small trained models and pairs of views.
The files beside this one: `scoring.py` is what is computed, `reading.py` how it is told, `pictures.py` what is drawn,
`page/` what the browser draws it with, `matrix.py` the second tab; `models.py`, `media.py` and `limits.py` take what
strangers send.
"""

import argparse
import contextlib
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from singlelife.machine import configure_cpu

configure_cpu()
sys.path.insert(0, str(Path(__file__).parent))  # so that the page also starts as a file that is imported

import gradio as gr
import matrix
import pictures
import reading
import scoring
from limits import Cancelled, Limits, visitor_message
from media import delete_upload, pairs_of_video, read_picture
from models import embedded_models, search_models
from scoring import Bench, Named, Result

from singlelife.alignment.pair_sets import PairSet

PAIRS = {
    "simulated": "64 simulated pairs",
    "motorway": "8 real pairs (motorway)",
    "pictures": "Two pictures of mine",
    "video": "A video of mine",
}
FIRST = {"a": "sim_1", "b": "sim_2", "pair": "28", "patch": "29"}  # what is shown without a link
EXAMPLES = {
    "Two lives": ("sim_1", "sim_2"),
    "A life and a still camera": ("sim_1", "sim_still"),
    "Two untrained models": scoring.UNTRAINED,
}
COLUMNS = {
    "pair": "pair",
    "cas": "CAS",
    "position_free": "position-free",
    "gap": "gap (s)",
    "overlap": "overlap",
    "true_match_a": "A finds the true match",
    "true_match_b": "B finds the true match",
}
AT_ONCE = 2  # comparisons; as many as the cores of a free Space
PAIRS_OF_VIDEO = 8
_MOMENT = 0.25  # seconds between two letters that are typed
_CANCELLED = "Cancelled. Nothing was kept."


def build(local: bool = False, limits: Limits | None = None) -> gr.Blocks:
    """The page.

    Args:
        local: whether folders of this machine can be named as models; only where none but its owner can open the page.
        limits: what a visitor may ask for.
    """
    bench = Bench(limits or Limits.from_environment(), local=local)
    jobs = _Jobs()
    known = [*embedded_models(), *scoring.UNTRAINED]
    where = "a model of this page, ORG/NAME on the Hub" + (", or a folder" if local else "")

    with gr.Blocks(
        title="CAS: do two vision models agree?", analytics_enabled=False, delete_cache=(600, 1800)
    ) as page:
        gr.HTML(
            "<h1>Do two vision models agree about where things are?</h1><p>Choose two models. Both are shown pairs of "
            "views of one place; the score says how often they match the same patches.</p>",
            elem_classes="title",
        )
        token = gr.State(time_to_live=1800, delete_callback=bench.forget)  # by which the bench finds the result
        target_view, source_view = (gr.State(time_to_live=1800) for _ in range(2))
        clip = gr.State(time_to_live=1800, delete_callback=_delete)  # the path of a video that was not read yet
        clip_pairs = gr.State(time_to_live=1800)
        ticket = gr.State()  # of the comparison that runs

        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id="compare"):
                with gr.Row():
                    model_a, model_b = (
                        gr.Dropdown(
                            known,
                            value=value,
                            label=f"Model {letter}",
                            info=where,
                            allow_custom_value=True,
                            min_width=280,
                            elem_id=f"model-{letter.lower()}",
                        )
                        for letter, value in zip("AB", EXAMPLES["Two lives"], strict=True)
                    )
                pairs = gr.Radio(
                    [(text, name) for name, text in PAIRS.items()], value="simulated", label="Pairs of views",
                    elem_id="pairs",
                )  # fmt: skip
                with gr.Row(visible=False) as picture_inputs:
                    target, source = (
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
                with gr.Row(visible=False) as video_inputs:
                    video = gr.File(
                        label="Video: a few seconds of a moving camera", file_types=["video"], type="filepath",
                        elem_id="video", height=150,
                    )  # fmt: skip
                    gap = gr.Slider(
                        0.1, 3, 0.5, step=0.1, label="Time between the two views (s)",
                        info=f"{PAIRS_OF_VIDEO} pairs are drawn, and the video is deleted.", elem_id="gap",
                    )  # fmt: skip
                with gr.Accordion("Revisions and k", open=False), gr.Row():
                    revision_a, revision_b = (
                        gr.Textbox(label=f"Revision of {letter}", placeholder="main", elem_id=f"revision-{letter}")
                        for letter in "AB"
                    )
                    k = gr.Slider(1, 20, scoring.K, step=1, label="k: matches of each patch", elem_id="k")
                with gr.Row():
                    compare = gr.Button("Compare", variant="primary", scale=3, elem_id="compare")
                    cancel = gr.Button("Cancel", variant="stop", visible=False, scale=1, elem_id="cancel")
                with gr.Row():
                    examples = [
                        gr.Button(name, size="sm", variant="secondary", elem_id=f"example-{number}")
                        for number, name in enumerate(EXAMPLES)
                    ]
                status = gr.HTML(elem_id="status")
                score = gr.HTML(elem_id="score")
                look = _element("look", elem_id="look")
                strip = _element("strip", elem_id="strip")
                with gr.Accordion("Numbers of each pair", open=False):
                    table = gr.Dataframe(
                        headers=list(COLUMNS.values()), interactive=False, max_height=320, elem_id="table",
                        label="Choose a row to look at its pair",
                    )  # fmt: skip
            with gr.Tab("Many models", id="matrix"):
                variant = gr.Radio(
                    [("position-free", "position_free"), ("as it is", "raw")], value="position_free", label="CAS"
                )
                grid = _element("matrix", value=matrix.cells("position_free"), elem_id="matrix")
                gr.Markdown(
                    "Two lives that never shared a frame agree; a still camera and untrained models agree with "
                    "neither; what two untrained ones have in common is which patches stand out. "
                    "Made by `singlelife align`, on the same pairs as in the first tab."
                )
            with gr.Tab("What is CAS?", id="about"):
                gr.HTML(pictures.page_file("cas.svg"), elem_classes="about")
                gr.Markdown(pictures.page_file("about.md"), elem_classes="about")

        result_parts = [status, score, look, strip, table, token]
        choice = [model_a, model_b, revision_a, revision_b, pairs, k]

        def told(name: str, result: Result, pair: int | None, patch: int | None, free: bool) -> dict[Any, Any]:
            pair = pictures.telling_pair(result) if pair is None else pair
            return {
                status: "",
                score: reading.score_html(result, pictures.card(result, pair)),
                look: pictures.look(result, pair, _query(result), patch, free),
                strip: pictures.strip(result, pair),
                table: _rows(result),
                token: name,
            }

        told_of_examples = lru_cache(maxsize=32)(told)

        def shown(
            name: str, result: Result, pair: int | None = None, patch: int | None = None, free: bool = False
        ) -> dict[Any, Any]:
            """What the page shows of a result. Of examples, which many visitors see, it is kept."""
            return (told_of_examples if bench.is_of_all(name) else told)(name, result, pair, patch, free)

        # The comparison that a visitor asks for.

        def begin(request: gr.Request) -> dict[Any, Any]:
            return {
                ticket: jobs.start(request.session_hash),
                compare: gr.update(interactive=False),
                cancel: gr.update(visible=True),
                status: reading.stage_html("Waiting for a free place", None),
            }

        def end() -> dict[Any, Any]:
            return {compare: gr.update(interactive=True), cancel: gr.update(visible=False)}

        def run(
            ticket: str, a: str, b: str, ra: str, rb: str, of: str, k: float, first: Any, second: Any, film: Any,
            drawn: Any, gap: float,
        ) -> Iterator[dict[Any, Any]]:  # fmt: skip
            stop = jobs.stop_of(ticket)
            models = Named((a or "").strip(), (ra or "").strip()), Named((b or "").strip(), (rb or "").strip())

            def work(report: scoring.Report) -> tuple[str, Result, Any]:
                if of in scoring.BUILT_IN_PAIRS and bench.is_example(*models):
                    return (*bench.example(models[0].name, models[1].name, of, int(k)), None)
                own: list[scoring.View] | None = None
                views: PairSet | list[scoring.View]
                if of == "pictures":
                    if first is None or second is None:
                        raise scoring.VisitorError("Choose two pictures first: a target view and a source view.")
                    views = [(first, second)]
                elif of == "video":
                    if film:
                        report("Drawing pairs from the video", None)
                        try:
                            frames = pairs_of_video(
                                film, gap_seconds=gap, count=PAIRS_OF_VIDEO, limits=bench.limits, cancelled=stop.is_set
                            )
                            own = [(scoring.as_view(each), scoring.as_view(other)) for each, other in frames]
                        finally:
                            delete_upload(film)
                    elif drawn is None:
                        raise scoring.VisitorError("Choose a video first. It is deleted once pairs are drawn from it.")
                    views = drawn if own is None else own
                else:
                    views = scoring.built_in_pairs(of)
                result = bench.compare(*models, views, k=int(k), report=report, cancelled=stop.is_set)
                return bench.keep(result), result, own

            try:
                for what in _stages(work, stop):
                    if isinstance(what, tuple) and isinstance(what[1], Result):
                        name, result, own = what
                        new = {clip: None, clip_pairs: own, video: None} if own else {}
                        yield shown(name, result) | new | end()
                    else:
                        yield {status: reading.stage_html(*what)}
            except Cancelled:  # which Cancel has told already; the next comparison may be on its way
                yield {status: gr.skip()}
            except Exception as error:
                message = visitor_message(error)
                gr.Warning(message, title="Not compared")
                yield end() | {status: reading.note_html(message, alert=True)}
            finally:
                stop.set()

        compare.click(
            begin, None, [ticket, compare, cancel, status], queue=False, show_progress="hidden",
            api_visibility="private",
        ).then(
            run,
            [ticket, *choice, target_view, source_view, clip, clip_pairs, gap],
            [*result_parts, compare, cancel, clip, clip_pairs, video],
            concurrency_limit=AT_ONCE,
            concurrency_id="compare",
            trigger_mode="multiple",  # one that was cancelled while it waited may still be waiting
            show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

        def stop_running(request: gr.Request) -> dict[Any, Any]:
            jobs.stop(request.session_hash)
            return end() | {status: reading.note_html(_CANCELLED)}

        cancel.click(
            stop_running, None, [status, compare, cancel], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

        def leave(request: gr.Request) -> None:
            jobs.stop(request.session_hash)

        page.unload(leave)

        # What is there at once: examples, links and cells of the matrix.

        instant: dict[str, Any] = {
            "concurrency_limit": 8,
            "concurrency_id": "instant",
            "show_progress": "hidden",
            "api_visibility": "private",
        }

        def example(a: str, b: str) -> dict[Any, Any]:
            chosen = {model_a: a, model_b: b, revision_a: "", revision_b: "", pairs: "simulated", k: scoring.K}
            return chosen | shown(*bench.example(a, b))

        for button, (a, b) in zip(examples, EXAMPLES.values(), strict=True):
            button.click(lambda a=a, b=b: example(a, b), None, [*choice, *result_parts], **instant)

        def restore(request: gr.Request) -> dict[Any, Any]:
            return _restored(dict(request.query_params), bench, choice, shown, status)

        page.load(restore, None, [*choice, *result_parts], **instant)

        def open_cell(event: gr.EventData) -> dict[Any, Any]:
            i, j = event.cell
            names = matrix.models()
            return example(names[int(i)], names[int(j)]) | {tabs: gr.Tabs(selected="compare")}

        grid.select(open_cell, None, [*choice, *result_parts, tabs], **instant)
        variant.change(matrix.cells, variant, grid, queue=False, show_progress="hidden", api_visibility="private")

        def look_at(pair: int, name: str | None) -> dict[Any, Any]:
            result = bench.find(name)
            if result is None:
                gr.Warning("This result was dropped after half an hour. Press Compare for it again.")
                return {status: reading.note_html("Press Compare again to look at other pairs.")}
            pair = max(0, min(pair, result.num_looks - 1))
            return {look: pictures.look(result, pair, _query(result)), strip: pictures.strip(result, pair)}

        def look_at_thumbnail(name: str | None, event: gr.EventData) -> dict[Any, Any]:
            found = look_at(int(event.pair), name)
            return {part: value for part, value in found.items() if part is not strip}

        def look_at_row(name: str | None, event: gr.SelectData) -> dict[Any, Any]:
            return look_at(int(event.index[0]), name)

        strip.select(look_at_thumbnail, token, [look, status], **instant)
        table.select(look_at_row, token, [look, strip, status], **instant)

        # What a visitor fills in.

        typing = _Latest()

        def searched(event: gr.KeyUpData, request: gr.Request) -> Any:
            typed = (event.input_value or "").strip()
            if len(typed) < 2 or typed in known or not typing.is_last(f"{request.session_hash} {event.target}"):
                return gr.skip()
            found = [name for name in search_models(typed) if name not in known]
            return gr.update(choices=[*known, *found]) if found else gr.skip()

        for model in (model_a, model_b):
            model.key_up(
                searched, None, model, queue=False, show_progress="hidden", trigger_mode="multiple",
                api_visibility="private",
            )  # fmt: skip

        pairs.change(
            lambda of: (gr.update(visible=of == "pictures"), gr.update(visible=of == "video")),
            pairs, [picture_inputs, video_inputs], queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip

        def take(path: str | None) -> Any:
            return _taken(path, bench.limits)

        for image, view in ((target, target_view), (source, source_view)):
            image.change(take, image, view, show_progress="hidden", api_visibility="private")
        video.upload(lambda path: path, video, clip, show_progress="hidden", api_visibility="private")

        _add_api(bench)

        def prepare() -> None:
            with contextlib.suppress(Cancelled):  # the app ended
                _restored({}, bench, choice, shown, status)
                for a, b in EXAMPLES.values():
                    shown(*bench.example(a, b))

    threading.Thread(target=prepare).start()  # while nobody is here yet, so that they are there at once
    return page


def _add_api(bench: Bench) -> None:
    """What programs and assistants call: the same work, with JSON as its result."""

    def compare_models(
        model_a: str,
        model_b: str,
        pairs: str = "simulated",
        revision_a: str = "",
        revision_b: str = "",
        k: int = 5,
    ) -> dict:
        """Say how far two vision models agree about which patch of one view shows what a patch of another view shows
        (the Correspondence Alignment Score, CAS), with chance, the position-free score, and a reading in plain words.

        Args:
            model_a: A model of this page (sim_1, sim_2, sim_still, untrained:tiny@1, untrained:tiny@2), or ORG/NAME of
                a CroCo or vision transformer on the Hugging Face Hub.
            model_b: The other model, in the same way.
            pairs: The pairs of views to show them, simulated (64 of them, with known true matches) or motorway (8).
            revision_a: Branch, tag or commit of model_a on the Hub; main by default.
            revision_b: The same of model_b.
            k: How many matches of each patch are compared.

        Returns:
            The scores: raw.cas, raw.chance, raw.adjusted, raw.low and raw.high (95% interval), the same under
            position_free, the reading, and a row for each pair.
        """
        a, b = Named(model_a.strip(), revision_a.strip()), Named(model_b.strip(), revision_b.strip())
        try:
            if bench.is_example(a, b):
                return bench.example(a.name, b.name, pairs, k)[1].to_dict()
            return bench.compare(a, b, scoring.built_in_pairs(pairs), k=k).to_dict()
        except Exception as error:
            raise gr.Error(visitor_message(error)) from None

    def compare_on_pictures(model_a: str, model_b: str, target: str, source: str) -> dict:
        """Say how far two vision models agree about one pair of pictures of the same place (the Correspondence
        Alignment Score, CAS), with the position-free score on built-in pairs, and a reading in plain words.

        Args:
            model_a: A model of this page, or ORG/NAME on the Hugging Face Hub.
            model_b: The other model.
            target: A picture, whose patches are looked for.
            source: A picture of the same place from elsewhere, in which they are looked for.

        Returns:
            The scores, as compare_models gives them; position_free_reference has those on the built-in pairs.
        """
        try:
            if not target or not source:
                raise scoring.VisitorError("Give two pictures: a target view and a source view.")
            first, second = (scoring.as_view(read_picture(file, bench.limits)) for file in (target, source))
            return bench.compare(Named(model_a.strip()), Named(model_b.strip()), [(first, second)]).to_dict()
        except Exception as error:
            raise gr.Error(visitor_message(error)) from None
        finally:
            for file in (target, source):
                if file:
                    delete_upload(file)

    shared: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "compare"}
    gr.api(compare_models, api_name="compare", **shared)
    with gr.Row(visible=False):
        names = [gr.Textbox(label=f"Model {letter}") for letter in "AB"]
        views = [gr.Image(label=f"{name} view", type="filepath", image_mode=None) for name in ("Target", "Source")]
        answer = gr.JSON(label="Result")
        gr.Button().click(compare_on_pictures, [*names, *views], answer, api_name="compare_on_pictures", **shared)


class _Jobs:
    """What each visitor's page is running or waiting for: one comparison, which its Cancel stops."""

    def __init__(self) -> None:
        self._of_session: dict[str, threading.Event] = {}
        self._of_ticket: dict[str, threading.Event] = {}  # until it runs
        self._lock = threading.Lock()

    def start(self, session: str | None) -> str:
        """A ticket for a comparison. One that the session has already is stopped."""
        self.stop(session)
        ticket, stop = uuid4().hex, threading.Event()
        with self._lock:
            self._of_session[session or ""] = self._of_ticket[ticket] = stop
        return ticket

    def stop(self, session: str | None) -> None:
        with self._lock:
            stop = self._of_session.pop(session or "", None)
        if stop:
            stop.set()

    def stop_of(self, ticket: str) -> threading.Event:
        """What tells the comparison of a ticket to stop. It is handed out once."""
        with self._lock:
            found = self._of_ticket.pop(ticket, None)
        if found is None:
            found = threading.Event()
            found.set()
        return found


class _Latest:
    """Who of those that come quickly one after the other is the last: so that the Hub is asked once for a word, and
    not for each of its letters."""

    def __init__(self) -> None:
        self._count: OrderedDict[str, int] = OrderedDict()

    def is_last(self, key: str) -> bool:
        """Wait a moment, and say whether nobody else came under this key."""
        mine = self._count[key] = self._count.get(key, 0) + 1
        self._count.move_to_end(key)
        while len(self._count) > 1000:
            self._count.popitem(last=False)
        time.sleep(_MOMENT)
        return self._count.get(key) == mine


def _stages(work: Callable[[scoring.Report], Any], stop: threading.Event) -> Iterator[Any]:
    """Do some work in a thread of its own: yields what it reports, then what it returns; raises what it raises.

    Once it is to stop it is not waited for: it ends by itself at its next step, or when the Hub has been silent for
    too long.

    Raises:
        Cancelled: it is to stop.
    """
    told: queue.Queue[tuple[str, Any]] = queue.Queue()

    def run() -> None:
        try:
            told.put(("done", work(lambda what, share: told.put(("stage", (what, share))))))
        except BaseException as error:
            told.put(("failed", error))

    if not stop.is_set():
        threading.Thread(target=run).start()  # no daemon: torch must not run on while Python ends
    while not stop.is_set():
        try:
            kind, value = told.get(timeout=0.1)
        except queue.Empty:
            continue
        if kind == "failed":
            raise value
        yield value
        if kind == "done":
            return
    raise Cancelled(_CANCELLED)


def _element(name: str, **settings: Any) -> gr.HTML:
    """An element of the page's own, which `page/NAME.js` draws from its value."""
    return gr.HTML(
        html_template=pictures.page_file(f"{name}.html"),
        css_template=pictures.page_file(f"{name}.css"),
        js_on_load=pictures.page_file(f"{name}.js"),
        apply_default_css=False,
        **settings,
    )


def _query(result: Result) -> str:
    built_in = [name for name in scoring.BUILT_IN_PAIRS if scoring.built_in_pairs(name) is result.pairs]
    return pictures.link_query(result, built_in[0]) if built_in else ""


def _restored(
    query: dict[str, str], bench: Bench, choice: list[Any], shown: Callable[..., dict[Any, Any]], status: Any
) -> dict[Any, Any]:
    """The choice that a link holds, and its result where it is there at once; the first example without a link."""
    model_a, model_b, revision_a, revision_b, pairs, k = choice
    query = query if query.get("a") and query.get("b") else FIRST
    a, b = (Named(query.get(name, "")[:200], query.get(f"r{name}", "")[:200]) for name in "ab")
    of = query.get("pairs", "")
    of = of if of in scoring.BUILT_IN_PAIRS else "simulated"
    count = _number(query, "k", scoring.K, 20)
    chosen = {model_a: a.name, model_b: b.name, revision_a: a.revision, revision_b: b.revision, pairs: of, k: count}
    if not bench.is_example(a, b):
        return chosen | {status: reading.note_html("The link's choice is filled in. Press Compare to run it.")}
    name, result = bench.example(a.name, b.name, of, count)
    pair = _number(query, "pair", 1, result.num_looks) - 1 if "pair" in query else None
    patches = result.comparison.grid[0] * result.comparison.grid[1]
    patch = _number(query, "patch", 1, patches) - 1 if "patch" in query else None
    return chosen | shown(name, result, pair, patch, query.get("free") == "1")


def _number(query: dict[str, str], name: str, default: int, most: int) -> int:
    word = query.get(name, "")
    return min(max(int(word), 1), most) if word.isascii() and word.isdigit() and len(word) < 9 else default


def _rows(result: Result) -> list[list[Any]]:
    rows = result.table()
    return [
        [row["pair"], *("" if name not in row else f"{row[name]:.3f}" for name in list(COLUMNS)[1:])] for row in rows
    ]


def _taken(path: str | None, limits: Limits) -> Any:
    """A picture as the bench takes it. The file that was uploaded is deleted."""
    if not path:
        return None
    try:
        return scoring.as_view(read_picture(path, limits))
    except Exception as error:
        gr.Warning(visitor_message(error), title="This picture cannot be used")
        return None
    finally:
        delete_upload(path)


def _delete(path: str | None) -> None:
    if path:
        delete_upload(path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--host", default=None, help="the address to listen on (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    arguments = parser.parse_args(argv)
    host = arguments.host or ("0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1")
    page = build(local=opens_folders(host))
    try:
        launch(page, server_name=host, server_port=arguments.port, inbrowser=arguments.open)
    finally:
        scoring.closing.set()
    return 0


def opens_folders(host: str) -> bool:
    """Whether folders of this machine can be named as models: only where none but its owner can open the page."""
    return "SPACE_ID" not in os.environ and host in ("127.0.0.1", "localhost", "::1")


def launch(page: gr.Blocks, **settings: Any) -> Any:
    """Start the page with its looks, its queue and its MCP server (where `gradio[mcp]` is installed)."""
    theme = gr.themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(  # text that can be read on its ground: 4.5 to 1 at least
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )
    page.queue(max_size=64, default_concurrency_limit=8)
    return page.launch(
        theme=theme, css=pictures.page_file("page.css"), mcp_server=_has_mcp(), ssr_mode=False, show_error=False,
        max_file_size="64mb", footer_links=["api", "settings"], **settings,
    )  # fmt: skip


def _has_mcp() -> bool:
    try:
        import mcp  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
