"""The questions that a comparison answers, each with its figures and a verdict computed from intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from bolid.evaluation.analysis import AIMS, BY_KEY, MAIN, Comparison
from bolid.evaluation.contestants import METHODS, POSE
from bolid.metrics import Interval

BASELINES = ("ip_adapter", "instantid", "pulid")
PARTS_OF_BOLID = {  # what is left out -> the row without it
    "the appearance map": "bolid_no_map" + POSE,
    "identity tokens": "bolid_no_tokens" + POSE,
    "the whole identity": "pose_only" + POSE,
    "the pose": "bolid",
}


@dataclass(frozen=True)
class Line:
    """A figure of an answer: what is measured, its interval, and what that says in words."""

    what: str
    interval: Interval
    says: str
    digits: int = 3


@dataclass(frozen=True)
class Answer:
    """A question with its lines and the verdict over them; `missing` says what was not drawn for it."""

    question: str
    verdict: str
    lines: tuple[Line, ...] = ()
    missing: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


@dataclass
class _Asked:
    """Collects the lines of one question."""

    comparison: Comparison
    lines: list[Line] = field(default_factory=list)

    def has(self, *rows: str) -> bool:
        return all(row in self.comparison.measured for row in rows)

    def difference(
        self, title: str, row: str, other: str, figure: str, group: str = "all"
    ) -> tuple[bool, bool]:
        """Adds row minus other; whether it is better and whether it is worse, each by the whole interval."""
        test = self.comparison.test(row, other, figure, group)
        return self._note(title, test.difference, figure)

    def gap(self, title: str, row: str, figure: str, group: str, other: str) -> tuple[bool, bool]:
        """Adds one group of pairs minus another."""
        return self._note(title, self.comparison.apart(row, figure, group, other), figure)

    def _note(self, title: str, found: Interval, figure: str) -> tuple[bool, bool]:
        kind = BY_KEY[figure]
        up, down = found.low > 0, found.high < 0
        better, worse = (down, up) if kind.better == "lower" else (up, down)
        says = "better" if better else "worse" if worse else "no difference shown"
        says = "not measured" if math.isnan(found.mean) else says
        self.lines.append(Line(f"{title}: {kind.title}", found, says, kind.digits))
        return better, worse


def answers(comparison: Comparison) -> list[Answer]:
    """All questions, the hypothesis first. A question whose rows were not drawn says which are missing."""
    asked: tuple[Callable[[Comparison], Answer], ...] = (
        _hypothesis,
        _carries,
        _pose_and_identity,
        _poses,
        _views,
        _unseen,
        _hidden_head,
        _strength,
        _leave_one_out,
    )
    return [ask(comparison) for ask in asked]


def _methods(comparison: Comparison, names: tuple[str, ...] = (*BASELINES, "bolid")) -> Iterator[str]:
    """Methods of which a row with pose was drawn."""
    return (name for name in names if name + POSE in comparison.measured)


def _hypothesis(c: Comparison) -> Answer:
    question = "Is BoLID ahead of every baseline at the same pose?"
    asked, reasons, clip = _Asked(c), [], []
    rivals = [name for name in BASELINES if asked.has(name + POSE)]
    if MAIN not in c.measured or not rivals:
        return _unanswered(question, "rows bolid+pose and at least one baseline with pose")
    for name in rivals:
        for figure in AIMS:
            better, worse = asked.difference(f"BoLID - {METHODS[name]}", MAIN, name + POSE, figure)
            clip += [better] if figure == "clip" else []
            if math.isnan(asked.lines[-1].interval.mean):
                reasons.append(f"{BY_KEY[figure].title} was not measured")
            elif worse:
                reasons.append(f"behind {METHODS[name]} on {BY_KEY[figure].title}")
            elif figure != "clip" and not better:
                reasons.append(f"not shown ahead of {METHODS[name]} on {BY_KEY[figure].title}")
            elif figure != "clip" and _overlap(c, MAIN, name + POSE, figure):
                reasons.append(f"intervals overlap with {METHODS[name]} on {BY_KEY[figure].title}")
    titles = {row.name: row.title for row in c.rows}
    if titles[MAIN] != METHODS["bolid"]:
        reasons.append(f"{titles[MAIN]}: not trained as the others were")
    reasons += c.unlike
    absent = [METHODS[name] for name in BASELINES if name not in rivals]
    if absent:
        reasons.append(f"{', '.join(absent)} not compared")
    if reasons:
        verdict = "Not shown in full: " + "; ".join(dict.fromkeys(reasons)) + "."
    else:
        verdict = (
            "Yes: ahead of each baseline on ID similarity, pose accuracy and LPIPS, with intervals that do "
            f"not overlap, and {'ahead' if all(clip) else 'not shown behind'} on CLIP score."
        )
    return Answer(question, f"{verdict} {_what_would_change(c)}", tuple(asked.lines))


def _overlap(c: Comparison, row: str, other: str, figure: str) -> bool:
    a, b = c.interval(row, figure), c.interval(other, figure)
    return not (a.low > b.high or a.high < b.low)


def _what_would_change(c: Comparison) -> str:
    """What the verdict rests on, and what could turn it."""
    trainings = {name: c.measured[name + POSE].trainings for name in _methods(c)}
    few = [METHODS[name] for name, count in trainings.items() if count < 3]
    text = "What would change it: networks that know photographs, a larger base, or more training of all."
    if few:
        text += (
            f" {', '.join(few)}: fewer than three training seeds, so the interval leaves out how much "
            "another training would differ."
        )
    return text


def _carries(c: Comparison) -> Answer:
    question = "Does each approach carry from the face to the body?"
    asked, carried, failed = _Asked(c), [], []
    if not asked.has("base"):
        return _unanswered(question, "the row base")
    for name in (*BASELINES, "bolid"):
        if name not in c.measured:
            continue
        better = asked.difference(f"{METHODS[name]}, no pose - base", name, "base", "id_similarity")[0]
        asked.difference(f"{METHODS[name]}, no pose - base", name, "base", "identified")
        (carried if better else failed).append(METHODS[name])
    if not asked.lines:
        return _unanswered(question, "a method's row without pose")
    parts = []
    if carried:
        verb = "draw" if len(carried) > 1 else "draws"
        parts.append(f"{_and(carried)} {verb} the reference's body better than text alone does")
    if failed:
        parts.append(f"{_and(failed)} {'do' if len(failed) > 1 else 'does'} not, by this measure")
    if "IP-Adapter" in failed:
        parts.append(
            "tokens-only IP-Adapter does not beat the text-only base: the base or the vision encoder needs "
            "work before anything is compared"
        )
    return Answer(question, "; ".join(parts) + ".", tuple(asked.lines))


def _pose_and_identity(c: Comparison) -> Answer:
    question = "What does pose cost identity, and identity cost pose?"
    asked, costs = _Asked(c), []
    for name in _methods(c):
        title = METHODS[name]
        if name in c.measured:
            worse = asked.difference(f"{title}, with pose - without", name + POSE, name, "id_similarity")[1]
            if worse:
                costs.append(f"pose costs {title} identity")
        if asked.has("pose_only" + POSE):
            worse = asked.difference(f"{title} - base + pose", name + POSE, "pose_only" + POSE, "pck")[1]
            if worse:
                costs.append(f"identity costs {title} pose accuracy")
    if not asked.lines:
        return _unanswered(question, "a method's rows with and without pose, and pose_only")
    verdict = "; ".join(costs) if costs else "Neither costs the other anything that is shown"
    return Answer(question, _sentence(verdict), tuple(asked.lines))


def _by_groups(c: Comparison, question: str, pairs: tuple[tuple[str, str, str], ...]) -> Answer:
    """Each method with pose, in one group of pairs against another: (title, group, other)."""
    asked, harder = _Asked(c), []
    for name in _methods(c):
        for title, group, other in pairs:
            if not (c.group(group).any() and c.group(other).any()):
                continue  # a dataset without these labels
            losses = [
                BY_KEY[figure].title
                for figure in ("id_similarity", "pck")
                if asked.gap(f"{METHODS[name]}, {title}", name + POSE, figure, group, other)[1]
            ]
            if losses:
                harder.append(f"{METHODS[name]}, {title}: lower {_and(losses)}")
    if not asked.lines:
        return _unanswered(question, "a method with pose, and pairs with these labels")
    verdict = "; ".join(harder) if harder else "No method is shown to be worse there"
    return Answer(question, _sentence(verdict), tuple(asked.lines))


def _poses(c: Comparison) -> Answer:
    return _by_groups(
        c,
        "Are lying and sitting harder than standing?",
        (
            ("lying - standing", "pose: lying down", "pose: standing"),
            ("sitting - standing", "sitting", "pose: standing"),
        ),
    )


def _views(c: Comparison) -> Answer:
    views = (("back - front", "view: back", "view: front"),)
    return _by_groups(c, "Is the back view harder than the front?", views)


def _unseen(c: Comparison) -> Answer:
    unseen = (("unseen - seen", "unseen combination", "seen combination"),)
    return _by_groups(c, "Are combinations of attributes that training never showed harder?", unseen)


def _hidden_head(c: Comparison) -> Answer:
    question = "What is left when the reference's head is hidden?"
    asked, lost = _Asked(c), []
    for name in _methods(c):
        row = f"{name}{POSE}@head=0"
        if asked.has(row):
            worse = asked.difference(
                f"{METHODS[name]}, head hidden - shown", row, name + POSE, "id_similarity"
            )[1]
            for figure in ("error_upper", "error_lower"):
                asked.difference(f"{METHODS[name]}, head hidden - shown", row, name + POSE, figure)
            if worse:
                lost.append(METHODS[name])
    if not asked.lines:
        return _unanswered(question, "the sweep `head`")
    verdict = f"{_and(lost)}: ID similarity falls" if lost else "No method is shown to lose the body"
    return Answer(question, _sentence(verdict), tuple(asked.lines))


def _strength(c: Comparison) -> Answer:
    question = "How does identity fall with strength?"
    asked, verdicts = _Asked(c), []
    for name in _methods(c):
        found = sorted(
            (row.sweep[1], row.name)
            for row in c.rows
            if row.sweep is not None and row.sweep[0] == "strength" and row.name.startswith(f"{name}{POSE}@")
        )
        if len(found) < 2:
            continue
        (low, weakest), (high, strongest) = found[0], found[-1]
        title = f"{METHODS[name]}, strength {high:g} - {low:g}"
        acts = asked.difference(title, strongest, weakest, "id_similarity")[0]
        for (a, weaker), (b, stronger) in pairwise(found):
            asked.difference(f"{METHODS[name]}, {b:g} - {a:g}", stronger, weaker, "id_similarity")
        falls = any(line.says == "worse" for line in asked.lines[-len(found) + 1 :])
        words = "rises with strength" if acts else "does not rise with strength"
        verdicts.append(
            f"{METHODS[name]}: identity {words}" + (", and falls again on the way" if falls else "")
        )
    if not verdicts:
        return _unanswered(question, "the sweep `strength`")
    return Answer(question, _sentence("; ".join(verdicts)), tuple(asked.lines))


def _leave_one_out(c: Comparison) -> Answer:
    question = "What does each part of BoLID add?"
    asked, adds = _Asked(c), []
    if MAIN not in c.measured:
        return _unanswered(question, "the row bolid+pose")
    for part, row in PARTS_OF_BOLID.items():
        if row in c.measured:
            found = {f: asked.difference(f"BoLID - without {part}", MAIN, row, f) for f in AIMS}
            gains, losses = ([BY_KEY[f].title for f in AIMS if found[f][side]] for side in (0, 1))
            cost = f" (it costs {_and(losses)})" if losses else ""
            adds.append(f"{part}: {_and(gains) if gains else 'nothing that is shown'}{cost}")
    if not asked.lines:
        return _unanswered(question, "rows " + ", ".join(PARTS_OF_BOLID.values()))
    return Answer(question, _sentence("; ".join(adds)), tuple(asked.lines))


def _unanswered(question: str, needed: str) -> Answer:
    return Answer(question, "Not answered by this run.", missing=f"It needs {needed}.")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
