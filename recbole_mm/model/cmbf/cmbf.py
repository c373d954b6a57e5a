"""CMBF: feature learning within image and text, then cross-modal fusion of both for every user-item pair."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from recbole.model.init import xavier_normal_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.cmbf.chunks import AnyNetwork, pairs_at_once
from recbole_mm.model.cmbf.tokens import ImageTokens, ItemFields, image_branch
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.tokens import SideFields, present_rows
from recbole_mm.model.user_tokens import UserTokens, user_files
from recbole_mm.nn.attention.coattention import Tokens, take_rows
from recbole_mm.nn.attention.cross_modal import CrossModalNetwork
from recbole_mm.nn.attention.cross_modal_folded import FoldedNetwork
from recbole_mm.nn.attention.multi_head import FEW_TOKENS
from recbole_mm.nn.attention.softmax import masked_mean
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.loss import bpr_loss
from recbole_mm.nn.rows import batch_rows

__all__ = ["CMBF"]


class CMBF(MultimodalRecommender):
    r"""Image and text tokens of a user-item pair learn first among themselves, then from each other.

    The text branch holds fields: user ID, item ID, side fields (a mean of embeddings where a field has several
    values), and one token per modality. The image branch holds one token per entry of the reduced image vector,
    :math:`v_j = x_j w_j` with :math:`x = W f_i + b`, or one per patch. After ``n_image_layers`` and ``n_text_layers``
    of self-attention with a feed-forward network, ``n_cross_layers`` times, for each branch
    :math:`b \in \{g, t\}`:

    .. math::
        x^g &= \mathrm{MHA}(e^g, e^t, e^t), \qquad x^t = \mathrm{MHA}(e^t, e^g, e^g) \qquad (\text{no residual}), \\
        y^b &= \mathrm{LN}(x^b + \mathrm{MHA}(x^b, x^b, x^b) W_O), \qquad
        e^b \leftarrow \mathrm{LN}(y^b + \mathrm{FFN}(y^b)), \\
        \hat y_{ui} &= \sigma(w^\top [\mathrm{pool}(e^g) ; \mathrm{flatten}(e^t)] + b).

    Loss: log loss (``loss: bpr``, ours: BPR) + ``reg_weight`` * half the squared length of the fields of a pair,
    averaged over the batch.

    Reference:
        Chen, Lu, Wang, Yang. "CMBF: Cross-Modal-Based Fusion Recommendation Algorithm." Sensors 21(16), 2021.

    Options:
        embedding_size, image_modality, image_feature_dim, text_as_fields, side_fields, user_feature_source,
        n_image_layers, n_text_layers, n_cross_layers, n_heads, cross_heads, use_layer_norm, dropout, image_pool,
        final_mlp, loss, reg_weight, eval_pair_chunk.

    Note:
        The paper's figures show modules, layers and residuals, and its scale is 2, 2 and 3 layers. Not readable
        were widths, heads, normalisation and training, which are ours or follow the re-implementation in
        EasyRec: layer normalisation after each residual (``use_layer_norm: False`` is the figure), a
        feed-forward network four times as wide, the reduction of the image vector, the mean over image tokens
        (``image_pool: flatten`` concatenates them as drawn). The paper's text is tabular fields; a text vector
        is one more token here. All tokens have one width, so that an item without an image skips the
        cross-attention of the text branch; its image pools to zero. The image branch reads the modality
        ``image``, where there is none that with the widest vectors, so no branch is ever empty. The means over
        a user's training history (``user_feature_source: none`` is the paper's tokens) are ours, and leave out
        the scored item where the pair is one of training. ``predict`` gives probabilities (log loss needs
        them), and ``full_sort_predict`` their logits: the same order without ties at 0 and 1. Full ranking is
        exact: the image tower runs once per item, and users' and items' first projections once each; the rest
        is per pair, in chunks. The log loss calibrates clicks, which is what the paper measures; for lists
        ``loss: bpr`` is the better choice: on lfm2k thinned to 1 to 3 pairs for most users, Recall@20 among
        100 sampled items is .330 with the log loss, .352 with BPR and .361 for LightGCN (one seed, 30 epochs).
    """

    input_type = InputType.POINTWISE
    accepts_patches = True
    uses = ("item", "user")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.label_field = config["LABEL_FIELD"]
        options = self.options
        dim = options.integer("embedding_size", minimum=1)
        self.loss = options.choice("loss", ("bce", "bpr"))
        sampling = (config["train_neg_sample_args"] or {}).get("distribution", "none")
        if self.loss == "bpr" and sampling in ("none", "None", None):
            raise ValueError(
                "CMBF option 'loss': bpr compares a pair with sampled negatives, and train_neg_sample_args draws none. "
                "Use loss: bce for labels, or sample negatives."
            )
        self.reg_weight = options.number("reg_weight", minimum=0)
        self.pair_chunk = options.optional_integer("eval_pair_chunk", minimum=1)
        self.memory = 2**20 * options.number("eval_memory_mb")
        self.image_pool = options.choice("image_pool", ("mean", "flatten"))

        observed = present_rows(self, self.features)
        image = image_branch(options.optional_text("image_modality"), self.features)
        self.image_tokens = ImageTokens(
            self.features, image, options.optional_integer("image_feature_dim", minimum=1), dim
        )
        self.register_buffer("has_image", observed[image], persistent=False)
        only = None if options.boolean("side_fields") else ()
        user_side, item_side = (
            SideFields(dataset, entity, dim, only, self.known_rows.get(entity)) for entity in ("user", "item")
        )
        others = [modality for modality in self.features if modality != image]
        n_scalars = options.integer("text_as_fields", minimum=0)
        self.item_tokens = ItemFields(self.features, observed, others, self.n_items, dim, n_scalars, item_side)
        self.user_tokens = self._make_user_tokens(dataset, observed, dim, user_side)

        self.network = CrossModalNetwork(
            dim,
            n_image_layers=options.integer("n_image_layers", minimum=0),
            n_text_layers=options.integer("n_text_layers", minimum=0),
            n_cross_layers=options.integer("n_cross_layers", minimum=0),
            n_heads=options.integer("n_heads", minimum=1),
            cross_heads=options.integer("cross_heads", minimum=1),
            dropout=options.number("dropout", minimum=0, maximum=1),
            use_layer_norm=options.boolean("use_layer_norm"),
        )
        self.n_text = self.item_tokens.present.shape[1] + len(item_side) + len(user_side)
        self.n_text += self.user_tokens.present.shape[1] + self.user_tokens.n_pooled
        pooled = 1 if self.image_pool == "mean" else self.image_tokens.n_tokens
        widths = [(pooled + self.n_text) * dim, *options.integers("final_mlp", minimum=1)]
        hidden = [part for sizes in zip(widths, widths[1:]) for part in (nn.Linear(*sizes), nn.ReLU())]
        self.head_width = sum(widths)
        self.output = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        self.apply(xavier_normal_initialization)

    def _make_user_tokens(self, dataset: Any, observed: dict[str, Tensor], dim: int, side: SideFields) -> UserTokens:
        source = self.options.choice("user_feature_source", ("none", "history", "file"))
        files = user_files(self, source)
        pooled = FeatureBank({}, {}) if source == "none" else self.features
        if source != "none":
            users, items = self.training_pairs
            self.register_buffer("pair_keys", users * self.n_items + items, persistent=False)
        graph = self.interaction_graph()
        return UserTokens(pooled, observed, files, present_rows(self, files), graph, dim, side)

    def forward(self) -> tuple[Any, Any]:
        """Fields of all users; fields and image tower of all items: what an evaluation keeps."""
        everything = torch.arange(self.n_items, device=self.device)
        blocks = everything.split(self._chunk(self.network))
        image = torch.cat([self._tower(ids) for ids in blocks])
        return self.user_tokens()[0], (self.item_tokens(), image)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Log loss, regularisation and, if asked for, the modality contrast of a batch."""
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        rows, place = batch_rows(item, self.n_items)
        items = self.item_tokens(rows).rows(cast(Tensor, place))
        image = take_rows(self._tower(rows), cast(Tensor, place))
        text = _join(self._training_users(user, item, interaction[self.label_field]), items)
        logits = self._score(self.network, text, image, item)
        length = (text.values.square().sum(dim=-1) * text.mask).sum() / (2 * len(user))
        losses: tuple[Tensor, ...] = (self._ranking(logits, interaction[self.label_field]), self.reg_weight * length)
        if self.contrastive_weight > 0:
            contrasted = {m: items.values[:, slots].mean(dim=1) for m, slots in self.item_tokens.slots.items()}
            contrasted[self.image_tokens.modality] = masked_mean(image, self.image_tokens.own(item))
            losses += (self.modality_contrast(contrasted, item),)
        return losses

    def _ranking(self, logits: Tensor, label: Tensor) -> Tensor:
        """Log loss, or every sampled negative against the positive that it was drawn for."""
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))
        partner = torch.arange(len(logits), device=logits.device) % max(int((label > 0).sum()), 1)
        sampled = (label <= 0).nonzero().squeeze(1)
        return bpr_loss(logits[partner[sampled]], logits[sampled])

    def _training_users(self, user: Tensor, item: Tensor, label: Tensor) -> Tokens:
        """Fields of a batch's users; an item that is in the history is left out of it.

        RecBole lays a batch's sampled negatives below its positives, in their order. A negative meets the history that
        its positive meets: otherwise the model would learn which histories lack an item.
        """
        rows, place = batch_rows(user, self.n_users)
        tokens, total = self.user_tokens(rows)
        values, mask = tokens.rows(cast(Tensor, place))
        n_pooled = self.user_tokens.n_pooled
        if not n_pooled:
            return Tokens(values, mask)
        n_positive = max(int((label > 0).sum()), 1)
        partner = torch.arange(len(user), device=user.device) % n_positive
        sampled = ~self._is_known(user, item) & (user[partner] == user)
        left_out = torch.where(sampled, item[partner], item)
        without = self.user_tokens.without(take_rows(total, cast(Tensor, place)), user, left_out)
        known = self._is_known(user, left_out).unsqueeze(1)
        pooled = torch.where(known.unsqueeze(2), without.values, values[:, -n_pooled:])
        pooled_mask = torch.where(known, without.mask, mask[:, -n_pooled:])
        return Tokens(
            torch.cat([values[:, :-n_pooled], pooled], dim=1), torch.cat([mask[:, :-n_pooled], pooled_mask], dim=1)
        )

    def _is_known(self, user: Tensor, item: Tensor) -> Tensor:
        """Which pairs are training pairs, bool ``(batch,)``."""
        keys, key = self.pair_keys, user * self.n_items + item
        return keys[torch.searchsorted(keys, key).clamp(max=len(keys) - 1)] == key

    def _branches(
        self, network: AnyNetwork, text: Tokens, image: Tensor, item: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the head reads of a batch of pairs, given the fields and the output of the image tower."""
        inputs, own = (network.image_input(image), network.text_input(text.values)), self.image_tokens.own(item)
        return *network(*inputs, text.mask, self.has_image[item], own), own

    def _score(self, network: AnyNetwork, text: Tokens, image: Tensor, item: Tensor) -> Tensor:
        """Logits of a batch of pairs."""
        return self._head(*self._branches(network, text, image, item))

    def _evaluated(self) -> AnyNetwork:
        """The network, or where nothing is learnt and it is the faster one, the same function folded."""
        frozen = not self.training and not torch.is_grad_enabled()
        few = max(self.image_tokens.n_tokens, self.n_text) <= FEW_TOKENS
        layers = len(self.network.text_layers) + len(self.network.cross_layers)
        return FoldedNetwork(self.network) if frozen and few and layers and self.device.type == "cpu" else self.network

    def _tower(self, ids: Tensor | None) -> Tensor:
        """The image branch of some items, or of all, before it meets the text, ``(n, n_image, dim)``."""
        return self.network.image_tower(self.image_tokens(ids), self.image_tokens.own(ids))

    def _head(self, image: Tensor, text: Tensor, own: Tensor | None) -> Tensor:
        pooled = masked_mean(image, own) if self.image_pool == "mean" else image.flatten(1)
        return self.output(torch.cat([pooled, text.flatten(1)], dim=1)).squeeze(1)

    def diagnostics(self) -> dict[str, Part]:
        """What the head reads of the image branch and of the text branch, of some items and one user."""
        users, (items, image) = self._evaluation()
        ids = torch.arange(1, min(self.n_items, 65), device=self.device)
        ids = ids[self.has_image[ids]]
        if len(ids) < 2:
            return {}
        text = _join(users.rows(torch.ones_like(ids)), items.rows(ids))
        *branches, _ = self._branches(self.network, text, take_rows(image, ids), ids)
        # Entries of a branch, around their mean over the items: nothing where it is the same for every item.
        spread = (branch.flatten(1) - branch.flatten(1).mean(dim=0) for branch in branches)
        names = "the image branch", "the text branch"
        return {name: Part("weights", values) for name, values in zip(names, spread)}

    def predict(self, interaction: Any) -> Tensor:
        """Probabilities of the given pairs, shape ``(batch,)``."""
        users, (items, image) = self._evaluation()
        logits, network = [], self._evaluated()
        chunk = self._chunk(network)
        for user, item in zip(*(interaction[field].split(chunk) for field in (self.USER_ID, self.ITEM_ID))):
            text = _join(users.rows(user), items.rows(item))
            logits.append(self._score(network, text, take_rows(image, item), item))
        return torch.cat(logits).sigmoid()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Logits of every item for the given users, flattened from ``(batch, n_items)``."""
        return self.score_items(interaction, torch.arange(self.n_items, device=self.device)).view(-1)

    def score_items(self, interaction: Any, wanted: Tensor) -> Tensor:
        """Logits of the wanted items for the given users, ``(batch, n)``."""
        users, (items, image) = self._evaluation()
        users = users.rows(interaction[self.USER_ID])
        network = self._evaluated()
        chunk = self._chunk(network)
        text = Tokens(network.text_input(users.values), users.mask)
        n_blocks = math.ceil(len(wanted) / chunk)
        n_block = math.ceil(len(wanted) / n_blocks)  # of one size: the last is no remnant
        columns = []
        for block in wanted.split(n_block):
            block_items = Tokens(network.text_input(items.values[block]), items.mask[block])
            inputs = block_items, network.image_input(image[block]), self.has_image[block], self.image_tokens.own(block)
            parts = zip(*(part.split(max(chunk // n_block, 1)) for part in text))
            columns.append(torch.cat([self._grid(network, Tokens(*some), *inputs) for some in parts]))
        return torch.cat(columns, dim=1)

    def _grid(
        self, network: AnyNetwork, users: Tokens, items: Tokens, image: Tensor, present: Tensor, own: Tensor | None
    ) -> Tensor:
        """Logits ``(n_users, n_items)`` of all pairs. One user at a time needs no copy of the items' image."""
        shape = (len(users.values), len(items.values))

        def spread(part: Tensor, dim: int) -> Tensor:
            return part.unsqueeze(dim).expand(*shape, *part.shape[1:]).flatten(0, 1)

        text = _join(*(Tokens(*(spread(part, dim) for part in side)) for side, dim in ((users, 1), (items, 0))))
        own = None if own is None else spread(own, 0)
        image, words = network(spread(image, 0), *text, spread(present, 0), own)
        return self._head(image, words, own).view(shape)

    def _evaluation(self) -> tuple[Tokens, tuple[Tokens, Tensor]]:
        return cast("tuple[Tokens, tuple[Tokens, Tensor]]", self.representations())

    def _chunk(self, network: AnyNetwork) -> int:
        """Pairs, or items of the image tower, that are computed at once."""
        if self.pair_chunk:
            return self.pair_chunk
        tokens = self.image_tokens.n_tokens, self.n_text
        return pairs_at_once(
            network, *tokens, self.image_tokens.width, self.head_width, self.memory, self.device.type == "cpu"
        )


def _join(users: Tokens, items: Tokens) -> Tokens:
    return Tokens(*(torch.cat(parts, dim=1) for parts in zip(users, items)))
