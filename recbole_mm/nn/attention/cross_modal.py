"""Cross-modal fusion of two sets of tokens: self-attention within a branch, then attention across the branches."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_mm.nn.attention.multi_head import attend, attend_across, attention_numbers

__all__ = [
    "CrossModalLayer",
    "CrossModalNetwork",
    "ScalarTokens",
    "SelfAttentionLayer",
    "cleared",
]


class ScalarTokens(nn.Module):
    r"""Every entry of a vector becomes a token: :math:`v_j = x_j w_j` with :math:`x = W f + b`.

    Args:
        width: Width of the vectors.
        n_tokens: Number of entries after the linear map; there is no map if it equals ``width``.
        dim: Width of the tokens.
    """

    def __init__(self, width: int, n_tokens: int, dim: int) -> None:
        super().__init__()
        self.reduce: nn.Module = nn.Identity() if n_tokens == width else nn.Linear(width, n_tokens)
        self.vector = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_tokens, dim)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Tokens ``(n, n_tokens, dim)`` of vectors ``(n, width)``."""
        return self.reduce(vectors).unsqueeze(-1) * self.vector


class SelfAttentionLayer(nn.Module):
    r"""Self-attention and a feed-forward network, each with a residual connection.

    .. math:: Y = \mathrm{LN}(X + \mathrm{MHA}(X, X, X) W_O), \qquad
              Z = \mathrm{LN}(Y + W_2\, \mathrm{ReLU}(W_1 Y + b_1) + b_2)

    Args:
        dim: Width of the tokens; the feed-forward network is four times as wide inside.
        n_heads: Number of heads.
        dropout: Dropout on what is added to the residual, in training.
        use_layer_norm: Whether there is :math:`\mathrm{LN}`; otherwise it is the identity.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float = 0.0, use_layer_norm: bool = True) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.norm = nn.ModuleList(nn.LayerNorm(dim) if use_layer_norm else nn.Identity() for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, projected: Tensor | None = None) -> Tensor:
        """Tokens of the next layer.

        Args:
            tokens: Shape ``(batch, n_tokens, dim)``.
            mask: True where a token is present, bool ``(batch, n_tokens)``.
            projected: ``self.project(tokens)`` where it is at hand, ``(batch, n_tokens, 3 * dim)``.
        """
        projected = self.project(tokens) if projected is None else projected
        attended = self.output(attend(projected, self.n_heads, mask))
        tokens = self.norm[0](tokens + self.dropout(attended))
        # In place only where there is no gradient: of a view, it would be copied three times on the way back.
        frozen = not torch.is_grad_enabled()
        return self.norm[1](tokens + self.dropout(self.contract(F.relu(self.expand(tokens), inplace=frozen))))

    def numbers(self, n_tokens: int, dim: int, on_cpu: bool) -> int:
        """Numbers that the layer keeps at once for each row of a batch in evaluation, without its inputs."""
        size = n_tokens * dim
        attention = attention_numbers([n_tokens], dim, self.n_heads, on_cpu)
        # The projections; then the attention, or its output, the sum, and the feed-forward network with its result.
        return 3 * size + max(attention, 8 * size)


class CrossModalLayer(nn.Module):
    r"""Each branch asks the other, without a residual; then each has a :class:`SelfAttentionLayer`.

    .. math:: x^g = \mathrm{MHA}(Q = e^g, K = V = e^t), \qquad x^t = \mathrm{MHA}(Q = e^t, K = V = e^g)

    Both read the same inputs. Where there is no image, :math:`x^t = e^t`.

    Args:
        dim: Width of the tokens of both branches.
        n_heads: Heads of the self-attention.
        cross_heads: Heads of the attention across the branches.
        dropout: Dropout of the self-attention layers.
        use_layer_norm: Whether the self-attention layers normalise.
    """

    def __init__(
        self, dim: int, n_heads: int, cross_heads: int, dropout: float = 0.0, use_layer_norm: bool = True
    ) -> None:
        super().__init__()
        self.cross_heads = cross_heads
        # One map a branch: the query of its own attention, and the key and the value of the other's.
        self.image, self.text = (nn.Linear(dim, 3 * dim, bias=False) for _ in range(2))
        self.image_layer = SelfAttentionLayer(dim, n_heads, dropout, use_layer_norm)
        self.text_layer = SelfAttentionLayer(dim, n_heads, dropout, use_layer_norm)

    def cross(
        self, image: Tensor, text: Tensor, mask: Tensor | None = None, image_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What either branch finds in the other, given ``self.image(image)`` and ``self.text(text)``."""
        return attend_across(image, text, self.cross_heads, left_mask=image_mask, right_mask=mask)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        present: Tensor | None = None,
        projected_text: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens of the next layer.

        Args:
            image: ``self.image`` of the image tokens, ``(batch, n_image, 3 * dim)``: nothing else is read of them.
            text: Shape ``(batch, n_text, dim)``.
            mask: Which text tokens are present, bool ``(batch, n_text)``.
            present: Which rows have an image, bool ``(batch,)``.
            projected_text: ``self.text(text)`` where it is at hand.
            image_mask: Which image tokens are present, bool ``(batch, n_image)``, at least one a row; ``None``: all.

        Returns:
            Image tokens (of no meaning where there is no image) and text tokens.
        """
        found, asked = self.cross(
            image, self.text(text) if projected_text is None else projected_text, mask, image_mask
        )
        if present is not None:
            asked = torch.where(present[:, None, None], asked, text)
        return self.image_layer(found, image_mask), self.text_layer(asked, mask)


class CrossModalNetwork(nn.Module):
    """Feature-learning layers of both branches, then the cross-modal layers.

    What depends on the image alone is :meth:`image_tower`. The first projections of either branch are a method of their
    own, so that a full ranking makes them once per user and once per item instead of once per pair.

    Args:
        dim: Width of the tokens of both branches.
        n_image_layers: Feature-learning layers of the image branch.
        n_text_layers: Feature-learning layers of the text branch.
        n_cross_layers: Cross-modal layers.
        n_heads: Heads of self-attention.
        cross_heads: Heads of the attention across the branches.
        dropout: Dropout of all layers.
        use_layer_norm: Whether the layers normalise.
    """

    def __init__(
        self,
        dim: int,
        n_image_layers: int,
        n_text_layers: int,
        n_cross_layers: int,
        n_heads: int,
        cross_heads: int,
        dropout: float = 0.0,
        use_layer_norm: bool = True,
    ) -> None:
        super().__init__()
        for key, heads in (("n_heads", n_heads), ("cross_heads", cross_heads)):
            if dim % heads:
                raise ValueError(f"{key}: expected a divisor of the token width {dim}, got {heads}.")
        self.dim = dim
        own = (dim, n_heads, dropout, use_layer_norm)
        across = (dim, n_heads, cross_heads, dropout, use_layer_norm)
        self.image_layers = nn.ModuleList(SelfAttentionLayer(*own) for _ in range(n_image_layers))
        self.text_layers = nn.ModuleList(SelfAttentionLayer(*own) for _ in range(n_text_layers))
        self.cross_layers = nn.ModuleList(CrossModalLayer(*across) for _ in range(n_cross_layers))

    def image_tower(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The image branch before it meets the text, ``(n, n_image, dim)``; ``mask`` as in :meth:`forward`."""
        for layer in self.image_layers:
            tokens = layer(tokens, mask)
        return tokens

    def image_input(self, tokens: Tensor) -> Tensor:
        """What :meth:`forward` reads of the tower's output: its first projection, if there is a layer for it."""
        return self.cross_layers[0].image(tokens) if len(self.cross_layers) else tokens

    def text_input(self, tokens: Tensor) -> Tensor:
        """Text tokens with their first projection beside them, ``(n, n_text, dim or 4 * dim)``."""
        if len(self.text_layers):
            return torch.cat([tokens, self.text_layers[0].project(tokens)], dim=-1)
        return torch.cat([tokens, self.cross_layers[0].text(tokens)], dim=-1) if len(self.cross_layers) else tokens

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        present: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Final tokens of both branches for a batch of pairs.

        Args:
            image: From :meth:`image_input`, ``(batch, n_image, ...)``.
            text: From :meth:`text_input`, ``(batch, n_text, ...)``.
            mask: Which text tokens are present, bool ``(batch, n_text)``, at least one a row; ``None``: all.
            present: Which rows have an image, bool ``(batch,)``; ``None``: all.
            image_mask: Which image tokens are present, bool ``(batch, n_image)``, at least one a row; ``None``: all.

        Returns:
            Image and text tokens; zero where there is none.
        """
        text, first = text[..., : self.dim], text[..., self.dim :]
        for index, layer in enumerate(self.text_layers):
            text = layer(text, mask, first if index == 0 else None)
        for index, layer in enumerate(self.cross_layers):
            projected = first if index == 0 and not len(self.text_layers) else None
            image = image if index == 0 else layer.image(image)
            image, text = layer(image, text, mask, present, projected, image_mask)
        return cleared(image, text, mask, present, image_mask)

    def numbers(self, n_image: int, n_text: int, on_cpu: bool) -> int:
        """Numbers that a pair needs at once in evaluation, the inputs of :meth:`forward` included.

        Args:
            n_image: Tokens of the image branch.
            n_text: Tokens of the text branch.
            on_cpu: Whether attention takes the way of a CPU.
        """
        image, text = n_image * self.dim, n_text * self.dim
        stages = [2 * text]
        stages += [text + layer.numbers(n_text, self.dim, on_cpu) for layer in self.text_layers]
        for layer in cast("list[CrossModalLayer]", self.cross_layers):
            # Both branches before the layer, the first projections of both, and what either found.
            across = attention_numbers([n_image, n_text], self.dim, layer.cross_heads, on_cpu)
            stages.append(text + 3 * (image + text) + across)
            # One branch is finished while the other's layer runs.
            stages.append(4 * image + 2 * text + layer.image_layer.numbers(n_image, self.dim, on_cpu))
            stages.append(5 * image + 2 * text + layer.text_layer.numbers(n_text, self.dim, on_cpu))
        # Inputs: what is attended to across the branches, and the text with its first projection beside it.
        held = (3 if len(self.cross_layers) else 1) * image
        held += (4 if len(self.cross_layers) or len(self.text_layers) else 1) * text + n_text
        return held + max(stages)

    def tower_numbers(self, n_image: int, on_cpu: bool) -> int:
        """The same for an item in :meth:`image_tower`."""
        layers = [layer.numbers(n_image, self.dim, on_cpu) for layer in self.image_layers]
        return 2 * n_image * self.dim + max(layers, default=0)


def cleared(
    image: Tensor, text: Tensor, mask: Tensor | None, present: Tensor | None, image_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Tokens of both branches with zeros where there is none; arguments as of :meth:`CrossModalNetwork.forward`."""
    if mask is not None:
        text = text * mask.unsqueeze(-1)
    if image_mask is not None:
        image = image * image_mask.unsqueeze(-1)
    return image if present is None else image * present[:, None, None], text
