"""One job per life, for those who run jobs: SLURM, Hugging Face Jobs, or a shell.

A job file is one of `hub_configs/jobs`, which run as they are, with its lines for the lives, flags and resources
written anew.
"""

import fnmatch
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from singlelife.errors import HubError, LifeError, RunError
from singlelife.files import hub_configs
from singlelife.lives.registry import life_names, registered_life
from singlelife.lives.resolve import life_reference
from singlelife.pretraining.arguments import parse_arguments
from singlelife.pretraining.run_folder import write_text

TEMPLATES = {"slurm": "slurm_array.sbatch", "hf-jobs": "hf_jobs.sh", "shell": "one_after_another.sh"}
_OF_THE_JOB = ("--life", "--video", "--output-dir", "--resume", "--overwrite-output-dir")  # not the user's to pass on
_TO_THE_HUB = ["--push-to-hub", "--resume-from", "hub"]  # since a Hugging Face Job's disk is lost
_IN_THE_JOB = 'pip install "$0" && exec accelerate launch -m singlelife.cli train "$@"'


@dataclass(frozen=True)
class Resources:
    """What each job is given.

    Attributes:
        gpus: of one machine, for SLURM and the shell; 0 trains on its CPU.
        time: SLURM's limit, after which a job is queued again.
        sbatch: further options of sbatch.
        image, flavor, timeout, package: of a Hugging Face Job: its Docker image, hardware and longest duration, and
            what `pip install` is to install in it.
        namespace: the user or organisation that a Hugging Face Job runs for; the token's user by default.
    """

    gpus: int = 1
    time: str = "24:00:00"
    sbatch: tuple[str, ...] = ()
    image: str = "pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime"
    flavor: str = "l4x1"
    timeout: str = "24h"
    package: str = "singlelife"
    namespace: str | None = None

    @property
    def launch(self) -> list[str]:
        """The words before `-m singlelife.cli train`."""
        which = {0: ["--cpu", "--num_processes=1"], 1: ["--num_processes=1"]}
        processes = which.get(self.gpus, ["--multi_gpu", f"--num_processes={self.gpus}"])
        return ["accelerate", "launch", *processes, "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]


def named_lives(words: Sequence[str]) -> list[str]:
    """The lives that names and globs over the registered names stand for, each once.

    Raises:
        LifeError: a glob that no registered life matches.
    """
    lives: list[str] = []
    for word in words:
        found = fnmatch.filter(life_names(), word) if re.search(r"[*?\[]", word) else [word]
        if not found:
            raise LifeError(f"No registered life matches {word!r}; `singlelife lives` lists them.")
        lives += found
    return list(dict.fromkeys(lives))


def check_jobs(executor: str, lives: Sequence[str], flags: Sequence[str]) -> None:
    """Make sure that each life could be trained on with these flags.

    Raises:
        LifeError: a life is unknown, not here, or not where a job could get it.
        RunError: a flag is wrong, or not one to pass on.
    """
    for flag in flags:
        if flag.split("=")[0].replace("_", "-") in _OF_THE_JOB:
            raise RunError(f"{flag} is not to be passed on: each job has a life and a run folder of its own.")
    names: dict[str, str] = {}
    for life in lives:
        if executor == "hf-jobs":
            reference = life_reference(life)
            if reference.kind == "folder" or (reference.kind == "named" and registered_life(life).kind != "simulated"):
                raise LifeError(
                    f"A Hugging Face Job has none of the frames of {life}. Push them (`singlelife push-life {life} "
                    "ORG/NAME`), and name ORG/NAME here."
                )
        name = parse_arguments(["--life", life, *flags]).life_name
        if name in names:
            raise LifeError(f"{names[name]} and {life} would both be trained in runs/{name}; rename one of them.")
        names[name] = life


def job_file(executor: str, lives: Sequence[str], flags: Sequence[str], resources: Resources) -> str:
    """The text of the file that trains on each life."""
    text = (hub_configs() / "jobs" / TEMPLATES[executor]).read_text(encoding="utf-8")
    lines = {"LIVES=": f"LIVES=({shlex.join(lives)})", "FLAGS=": f"FLAGS=({shlex.join(flags)})"}
    if executor == "hf-jobs":
        lines["FLAGS="] = f"FLAGS=({shlex.join([*_TO_THE_HUB, *flags])})"
        options = ["--flavor", resources.flavor, "--timeout", resources.timeout]
        options += ["--namespace", resources.namespace] if resources.namespace else []
        lines["OPTIONS="] = f"OPTIONS=({shlex.join(options)})"
        lines["PACKAGE="] = f"PACKAGE={shlex.quote(resources.package)}"
        lines["IMAGE="] = f"IMAGE={shlex.quote(resources.image)}"
    else:
        lines["LAUNCH="] = f"LAUNCH=({shlex.join(resources.launch)})"
    if executor == "slurm":
        more = "".join(f"#SBATCH {option}\n" for option in resources.sbatch)
        lines["#SBATCH --array="] = f"#SBATCH --array=0-{len(lives) - 1}"
        lines["#SBATCH --gpus-per-node="] = f"#SBATCH --gpus-per-node={resources.gpus}" if resources.gpus else ""
        lines["#SBATCH --time="] = f"#SBATCH --time={resources.time}"
        lines["#SBATCH --requeue"] = f"{more}#SBATCH --requeue"
    for start, line in lines.items():
        old = re.findall(f"^{re.escape(start)}.*\n", text, re.MULTILINE)
        assert len(old) == 1, f"{TEMPLATES[executor]} has {len(old)} lines that begin with {start}"
        text = text.replace(old[0], f"{line}\n" if line else "")
    return text


def write_job_file(folder: Path, executor: str, text: str) -> Path:
    """Write a job file into a folder, in one step; its path.

    Raises:
        RunError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot write into {folder}: {error}.") from error
    path = folder / TEMPLATES[executor]
    write_text(path, text)
    return path


def start_hf_job(life: str, flags: Sequence[str], resources: Resources) -> str:
    """Start the Hugging Face Job of a life, with the token as a secret; its page.

    Raises:
        HubError: there is no token, or the Hub does not take the job.
    """
    from huggingface_hub import get_token, run_job
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    token = get_token()
    if token is None:
        raise HubError("A Hugging Face Job needs a token: log in with `hf auth login` or set HF_TOKEN.")
    try:
        job = run_job(
            image=resources.image,
            command=["bash", "-c", _IN_THE_JOB, resources.package, "--life", life, *_TO_THE_HUB, *flags],
            secrets={"HF_TOKEN": token},
            flavor=resources.flavor,
            timeout=resources.timeout,
            namespace=resources.namespace,
        )
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, OSError) as error:
        said = str(error).replace(token, "…").strip()
        raise HubError(f"The Hub did not take the job of {life}: {said}") from error
    return job.url
