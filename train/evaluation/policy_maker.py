"""The policies of an evaluation's runs: from checkpoints, from a user's own code, and the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eventful.user_code import is_user_code
from policies import All, Nothing, Policy, TrainablePolicy
from policies.protocol import Granularity
from train.evaluation import user_policies
from train.evaluation.contenders import Contender
from train.evaluation.results_file import Key
from train.evaluation.rules import Rules


class PolicyMaker:
    """Makes policies for budgets; rules are set to them once.

    Args:
        rules: Supplies the rules of a granularity, which are set to budgets on frames of the training split.
        oracle: Makes an oracle at a budget.
        budgets: All budgets of the evaluation.
        checkpoints: Learned policies by the seed of their keys.
    """

    def __init__(
        self,
        rules: Callable[[Granularity], Rules],
        oracle: Callable[[Contender, float], Policy],
        budgets: Sequence[float],
        checkpoints: Mapping[str, TrainablePolicy],
    ) -> None:
        self._new_rules, self._oracle = rules, oracle
        self._budgets, self._checkpoints = sorted(budgets), checkpoints
        self._rules: dict[Granularity, Rules] = {}

    def keys(self, contender: Contender, seeds: Sequence[int]) -> list[Key]:
        """The runs of a contender: by budget, and by checkpoint or random seed."""
        if contender.end:
            return [Key(contender.id)]
        names = [""]
        if contender.learned:
            names = list(self._checkpoints)
        elif is_user_code(contender.name):
            names = [user_policies.fingerprint(contender.name)]
        elif contender.name == "Random":
            names = [str(seed) for seed in seeds]
        return [Key(contender.id, budget, name) for budget in self._budgets for name in names]

    def policy(self, contender: Contender, key: Key) -> tuple[Policy, str]:
        """The policy of a run, and its setting in words."""
        if contender.name == "All":
            return All(), ""
        if contender.name == "Nothing":
            return Nothing(), ""
        budget = key.budget or 1.0
        if contender.learned:
            policy = self._checkpoints[key.seed]
            policy.budget = budget
            policy.select_by = "top" if contender.name == "LearnedTop" else "threshold"
            return policy, ""
        if is_user_code(contender.name):
            return user_policies.make(contender.name, budget), ""
        if contender.oracle:
            return self._oracle(contender, budget), ""
        if contender.granularity not in self._rules:
            self._rules[contender.granularity] = self._new_rules(contender.granularity)
        return self._rules[contender.granularity].policy(contender, budget, int(key.seed or 0))
