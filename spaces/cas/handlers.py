"""The work behind the page's buttons, and the same work for programs."""

import html
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import gradio as gr
import show
from limits import Cancelled, Report, Request, VisitorError, visitor_message
from media import delete_upload, pairs_of_video, read_picture
from score import Bench, Result, built_in_models, built_in_pairs, is_built_in

from singlelife.errors import SingleLifeError

FIRST = ("sim_1", "sim_2")  # the page opens with their score
AT_ONCE = 2  # comparisons at a time; a free Space has two cores
PAIRS_OF_VIDEO = 8
_MOST_SESSIONS = 1000
_CANCELLED = "Cancelled. Nothing was kept."

Updates = dict[Any, Any]  # new values of parts of the page, by the part


class Handlers:
    """The work behind the page: `at` has its parts, as `app.build` lays them out, and `bench` compares models."""

    def __init__(self, at: SimpleNamespace, bench: Bench):
        self.at, self.bench = at, bench
        self._waiting: dict[str, tuple[tuple[Any, ...], threading.Event]] = {}  # what each session asks for
        self._stops: dict[str, threading.Event] = {}  # of each session's comparison, which waits or runs

    def example(self, a: str = FIRST[0], b: str = FIRST[1]) -> Updates:
        """Choose two models of the page, and show their result."""
        at = self.at
        shown = self._shown(*self.bench.example(a, b))
        return {at.model_a: a, at.model_b: b, at.pairs: "simulated"} | shown

    def open_cell(self, event: gr.EventData) -> Updates:
        """Show the two models of a cell of the matrix."""
        models = built_in_models()
        i, j = map(int, event.cell)
        return self.example(models[i], models[j]) | {self.at.tabs: gr.Tabs(selected="compare")}

    def look_at(self, token: str | None, event: gr.EventData) -> Updates:
        """Show another pair of a result."""
        result = self.bench.find(token)
        if result is None:
            return {self.at.status: show.note_html("This result is gone. Press Compare to get it again.")}
        return {self.at.look: show.look(result, max(0, min(int(event.pair), len(result.runs[0].logits) - 1)))}

    def begin(self, a: str, b: str, pairs: str, target: Any, source: Any, clip: Any, request: gr.Request) -> Updates:
        """Queue a comparison. It replaces any earlier one of this session."""
        session, stop = request.session_hash or "", threading.Event()
        self._stop(session)
        self._stops[session] = stop
        self._waiting[session] = (a, b, pairs, target, source, clip), stop
        while len(self._stops) > _MOST_SESSIONS:
            self._stop(next(iter(self._stops)))
        at, stage = self.at, show.stage_html("Waiting for other comparisons to finish", None)
        return {at.compare: gr.update(interactive=False), at.cancel: gr.update(visible=True), at.status: stage}

    def cancel(self, request: gr.Request) -> Updates:
        """Stop the session's comparison at its next step."""
        self.leave(request)
        return self._end(_CANCELLED)

    def leave(self, request: gr.Request) -> None:
        """Stop it without showing anything, because the visitor has left."""
        self._stop(request.session_hash or "")

    def run(self, request: gr.Request) -> Iterator[Updates]:
        """Run the session's latest comparison and report progress. Gradio keeps events that were cancelled while they
        waited: the first to get its turn does the work, and the others do nothing."""
        session = request.session_hash or ""
        yield {self.at.status: gr.skip()}
        if not (asked := self._waiting.pop(session, None)):
            return
        (a, b, pairs, target, source, clip), stop = asked

        def work(report: Report) -> tuple[str, Result]:
            both = target is not None and source is not None
            own = {"pictures": [(target, source)] if both else [], "video": clip or []}
            views = own[pairs] if pairs in own else built_in_pairs(pairs)
            if not views:
                raise VisitorError(f"Upload {'two pictures' if pairs == 'pictures' else 'a video'} first.")
            request = Request(self.bench.limits, report, stop.is_set)
            result = self.bench.compare(a, b, views, request=request)
            return self.bench.keep(result), result

        try:
            for step in _steps(work, stop):
                if isinstance(step[1], Result):
                    yield self._end() | self._shown(*step)
                else:
                    yield {self.at.status: show.stage_html(*step)}
        except Cancelled:  # a late stage may have replaced the message, or the next comparison has begun
            yield {self.at.status: gr.skip()} if session in self._stops else self._end(_CANCELLED)
        except Exception as error:
            message = visitor_message(error)
            _warn(message, "Comparison failed")
            yield self._end(message, alert=True)
        finally:
            stop.set()
            if self._stops.get(session) is stop:
                del self._stops[session]

    def take_picture(self, path: str | None) -> Any:
        """Turn an uploaded picture into a view, and delete the file."""
        try:
            return read_picture(path, Request(self.bench.limits)) if path else None
        except Exception as error:
            _warn(visitor_message(error), "This picture cannot be used")
            return None
        finally:
            delete_upload(path)

    def take_video(self, path: str | None, gap: float) -> Updates:
        """Draw pairs of views from an uploaded video, and delete the file."""
        at, request = self.at, Request(self.bench.limits)
        if not path:
            return {at.clip: None}
        try:
            frames = pairs_of_video(path, gap_seconds=gap, count=PAIRS_OF_VIDEO, request=request)
            note = show.note_html(f"Drew {len(frames)} pairs from the video and deleted it. Press Compare.")
            return {at.clip: frames, at.status: note}
        except Exception as error:
            return {at.clip: None, at.status: show.note_html(visitor_message(error), alert=True)}
        finally:
            delete_upload(path)

    def warm_up(self) -> None:
        """Compute what the page shows first, before anybody visits."""
        with suppress(SingleLifeError):  # the app ends
            self.example()
            show.matrix(self.bench)

    def _stop(self, session: str) -> None:
        self._waiting.pop(session, None)
        if stop := self._stops.pop(session, None):
            stop.set()

    def _shown(self, token: str, result: Result) -> Updates:
        """The parts of the page that show a result."""
        at, pair = self.at, show.telling_pair(result)
        return {
            at.status: "",
            at.score: show.score_html(result),
            at.look: show.look(result, pair),
            at.strip: show.strip(result, pair),
            at.token: token,
        }

    def _end(self, message: str = "", *, alert: bool = False) -> Updates:
        """The page after a comparison. A message means no result; then the older one is removed too, since it would
        appear under the new names."""
        at = self.at
        ended = {at.compare: gr.update(interactive=True), at.cancel: gr.update(visible=False), at.status: ""}
        if not message:
            return ended
        gone = {at.score: "", at.look: None, at.strip: None, at.token: None}
        return ended | gone | {at.status: show.note_html(message, alert=alert)}


def add_api(bench: Bench) -> None:
    """Add the endpoint that programs and assistants call. It does the same work and returns JSON."""

    def compare_models(model_a: str, model_b: str, pairs: str = "simulated", k: int = 5) -> dict:
        """Measure how far two vision models agree about which patch of one view shows what a patch of another view
        shows: the Correspondence Alignment Score (CAS), its chance, the centred score with its null, and a reading in
        words.

        Args:
            model_a: A model of this page (sim_1, sim_2, sim_still, track, untrained:tiny@1, untrained:tiny@2), or
                ORG/NAME or ORG/NAME@REVISION of a CroCo or vision transformer on the Hugging Face Hub.
            model_b: The other model, in the same way.
            pairs: The pairs of views, simulated (64 of them) or real_office (24 of a headset). True matches are known.
            k: How many matches of each patch are compared.

        Returns:
            The scores: raw.cas, raw.chance, raw.chance_corrected, raw.low and raw.high (95% interval), the same under
            centred, the reading, and the CAS of each pair.
        """
        try:
            _check_types({"model_a": model_a, "model_b": model_b, "pairs": pairs}, k)
            if is_built_in(model_a, model_b):
                return show.to_dict(bench.example(model_a, model_b, pairs, k)[1])
            return show.to_dict(bench.compare(model_a, model_b, built_in_pairs(pairs), k=k))
        except Exception as error:
            raise gr.Error(visitor_message(error)) from None

    gr.api(compare_models, api_name="compare", concurrency_limit=AT_ONCE, concurrency_id="compare")


def _check_types(words: dict[str, Any], k: Any) -> None:
    """Check the types of the arguments: programs may send any JSON."""
    for name, value in words.items():
        if not isinstance(value, str):
            raise VisitorError(f"{name} should be a text, not {str(value)[:80]}.")
    if not isinstance(k, int) or isinstance(k, bool):
        raise VisitorError(f"k should be a whole number, not {str(k)[:80]}.")


def _warn(message: str, title: str) -> None:
    """Show a message for some seconds. It may hold what a visitor typed, so its HTML is escaped."""
    gr.Warning(html.escape(message), title=title)


def _steps(work: Callable[[Report], Any], stop: threading.Event) -> Iterator[Any]:
    """Do some work in its own thread. Yields its reports, then its result, and raises its errors. Raises Cancelled as
    soon as `stop` is set; the work then ends at its next step."""
    told: queue.Queue[tuple[str, float | None]] = queue.Queue()
    done = ThreadPoolExecutor(1).submit(work, lambda what, share: told.put((what, share)))
    while not stop.is_set():
        try:
            yield told.get(timeout=0.1)
        except queue.Empty:
            if done.done():
                yield done.result()
                return
    raise Cancelled("Cancelled.")
