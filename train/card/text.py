"""The text of a policy's model card: what it is for, what it was trained in, what an evaluation found, the commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from policies import Provenance, TrainablePolicy
from train.evaluation.comparison import Comparison
from train.evaluation.results_file import Finished
from train.evaluation.summary import goal, share_needed
from train.evaluation.tables import INTERVALS, MATCHED, markdown, percent, signed, table

DECISIONS = {"frame": "once per frame", "gate": "at three gates in every block"}


def card_text(policy: TrainablePolicy, finished: Finished, comparison: Comparison, command: str) -> str:
    """The whole card, the hub's metadata first.

    Args:
        policy: The policy.
        finished: The evaluation, with runs of this policy as its only learned one.
        comparison: The same, compared.
        command: Command line that writes the card.
    """
    trained = policy.provenance
    name = trained.task or finished.setting["task"]
    weights = sum(parameter.numel() for parameter in policy.parameters())
    budgets = ", ".join(percent(budget) for budget in policy.table.log_budget_K.exp().tolist())
    parts = [
        f"---\n{policy.generate_model_card().data.to_yaml()}\n---",
        f"# Token policy for task {name}",
        f"Decides, {DECISIONS[policy.granularity]}, which tokens of a video transformer are computed anew; the others "
        f"keep what was computed for them last. {weights:,} parameters; thresholds for {budgets} of the dense "
        "multiply-accumulates, and any share between them.",
        _block([f"eventful-infer clip.mp4 --policy FOLDER --budget {comparison.budgets[0]:g} --out annotated.mp4"]),
        "## Trained in",
        markdown(["what", "value"], _origin(trained)),
        "## Scores",
        _about(finished, trained),
        markdown(*_needed(comparison)),
        markdown(*_against(comparison)),
        table(comparison),
        f"{MATCHED} {INTERVALS}",
        "## Commands",
        _block([line for line in (trained.command, finished.about.get("command", ""), command) if line]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _origin(trained: Provenance) -> list[list[str]]:
    options: Mapping[str, Any] = {"task": trained.task or "not recorded", **trained.task_options}
    rows = [[key, _code(value)] for key, value in options.items()]
    rows.append(["weights of the backbone, SHA-256 of their content", _code(trained.backbone or "not recorded")])
    rows += [[f"run with {key}", _code(value)] for key, value in trained.options.items()]
    kept = ", ".join(f"{kind} {weight:g}" for kind, weight in trained.objective.items())
    return [*rows, ["trained to keep", kept or "not recorded"]]


def _about(finished: Finished, trained: Provenance) -> str:
    setting, clips = finished.setting, finished.records[0].clips
    frames = sum(finished.records[0].frames_U)
    text = f"Task {setting['task']}, split {setting['split']}: {len(clips)} clips, {frames} scored frames"
    evaluated = finished.about.get("backbone", "not recorded")
    if trained.backbone and evaluated == trained.backbone:
        return f"{text}, {setting['dtype']}, in the backbone of the training."
    also = ", other ones than in training" if {trained.backbone, evaluated}.isdisjoint({"", "not recorded"}) else ""
    return f"{text}, {setting['dtype']}. SHA-256 of the backbone's weights: `{evaluated}`{also}."


def _needed(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """A row for each tolerance and deployment of the policy, beside the best rule."""
    rows = []
    for tolerance in comparison.tolerances:
        best = comparison.thriftiest(tolerance)
        theirs = ["none gets there", ""] if best is None else [best.label, share_needed(comparison, best, tolerance)]
        for ours in (c for c in comparison.lines if c.learned):
            kept, needed = goal(comparison, tolerance), share_needed(comparison, ours, tolerance)
            rows.append([kept, ours.label, needed, *theirs])
    return ["to keep", "policy", "needs a share of", "best rule", "needs"], rows


def _against(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    measure = comparison.measures[0]
    rows = []
    for ours in (c for c in comparison.lines if c.learned):
        for budget in comparison.budgets:
            found = comparison.against_best(ours, measure, budget)
            cells = ["", ""] if found is None else [found.theirs.label, f"{signed(found.estimate)}, {found.verdict}"]
            rows.append([ours.label, percent(budget), *cells])
    return ["policy", "at", "best rule", f"{measure.label}, minus the rule's"], rows


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["```console", *lines, "```"]) if lines else ""


def _code(value: Any) -> str:
    # A table's cell can hold no bar.
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`".replace("|", "\\|")
