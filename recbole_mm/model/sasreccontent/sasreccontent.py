"""SASRecContent: SASRec with items that are embeddings, content, or both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.model.next_item import NextItemModel
from recbole_mm.model.sasreccontent.items import FUSIONS, PROJECTORS, ContentItems, ItemTable
from recbole_mm.nn.attention.decoupled import ATTENTION_FUSIONS, DecoupledEncoder
from recbole_mm.nn.attention.sequence import SequenceEncoder, causal_bias
from recbole_mm.nn.loss import bpr_loss, check_temperature
from recbole_mm.nn.rows import batch_rows, unit_rows

__all__ = ["SASRecContent"]


class SASRecContent(NextItemModel):
    r"""SASRec in which an item is what its embedding and its features make of it, by one of the usual fusions.

    With :math:`c^m_i = W_m f^m_i + b_m` and :math:`c_i = \sum_m a_{im} c^m_i`, where :math:`a_{im} = w_m o_{im} /
    \sum_{m'} w_{m'} o_{im'}` leaves out the modalities that an item does not have, ``fusion`` gives the item's vector

    .. math::
        \textit{id}: e_i, \quad \textit{content}: c_i, \quad \textit{add}: e_i + c_i, \quad
        \textit{concat}: V [e_i \Vert c^1_i \Vert \dots \Vert c^M_i] + v, \quad
        \textit{gate}: g \odot e_i + (1 - g) \odot c_i,\; g = \sigma(U [e_i \Vert c_i] + u).

    SASRec's encoder reads the history :math:`x_{i_1}, \dots, x_{i_n}`; its last state :math:`s` scores items by
    :math:`\langle s, x_i \rangle`, or by their cosine over ``temperature``. With ``dif`` the encoder's values are those
    of :math:`e_i` alone, features and positions move its attention (:class:`~recbole_mm.nn.attention.decoupled.
    DecoupledEncoder`), and candidates are :math:`e_i + c_i`. The loss is cross entropy over all items that have a
    training interaction (``negative_items``), or BPR with RecBole's negatives.

    Beside content an embedding must leave room for it: in training the mean embedding stands for an item's own with
    probability ``id_dropout``, and an item that training never saw has no other.

    Reference:
        Kang, McAuley. "Self-Attentive Sequential Recommendation." ICDM 2018. Fusion in the attention: Xie et al.
        "Decoupled Side Information Fusion for Sequential Recommendation." SIGIR 2022.

    Options:
        embedding_size, n_layers, n_heads, inner_size, hidden_dropout_prob, attn_dropout_prob, loss_type, fusion,
        attention_fusion, projector, projector_hidden_size, feature_dropout, id_dropout, train_features, score,
        temperature.

    Note:
        ``id`` is RecBole's SASRec, equal in scores and loss, with the row of the padding as a candidate that is never a
        target; in the other fusions the padding is none. ``content`` ranks items without any feature by a vector of
        zeros, ``gate`` by their embedding. ``concat`` has a learned vector in place of a modality that is not there,
        and starts as the sum of its parts. ``id_dropout`` is ours, as are cross entropy over seen items only, the
        normalisation of the sides of ``dif`` and its weights of modalities; its ``concat`` combines the logits of each
        pair of positions. What is missing is masked, so that filling it (``mean``, ``knn``) changes nothing here.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o = self.options
        dim, self.fusion = o.integer("embedding_size", minimum=1), o.choice("fusion", FUSIONS)
        self.ranks_by_features = self.fusion != "id"
        self.loss_type = o.choice("loss_type", ("CE", "BPR"))
        if self.loss_type == "BPR" and config["train_neg_sample_args"]["distribution"] == "none":
            raise ValueError(
                "SASRecContent with loss_type BPR needs negatives, and train_neg_sample_args is ~, its default for CE; "
                "set train_neg_sample_args to {distribution: uniform, sample_num: 1}."
            )
        if self.fusion == "id" and self.contrastive_weight > 0:
            raise ValueError(
                "SASRecContent with fusion id reads no features, so that contrastive_weight has nothing to compare; "
                "set it to 0, or choose another fusion."
            )
        self.cosine = o.choice("score", ("dot", "cosine")) == "cosine"
        self.temperature = o.number("temperature")
        check_temperature(self.temperature)
        self.items = ContentItems(
            self.features, self.seen, dim, self.fusion, o.choice("projector", PROJECTORS),
            o.integer("projector_hidden_size", minimum=1), o.number("feature_dropout", minimum=0, maximum=1),
            o.number("id_dropout", minimum=0, maximum=1), o.boolean("train_features"),
        )  # fmt: skip
        sizes: dict[str, Any] = {
            "n_layers": o.integer("n_layers", minimum=1),
            "n_heads": o.integer("n_heads", minimum=1),
            "inner_size": o.integer("inner_size", minimum=1),
            "hidden_dropout": o.number("hidden_dropout_prob", minimum=0, maximum=1),
            "attention_dropout": o.number("attn_dropout_prob", minimum=0, maximum=1),
        }
        attention, weights = o.choice("attention_fusion", ATTENTION_FUSIONS), list(self.features.weight.values())
        self.encoder: SequenceEncoder | DecoupledEncoder = (
            DecoupledEncoder(dim, self.max_seq_length, weights, attention_fusion=attention, **sizes)
            if self.fusion == "dif"
            else SequenceEncoder(dim, self.max_seq_length, **sizes)
        )
        self.choose_rows(padding=self.fusion == "id")

    def item_vectors(self) -> tuple[ItemTable, Tensor]:
        """Every item in histories and as a candidate."""
        table = self.items(self.features)
        return table, table.vector

    def states(self, table: ItemTable, item_seq: Tensor, last: Tensor) -> Tensor:
        """States ``(batch, dim)`` of position ``last`` of each history; ids are rows of ``table``."""
        read, bias = F.embedding(item_seq, table.read), causal_bias(item_seq)
        if isinstance(self.encoder, SequenceEncoder):
            return self.encoder.last(read, bias, last)
        sides = [F.embedding(item_seq, content) for content in table.content.values()]
        there = [observed[item_seq] for observed in table.observed.values()]
        return self.encoder.last(read, bias, last, sides, there)

    def calculate_loss(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        """Cross entropy or BPR and, if asked for, the modality contrast of the next items."""
        history, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        target = interaction[self.POS_ITEM_ID]
        if self.loss_type == "CE":
            table, place = self.items(self.features, self.step_rows), self.step_place[target]
            states = self.history_states(table, self.step_place[history], length)
            loss = self.softmax_loss(states, table.vector, place, self.step_valid)
        else:
            asked = torch.cat([history, target[:, None], interaction[self.NEG_ITEM_ID][:, None]], dim=1)
            # Row 0 must be the padding, which masks are made of.
            ids = torch.cat([asked.new_zeros(1), asked.flatten()])
            wanted, among = batch_rows(ids, self.n_items, distinct=True)
            found = (ids if among is None else among)[1:].view_as(asked)
            table = self.items(self.features, wanted)
            place = found[:, -2]
            states = self.history_states(table, found[:, :-2], length)
            vectors = unit_rows(table.vector) if self.cosine else table.vector
            states = unit_rows(states) / self.temperature if self.cosine else states
            scores = (states.unsqueeze(1) * F.embedding(found[:, -2:], vectors)).sum(dim=2)
            loss = bpr_loss(scores[:, 0], scores[:, 1])
        if self.contrastive_weight == 0 or len(self.features) < 2:
            return loss
        return loss, self.modality_contrast({m: F.embedding(place, x) for m, x in table.content.items()}, target)
