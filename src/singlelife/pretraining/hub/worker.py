"""The process that pushes what a run lays out, so that no push can slow or break the training.

    python -m singlelife.pretraining.hub.worker RUN

It pushes the newest of what waits, for as long as something waits, and tries again where the network or the Hub fails.
It ends when nothing waits, when trying again is of no use, and after the push that it is at when the run is no more.
"""

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from singlelife.errors import SingleLifeError
from singlelife.hub.errors import HubUnreachable
from singlelife.hub.repositories import retry
from singlelife.pretraining.hub.outbox import Outbox
from singlelife.pretraining.hub.push import push_run


def main(run: Path) -> int:
    """Push. Returns the exit code."""
    parent, outbox = os.getppid(), Outbox(run)
    os.nice(5)

    def say(text: str) -> None:
        if os.getppid() != parent:
            raise SystemExit(1)
        print(text, flush=True)

    with FileLock(outbox.path / "lock"):
        try:
            retry(lambda: _push_all(outbox, parent), None, say)
        except SingleLifeError as error:
            outbox.note(replace(outbox.outcome, error=str(error), hopeless=True))
            return error.exit_code
    return 0


def _push_all(outbox: Outbox, parent: int) -> None:
    job = outbox.job
    while os.getppid() == parent and (taken := outbox.take()) is not None:
        try:
            done = push_run(
                outbox.run,
                job.repo_id,
                org=job.org,
                private=job.private,
                training_state=job.training_state,
                progress=False,
                tries=1,
                snapshot=taken.path,
            )
        except FileNotFoundError:
            if taken.path.exists():
                raise
            continue  # a newer one came in before this one was marked
        except HubUnreachable as error:
            outbox.note(replace(outbox.outcome, error=str(error)))
            raise
        finally:
            outbox.give_back()
        outbox.note(replace(outbox.outcome, step=taken.step, url=done.url, error="", hopeless=False))
        outbox.drop(taken)  # last: the run may end this process once nothing waits


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except Exception as error:  # a defect: the run says what, and goes on
        traceback.print_exc()
        outbox = Outbox(Path(sys.argv[1]))
        outbox.note(replace(outbox.outcome, error=f"{type(error).__name__}: {error}", hopeless=True))
        sys.exit(1)
