"""MML: meta-learned sequence models per modality, a generator for cold items and a fusion of predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.model.base import MultimodalSequentialRecommender
from recbole_mm.model.interactions import with_pairs
from recbole_mm.model.mml.ranking import AdaptiveRanking
from recbole_mm.model.mml.settings import MMLSettings
from recbole_mm.nn.attention.sequence import SequenceEncoder, state_at
from recbole_mm.nn.loss import bpr_loss
from recbole_mm.nn.meta.ensemble import LearnerEnsemble
from recbole_mm.nn.meta.generator import ItemGenerator
from recbole_mm.nn.meta.learner import FeatureLearner, IdLearner, Learner
from recbole_mm.nn.meta.maml import adapt, straight_through, task_losses
from recbole_mm.nn.meta.replacement import GeneratorLoss
from recbole_mm.nn.meta.score_fusion import ScoreFusion
from recbole_mm.nn.meta.tasks import Rows, TaskBatch, TaskTable

__all__ = ["MML"]


class MML(AdaptiveRanking, MultimodalSequentialRecommender):
    r"""A user is a task: sequence models meta-learned per modality adapt to each user, and their predictions are fused.

    Three stages, each freezing what the earlier ones have learned:

    *meta*. One learner on item embeddings and one per modality on projected features :math:`W f_i + b`, all SASRec.
    For the first ``warmup_epochs`` they are trained on all instances of all users, as SASRec is. The ID learner's
    attention logits get :math:`\epsilon_f \langle P f_i, P f_j \rangle`. The encoder is
    local (:math:`\theta_l`), the rest global (:math:`\theta_g`); with a user's last ``query_size`` training instances
    as query :math:`Q` (the authors': one) and the earlier ones as support :math:`S`,

    .. math::
        \phi^0 = \theta_l, \quad \phi^{s+1} = \phi^s - \eta \nabla_{\phi} L_{S}(\phi^s, \theta_g), \qquad
        \min_{\theta_l, \theta_g} \textstyle\frac1T \sum_\tau L_{Q_\tau}(\phi_\tau^S, \theta_g).

    *generator*. Embeddings from attributes :math:`a_i` and the ``knn_k`` most similar items :math:`N(i)`,

    .. math::
        z_j = W_g a_j + b_g, \quad \alpha = \mathrm{softmax}_{j \in N(i)}(w^\top [z_i; z_j] + c), \quad
        g_i = \mathrm{ReLU}(z_i + \textstyle\sum_j \alpha_j z_j),

    trained in the same meta loop with each position's embedding replaced by :math:`g_i` at random; at the end the
    embeddings of the items without a training interaction become :math:`g_i`.

    *fusion*. Per instance, from the learners' states :math:`h_m` and scores :math:`s_m` after adaptation,

    .. math:: w = \mathrm{softmax}_m(\mathrm{MLP}(\mathrm{LN}(h_m)) + \ln \pi_m), \quad s = \sum_m w_m \mathrm{LN}(s_m),

    trained with cross entropy; :math:`\pi_m` is ``modality_weight`` (1 in the paper and for the ID learner).

    At evaluation every learner first adapts to the user's support instances. By default these are the user's training
    instances. A data set may hand in others as an attribute ``support_interactions``: an ``Interaction`` with the
    fields of its ``inter_feat`` (user, history, history length, next item), a user's rows in the order of time. With
    ``cold_start: {entity: user}`` these are the training rows and the support sets of the new users. Users without
    support instances get the meta-learned parameters. With RecBole's stock ``Trainer`` this is a plain sequential
    model: the sum of the learners' BPR losses, fused with equal weights.

    Reference:
        Pan et al. "Multimodal Meta-Learning for Cold-Start Sequential Recommendation." CIKM 2022.

    Options:
        embedding_size, n_layers, n_heads, inner_size, hidden_dropout_prob, attn_dropout_prob, feature_attention,
        train_features, instances, max_support, query_size, meta_batch_size, task_loss, n_candidates,
        warmup_epochs, meta_order, inner_steps,
        inner_learning_rate, feature_learning_rate, adapt_steps, adapt_learning_rate, adapt_scope, task_memory_mb,
        knn_k, generate_rate, generator_features, generator_epochs, generator_learning_rate, fusion_method,
        fusion_hidden_size, fusion_score_affine, fusion_user_rate, fusion_epochs, fusion_stopping_step,
        fusion_batch_size, fusion_learning_rate.

    Note:
        The authors' code updates the encoder starting from the last user's adapted parameters; here every step starts
        from the shared ones, as MAML says. It detaches the feature term of the attention, so that :math:`P` stays
        random; here it is trained. Its fusion MLP ends in a ReLU, after which the weights can die; here it does not.
        It fine-tunes the feature tables (``train_features``), keeps an embedding for padding, and adapts all
        parameters at evaluation, choosing the epoch by the user's validation item (``adapt_scope``; here the number
        of steps is fixed and dropout is off). States at padded positions enter the fusion as zeros. Attributes are
        the modalities side by side, which is our reading of the figure. Items without any feature keep the embedding
        that was drawn for them and are nobody's neighbour. While the generator trains, the learner is a constant and
        has no dropout. The paper's loss is BPR with one negative (``task_loss: bpr``) from the first step on
        (``warmup_epochs: 0``); so trained, its learners stay behind a SASRec that is trained with cross entropy, and
        adaptation has little to start from. ``instances: windows`` and ``max_support`` bound the cost and are ours, as
        is ``contrastive_weight``. The fusion standardises scores over all items, so that all are scored even
        where a protocol ranks few.

    Example:
        >>> import recbole_mm
        >>> short = {"epochs": 1, "generator_epochs": 1, "fusion_epochs": 1, "MAX_ITEM_LIST_LENGTH": 5, "n_layers": 1}
        >>> less = {"modalities": ["text"], "meta_batch_size": 64, "query_size": 5, "adapt_steps": 1}
        >>> result = recbole_mm.run("MML", "mm-toy", config_dict={**short, **less})
        >>> print(result["test_result"]["recall@10"] > 0)
        True
    """

    makes_own_batches = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if "id" in self.features:
            raise ValueError("MML calls its learner of item embeddings 'id'; rename the modality 'id'.")
        self.settings = s = MMLSettings.read(self.options, self.features.keys(), self.modality_names)
        if len(self.features) > 1:
            self.register_buffer(
                "_attributes", torch.cat([f for _, f in self.features.items()], dim=1), persistent=False
            )
        encoders = [
            SequenceEncoder(
                s.embedding_size, self.max_seq_length, s.n_layers, s.n_heads, s.inner_size, s.hidden_dropout_prob,
                s.attn_dropout_prob,
            )
            for _ in range(1 + len(self.features))
        ]  # fmt: skip
        width = self.attributes.shape[1]
        learners: dict[str, Learner] = {
            "id": IdLearner(encoders[0], self.n_items, s.embedding_size, width, s.feature_attention)
        }
        for encoder, (modality, feature) in zip(encoders[1:], self.features.items()):
            learners[modality] = FeatureLearner(encoder, s.embedding_size, feature, s.train_features)
        self.learners = LearnerEnsemble(learners, s.adapt_steps, s.adapt_learning_rate, s.adapt_scope)
        self.generator = ItemGenerator(self.generator_tables, s.embedding_size, s.knn_k, self.known_items)
        prior = [1.0, *self.features.weight.values()]
        self.fusion = ScoreFusion(
            self.max_seq_length * s.embedding_size, self.n_items, prior, s.fusion_hidden_size, s.fusion_method,
            s.fusion_score_affine,
        )  # fmt: skip
        self.register_buffer("finished_stages", torch.zeros((), dtype=torch.long))
        self.train_only(self.learners)

        support = getattr(dataset, "support_interactions", None)
        rows = self.rows(dataset.inter_feat if support is None else support)
        self.support = TaskTable(rows, self.n_users, s.instances, s.max_support)
        self.register_buffer("cold_items", ~with_pairs(self.interactions), persistent=False)
        self.cold_items[0] = False

    @property
    def attributes(self) -> Tensor:
        """The modalities' features side by side, ``(n_items, width)``."""
        return self._attributes if len(self.features) > 1 else self.features[self.features.keys()[0]]

    @property
    def generator_tables(self) -> tuple[Tensor, ...]:
        """Attribute tables of the generator: one, or one per modality."""
        separate = self.settings.generator_features == "separate"
        return tuple(feature for _, feature in self.features.items()) if separate else (self.attributes,)

    @property
    def learner_features(self) -> dict[str, Tensor]:
        """Feature table that each learner reads; for the ID learner's attention, the attributes."""
        return {"id": self.attributes, **dict(self.features.items())}

    def train_only(self, *parts: nn.Module) -> None:
        """Make the given parts trainable and freeze the others."""
        for part in (self.learners, self.generator, self.fusion):
            part.requires_grad_(part in parts)

    def rows(self, interactions: Any) -> Rows:
        """Next-item rows of a sequential data set's interactions."""
        history = self.windows(interactions[self.ITEM_SEQ])
        return Rows.sort(
            interactions[self.USER_ID], history, interactions[self.ITEM_SEQ_LEN], interactions[self.ITEM_ID]
        )

    def forward(self, item_seq: Tensor, item_seq_len: Tensor) -> dict[str, Tensor]:
        """State after the last item per learner, not adapted to anybody: ``(batch, dim)`` each."""
        windows, features = item_seq, self.learner_features
        if not windows.is_cuda:  # asking a CUDA device would wait for it
            windows = windows[:, : max(int(item_seq_len.max()), 1)]
        return {
            name: state_at(learner.states(windows, features[name]), (item_seq_len - 1).clamp_min(0))
            for name, learner in self.learners.items()
        }

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """BPR of every learner and, if asked for, the modality contrast: MML as a plain sequential model."""
        states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        items = torch.stack([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])
        losses, features = [], self.learner_features
        for name, learner in self.learners.items():
            positive, negative = learner.embed(items, features[name])
            losses.append(bpr_loss((states[name] * positive).sum(dim=1), (states[name] * negative).sum(dim=1)))
        return (*losses, *self._contrast(items[0]))

    def meta_losses(self, support: TaskBatch, query: TaskBatch) -> tuple[Tensor, ...]:
        """Query losses of every learner after the inner loop, averaged over the tasks, and the modality contrast."""
        s, losses, second = self.settings, [], self.settings.meta_order == "second"
        support, query = self.move(support), self.move(query)
        for name, feature in self.learner_features.items():
            learner = self.learners[name]
            adapted = learner.adapt(support, feature, s.inner_steps, s.inner_learning_rate, "local", second)
            if not second:
                adapted = straight_through(learner.parameters_of("local"), adapted)
            losses.append(learner.losses(adapted, query, feature).mean())
        return (*losses, *self._contrast(query.target.flatten()))

    def plain_losses(self, batch: TaskBatch) -> tuple[Tensor, ...]:
        """Losses of every learner on a batch of users, nobody adapted, and the modality contrast."""
        batch = self.move(batch)
        losses = [self.learners[name].plain_loss(batch, feature) for name, feature in self.learner_features.items()]
        return (*losses, *self._contrast(batch.target.flatten()))

    def generator_loss(self, support: TaskBatch, query: TaskBatch) -> Tensor:
        """Query loss of the generator after its inner loop, averaged over the tasks; the ID learner is constant."""
        s, start, second = self.settings, dict(self.generator.named_parameters()), self.settings.meta_order == "second"
        tables, device = self.generator_tables, self.finished_stages.device
        loss = GeneratorLoss(self.generator, self.learners["id"], self.attributes)  # type: ignore[arg-type]
        data = loss.prepare(support, s.generate_rate, device)
        adapted = adapt(loss, start, data, s.inner_steps, s.inner_learning_rate, tables, second_order=second)
        if not second:
            adapted = straight_through(start, adapted)
        return task_losses(loss, adapted, loss.prepare(query, s.generate_rate, device), tables).mean()

    @torch.no_grad()
    def fill_cold_items(self) -> int:
        """Give the items without a training interaction, but with a feature, their generated embedding.

        Returns:
            The number of items.
        """
        known = self.features.stacked_observed().any(dim=1)
        items = (self.cold_items & known).nonzero().squeeze(1)
        for block in items.split(4096):
            self.learners["id"].item_embedding[block] = self.generator(block, *self.generator_tables)
        return len(items)

    def _contrast(self, items: Tensor) -> tuple[Tensor, ...]:
        if self.contrastive_weight == 0 or len(self.features) < 2:
            return ()
        rows = {name: self.learners[name].embed(items, feature) for name, feature in self.features.items()}
        return (self.modality_contrast(rows, items),)
