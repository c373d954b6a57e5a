"""How many pairs of a ranking CMBF works off at once."""

from __future__ import annotations

from typing import Union

from recbole_mm.nn.attention.cross_modal import CrossModalNetwork
from recbole_mm.nn.attention.cross_modal_folded import FoldedNetwork

__all__ = ["AnyNetwork", "pairs_at_once"]

AnyNetwork = Union[CrossModalNetwork, FoldedNetwork]

CPU_BYTES = 8 * 2**20  # Intermediate results at once that stay near a CPU's cache.
FOLDED_BYTES = 4 * 2**20  # The same for tables that every layer passes over several times; 3 to 6 MiB are as fast.
MOST_PAIRS = 32_768  # CUDA's fused attention takes fewer than 65,536 rows.


def pairs_at_once(
    network: AnyNetwork, n_image: int, n_text: int, width: int, head_width: int, memory: float, on_cpu: bool
) -> int:
    """Pairs, or items of the image tower, whose intermediate results fit into the memory, and on a CPU into its cache.

    Args:
        network: What computes them.
        n_image: Tokens of the image branch.
        n_text: Tokens of the text branch.
        width: Entries of an item's vectors in the image branch.
        head_width: Numbers that the head keeps of a pair.
        memory: Bytes.
        on_cpu: Whether a processor computes.
    """
    own = (n_image + n_text) * network.dim  # the pair's tokens, which predict keeps beside the inputs
    if isinstance(network, FoldedNetwork):
        numbers = own + network.numbers(n_image, n_text) + head_width
        budget = min(memory, FOLDED_BYTES)
    else:
        budget = min(memory, CPU_BYTES) if on_cpu else memory
        pair = own + network.numbers(n_image, n_text, on_cpu) + head_width
        numbers = max(pair, width + network.tower_numbers(n_image, on_cpu))
    return int(min(max(budget // (4 * numbers), 1), MOST_PAIRS))
