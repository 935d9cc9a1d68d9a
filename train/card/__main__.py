"""`python -m train.card`: writes an evaluation into the model card of the policy's checkpoint.

    python -m train.card policy=runs/demo/policy evaluation=runs/demo/evaluation

`README.md` of the checkpoint's folder is the card; `push_to_hub` of the loaded policy takes it along. Only the files of
the evaluation and the checkpoint are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eventful import cli
from eventful.checks.ranges import setting
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from eventful.user_code import LEARNED, policy_class
from policies import TrainablePolicy, load
from policies.trainable import CARD
from train.card.text import card_text
from train.config import command_line, load_config
from train.evaluate_config import policy_digest
from train.evaluation.results_file import Finished, read_finished
from train.report.finished import comparison_of

COMMAND = "python -m train.card"


@dataclass
class CardConfig:
    """The model card of a policy, from an evaluation.

    Attributes:
        policy: Folder of the policy's checkpoint, into which the card is written.
        evaluation: Folder of an evaluation with this policy among those compared.
        policy_class: Class of the policy, `MODULE:CLASS`, if it is your own.
        tolerances: Losses against the dense model that count as none: relative for a metric, absolute for a distance.

    Examples:
        python -m train.card policy=runs/demo/policy evaluation=runs/demo/evaluation
    """

    policy: str = "???"
    evaluation: str = "???"
    policy_class: str = LEARNED
    tolerances: list[float] = setting([0.01, 0.03], "(0, 1)")


def write_card(config: CardConfig) -> Path:
    """Writes a card, in place of the one that is there; returns its path.

    Raises:
        UserError: If there is no such checkpoint or evaluation, or the policy has no finished runs in it.
    """
    folder = Path(config.policy)
    if not folder.is_dir():
        raise UserError(f"policy={folder}: there is no such folder to write a card into")
    with cli.user_input(f"policy={folder}"):
        policy = load(folder, policy_class(config.policy_class, "policy_class"))
    finished = _of_this_policy(read_finished(Path(config.evaluation)), policy, config)
    comparison = comparison_of(finished, config.tolerances)
    if not any(contender.learned for contender in comparison.lines):
        raise UserError(f"evaluation={config.evaluation}: the runs of policy={config.policy} are not finished")
    path = folder / CARD
    # The Hugging Face hub reads cards as UTF-8, whatever the locale here.
    replace_text(path, card_text(policy, finished, comparison, command_line(config, COMMAND)))
    return path


def _of_this_policy(finished: Finished, policy: TrainablePolicy, config: CardConfig) -> Finished:
    """The evaluation without other checkpoints of the same training."""
    learned = dict.fromkeys(r.key.seed for r in finished.records if r.key.contender.startswith("Learned"))
    mine = [name for name in learned if name.split()[-1] == policy_digest(policy)]
    if not mine:
        known = ", ".join(learned) or "there is none"
        raise UserError(
            f"evaluation={config.evaluation} has no run of policy={config.policy} as it is now (its policies: {known})"
        )
    others = learned.keys() - mine[:1]
    return dataclasses.replace(
        finished,
        records=[record for record in finished.records if record.key.seed not in others],
        latencies={key: timed for key, timed in finished.latencies.items() if key.seed not in others},
    )


def _main(argv: Sequence[str]) -> None:
    print(f"written to {write_card(load_config(CardConfig, argv, COMMAND))}")


if __name__ == "__main__":
    cli.run(COMMAND, _main)
