"""The metric as a page: upload what two models look at, as .npy files, or try the example."""

from pathlib import Path

import evaluate
import gradio as gr
import numpy as np

_HERE = Path(__file__).resolve().parent
_LARGEST = 256 << 20  # bytes of a file


def example(num_pairs: int = 12, grid: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The logits of two made-up models, float32 (P, N, N): both see the same shift of each pair, and each also prefers
    some patches of its own."""
    generator = np.random.default_rng(seed)
    places = np.stack(np.divmod(np.arange(grid * grid), grid), axis=-1)
    shift = generator.integers(-2, 3, (num_pairs, 1, 1, 2))
    seen = -np.square(places[None, :, None] + shift - places[None, None]).sum(axis=-1)
    models = [
        seen + generator.normal(0, 2, (1, 1, grid * grid)) + generator.normal(0, 2, seen.shape) for _ in range(2)
    ]
    return models[0].astype(np.float32), models[1].astype(np.float32)


def score(path_a: str | None, path_b: str | None, kind: str, k: float, num_source_patches: float | None) -> list[list]:
    """The rows of the table.

    Args:
        path_a, path_b: .npy files of what `kind` says, (P, N, M) or (P, N, k); the example if neither is given.
        kind: `"logits"` or `"top k"`.
        k: the number of strongest matches, for logits.
        num_source_patches: for a top k; N if it is 0 or None.

    Raises:
        gradio.Error: a file is missing, too large, or has the wrong content.
    """
    if not path_a and not path_b:
        if kind != "logits":
            raise gr.Error("The example has logits. Choose logits, or two files.")
        maps = list(example())
    elif path_a and path_b:
        maps = [_read(path_a), _read(path_b)]
    else:
        raise gr.Error("Choose a file for each of the two models, or none to see the example.")
    config = "logits" if kind == "logits" else "top_k"
    metric = evaluate.load(str(_HERE / "cas_metric.py"), config, keep_in_memory=True)  # no file that visitors share
    settings = {"k": int(k)} if kind == "logits" else {"num_source_patches": int(num_source_patches or 0) or None}
    try:
        found = metric.compute(predictions=maps[0], references=maps[1], **settings)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    rows = [["raw", *_shown(found["cas"], found["interval"], found["chance"])]]
    if kind == "logits":
        rows.insert(0, ["centred, above its null", *_shown(found["excess"], found["excess_interval"], 0.0)])
        rows.insert(0, ["centred", *_shown(found["centred"], None, found["null"])])
    return [*rows, *([note, "", "", ""] for note in found.get("notes", []))]


def _shown(value: float | None, interval: list[float] | None, level: float | None) -> list[str]:
    words = "{:.3f} to {:.3f}".format(*interval) if interval else ""
    return ["" if value is None else f"{value:.3f}", words, "" if level is None else f"{level:.3f}"]


def _read(path: str) -> np.ndarray:
    if Path(path).stat().st_size > _LARGEST:
        raise gr.Error(f"A file may have at most {_LARGEST >> 20} MB. Give fewer pairs of views.")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise gr.Error(f"{Path(path).name} is not a .npy file of numbers, as numpy.save writes it.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 3:
        raise gr.Error(f"{Path(path).name} should hold one array of pairs × target patches × source patches.")
    return array


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="Correspondence Alignment Score") as page:
        gr.Markdown(
            "# Correspondence Alignment Score\n"
            "How far do two vision models agree about which patch of one view shows what a patch of the other shows? "
            "Upload, for each model, a `.npy` file: logits of *pairs × target patches × source patches*, or the "
            "indices of each patch's top *k*. Without files, the page compares two made-up models."
        )
        with gr.Row():
            first = gr.File(label="model A", file_types=[".npy"], type="filepath")
            second = gr.File(label="model B", file_types=[".npy"], type="filepath")
        with gr.Row():
            kind = gr.Radio(["logits", "top k"], value="logits", label="the files hold")
            k = gr.Number(5, precision=0, minimum=1, label="k (for logits)")
            columns = gr.Number(0, precision=0, minimum=0, label="source patches (for a top k; 0: as many as target)")
        button = gr.Button("Compare", variant="primary")
        table = gr.Dataframe(headers=["", "CAS", "95% interval", "by accident"], interactive=False, label="score")
        button.click(score, [first, second, kind, k, columns], table)
        gr.Markdown(
            "**Centred**: the score without habits of place and popular patches. Two models that share nothing score "
            "about what they score by accident, with their pairs mismatched. **Raw**: the score as in the paper."
        )
    return page


if __name__ == "__main__":
    build().launch()
