"""What is concluded from the measures of a training: names of alarms, and a line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Alarm", "Judged", "judge_end", "judge_loss", "new_history"]

Alarm = tuple[str, str]
"""Name, and what was found with the likely remedy."""

Judged = Iterator[Alarm]

#: Epochs below which nothing is said: a model that has hardly begun looks like a broken one.
FEWEST_EPOCHS = 3
_STEPS = 100
_UNTRAINED = 0.01
_DOMINANT = 0.99
_PERMUTED = 0.99
_SAME_LISTS = 0.9
_LINE = 1.02
_FALLING = 4
_LOST = 0.1
_FEW_AN_EPOCH, _FEW_IN_ALL, _EPOCHS_FOR_STEPS = 4, 300, 10


def new_history(stage: str | None = None) -> dict[str, Any]:
    """What is kept of a training while it runs: plain values, which a checkpoint holds like other counters.

    ``loss`` has the mean ranking loss of every epoch, ``shares`` the shares of the loss parts in the gradient after the
    number of the epoch, ``silent`` how often in a row a modality had no gradient, ``valid`` pairs of epoch and score,
    ``seconds`` of a processor that it has taken.
    """
    return {
        "stage": stage, "first": None, "steps": 0, "loss": [], "shares": [], "silent": {}, "valid": [], "pop": None,
        "seconds": 0.0,
    }  # fmt: skip


def judge_loss(history: Mapping[str, Any], bigger: bool) -> Judged:
    """The alarm that can be raised while training: nothing was learned so far.

    Args:
        history: From :func:`new_history`.
        bigger: Whether a bigger validation score is better.
    """
    first, losses, valid, pop = (history[key] for key in ("first", "loss", "valid", "pop"))
    if first is None or len(losses) < FEWEST_EPOCHS or history["steps"] < _STEPS:
        return
    if abs(losses[-1] - first) > _UNTRAINED * abs(first):
        return
    # Losses of models that sum many layers fall late; what they rank by is there before.
    if valid and pop is not None:
        if not _worse(valid[-1][1], pop, bigger):
            return
        below = f", and validation ({valid[-1][1]:.4g}) is below a ranking by popularity ({pop:.4g})"
    elif len(losses) < 2 * FEWEST_EPOCHS:
        return
    else:
        below = ""
    yield (
        "loss",
        f"after {len(losses)} epochs the ranking loss is {losses[-1]:.4f}, still at its untrained value {first:.4f}"
        f"{below}: the model learns nothing. Lower the weights of the other loss terms and weight_decay, or raise "
        "learning_rate.",
    )


def judge_end(history: Mapping[str, Any], final: Mapping[str, Any], bigger: bool) -> Judged:
    """All alarms of a finished training.

    Args:
        history: From :func:`new_history`.
        final: Measures of the trained model, from :func:`recbole_mm.host.health.final.measure`.
        bigger: Whether a bigger validation score is better.
    """
    yield from judge_loss(history, bigger)
    yield from _gradient(history["shares"])
    for modality, times in history["silent"].items():
        if times > 1:
            yield (
                "modality_gradient",
                f"the parameters of modality {modality} get no gradient: the model does not learn to read it. Check "
                f"the feature file (recbole-mm inspect), missing_feature and modality_weight, or leave {modality} out "
                "of modalities.",
            )
    for modality, same in final.get("permuted", {}).items():
        if same >= _PERMUTED:
            yield (
                "dead_modality",
                f"permuting the rows of modality {modality} leaves {same:.1%} of the lists of sampled validation users "
                "as they are: it plays no part in the ranking. Try feature_norm: auto, a lower learning_rate, or leave "
                f"{modality} out of modalities.",
            )
    yield from _sameness(final)
    for name, why in final.get("idle", {}).items():
        yield (
            "idle_part",
            f"{name} does nothing: {why}. Its options (number, temperature, weight of its loss) need another value, or "
            "the part may be switched off.",
        )
    yield from _validation(history, bigger)
    yield from _few_steps(history["steps"], len(history["loss"]))


def _few_steps(steps: int, epochs: int) -> Judged:
    """Small data in batches that were chosen for large ones; of a try of some epochs nobody expects much."""
    if epochs >= _EPOCHS_FOR_STEPS and steps < min(_FEW_AN_EPOCH * epochs, _FEW_IN_ALL):
        yield (
            "few_steps",
            f"{epochs} epochs were {steps} steps in all, because a batch holds a third of the training data or more: "
            "that is seldom enough, and early stopping counts epochs. Lower train_batch_size until an epoch has ten "
            "steps or more, as shrink_batches: True does where nobody names one; for a comparison, of all its models.",
        )


def _worse(score: float, than: float, bigger: bool) -> bool:
    return score < 0.99 * than if bigger else score > 1.01 * than


def _gradient(shares: Sequence[Sequence[float]]) -> Judged:
    """The first part ranks, by convention of this package and of RecBole; to have the whole gradient is its right."""
    if len(shares) < 2:
        return
    for place, both in enumerate(zip(*(sample[1:] for sample in shares[-2:]))):
        if place and min(both) > _DOMINANT:
            yield (
                "gradient",
                f"part {place + 1} of the loss has {both[-1]:.1%} of the gradient of the parameters that it shares "
                "with the ranking loss, which decides nothing: lower its weight (contrastive_weight, reg_weight or the "
                "model's own).",
            )


def _sameness(final: Mapping[str, Any]) -> Judged:
    if final.get("concentration", 0) > _SAME_LISTS:
        yield (
            "popularity",
            f"{final['concentration']:.0%} of the places in the lists of sampled validation users go to the same "
            f"{final['same_items']} items (coverage {final['coverage']:.2%}, Gini index {final['gini']:.3f}): "
            "everybody gets the same. Train longer, lower reg_weight and weight_decay, or use fewer layers.",
        )
    for what, rank in final.get("effective_rank", {}).items():
        if rank < _LINE:
            yield (
                "collapse",
                f"{what} lie {'in a point' if rank == 0 else 'on a line'} (effective rank {rank:.2f}): nothing tells "
                "them apart. Lower reg_weight, weight_decay and learning_rate, or use fewer layers.",
            )


def _validation(history: Mapping[str, Any], bigger: bool) -> Judged:
    valid, pop = history["valid"], history["pop"]
    scores = [score if bigger else -score for _, score in valid]
    if len(scores) > _FALLING and scores.index(max(scores)) == 0:
        falling = all(after < before for before, after in zip(scores, scores[1:]))
        lost = abs(scores[-1] - scores[0]) > _LOST * abs(scores[0])
        if falling or (lost and valid[0][0] <= 2):
            yield (
                "first_epoch",
                f"validation was best at its first time, after epoch {valid[0][0]} ({valid[0][1]:.4g}), and "
                f"{'fell ever since' if falling else 'never again'} ({valid[-1][1]:.4g} after epoch {valid[-1][0]}): "
                "the model unlearns. Lower learning_rate, or raise reg_weight, dropout or weight_decay.",
            )
    if pop is not None and valid:
        best = max(scores) if bigger else -max(scores)
        if _worse(best, pop, bigger):
            yield (
                "pop",
                f"a ranking by popularity has {pop:.4g} on the validation where the model has {best:.4g} at best. "
                "Train longer, search learning_rate and the weights of the loss terms, and try feature_norm: auto.",
            )
