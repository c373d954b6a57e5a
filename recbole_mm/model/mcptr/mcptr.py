"""MCPTR: multi-modal contrastive pre-training, then fine-tuning of another recommender."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.config.shared import FEATURE_NORMS
from recbole_mm.model.base import MultimodalRecommender
from recbole_mm.model.mcptr.encoders import Encoders, ModalityTables
from recbole_mm.model.mcptr.finetune import (
    FINETUNE_MODELS,
    FinetuneConfig,
    TrainingMatrix,
    build_recommender,
    forget_caches,
    score_all_items,
    start_from,
    to_pointwise,
)
from recbole_mm.model.mcptr.reviews import ReviewTable, history_as_reviews, training_reviews
from recbole_mm.nn.graph.sparse import full_precision
from recbole_mm.nn.loss import l2_penalty
from recbole_mm.nn.rows import batch_rows

__all__ = ["MCPTR"]


class MCPTR(MultimodalRecommender):
    r"""Encoders of all modalities are trained to agree, and their fusion to tell interactions; then only tables go on.

    **Pre-training.** Users and items each have a graph of whom they share most interactions with,

    .. math:: \hat A = D^{-1/2} (\max(C, C^\top) + I) D^{-1/2}, \quad C = \text{the } k \text{ largest per row of }
              R R^\top \text{ (users)}, \; R^\top R \text{ (items)}.

    An item's modalities are its projected features :math:`x^m_i = W_m f^m_i + b_m` and its row of a graph
    convolution over ID embeddings; a user's are the reviews, :math:`p_u = \sum_k \mathrm{softmax}_k(h^\top
    \tanh(W_a r_k + b_a))\, r_k` with :math:`r_k = W_r\, \mathrm{rev}_k + b_r` (intra-modal), the projected user
    features where there are any, and the user graph. Stacked as rows of :math:`X`, they are fused by self-attention in
    which every modality has the same place (inter-modal):

    .. math::
        A &= \mathrm{softmax}\big(X W_Q (X W_K)^\top / \sqrt d\big), \qquad e = \mathrm{mean}_m (A X W_V)_m,
        \qquad \hat y_{ui} = \sigma(\langle e_u, e_i \rangle), \\
        L &= \mathrm{BCE}(\hat y, y) + \lambda\, \mathrm{InfoNCE}\big(\{G_m x^m_i\}\big) + \rho \lVert \cdot \rVert^2

    over the batch's pairs and as many negatives; InfoNCE aligns the modalities of the batch's distinct items, before
    fusion (image and text in the paper, all pairs of modalities here). :math:`\lambda` is ``contrastive_weight``.

    **Fine-tuning.** :math:`E_U, E_I`, the tables of all :math:`e_u, e_i`, become the embeddings of RecBole's own
    recommender, which is trained with its own loss on interactions alone. The encoders are gone by then.
    :class:`~recbole_mm.trainer.mcptr.MCPTRTrainer` runs both stages; any other trainer trains the stage that the model
    is in, which is pre-training at first.

    Reference:
        Liu et al. "Multi-modal Contrastive Pre-training for Recommendation." ICMR 2022.

    Options:
        embedding_size, initialisation, graph_topk, graph_encoder, graph_layers, graph_rate, review_source,
        text_modality, max_reviews, pretrain_reg_weight, finetune_model, finetune_learning_rate,
        pretrained_feature_path.

    Note:
        Neither the paper's code nor its hyper-parameters are public. Ours are: the weights and pruning of the graphs,
        the graph encoder, linear encoders of extracted features (the paper trains a language model), the form of the
        attention over reviews, one uniform negative, all sizes; the paper's 100 epochs of pre-training are 30 by
        default. Features and graphs are constants. The review of the scored positive is left out of its user's reviews
        in training, for the negative too, since it would reveal the answer; reviews of validation and test are never
        read. Without review files the latest items' texts stand for reviews (``review_source``). ``modality_weight``
        scales a modality's row of X; modalities that items do not have, such as one of reviews alone, have weight 1.
        What is missing is masked, so that filling it (``mean``, ``knn``) changes nothing here.
        The paper says nothing of how maps start. Drawn independently (``initialisation: random``), the maps of reviews
        and of items' features make untrained scores a random bilinear form of contents, also where both are the same
        vectors (``item_text``). With ``aligned``, ours, reviews start with the orthogonal, lengthened map of the item
        modality of their name, if they are as wide; both value matrices as identities, and ID embeddings short, so that
        untrained users are near items like theirs. That alone does not last: the homogeneous graphs hold the very pairs
        that are scored, and with the rate of the rest the graph encoders memorise these, and what is popular, within
        three epochs; a penalty on ID embeddings does not stop them, since convolutions grow instead. With
        ``graph_rate`` .03 content is learned first, and what IDs know is left to fine-tuning. Validation Recall@20 on a
        sparse sample of microlens, before fine-tuning: random .003 untrained, .031 after 30 epochs; aligned .040
        untrained, .034 after ten epochs; with the slow rate .046 after eight and sixteen.
    """

    has_contrastive_term = True
    uses = ("item", "user", "review")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        options = self.options
        self.dim = options.integer("embedding_size", minimum=1)
        self.reg_weight = options.number("pretrain_reg_weight", minimum=0)
        self._encoders = (
            options.integer("graph_layers", minimum=0),
            options.choice("graph_encoder", ("gcn", "lightgcn")),
            options.choice("initialisation", ("aligned", "random"), before="random") == "aligned",
        )
        self.finetune_model = options.choice("finetune_model", FINETUNE_MODELS)
        self._finetune_config = FinetuneConfig(config, self.finetune_model, self.dim)
        # For the trainer.
        self.graph_rate = options.number("graph_rate", minimum=0, maximum=1, before=1.0)
        self.finetune_learning_rate = options.number("finetune_learning_rate", minimum=0)
        self.pretrained_feature_path = options.optional_text("pretrained_feature_path")
        self.register_buffer("finished_stages", torch.zeros((), dtype=torch.long))

        top_k = options.integer("graph_topk", minimum=1)
        reviews = self._read_reviews(dataset)
        self.tables = ModalityTables(self.interactions, top_k, self.features, self.user_features, reviews)
        self.encoders: Encoders | None = None
        self.recommender: Any = None
        self._build("pretrain")
        if self.new_item_ids is not None and self.finetune_model == "NeuMF":
            getLogger().warning(
                "new_item_neighbours: NeuMF scores pairs and has no vectors; new items are scored by their own tables."
            )
        if self.contrastive_weight > 0 and len(self.features) < 2:
            getLogger().info("MCPTR: there is one modality, so that contrastive_weight has nothing to align.")

    def _read_reviews(self, dataset: Any) -> dict[str, ReviewTable]:
        options = self.options
        source = options.choice("review_source", ("auto", "reviews", "item_text"))
        text = options.text("text_modality")
        limit = options.integer("max_reviews", minimum=1)
        files = {} if source == "item_text" else dict(sorted(dataset.features.inter.items()))
        norm = options.per_modality("feature_norm", dataset.features.available, "choice", FEATURE_NORMS, default="none")
        tables: dict[str, ReviewTable | None] = {
            modality: training_reviews(reviews, dataset, self.n_users, self.n_items, limit, norm[modality])
            for modality, reviews in files.items()
        }
        if source != "reviews" and not any(table is not None for table in tables.values()) and text in self.features:
            getLogger().info(f"MCPTR: a user's reviews are the {text} features of the latest {limit} training items.")
            observed = self.features.observed[text]
            tables[text] = history_as_reviews(self.features[text], observed, dataset, self.n_users, limit)
        found = {modality: table for modality, table in tables.items() if table is not None}
        if not found:
            instead = "" if source == "reviews" else f"nor the item modality text_modality = {text!r} "
            getLogger().warning(
                "MCPTR: there are neither reviews (<dataset>.inter.<modality> files) of training interactions "
                f"{instead}among the modalities in use, so that a user is known by the user graph alone."
            )
        return found

    @property
    def stage(self) -> str:
        """``pretrain`` or ``finetune``."""
        return "pretrain" if self.recommender is None else "finetune"

    def _build(self, stage: str) -> None:
        """Make the freshly initialised parameters of one stage and drop those of the other."""
        device = self.finished_stages.device
        self.encoders, self.recommender = None, None
        if stage == "pretrain":
            self.encoders = Encoders(self.tables, self.dim, *self._encoders).to(device)
        else:
            data = TrainingMatrix({self.USER_ID: self.n_users, self.ITEM_ID: self.n_items}, self.interactions)
            self.recommender = build_recommender(self.finetune_model, self._finetune_config, data).to(device)
            self.recommender.train(self.training)
        self.ranks_by_features = self.recommender is None
        self._forget_representations()

    def pretraining_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters of pre-training as an optimiser takes them; those of the graph encoders learn at ``graph_rate``.

        Raises:
            ValueError: The model is being fine-tuned already.
        """
        encoders = self._pretraining_encoders()
        if self.graph_rate == 1:  # one group, as in the states of runs that were interrupted before there were two
            return [{"params": list(encoders.parameters())}]
        return encoders.parameter_groups(learning_rate, self.graph_rate)

    def start_finetuning(self) -> None:
        """Replace the encoders by RecBole's recommender, whose embeddings are the tables that they give."""
        users, items = self.pretrained()
        self._build("finetune")
        start_from(self.finetune_model, self.recommender, users, items)

    @torch.no_grad()
    def pretrained(self) -> tuple[Tensor, Tensor]:
        """The pre-trained tables, ``(n_users, d)`` and ``(n_items, d)``, with zero rows for the padding.

        Raises:
            ValueError: The model is being fine-tuned already.
        """
        self._pretraining_encoders()
        return self.forward()

    def _pretraining_encoders(self) -> Encoders:
        if self.encoders is None:
            raise ValueError(
                "MCPTR: this model is in the stage finetune, where there are no encoders any more; load the checkpoint "
                "of the stage pretrain (<name>-pretrain.pth)."
            )
        return self.encoders

    def forward(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and items, ``(n_users, d)`` and ``(n_items, d)``.

        Raises:
            NotImplementedError: While a recommender is fine-tuned that does not score by inner products.
        """
        if self.encoders is not None:
            users, items = self.encoders(self.tables)
            return users, items
        if self.finetune_model == "NeuMF":
            raise NotImplementedError("NeuMF scores pairs; it has no representations of users and items.")
        if self.finetune_model == "BPR":
            return self.recommender.user_embedding.weight, self.recommender.item_embedding.weight
        return self.recommender.forward()

    def calculate_loss(self, interaction: Any) -> Tensor | tuple[Tensor, ...]:
        """BCE, the regularisation and the alignment of modalities; the recommender's own loss in fine-tuning."""
        if self.encoders is None:
            return self.recommender.calculate_loss(to_pointwise(self.recommender, interaction))
        encoders, tables = self.encoders, self.tables
        user, positive, negative = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        reviews = encoders.batch_reviews(tables, user, without=positive)
        users = encoders.users(tables, encoders.user_graph(tables.user_graph), user, reviews)
        item = torch.cat([positive, negative])
        rows, among = batch_rows(item, self.n_items)
        place = item if among is None else among
        encoded = encoders.encode_items(tables, rows)
        items = F.embedding(place, encoders.items(tables, encoders.item_graph(tables.item_graph), encoded, rows))
        logits = full_precision((users.repeat(2, 1) * items).sum(dim=1))
        labels = torch.cat([torch.ones_like(positive), torch.zeros_like(negative)]).to(logits.dtype)
        losses: tuple[Tensor, ...] = (
            F.binary_cross_entropy_with_logits(logits, labels),
            self.reg_weight * l2_penalty(encoders.user_graph.embedding(user), encoders.item_graph.embedding(item)),
        )
        if self.contrastive_weight > 0 and len(encoders.align) > 0:
            place = place[: len(positive)]
            views = {m: encoders.align[m](F.embedding(place, x)) for m, x in encoded.items()}
            losses += (self.modality_contrast(views, positive),)
        return losses

    @classmethod
    def scores_by_vectors(cls) -> bool:
        """True: all recommenders but NeuMF do, which leaves new items to the tables that pre-training gave them."""
        return True

    def _ranks_itself(self) -> bool:
        """Whether scores are taken from :meth:`representations`, where neighbours stand in for new items."""
        return self.recommender is None or (self.new_item_ids is not None and self.finetune_model != "NeuMF")

    def predict(self, interaction: Any) -> Tensor:
        """Scores of the given pairs, shape ``(batch,)``; in fine-tuning those of the recommender."""
        return super().predict(interaction) if self._ranks_itself() else self.recommender.predict(interaction)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item for the given users, flattened from ``(batch, n_items)``."""
        if self._ranks_itself():
            return super().full_sort_predict(interaction)
        return score_all_items(self.recommender, interaction)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load parameters of either stage; the model changes to the stage that they belong to."""
        stage = "finetune" if any(key.startswith("recommender.") for key in state_dict) else "pretrain"
        if stage != self.stage:
            self._build(stage)
        if self.recommender is not None:
            forget_caches(self.recommender)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode; either way evaluation starts anew."""
        if self.recommender is not None:
            forget_caches(self.recommender)
        return super().train(mode)
