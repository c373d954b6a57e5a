"""Meta-learners: a sequence encoder on item embeddings or on item features, adapted to users by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from recbole_mm.nn.attention.sequence import INITIAL_SCALE, SequenceEncoder, causal_bias
from recbole_mm.nn.meta.maml import adapt, task_losses
from recbole_mm.nn.meta.tasks import TaskBatch

__all__ = ["SCOPES", "FeatureLearner", "IdLearner", "Learner", "instance_bpr", "instance_cross_entropy"]

SCOPES = ("local", "all")
_LOCAL = "encoder."


def instance_bpr(gap: Tensor, counted: Tensor) -> Tensor:
    """BPR over the instances of a task.

    Args:
        gap: Score of the negative minus score of the positive, any shape.
        counted: Which entries are instances, shaped as ``gap``.

    Returns:
        The mean of ``softplus(gap)`` over the instances, 0 if there are none. A scalar.

    Example:
        >>> instance_bpr(torch.tensor([0.0, 7.0]), torch.tensor([True, False]))
        tensor(0.6931)
    """
    loss = F.softplus(gap.float() if gap.dtype in (torch.float16, torch.bfloat16) else gap)
    return loss.masked_fill(~counted, 0).sum() / counted.sum().clamp_min(1)


def instance_cross_entropy(state: Tensor, positive: Tensor, target: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    r"""Cross entropy of the instances of a task, each positive against the same candidates.

    .. math:: -s_{pos} + \ln\!\Bigl(e^{s_{pos}} + \sum_{c \in C,\; c \ne pos} e^{s_c}\Bigr), \qquad s_i = h^\top e_i

    With all items as candidates this is the softmax over the catalogue.

    Args:
        state: :math:`h`. Shape ``(..., dim)``.
        positive: Vectors of the next items, shaped as ``state``.
        target: Their ids, 0 where there is no instance. Shape ``(...)``.
        rows: Vectors of the candidates. Shape ``(K, dim)``.
        candidates: Their ids, distinct. Shape ``(K,)``.

    Returns:
        The mean over the instances, 0 if there are none. A scalar.

    Example:
        >>> zero, target = torch.zeros(1, 2), torch.tensor([3])
        >>> instance_cross_entropy(zero, zero, target, torch.zeros(4, 2), torch.tensor([1, 2, 3, 4])).exp()
        tensor(4.)
    """
    own = (state * positive).sum(dim=-1, keepdim=True)
    others = (state @ rows.T).masked_fill(target.unsqueeze(-1).eq(candidates), -torch.inf)
    scores = torch.cat([own, others], dim=-1)
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    counted = target.ne(0)
    loss = (scores.logsumexp(dim=-1) - scores[..., 0]).masked_fill(~counted, 0)
    return loss.sum() / counted.sum().clamp_min(1)


class Learner(nn.Module):
    """One meta-learner: ``encoder`` holds its local parameters, which tasks adapt; all others are global.

    A batch whose negatives are one per instance is learned by BPR; one whose negatives are a list of candidates that
    all instances share, by cross entropy.

    The feature table is an argument of every method rather than a part of the module, since all learners of a model
    share the model's tables.
    """

    def __init__(self, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def embed(self, items: Tensor, feature: Tensor) -> Tensor:
        """Vectors of items, ``(..., dim)``, for the input and for the scores."""
        raise NotImplementedError

    def attention_bias(self, windows: Tensor, feature: Tensor) -> Tensor:
        """Additive attention logits of windows ``(..., length)``: ``(..., length, length)``."""
        return causal_bias(windows)

    def states(self, windows: Tensor, feature: Tensor) -> Tensor:
        """States of windows ``(batch, length)``: ``(batch, length, dim)``, zero at padded positions."""
        state = self.encoder(self.embed(windows, feature), self.attention_bias(windows, feature))
        return state.masked_fill(windows.eq(0).unsqueeze(-1), 0)

    def prepare(self, batch: TaskBatch, feature: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The global half of the loss.

        Returns:
            What differs between tasks, and what they share. For BPR inputs, attention term, score directions and which
            positions count, and nothing; for cross entropy inputs, attention term, positives and their ids, and the
            candidates with their ids.
        """
        window, bias = self.embed(batch.window, feature), self.attention_bias(batch.window, feature)
        if batch.negative.dim() == 1:
            positive, rows = self.embed(batch.target, feature), self.embed(batch.negative, feature)
            return (window, bias, positive, batch.target), (rows, batch.negative)
        positive, negative = self.embed(torch.stack([batch.target, batch.negative]), feature)
        return (window, bias, negative - positive, batch.target.ne(0)), ()

    def local_loss(self, embedded: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        """Loss of one task as a function of the encoder, from both parts of :meth:`prepare`."""
        state = self.encoder(embedded, bias)
        if len(rest) == 2:
            direction, counted = rest
            return instance_bpr((state * direction).sum(dim=-1), counted)
        return instance_cross_entropy(state, *rest)

    def task_loss(self, window: Tensor, target: Tensor, negative: Tensor, feature: Tensor) -> Tensor:
        """Loss of one task as a function of all parameters."""
        own, shared = self.prepare(TaskBatch(window, target, negative), feature)
        return self.local_loss(*own, *shared)

    def plain_loss(self, batch: TaskBatch, feature: Tensor) -> Tensor:
        """Mean loss of all instances of a batch of users, nobody adapted. A scalar."""
        flat = TaskBatch(*(part if part.dim() == 1 else part.flatten(0, 1) for part in batch))
        return self.task_loss(*flat, feature)

    def scores(self, state: Tensor, feature: Tensor) -> Tensor:
        """Scores of all items from states ``(..., dim)``: ``(..., n_items)``."""
        return state @ self.embed(torch.arange(len(feature), device=feature.device), feature).T

    def forward(self, method: str, *inputs: Tensor) -> Tensor:
        """Call a method by name; ``functional_call`` with other parameters goes through here."""
        return getattr(self, method)(*inputs)

    def parameters_of(self, scope: str) -> dict[str, Tensor]:
        """Names and values of the parameters that adaptation changes: the encoder's (``local``) or ``all``."""
        return {name: value for name, value in self.named_parameters() if scope == "all" or name.startswith(_LOCAL)}

    def adapt(
        self,
        batch: TaskBatch,
        feature: Tensor,
        steps: int,
        learning_rate: float,
        scope: str = "local",
        second_order: bool = False,
    ) -> dict[str, Tensor]:
        """Parameters of each user after ``steps`` of gradient descent on the user's instances, ``(T, ...)`` each."""
        loss, data, shared = self._problem(batch, feature, scope, second_order)
        return adapt(loss, self.parameters_of(scope), data, steps, learning_rate, shared, second_order)

    def losses(self, adapted: dict[str, Tensor], batch: TaskBatch, feature: Tensor, scope: str = "local") -> Tensor:
        """Loss of each user's instances at the user's own parameters, differentiable, ``(T,)``."""
        loss, data, shared = self._problem(batch, feature, scope, True)
        return task_losses(loss, adapted, data, shared)

    def adapted_states(self, adapted: dict[str, Tensor], windows: Tensor, feature: Tensor) -> Tensor:
        """:meth:`states` of ``(T, W, length)`` windows, each user with their own parameters."""

        def one(parameters: dict[str, Tensor], window: Tensor) -> Tensor:
            return functional_call(self, parameters, ("states", window, feature))

        return vmap(one, randomness="different")(adapted, windows)

    def adapted_scores(self, adapted: dict[str, Tensor], state: Tensor, feature: Tensor) -> Tensor:
        """:meth:`scores` of ``(T, ..., dim)`` states, each user with their own parameters."""
        if all(name.startswith(_LOCAL) for name in adapted):
            return self.scores(state, feature)

        def one(parameters: dict[str, Tensor], user_state: Tensor) -> Tensor:
            return functional_call(self, parameters, ("scores", user_state, feature))

        return vmap(one)(adapted, state)

    def _problem(
        self, batch: TaskBatch, feature: Tensor, scope: str, differentiable: bool
    ) -> tuple[_Call, Sequence[Tensor], Sequence[Tensor]]:
        if scope == "all":
            window, target, negative = batch
            if negative.dim() == 1:
                negative = negative.expand(len(window), -1)
            return _Call(self, "task_loss"), (window, target, negative), (feature,)
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            return _Call(self, "local_loss"), *self.prepare(batch, feature)


class IdLearner(Learner):
    r"""Items as embeddings; attention knows how similar two items' features are.

    The logits of every head and layer get :math:`\epsilon_f \langle P f_i + p, P f_j + p \rangle` where the causal mask
    allows it. :math:`P` is trained.

    Args:
        encoder: The local part.
        n_items: Number of items, with padding.
        dim: Width of the embeddings.
        feature_width: Width of the features.
        attention_weight: :math:`\epsilon_f`; with 0 there is no projection and the learner is SASRec.
    """

    def __init__(
        self, encoder: SequenceEncoder, n_items: int, dim: int, feature_width: int, attention_weight: float
    ) -> None:
        super().__init__(encoder)
        table = torch.empty(n_items, dim).normal_(std=INITIAL_SCALE)
        table[0] = 0
        self.item_embedding = nn.Parameter(table)
        self.attention_weight = attention_weight
        if attention_weight:
            self.attention_project = nn.Parameter(torch.empty(dim, feature_width).normal_(std=INITIAL_SCALE))
            self.attention_offset = nn.Parameter(torch.zeros(dim))

    def embed(self, items: Tensor, feature: Tensor) -> Tensor:
        """Rows of the embedding table; padding has no gradient and stays zero."""
        return F.embedding(items, self.item_embedding, padding_idx=0)

    def attention_bias(self, windows: Tensor, feature: Tensor) -> Tensor:
        """Causal mask plus the weighted similarity of the items' projected features."""
        mask = causal_bias(windows)
        if not self.attention_weight:
            return mask
        projected = _project(windows, feature, self.attention_project, self.attention_offset)
        similarity = projected @ projected.transpose(-1, -2)
        return torch.where(mask < 0, mask.to(similarity.dtype), self.attention_weight * similarity)


class FeatureLearner(Learner):
    r"""Items as projected features, :math:`W f_i + b`, so that items without interactions have a place.

    Args:
        encoder: The local part.
        dim: Width of the projected features.
        feature: The feature table, ``(n_items, width)``.
        train_features: Train a copy of the table along with the projection.
    """

    def __init__(self, encoder: SequenceEncoder, dim: int, feature: Tensor, train_features: bool = False) -> None:
        super().__init__(encoder)
        self.project_weight = nn.Parameter(torch.empty(dim, feature.shape[1]).normal_(std=INITIAL_SCALE))
        self.project_bias = nn.Parameter(torch.zeros(dim))
        self.table = nn.Parameter(feature.clone()) if train_features else None

    def embed(self, items: Tensor, feature: Tensor) -> Tensor:
        """Projected rows of the feature table, or of the trained copy."""
        return _project(items, feature if self.table is None else self.table, self.project_weight, self.project_bias)


class _Call:
    """Loss of one task as a function of its parameters: a method of a learner with these parameters put in."""

    def __init__(self, learner: Learner, method: str) -> None:
        self.learner, self.method = learner, method

    def __call__(self, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        return functional_call(self.learner, parameters, (self.method, *inputs))


def _project(items: Tensor, feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Projected feature rows of items; projects the table or the rows, whichever is less."""
    feature = feature.to(weight.dtype)
    if items.numel() < len(feature):
        return F.linear(F.embedding(items, feature), weight, bias)
    return F.embedding(items, F.linear(feature, weight, bias))
