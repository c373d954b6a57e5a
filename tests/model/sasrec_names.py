"""RecBole's SASRec with our encoder's parameters, under the names that it gives them."""

from __future__ import annotations

from recbole.utils import get_model

from tests.model.conftest import config_for


def sasrec_with(built, item_embedding, encoder, **options):
    """A SASRec of a built model's items, 8 wide, in double precision, with the parameters of a table and an encoder."""
    options = {
        "hidden_size": 8, "inner_size": 12, "MAX_ITEM_LIST_LENGTH": 10, "train_neg_sample_args": None, **options
    }  # fmt: skip
    sasrec = get_model("SASRec")(config_for("SASRec", **options), built.train_data.dataset).double().eval()
    sasrec.load_state_dict(under_sasrecs_names(item_embedding, encoder, lambda parameter: parameter.detach().clone()))
    return sasrec


def under_sasrecs_names(item_embedding, encoder, take):
    """What ``take`` finds in the parameters of a table and an encoder, under the names of RecBole's SASRec."""
    found = {
        "item_embedding.weight": take(item_embedding),
        "position_embedding.weight": take(encoder.position),
        "LayerNorm.weight": take(encoder.norm_weight),
        "LayerNorm.bias": take(encoder.norm_bias),
    }
    for index, layer in enumerate(encoder.layers):
        attention = f"trm_encoder.layer.{index}.multi_head_attention"
        block = f"trm_encoder.layer.{index}.feed_forward"
        for kind in ("weight", "bias"):
            parts = take(getattr(layer, f"query_key_value_{kind}")).chunk(3)
            for name, part in zip(("query", "key", "value"), parts):
                found[f"{attention}.{name}.{kind}"] = part
            found[f"{attention}.dense.{kind}"] = take(getattr(layer, f"output_{kind}"))
            found[f"{attention}.LayerNorm.{kind}"] = take(getattr(layer, f"attention_norm_{kind}"))
            found[f"{block}.dense_1.{kind}"] = take(getattr(layer, f"expand_{kind}"))
            found[f"{block}.dense_2.{kind}"] = take(getattr(layer, f"contract_{kind}"))
            found[f"{block}.LayerNorm.{kind}"] = take(getattr(layer, f"feed_forward_norm_{kind}"))
    return found
