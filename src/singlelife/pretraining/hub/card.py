"""The model card of a run: what a visitor of its repository reads, and what the Hub shows of it."""

import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from singlelife.hub.licenses import license_fields, stated
from singlelife.hub.models import TAG
from singlelife.pretraining.arguments import BATCH_OF_BASE_RATE
from singlelife.pretraining.hub.results import Alignment, Transfer, TransferTask, header_scores, name_of
from singlelife.pretraining.hub.run import Run
from singlelife.text import duration

WRITTEN = f"<!-- Written by {TAG}. Take this line out to keep a text of your own. -->"
_PICTURES = {
    "reconstruction.png": "The target view, masked, as it was, and as the model completes it from the source view",
    "cross_attention.png": "Where patches of the target view look in the source view",
    "alignment.png": "How far it came to agree with another model as it learnt",
}
_TRACES = "\n- It may hold traces of what was seen. Do not use it to find out about the person or about bystanders."


def model_card(run: Run, repo_id: str, license: str | None, found: Sequence[Alignment | Transfer] = ()) -> str:
    """The text of README.md.

    Args:
        run: what is pushed.
        repo_id: where to.
        license: of the weights; by default that of the frames that they were made of.
        found: scores against other models, and what it does in other tasks.
    """
    alignments = [each for each in found if isinstance(each, Alignment)]
    tasks = [task for each in found if isinstance(each, Transfer) for task in each.tasks]
    life, facts, settings = run.life, run.facts, run.settings
    of_frames = stated(facts.get("license") or life.license)
    config = SimpleNamespace(**json.loads((run.model / "config.json").read_text(encoding="utf-8")))
    hours = hours_of(run)
    body = dedent("""\
        {written}

        # {name}

        A [CroCo](https://arxiv.org/abs/2210.10716) model that was pretrained on one *life*, and on nothing else:
        {life} ({duration} of video). It completes a masked view of a scene from another view of it, and so comes to
        know which places of two views correspond. It was made with `{tag}`, which pretrains one model per life and
        measures whether models that never shared a frame agree about geometry.{unfinished}

        {pictures}## How to load it

        Where `{tag}` is installed, no code is taken from here:

        ```python
        import {tag}
        from transformers import AutoImageProcessor, AutoModel

        model = AutoModel.from_pretrained("{repo_id}")
        processor = AutoImageProcessor.from_pretrained("{repo_id}")

        target, source = (processor(image, return_tensors="pt").pixel_values for image in (first_view, second_view))
        features = model(target).last_hidden_state  # (1, patches, hidden_size): one view
        logits = model.cross_attention_logits(target, source)  # (1, target patches, source patches)
        ```

        Elsewhere its own code, which is in this repository, does: `AutoModel.from_pretrained("{repo_id}",
        trust_remote_code=True)`. `AutoModelForPreTraining` has the decoder's head too.

        How far it agrees with another model about geometry:

        ```sh
        {tag} cas {repo_id} OTHER --pairs sim_test
        ```

        ## What it learnt from

        {data}

        ## How it was trained

        {recipe}

        Every setting is in `config.yaml`, the losses are in `metrics.jsonl`. {again}

        ## Results

        {results}

        ## Limits

        - It knows the surroundings of one life. What was never seen there, it never saw.
        - Its features are of geometry, not of categories: it was shown no label and no text.
        - That two models agree does not show that they are right: models that look at the same place in any view
          agree as well. That is why a position-free score, without each model's mean map, stands beside the raw one.
        - Some source patches, often the first, draw attention whatever is asked for.{traces}

        ## Licence

        {licensed}

        ## Citation

        ```bibtex
        @misc{{singlelife,
          title = {{Unique Lives, Shared World: Learning from Single-Life Videos}},
          eprint = {{2512.04085}},
          archiveprefix = {{arXiv}},
        }}
        @misc{{croco,
          title = {{CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion}},
          eprint = {{2210.10716}},
          archiveprefix = {{arXiv}},
        }}
        ```

        This model was made by the authors of neither.
        """).format(
        written=WRITTEN,
        tag=TAG,
        name=repo_id.split("/")[1],
        life=f"`{life.name}`, {life.description or 'a recording'}".rstrip("."),
        duration=hours,
        unfinished=""
        if run.finished
        else f"\n\n> **Its training is not finished:** {run.step:,} of {settings['max_steps']:,} steps.",
        pictures="".join(
            f"![{title}]({name})\n\n*{title}.*\n\n" for name, title in _PICTURES.items() if name in run.files()
        ),
        repo_id=repo_id,
        data=_table(_data(run, hours, of_frames)),
        recipe=_table(_recipe(run, config)),
        again=f"The same again: `accelerate launch train.py --life {settings['life']} --config config.yaml`."
        if life.kind != "video" or facts.get("hub")
        else f"With the recording, the same again: `accelerate launch train.py --life {life.name} --video PATH "
        "--config config.yaml`.",
        results=_results(run, alignments, tasks),
        traces="" if life.kind == "simulated" else _TRACES,
        licensed=_licensed(license, of_frames),
    )  # fmt: skip
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[TAG, "croco", "egocentric", "self-supervised", *(["simulated"] if life.kind == "simulated" else [])],
        datasets=[facts["hub"]["repo_id"]] if facts.get("hub") else None,
        model_name=repo_id.split("/")[1],
        eval_results=_eval_results(run, alignments, tasks) or None,
        **license_fields(license if license is not None else of_frames),
        singlelife={
            "life": life.name,
            "hours": facts.get("hours", life.hours),
            "steps": run.step,
            "finished": run.finished,
            **header_scores(alignments),
        },
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}").content


def hours_of(run: Run) -> str:
    """How long the life is, or the part of it that was learnt from, in words."""
    whole = duration(3600 * run.facts["hours"]) if "hours" in run.facts else f"about {run.life.hours:g} h"
    part = run.settings.get("hours")
    return f"the first {part:g} h of {whole}" if part else whole


def _data(run: Run, hours: str, license: str) -> dict[str, str]:
    life, facts = run.life, run.facts
    frames = (
        f"{facts['frames']:,} at {facts['frame_rate']:g} Hz, shorter side {facts['frame_size']} px" if facts else ""
    )
    return {
        "life": f"`{life.name}`: {life.description or 'a recording'}",
        "data set": (facts.get("dataset") or life.dataset) + (f", {life.url}" if life.url else ""),
        "on the Hub": f"`{facts['hub']['repo_id']}` at {facts['hub']['revision']}" if facts.get("hub") else "",
        "length": hours,
        "frames": frames,
        "fingerprint": f"`{facts['fingerprint']}`" if facts else "",
        "access": life.access,
        "licence of the frames": license or "not stated",
        "consent": life.consent,
    }


def _recipe(run: Run, config: SimpleNamespace) -> dict[str, str]:
    settings, get = run.settings, run.settings.get
    parameters = _parameters(run.model)
    gaps = f", {get('min_gap'):g} to {get('max_gap'):g} s apart" if get("pairing") in ("temporal", "union") else ""
    return {
        "model": f"{get('model')}, {parameters / 1e6:.2f} M parameters; encoder "
        f"{config.hidden_size} × {config.num_hidden_layers}, decoder {config.decoder_hidden_size} × "
        f"{config.decoder_num_hidden_layers}, {config.position_embedding_type} positions",
        "views": f"{config.image_size} px, patches of {config.patch_size} px, {config.mask_ratio:.0%} of the target "
        "masked",
        "pairs": f"{get('pairing')}{gaps}; crops of {get('crop_area_min'):.0%} to {get('crop_area_max'):.0%}",
        "steps": f"{run.step:,} of {settings['max_steps']:,}, {get('train_batch_size')} pairs each",
        "optimiser": f"AdamW, learning rate {_peak_learning_rate(settings):g} after {get('warmup_steps'):,} steps of "
        f"warm-up, cosine, weight decay {get('weight_decay'):g}",
        "precision": {"no": "fp32"}.get(str(get("mixed_precision")), str(get("mixed_precision"))),
        "seed": str(get("seed")),
        "made by": f"singlelife {version('singlelife')}",
    }


def _peak_learning_rate(settings: dict[str, Any]) -> float:
    if (rate := settings["learning_rate"]) is not None:
        return rate
    return settings["base_learning_rate"] * settings["train_batch_size"] / BATCH_OF_BASE_RATE


def _parameters(folder: Path) -> int:
    """Of the weights in a folder, from the headers of their files."""
    count = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def _results(run: Run, alignments: list[Alignment], tasks: list[TransferTask]) -> str:
    last = _last_values(run)
    losses = [
        f"{name} {last[key]:.4f}" for name, key in (("training", "loss"), ("validation", "val_loss")) if key in last
    ]
    said = f"Loss (mean squared error of normalised pixels in masked patches): {', '.join(losses)}." if losses else ""
    if "cas_reference" in last:
        said += (
            f"\n\nAs it learnt, its CAS with {name_of(str(last['cas_reference']))} came to {last['cas']:.3f}, "
            f"position-free {last['cas_position_free']:.3f} (chance {last['cas_chance']:.3f})."
        )
    parts = [said.strip(), *([_agreement(alignments)] if alignments else []), *([_transfer(tasks)] if tasks else [])]
    return "\n\n".join(part for part in parts if part) or "None yet."


def _transfer(tasks: list[TransferTask]) -> str:
    rows = {task.name: f"{', '.join(map(str, task.numbers))} on {task.num_items:,} of {task.data} (protocol "
            f"{task.protocol})" for task in tasks}  # fmt: skip
    title = "Frozen, in tasks that it was not trained for; ± is over the seeds of a probe (`singlelife evaluate all`):"
    return f"{title}\n\n{_table(rows)}"


def _agreement(alignments: list[Alignment]) -> str:
    rows = [
        f"| {each.other} | {each.num_pairs} of {each.pairs} | {_score(each.raw)} | {_score(each.position_free)} | "
        f"{each.raw['chance']:.3f} (top {each.k} of {each.patches}) |"
        for each in alignments
    ]
    title = (
        "Correspondence Alignment Score ([arXiv 2512.04085](https://arxiv.org/abs/2512.04085)), with its 95% interval "
        "over pairs:"
    )
    header = "| with | pairs | CAS | position-free CAS | chance |\n|---|---|---|---|---|"
    return "\n".join([title, "", header, *rows])


def _eval_results(run: Run, alignments: list[Alignment], tasks: list[TransferTask]) -> list[EvalResult]:
    results = [result for each in alignments for result in each.eval_results()]
    results += [result for task in tasks for result in task.eval_results()]
    last = _last_values(run)
    if "val_loss" in last:
        results.append(
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Cross-view completion",
                dataset_type=run.life.name,
                dataset_name=f"held-out stretches of {run.life.name}",
                metric_type="loss",
                metric_name="Validation loss",
                metric_value=round(last["val_loss"], 4),
            )
        )
    if "cas_reference" in last:
        pairs, other = str(run.settings.get("cas_pairs", "unnamed")), name_of(str(last["cas_reference"]))
        results += [
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Agreement on correspondences, as it learnt",
                dataset_type=pairs,
                dataset_name=f"pairs of {pairs}",
                metric_type=kind,
                metric_name=f"{name} with {other} (chance {last['cas_chance']:.3f})",
                metric_value=round(last[kind], 4),
            )
            for kind, name in (("cas", "CAS"), ("cas_position_free", "Position-free CAS"))
        ]
    return results


def _last_values(run: Run) -> dict[str, Any]:
    return {name: value for line in run.metrics for name, value in line.items()}


def _score(score: dict[str, float]) -> str:
    return f"{score['cas']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _licensed(license: str | None, of_frames: str) -> str:
    if license is not None:
        return f"The weights: {license}. The frames that they were made of: {of_frames or 'not stated'}."
    if of_frames:
        return f"The weights are under the licence of the frames that they were made of: {of_frames}."
    return "No licence is stated. Ask the owner before any use."


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)])
