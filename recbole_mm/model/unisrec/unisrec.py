"""UniSRec: a sequence model that knows items by their features alone, pre-trained on any data sets and fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.data.features.table import FeatureTable
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.next_item import NextItemModel, content_shares, own_or_mean
from recbole_mm.model.unisrec.adaptor import ExpertAdaptor, random_projection
from recbole_mm.nn.attention.sequence import INITIAL_SCALE, SequenceEncoder, causal_bias
from recbole_mm.nn.loss import check_temperature, info_nce_loss
from recbole_mm.nn.rows import batch_rows, rows_at

__all__ = ["PHASES", "UniSRec"]

PHASES = ("pretrain", "inductive_ft", "transductive_ft")
"""Stages of training: what the loss is, and whether items have embeddings."""


class UniSRec(NextItemModel):
    r"""Items are their whitened features, so that a sequence model learned on some data sets serves another one.

    An item's vector is :math:`v_i = \sum_m a_{im} v^m_i`, where :math:`v^m_i` is a mixture of parametric whitenings of
    its features (:class:`~recbole_mm.model.unisrec.adaptor.ExpertAdaptor`) and :math:`a_{im} = w_m o_{im} / \sum_{m'}
    w_{m'} o_{im'}` leaves out the modalities that it does not have. SASRec's encoder makes a state :math:`s` of a
    history, and :math:`\cos(s, v_j) / \tau` ranks the items.

    *pretrain*. Items have no embeddings. With the targets of a batch as candidates, those of the row's own target
    excepted, and :math:`\tilde s` the state of the history with items dropped,

    .. math::
        L = -\ln \frac{\exp(\cos(s, v_+) / \tau)}{\sum_j \exp(\cos(s, v_j) / \tau)}
            - \lambda \ln \frac{\exp(\cos(s, \tilde s) / \tau_c)}{\sum_j \exp(\cos(s, \tilde s_j) / \tau_c)}

    where :math:`\lambda` is ``contrastive_weight``. The rows of all ``pretrain_datasets`` are mixed.

    *inductive_ft* and *transductive_ft*. Cross entropy over all items with a training interaction
    (``negative_items``); the transductive model adds an embedding to every vector. After pre-training the encoder is
    frozen. Without pre-training both are plain models, trained from scratch.
    :class:`~recbole_mm.trainer.unisrec.UniSRecTrainer` runs the stages; any other trainer trains the one of
    ``train_stage``, which is pre-training for ``both``.

    Reference:
        Hou et al. "Towards Universal Sequence Representation Learning for Recommender Systems." KDD 2022.

    Options:
        embedding_size, n_layers, n_heads, inner_size, hidden_dropout_prob, attn_dropout_prob, n_experts,
        adaptor_dropout, temperature, loss_type, item_drop_rate, augmented_modality, pretrain_datasets, project_to,
        finetune_stage, freeze_encoder.

    Note:
        The authors' code sets the logit of rows with the anchor's target to 0, which adds 1 to the sum; here they are
        left out. Its softmax of fine-tuning has the padding and every item as candidates. It draws a dropout for each
        expert; here it is one for all. It ranks by cosines, here they are divided by the temperature: the same lists.
        It reads features by row number; here they come with their ids. Several modalities, each with an adaptor of its
        own, are ours, and so is the mean embedding for items that training never saw. The authors' width is 300
        (``properties/experiment/UniSRec-paper.yaml``).
    """

    has_contrastive_term = True
    cosine = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o = self.options
        self.dim = o.integer("embedding_size", minimum=1)
        o.choice("loss_type", ("CE",))  # RecBole asks for it where a model has no negatives
        if config["train_neg_sample_args"]["distribution"] != "none":
            raise ValueError("UniSRec is trained without negatives; leave train_neg_sample_args at its default, ~.")
        self.temperature = o.number("temperature")
        check_temperature(self.temperature)
        self.item_drop_rate = o.number("item_drop_rate", minimum=0, maximum=1)
        # For the trainer.
        self.pretrain_datasets = o.optional_texts("pretrain_datasets")
        self.finetune_stage = o.choice("finetune_stage", PHASES[1:])
        self.freeze_encoder = o.boolean("freeze_encoder")

        width = o.optional_integer("project_to", minimum=1)
        if width is not None:
            self.features = _projected(self.features, width)
        self.augmented = self._read_augmented()
        self.content_modalities = tuple(m for m in self.features if m not in self.augmented.values())
        n_experts, dropout = o.integer("n_experts", minimum=1), o.number("adaptor_dropout", minimum=0, maximum=1)
        self.adaptor = nn.ModuleDict(
            {m: ExpertAdaptor(self.features.dims[m], self.dim, n_experts, dropout) for m in self.content_modalities}
        )
        self.encoder = SequenceEncoder(
            self.dim, self.max_seq_length, o.integer("n_layers", minimum=1), o.integer("n_heads", minimum=1),
            o.integer("inner_size", minimum=1), o.number("hidden_dropout_prob", minimum=0, maximum=1),
            o.number("attn_dropout_prob", minimum=0, maximum=1),
        )  # fmt: skip
        self.item_embedding: nn.Embedding | None = None
        #: Items of the data sets to pre-train on, where they are others than the model's own.
        self.pretrain_features: FeatureBank | None = None
        self.register_buffer("finished_stages", torch.zeros((), dtype=torch.long))
        self.register_buffer("pretrained", torch.zeros((), dtype=torch.bool))
        wanted = o.choice("train_stage", (*PHASES, "both"))
        self.phase = "pretrain"
        self.start("pretrain" if wanted == "both" else wanted)
        self.choose_rows(padding=False)

    @property
    def ranked_modalities(self) -> tuple[str, ...]:
        """Modalities whose rows the ranking reads; augmented ones are for pre-training."""
        return self.content_modalities

    def _read_augmented(self) -> dict[str, str]:
        """Modality to the one that holds its augmented features."""
        found = self.options.optional_mapping("augmented_modality") or {}
        for modality, augmented in found.items():
            for name in (modality, augmented):
                if name not in self.features:
                    raise ValueError(
                        f"augmented_modality: {name!r} is no modality in use; there are {', '.join(self.features)}."
                    )
            if self.features.dims[modality] != self.features.dims[augmented] or modality in found.values():
                raise ValueError(
                    f"augmented_modality: {augmented!r} must hold augmented features of {modality!r}, vectors of the "
                    f"same width; got {self.features.dims[modality]} and {self.features.dims[augmented]} numbers. Set "
                    "it to a mapping such as {text: text_dropped}."
                )
        return found

    def start(self, phase: str) -> None:
        """Enter a stage: fresh embeddings where it has them and the model has none, and none where it has none."""
        self.phase = phase
        if phase != "transductive_ft":
            self.item_embedding = None
        elif self.item_embedding is None:
            self.item_embedding = nn.Embedding(self.n_items, self.dim, device=self.seen.device)
            nn.init.normal_(self.item_embedding.weight, std=INITIAL_SCALE)
        self._forget_representations()

    def content(self, features: FeatureBank, rows: Tensor | None, augmented: bool = False) -> Tensor:
        """Vectors of items by their features, ``(n_rows, dim)``; those of augmented features where there are any."""
        shares = content_shares(features, self.content_modalities)
        shares = shares if rows is None else shares[rows]
        parts = []
        for share, (modality, adaptor) in zip(shares.unbind(1), self.adaptor.items()):
            table = features[self.augmented.get(modality, modality) if augmented else modality]
            parts.append(share.unsqueeze(1) * adaptor(rows_at(table, rows)))
        return torch.stack(parts).sum(dim=0)

    def vectors(self, rows: Tensor | None = None) -> Tensor:
        """Vectors of the items ``rows``, by default of all, in the stage that the model is in: ``(n_rows, dim)``."""
        vectors = self.content(self.features, rows)
        if self.item_embedding is None:
            return vectors
        embedded, real = own_or_mean(self.item_embedding.weight, self.seen, rows)
        return (vectors + embedded) * real

    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """Every item in histories and as a candidate."""
        vectors = self.vectors()
        return vectors, vectors

    def states(self, table: Tensor, item_seq: Tensor, last: Tensor) -> Tensor:
        """States ``(batch, dim)`` of position ``last`` of each history; ids are rows of ``table``."""
        return self.encoder.last(F.embedding(item_seq, table), causal_bias(item_seq), last)

    def calculate_loss(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        """The losses of the stage that the model is in."""
        history, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        target = interaction[self.POS_ITEM_ID]
        if self.phase == "pretrain":
            return self.pretraining_losses(history, length, target)
        vectors = self.vectors(self.step_rows)
        states = self.history_states(vectors, self.step_place[history], length)
        return self.softmax_loss(states, vectors, self.step_place[target], self.step_valid)

    def pretraining_losses(self, history: Tensor, length: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Sequence to item, and sequence to augmented sequence, of the items of ``pretrain_features``.

        Args:
            history: Items, filled up with 0 on the right. Shape ``(batch, length)``.
            length: Numbers of items. Shape ``(batch,)``.
            target: Next items. Shape ``(batch,)``.
        """
        features = self.features if self.pretrain_features is None else self.pretrain_features
        n_items = len(next(iter(features.observed.values())))
        ids = torch.cat([history.new_zeros(1), history.flatten(), target])  # row 0 must be the padding
        rows, among = batch_rows(ids, n_items, distinct=True)
        place = ids if among is None else among
        history, ends = place[1 : 1 + history.numel()].view_as(history), place[1 + history.numel() :]
        vectors = self.content(features, rows)
        states = self.history_states(vectors, history, length)
        candidates = F.embedding(ends, vectors)
        losses = (info_nce_loss(states, candidates, self.temperature, same=target),)
        if self.contrastive_weight == 0:
            return losses
        view = self._augmented_states(features, rows, vectors, history, length)
        contrast = info_nce_loss(states, view, self.contrastive_temperature, same=target)
        return (*losses, self.contrastive_weight * contrast)

    def _augmented_states(
        self, features: FeatureBank, rows: Tensor | None, vectors: Tensor, history: Tensor, length: Tensor
    ) -> Tensor:
        """States of the histories with items dropped; in half of the steps, where there are any, of other features."""
        if self.augmented and torch.rand(()) < 0.5:
            return self.history_states(self.content(features, rows, augmented=True), history, length)
        return self.history_states(vectors, *drop_items(history, length, self.item_drop_rate))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load parameters of any stage; the model then has embeddings of items if they have."""
        if "item_embedding.weight" in state_dict:
            self.start("transductive_ft")
        elif self.item_embedding is not None:
            self.start("inductive_ft")
        return super().load_state_dict(state_dict, *args, **kwargs)


def drop_items(history: Tensor, length: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Histories without some of their items; at least one, the last one, stays.

    Args:
        history: Items, filled up with 0 on the right. Shape ``(batch, length)``.
        length: Numbers of items. Shape ``(batch,)``.
        rate: Probability with which an item is dropped.

    Returns:
        The shorter histories, filled up to the same width, and their lengths.
    """
    there = torch.arange(history.shape[1], device=history.device) < length.unsqueeze(1)
    kept = there & (torch.rand(history.shape, device=history.device) >= rate)
    last = torch.zeros_like(kept).scatter_(1, (length - 1).clamp_min(0).unsqueeze(1), True)
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, last)
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
    return (history * kept).gather(1, order), kept.sum(dim=1)


def _projected(features: FeatureBank, width: int) -> FeatureBank:
    tables = {
        m: FeatureTable(m, "item", random_projection(feature, width), features.observed[m])
        for m, feature in features.items()
    }
    return FeatureBank(tables, features.weight)
