"""Helper of test_training_kills.py: trains in forked children, each killed by SIGKILL at a seeded moment.

L_rec and L_id on the lightning branch with every condition dropped often, Muon, two micro-batches a step.

`python tests/killed_training.py FOLDER`: a straight run in FOLDER/straight; then for every kill a run in
FOLDER/<name> that is killed and resumed; writes one JSON line a run.
"""

import dataclasses
import io
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_objective import SMALL, awaken, make_base, make_rows, save_loss_networks

from bolid.losses import LossWeights
from bolid.training import checkpoint, loop
from bolid.training.config import TrainConfig
from bolid.training.objectives.diffusion import DiffusionObjective

STEPS = 9
DROPS = {"text_drop": 0.4, "identity_drop": 0.4, "map_drop": 0.4, "pose_drop": 0.4}


def run(folder: Path, resume: bool) -> None:
    """A whole run; its last checkpoint is what is compared."""
    torch.manual_seed(1)
    networks = str(folder.parent / "networks")
    options = dataclasses.replace(SMALL, weights=LossWeights(id=1), loss_networks=networks, **DROPS)
    objective = DiffusionObjective(options, make_base())
    awaken(objective.adapter)
    objective.complete = lambda _folder: None  # the base is no folder that a pipeline could be made of
    config = TrainConfig(
        output_dir=str(folder),
        max_train_steps=STEPS,
        train_batch_size=2,
        gradient_accumulation_steps=2,
        optimizer="muon",
        learning_rate=1e-2,
        lr_warmup_steps=3,
        mixed_precision="no",
        checkpointing_steps=2,
        validation_steps=0,
        resume_from_checkpoint="latest" if resume else None,
    )
    loop.train(config, objective, make_rows(make_base(), 10), make_rows(make_base(), 1))


def in_child(work: Callable[[], None]) -> int:
    """The wait status of a forked child that does `work`; forked, for starting Python takes seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Calls:
    """Counts calls of functions, of any library, once the first step has begun; SIGKILL at the `fatal`-th."""

    def __init__(self, fatal: float = float("inf")) -> None:
        self.seen, self._fatal = 0, fatal

    def arm(self) -> None:
        first = loop._optimiser_step

        def armed(*arguments: Any) -> Any:
            sys.setprofile(self._count)
            return first(*arguments)

        loop._optimiser_step = armed

    def _count(self, _frame: object, event: str, _argument: object) -> None:
        self.seen += event in ("call", "c_call")
        if self.seen >= self._fatal:
            die()


def killed_in_save(share: float) -> Callable[[], None]:
    """SIGKILL in the second save, when this share of the file is on the disk."""
    saves = 0

    def write(state: Any, file: Any) -> None:
        nonlocal saves
        saves += 1
        whole = io.BytesIO()
        torch.save(state, whole)
        content = whole.getvalue()
        if saves == 2:
            file.write(content[: int(share * len(content))])
            file.flush()
            die()
        file.write(content)

    def arm() -> None:
        checkpoint._write = write

    return arm


def straight(folder: Path) -> None:
    """The run that nothing disturbs; leaves the number of its calls in `folder/calls`."""
    calls = Calls()
    calls.arm()
    run(folder, False)
    sys.setprofile(None)
    (folder / "calls").write_text(str(calls.seen))


def main(root: Path) -> None:
    save_loss_networks(root / "networks")
    assert in_child(lambda: straight(root / "straight")) == 0
    total, drawn = int((root / "straight" / "calls").read_text()), random.Random(7)
    kills: dict[str, Callable[[], None]] = {"inside-a-save": killed_in_save(drawn.random())}
    for _ in range(4):
        share = drawn.random()
        kills[f"at-{share:.3f}"] = Calls(share * total).arm
    for name, arm in kills.items():

        def killed(arm: Callable[[], None] = arm, name: str = name) -> None:
            arm()
            run(root / name, False)

        status = in_child(killed)
        left = sorted(p.name for p in (root / name).glob("checkpoint-*"))
        torn = len(list((root / name).glob(".partial-*")))
        resumed = in_child(lambda name=name: run(root / name, True))
        line = {"name": name, "killed": status, "left": left, "torn": torn, "resumed": resumed}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
