"""Ranking and contrast of models that put views of content beside a behaviour view: MGCN, SMORE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.loss import bpr_loss, contrast_scale, first_occurrence, info_nce_loss, l2_penalty
from recbole_mm.nn.rows import batch_rows

__all__ = ["ContentViews"]

Side = tuple[Tensor, Tensor]


class ContentViews:
    r"""Beside a model base: representations are a behaviour view plus a fusion of content views, which are contrasted.

    With :math:`b` the behaviour view of a node and :math:`v` what :meth:`_side` makes of its content views, scores are
    :math:`\langle b_u + v_u, b_i + v_i \rangle`, and

    .. math:: L = L_{BPR} + \lambda \|\cdot\|^2 + \beta\, [\mathrm{InfoNCE}(v_i, b_i) + \mathrm{InfoNCE}(v_u, b_u)]

    over the batch's positive items and users; ``contrast_by_length`` scales :math:`\beta` by
    :func:`~recbole_mm.nn.loss.contrast_scale` of the representations. A model gives :meth:`_views` and :meth:`_side`,
    calls :meth:`_read_contrast` and ``keep_observed``, and reads ``reg_weight``.
    """

    options: Any
    distinct_ids: bool
    contrast_by_length: bool
    reg_weight: float
    contrastive_weight: float
    contrastive_temperature: float
    user_observed: Tensor
    item_observed: Tensor
    USER_ID: str
    ITEM_ID: str
    NEG_ITEM_ID: str

    def _read_contrast(self) -> None:
        self.distinct_ids = self.options.boolean("distinct_ids")
        self.contrast_by_length = self.options.boolean("contrast_by_length", before=False)

    def _views(self) -> tuple[Side, Side]:
        """Behaviour view and all content views side by side of all users, and the same of all items."""
        raise NotImplementedError

    def _side(self, behaviour: Tensor, views: Tensor, observed: Tensor) -> Tensor:
        """``v`` of the given rows, ``(n, d)``."""
        raise NotImplementedError

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d)`` and ``(n_items, d)``."""
        users, items = self._views()
        return users[0] + self._side(*users, self.user_observed), items[0] + self._side(*items, self.item_observed)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Ranking, penalty and the contrast of content with behaviour of a batch."""
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items = self._views()
        # Gates, attention and fusion are a node's own: only the batch's nodes need them.
        user_behaviour, user_side = self._rows(user, *users, self.user_observed)
        both = self._rows(torch.cat([positive, negative]), *items, self.item_observed)
        (behaviour, _), (side, _) = both[0].chunk(2), both[1].chunk(2)
        anchor, (near, far) = user_behaviour + user_side, (both[0] + both[1]).chunk(2)
        losses: tuple[Tensor, ...] = (
            bpr_loss((anchor * near).sum(dim=1), (anchor * far).sum(dim=1)),
            self.reg_weight * l2_penalty(anchor, near, far),
        )
        if self.contrastive_weight > 0:
            contrast = self._contrast(side, behaviour, positive) + self._contrast(user_side, user_behaviour, user)
            scale = contrast_scale(anchor, near) if self.contrast_by_length else 1.0
            losses += (self.contrastive_weight * scale * contrast,)
        return losses

    def _rows(self, ids: Tensor, behaviour: Tensor, views: Tensor, observed: Tensor) -> Side:
        rows, place = batch_rows(ids, len(behaviour))
        if rows is not None:
            behaviour, views, observed = F.embedding(rows, behaviour), F.embedding(rows, views), observed[rows]
        side = self._side(behaviour, views, observed)
        return F.embedding(place, behaviour), F.embedding(place, side)  # type: ignore[arg-type]

    def _contrast(self, side: Tensor, behaviour: Tensor, ids: Tensor) -> Tensor:
        valid = first_occurrence(ids) if self.distinct_ids else None
        return info_nce_loss(side, behaviour, self.contrastive_temperature, valid=valid)
