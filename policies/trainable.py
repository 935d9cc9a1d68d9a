"""The contract between a policy that learns and whoever trains, calibrates, compares and stores it.

    score = w_g (log ||e|| + a log(s + floor) - log h_g(budget)) + residual

with s the largest saliency in the token's 5x5 neighbourhood (`policies.features.weighted_log_error`); the exponent a is
0 where nobody says what the consumer of the outputs cares for. A trainable policy scores tokens, with gradients; a
table of thresholds h makes the scores spend a budget. Trainers steer and calibrate the table and know nothing of the
network behind `residual`. With a residual of zero and w_g = 1 the policy *is* the calibrated threshold
(`select="threshold"`: score > 0) or top-r (`select="top"`: the r highest scores), of errors that are weighed by
saliency if a > 0. w_g stays positive: errors of skipped tokens add up, and every token is noticed eventually.

To train a network of your own, subclass `TrainablePolicy` (docs/policies.md).

Shape suffixes: B streams, N tokens, G gates, K budgets.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn

from policies.age_bound import certain_where_overdue, checked_max_age, with_overdue
from policies.budget import BudgetedPolicy, excess
from policies.features import log_error, weighted_log_error, weighted_macs
from policies.protocol import Budget, GateObservation, Granularity, Layout, PolicyMismatch, Selection
from policies.provenance import CARD_TEMPLATE, Provenance, class_name
from policies.table import ThresholdTable
from policies.tensor_file import read_tensors, settings_as_they_are, write_tensors

Select = Literal["threshold", "top"]
_CHOICES = {"select_by": Select, "granularity": Granularity}
_ON_THE_HUB = ("revision", "cache_dir", "force_download", "local_files_only", "token")
CARD = "README.md"
DEFAULT_BUDGETS = (0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8)


class TrainablePolicy(
    nn.Module,
    BudgetedPolicy,
    PyTorchModelHubMixin,
    library_name="eventful-policies",
    tags=["eventful-transformers", "token-selection"],
    license="apache-2.0",
    model_card_template=CARD_TEMPLATE,
):
    """A residual on the calibrated threshold; one checkpoint serves all budgets.

    Subclasses take these arguments (and more of their own, plain data), and implement `residual` and `residual_macs`.
    A parameter that shifts all scores alike should not require gradients: that is what thresholds are for.

    Args:
        gates: G, decisions per frame of the model it is for.
        dim: D, channels of its tokens.
        granularity: `gate` or `frame`, as the model is run.
        budgets: K budgets of the threshold table.
        select: `threshold`, the number of tokens follows the content; `top`, it follows the budget alone.
        budget: Target share of the dense MACs; may be set before every frame, also per stream (B,).
        feedback: With `select="threshold"`, how far the threshold moves per frame to bring the realised share to the
            budget on this very footage (0: calibration alone; 0.05: within some 20 frames).
        provenance: What the checkpoint was trained with, for whoever loads it.
        saliency_exponent: How much an error counts for more where the consumer looked, a; 0 for nothing.
        saliency_floor: Saliency of what nobody looked at, above 0.
        max_age: Frames after which a token is updated in any case; None for no bound.

    Attributes:
        table: Thresholds on (weighted) log error by budget and gate.
        log_error_mean_G: Usual log error of each gate, to tell large from small.
        log_error_std_G: Its standard deviation.
        card: Model card that came with the checkpoint, and goes with it when it is saved or pushed; empty for none.
        fixed: Names of attributes that cannot be changed, as tensors or thresholds depend on them.

    Raises:
        ValueError: If an argument is out of range.
    """

    log_error_mean_G: Tensor
    log_error_std_G: Tensor
    card: str = ""
    _card_read: str = ""
    fixed: ClassVar[tuple[str, ...]] = ("gates", "dim", "granularity", "saliency_exponent", "saliency_floor")

    def __init__(
        self,
        gates: int,
        dim: int,
        granularity: Granularity = "frame",
        budgets: Sequence[float] = DEFAULT_BUDGETS,
        select: Select = "threshold",
        budget: Budget = 0.1,
        feedback: float = 0.0,
        provenance: Provenance | Mapping[str, Any] | None = None,
        saliency_exponent: float = 0.0,
        saliency_floor: float = 0.02,
        max_age: int | None = None,
    ) -> None:
        super().__init__()
        if gates < 1 or dim < 1:
            raise ValueError(f"gates and dim must be positive: {gates=} {dim=}")
        if not 0 <= saliency_exponent < math.inf or not 0 < saliency_floor < math.inf:
            raise ValueError(
                f"saliency_exponent must be at least 0, saliency_floor above 0: {saliency_exponent=} {saliency_floor=}"
            )
        self.gates, self.dim, self.granularity = gates, dim, granularity
        self.saliency_exponent, self.saliency_floor = saliency_exponent, saliency_floor
        self.select_by, self.feedback = select, feedback
        self.budget, self.max_age = budget, max_age
        self.provenance = provenance
        self.table = ThresholdTable(budgets, gates)
        self.register_buffer("log_error_mean_G", torch.zeros(gates))
        self.register_buffer("log_error_std_G", torch.ones(gates))
        self.log_weight_G = nn.Parameter(torch.zeros(gates))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.fixed and vars(self).get(name, value) != value:
            raise AttributeError(f"{name} cannot be changed: make a new policy with it, and calibrate or train that")
        if name == "select":
            raise AttributeError(f"select chooses the tokens; how it does is select_by = {value!r}")
        if name in _CHOICES and value not in get_args(_CHOICES[name]):
            known = ", ".join(get_args(_CHOICES[name]))
            raise ValueError(f"{name.removesuffix('_by')} must be one of {known}, got {value!r}")
        if name == "feedback" and not 0 <= value < math.inf:
            raise ValueError(f"feedback must be a number from 0, got {value}")
        if name == "max_age":
            checked_max_age(value)
        super().__setattr__(name, value)

    @abc.abstractmethod
    def residual(self, observation: GateObservation, relative_BN: Tensor, budget_B: Tensor) -> Tensor:
        """What the network adds to the score of each token (B, N), in units of log error; with gradients.

        Args:
            observation: What the gate shows.
            relative_BN: Log error of each token, less the gate's mean, over the gate's standard deviation.
            budget_B: Target share of each stream.
        """

    @abc.abstractmethod
    def residual_macs(self, layout: Layout) -> float:
        """Multiply-accumulates of `residual` per gate and stream."""

    @property
    def provenance(self) -> Provenance:
        """What the checkpoint was trained with; may be set to a table as `Provenance.of` takes it."""
        return self._provenance

    @provenance.setter
    def provenance(self, value: Provenance | Mapping[str, Any] | None) -> None:
        self._provenance = Provenance.of(value)

    def score(self, observation: GateObservation, budget_B: Tensor | None = None) -> Tensor:
        """Scores (B, N), in units of log error; positive means update. Differentiable in the parameters.

        Args:
            observation: What the gate shows.
            budget_B: Target share of each stream; the policy's own budget if None.

        Raises:
            PolicyMismatch: If the policy was made for another model, or looks at saliency and the model supplies none.
            ValueError: If there is not one budget for each stream.
        """
        layout, gate = observation.layout, observation.gate
        self.check(layout.gates, layout.dim, layout.granularity)
        budget_B = self.budget_per_stream(observation) if budget_B is None else budget_B
        log_error_BN = log_error(observation)
        relative_BN = (log_error_BN - self.log_error_mean_G[gate]) / self.log_error_std_G[gate]
        residual_BN = self.residual(observation, relative_BN, budget_B).float()
        above_BN = self.weighted_error(observation) - self.table(gate, budget_B)[:, None]
        return self.log_weight_G[gate].float().exp() * above_BN + residual_BN

    def logit(self, observation: GateObservation, budget_B: Tensor) -> Tensor:
        """`score` for decisions that are sampled: that of a token that is overdue is a constant, beyond doubt."""
        return certain_where_overdue(self.score(observation, budget_B), observation, self.max_age)

    def weighted_error(self, observation: GateObservation) -> Tensor:
        """What thresholds are set on (B, N): log error, weighed by saliency; see `PolicyMismatch` of `score`."""
        return weighted_log_error(observation, self.saliency_exponent, self.saliency_floor)

    @torch.no_grad()
    def select(self, observation: GateObservation) -> Selection:
        """See `Policy.select`."""
        budget_B = self.budget_per_stream(observation)
        score_BN = self.score(observation, budget_B)
        if self.select_by == "top":
            selection = self._top(observation.layout, score_BN, budget_B)
        else:
            if self.feedback:
                score_BN = score_BN - self._offset(observation, budget_B)[:, None]
            selection = Selection.where(score_BN > 0, observation, score_BN)
        return with_overdue(selection, observation, self.max_age)

    def macs(self, layout: Layout) -> float:
        """See `Policy.macs`."""
        return self.residual_macs(layout) + weighted_macs(layout, self.saliency_exponent)

    def check(self, gates: int, dim: int, granularity: Granularity) -> None:
        """See `Policy.check`."""
        mine, theirs = (self.gates, self.dim, self.granularity), (gates, dim, granularity)
        if mine != theirs:
            raise PolicyMismatch(
                f"the policy is for {mine[0]} gates of width {mine[1]} (granularity {mine[2]!r}), "
                f"the model has {theirs[0]} gates of width {theirs[1]} (granularity {theirs[2]!r})"
            )

    def _top(self, layout: Layout, score_BN: Tensor, budget_B: Tensor) -> Selection:
        """As many tokens as the budget pays for, next to the policy itself."""
        if isinstance(self.budget, Tensor) and self.budget.numel() > 1:
            return Selection.top_counts(score_BN, layout.counts(budget_B - self.share(layout)), layout.pinned)
        return Selection.top(score_BN, layout.count(float(self.budget) - self.share(layout)), layout.pinned)

    def _offset(self, observation: GateObservation, budget_B: Tensor) -> Tensor:
        """Integral control of the threshold by the realised share (B,)."""
        memory = observation.memory
        if "threshold_offset" not in memory:
            memory["threshold_offset"] = torch.zeros_like(budget_B)
        elif observation.gate == 0 and observation.share_B is not None:
            share_B = observation.share_B.to(budget_B)
            excess_B = excess(observation, share_B / budget_B, 2)
            memory["threshold_offset"] = memory["threshold_offset"] + self.feedback * excess_B
        return memory["threshold_offset"]

    def settings(self) -> dict[str, Any]:
        """The arguments that make this policy again, as they stand now; plain data.

        Raises:
            CheckpointError: If an attribute was changed to what no argument says.
        """
        made: dict[str, Any] = dict(self._hub_mixin_config or {})  # type: ignore[arg-type]  # never a dataclass
        like = self._again(made | {"provenance": None})
        if like is not None:
            made = settings_as_they_are(self, made, like)
        if self.table.budgets != [round(budget, 6) for budget in made.get("budgets", DEFAULT_BUDGETS)]:
            made["budgets"] = self.table.budgets
        budget = self.budget.tolist() if isinstance(self.budget, Tensor) else self.budget
        now: dict[str, Any] = {"budget": budget, "select": self.select_by, "feedback": self.feedback}
        if self.max_age is not None or "max_age" in made:
            now["max_age"] = self.max_age
        provenance = dataclasses.replace(self.provenance, policy=class_name(type(self)))
        return made | now | {"provenance": provenance.to_dict()}

    def _save_pretrained(self, save_directory: Path) -> None:
        text = json.dumps(self.settings(), sort_keys=True, indent=2)
        config = json.loads(text)
        write_tensors(self, config, save_directory / SAFETENSORS_SINGLE_FILE, self._again(config))
        (save_directory / CONFIG_NAME).write_text(text)
        card = save_directory / CARD
        if self.card and (self.card != self._card_read or not card.exists()):
            card.write_text(self.card, encoding="utf-8")

    @classmethod
    def _again(cls, settings: Mapping[str, Any]) -> TrainablePolicy | None:
        """What settings make, without values where that can be; None if they are not all that it takes."""
        try:
            with torch.device("meta"):
                return cls(**settings)
        except TypeError:
            return None
        except (NotImplementedError, RuntimeError):
            # A constructor that looks at the values of tensors, which those of the meta device have not.
            with torch.random.fork_rng(devices=[]):
                return cls(**settings)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **settings: Any
    ) -> TrainablePolicy:
        """Called by `from_pretrained`. Checks all before anything is allocated in the sizes that the settings say."""
        where = {name: settings.pop(name) for name in _ON_THE_HUB}
        folder = Path(model_id)
        files = [
            folder / name if folder.is_dir() else Path(hf_hub_download(model_id, name, **where))
            for name in (CONFIG_NAME, SAFETENSORS_SINGLE_FILE)
        ]
        config = json.loads(files[0].read_text())
        tensors = read_tensors(files[1], config, cls._again(settings) or cls(**settings))
        policy = cls(**settings)
        policy.load_state_dict(tensors, strict=False)  # what has several names is stored under one
        policy.card = policy._card_read = _card_of(folder, model_id, where)
        return policy.to(map_location)


def _card_of(folder: Path, model_id: str, where: Mapping[str, Any]) -> str:
    """The card beside a checkpoint, empty if there is none."""
    try:
        path = folder / CARD if folder.is_dir() else Path(hf_hub_download(model_id, CARD, **where))
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, EntryNotFoundError):
        return ""
