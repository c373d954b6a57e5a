"""The options of MML, read and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_mm.config import ModelOptions
from recbole_mm.nn.meta.learner import SCOPES
from recbole_mm.nn.meta.score_fusion import FUSION_METHODS
from recbole_mm.nn.meta.tasks import INSTANCES

__all__ = ["TASK_LOSSES", "MMLSettings"]

TASK_LOSSES = ("cross_entropy", "bpr")


@dataclass(frozen=True)
class MMLSettings:
    """Options of MML under their names in ``properties/model/MML.yaml``, which explains each of them."""

    embedding_size: int
    n_layers: int
    n_heads: int
    inner_size: int
    hidden_dropout_prob: float
    attn_dropout_prob: float
    feature_attention: float
    train_features: bool
    instances: str
    max_support: int | None
    query_size: int
    meta_batch_size: int
    task_loss: str
    n_candidates: int | None
    warmup_epochs: int
    meta_order: str
    inner_steps: int
    inner_learning_rate: float
    feature_learning_rate: dict[str, float]
    adapt_steps: int
    adapt_learning_rate: dict[str, float]
    adapt_scope: str
    task_memory_mb: float
    knn_k: int
    generate_rate: float
    generator_features: str
    generator_epochs: int
    generator_learning_rate: float
    fusion_method: str
    fusion_hidden_size: int
    fusion_score_affine: bool
    fusion_user_rate: float
    fusion_epochs: int
    fusion_stopping_step: int
    fusion_batch_size: int
    fusion_learning_rate: float

    @classmethod
    def read(cls, options: ModelOptions, modalities: tuple[str, ...], names: tuple[str, ...] = ()) -> MMLSettings:
        """Read every option of the model.

        Args:
            options: Strict view of the configuration.
            modalities: The modalities that have a learner.
            names: The modalities that an option may name, those left out by weight 0 included.

        Raises:
            KeyError: An option is not set.
            ValueError: A value of the wrong type or out of range.
        """
        rates: dict[str, Any] = {"kind": "number", "minimum": 0, "unused": names}
        task_loss = options.choice("task_loss", TASK_LOSSES)
        n_candidates = options.integer("n_candidates", minimum=1)
        return cls(
            embedding_size=options.integer("embedding_size", minimum=1),
            n_layers=options.integer("n_layers", minimum=1),
            n_heads=options.integer("n_heads", minimum=1),
            inner_size=options.integer("inner_size", minimum=1),
            hidden_dropout_prob=options.number("hidden_dropout_prob", minimum=0, maximum=1),
            attn_dropout_prob=options.number("attn_dropout_prob", minimum=0, maximum=1),
            feature_attention=options.number("feature_attention", minimum=0),
            train_features=options.boolean("train_features"),
            instances=options.choice("instances", INSTANCES),
            max_support=options.optional_integer("max_support", minimum=1),
            query_size=options.integer("query_size", minimum=1),
            meta_batch_size=options.integer("meta_batch_size", minimum=1),
            task_loss=task_loss,
            n_candidates=None if task_loss == "bpr" else n_candidates,
            warmup_epochs=options.integer("warmup_epochs", minimum=0),
            meta_order=options.choice("meta_order", ("first", "second")),
            inner_steps=options.integer("inner_steps", minimum=0),
            inner_learning_rate=options.number("inner_learning_rate", minimum=0),
            feature_learning_rate=options.per_modality("feature_learning_rate", modalities, **rates),
            adapt_steps=options.integer("adapt_steps", minimum=0),
            adapt_learning_rate=options.per_modality("adapt_learning_rate", ("id", *modalities), **rates),
            adapt_scope=options.choice("adapt_scope", SCOPES),
            task_memory_mb=options.number("task_memory_mb", minimum=1),
            knn_k=options.integer("knn_k", minimum=1),
            generate_rate=options.number("generate_rate", minimum=0, maximum=1),
            generator_features=options.choice("generator_features", ("concat", "separate")),
            generator_epochs=options.integer("generator_epochs", minimum=0),
            generator_learning_rate=options.number("generator_learning_rate", minimum=0),
            fusion_method=options.choice("fusion_method", FUSION_METHODS),
            fusion_hidden_size=options.integer("fusion_hidden_size", minimum=1),
            fusion_score_affine=options.boolean("fusion_score_affine"),
            fusion_user_rate=options.number("fusion_user_rate", minimum=0, maximum=1),
            fusion_epochs=options.integer("fusion_epochs", minimum=0),
            fusion_stopping_step=options.integer("fusion_stopping_step", minimum=0),
            fusion_batch_size=options.integer("fusion_batch_size", minimum=1),
            fusion_learning_rate=options.number("fusion_learning_rate", minimum=0),
        )
