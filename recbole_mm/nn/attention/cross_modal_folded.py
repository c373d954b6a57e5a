"""The cross-modal network in evaluation, for few tokens on a CPU: the same function in few large products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from recbole_mm.nn.attention.cross_modal import CrossModalLayer, CrossModalNetwork, SelfAttentionLayer, cleared
from recbole_mm.nn.attention.multi_head import sum_of_products
from recbole_mm.nn.graph.sparse import full_precision

__all__ = ["FoldedNetwork"]

#: Queries and keys, channel by channel, and values, token by token.
Projected = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]


class FoldedNetwork:
    r"""What :class:`CrossModalNetwork` computes in evaluation, with the batch as the contiguous dimension throughout.

    Attention over few tokens is fast on a CPU where its vectors run over pairs; here everything else does so, too, and
    nothing is transposed. The tokens of a branch are rows of a table between what attention found and a row of ones,
    above what is inside the layer. So a layer is four products with neighbouring rows. What is left beside them is
    attention, the ReLU and the length of every token; all else is linear and folded into the weights beforehand: biases
    (by the ones), residuals (by the tokens), the scale of the queries, and of a normalisation its gain and shift (into
    whatever reads it) and its subtraction of the mean, :math:`C = I - 11^\top / d`:

    .. math:: \mathrm{LN}(X + W A + b) = \sqrt{d}\, g \odot \frac{Z}{\sqrt{|Z|^2 + d \epsilon}} + s, \qquad
              Z = [CW, C, Cb] \, [A; X; 1]

    It holds the weights as they are when it is made, and passes no gradient.

    Args:
        network: The network, with a text layer or a cross-modal layer.
    """

    @torch.no_grad()
    def __init__(self, network: CrossModalNetwork) -> None:
        self.dim = network.dim
        self.tables: dict[str, _Table] = {}
        plain = image = text = _Affine(torch.ones(self.dim), torch.zeros(self.dim)).like(next(network.parameters()))
        self.text_layers = []
        for layer in cast("list[SelfAttentionLayer]", network.text_layers):
            self.text_layers.append(_Layer(layer, text))
            text = self.text_layers[-1].affine
        self.cross_layers = []
        for cross in cast("list[CrossModalLayer]", network.cross_layers):
            self.cross_layers.append(_CrossLayer(cross, image, text, plain))
            image, text = self.cross_layers[-1].image_layer.affine, self.cross_layers[-1].text_layer.affine
        self.affines = image, text

    def image_input(self, tokens: Tensor) -> Tensor:
        """As of the network: what is made once per item. Here it is the tokens, the items contiguous in memory."""
        return tokens.permute(2, 1, 0).contiguous().permute(2, 1, 0)

    def text_input(self, tokens: Tensor) -> Tensor:
        """As of the network: the tokens. Their first projection would take a fiftieth of the time."""
        return tokens

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        present: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`CrossModalNetwork.forward`."""
        mask, present, image_mask = (None if m is None or m.all() else m for m in (mask, present, image_mask))
        pictures, words = self._table("image", image), self._table("text", text)
        absent, absent_image = (_absent(m, words.tokens.dtype) for m in (mask, image_mask))
        for layer in self.text_layers:
            layer(words, absent)
        for cross in self.cross_layers:
            cross(pictures, words, absent, absent_image, present)
        found, fields = (table.result(affine) for table, affine in zip((pictures, words), self.affines))
        return cleared(found.to(image.dtype), fields.to(text.dtype), mask, present, image_mask)

    def _table(self, branch: str, tokens: Tensor) -> _Table:
        """A branch's table with these tokens: that of the batch before where it has as many."""
        batch, n_tokens, _ = tokens.shape
        if branch not in self.tables or self.tables[branch].whole.shape[1:] != (n_tokens, batch):
            self.tables.pop(branch, None)
            self.tables[branch] = _Table(n_tokens, batch, self.affines[0].gain)
        table = self.tables[branch]
        table.tokens.view(self.dim, n_tokens, batch).copy_(tokens.permute(2, 1, 0))
        return table

    def numbers(self, n_image: int, n_text: int) -> int:
        """As :meth:`CrossModalNetwork.numbers`."""
        tokens = n_image + n_text
        stages = [2 * self.dim * tokens]  # the results, before and after they are cleared
        layers = [(n_text, n_text, layer.n_heads) for layer in self.text_layers]
        for cross in self.cross_layers:
            layers += [(n, n, cross.image_layer.n_heads) for n in (n_image, n_text)]
            layers.append((n_image, n_text, cross.n_heads))
        # Attention has its weights and their sums, what is normalised the sum of its squares.
        stages += [
            max(heads * (left * right + 2 * max(left, right)), (self.dim + 1) * max(left, right))
            for left, right, heads in layers
        ]
        # The inputs, what masks them, and the tables.
        return (self.dim + 2 + 6 * self.dim + 1) * tokens + max(stages)


class _Affine(NamedTuple):
    """What is yet to be done to the tokens of a table: ``gain * token + shift``."""

    gain: Tensor
    shift: Tensor

    def like(self, other: Tensor) -> _Affine:
        """The same with the device and precision of another tensor, half precision widened."""
        return _Affine(*(x.to(full_precision(other[:0])) for x in self))


class _Table:
    """Rows ``(6 * dim + 1, n_tokens * batch)`` of a branch, and the parts of it that are read and written."""

    def __init__(self, n_tokens: int, batch: int, like: Tensor) -> None:
        dim = self.dim = len(like)
        self.whole = like.new_empty(6 * dim + 1, n_tokens, batch)
        rows = self.whole.flatten(1)
        rows[2 * dim] = 1
        self.found, self.tokens, self.inner = rows[:dim], rows[dim : 2 * dim], rows[2 * dim + 1 :]
        self.tokens_one = rows[dim : 2 * dim + 1]
        self.found_tokens_one, self.tokens_one_inner = rows[: 2 * dim + 1], rows[dim:]
        # Python takes longer to make these views than the CPU to compute with some of them.
        self.views: dict[int, Projected] = {}

    def heads(self, part: Tensor, n_heads: int) -> Tensor:
        """Rows as ``(..., n_heads, dim / n_heads, n_tokens, batch)``."""
        return part.view(-1, n_heads, self.dim // n_heads, *self.whole.shape[1:])

    def project(self, weight: Tensor, n_heads: int) -> Projected:
        """Project the tokens, into the rows inside."""
        projected = torch.mm(weight, self.tokens_one, out=self.inner[: 3 * self.dim])
        if n_heads not in self.views:
            query, key, value = self.heads(projected, n_heads)
            views = query.unsqueeze(3).unbind(1), key.unsqueeze(2).unbind(1), value.unsqueeze(2).unbind(3)
            self.views[n_heads] = views
        return self.views[n_heads]

    def result(self, affine: _Affine) -> Tensor:
        """The tokens, ``(batch, n_tokens, dim)``."""
        tokens = self.whole[self.dim : 2 * self.dim].transpose(0, 1)
        return torch.addcmul(affine.shift[:, None], tokens, affine.gain[:, None]).permute(2, 0, 1)


class _Layer:
    """A :class:`SelfAttentionLayer` that reads tokens with an affine map yet to be done, and leaves such tokens."""

    def __init__(self, layer: SelfAttentionLayer, affine: _Affine) -> None:
        dim, self.n_heads, self.epsilon = len(affine.gain), layer.n_heads, None
        centre = torch.diag(torch.ones_like(affine.gain))
        between = self.affine = _Affine(torch.ones_like(affine.gain), torch.zeros_like(affine.shift))
        if isinstance(layer.norm[0], nn.LayerNorm):
            self.epsilon = dim * layer.norm[0].eps
            centre = centre - 1 / dim
            between, self.affine = (
                _Affine(dim**0.5 * norm.weight, norm.bias).like(norm.weight)
                for norm in cast("list[nn.LayerNorm]", layer.norm)
            )
        self.project = _folded(_scaled(layer.project.weight, layer.n_heads), affine)
        self.expand = _folded(layer.expand.weight, between, layer.expand.bias)
        with_bias = _Affine(affine.gain, affine.shift + layer.output.bias)
        self.attended = torch.cat([centre @ full_precision(layer.output.weight), _folded(centre, with_bias)], dim=1)
        with_bias = _Affine(between.gain, between.shift + layer.contract.bias)
        self.contract = torch.cat([_folded(centre, with_bias), centre @ full_precision(layer.contract.weight)], dim=1)

    def __call__(self, table: _Table, absent: Tensor | None) -> None:
        _attend(*table.project(self.project, self.n_heads), absent, table.heads(table.found, self.n_heads)[0])
        self._normalise(self.attended @ table.found_tokens_one, table)
        torch.mm(self.expand, table.tokens_one, out=table.inner).relu_()
        self._normalise(self.contract @ table.tokens_one_inner, table)

    def _normalise(self, centred: Tensor, table: _Table) -> None:
        if self.epsilon is None:
            table.tokens.copy_(centred)
            return
        squares = torch.mul(centred, centred, out=table.found)  # Nobody reads these rows any more.
        torch.mul(centred, squares.sum(dim=0).add_(self.epsilon).rsqrt_(), out=table.tokens)


class _CrossLayer:
    """A :class:`CrossModalLayer` in the same way; tokens between its two attentions are ``plain``."""

    def __init__(self, layer: CrossModalLayer, image: _Affine, text: _Affine, plain: _Affine) -> None:
        self.n_heads, self.text = layer.cross_heads, text
        self.project_image = _folded(_scaled(layer.image.weight, self.n_heads), image)
        self.project_text = _folded(_scaled(layer.text.weight, self.n_heads), text)
        self.image_layer, self.text_layer = _Layer(layer.image_layer, plain), _Layer(layer.text_layer, plain)

    def __call__(
        self,
        pictures: _Table,
        words: _Table,
        absent: Tensor | None,
        absent_image: Tensor | None,
        present: Tensor | None,
    ) -> None:
        of_image = pictures.project(self.project_image, self.n_heads)
        of_text = words.project(self.project_text, self.n_heads)
        _attend(of_image[0], *of_text[1:], absent, pictures.heads(pictures.tokens, self.n_heads)[0])
        found = words.tokens if present is None else words.found
        _attend(of_text[0], *of_image[1:], absent_image, words.heads(found, self.n_heads)[0])
        if present is not None:
            words.tokens.mul_(self.text.gain[:, None]).add_(self.text.shift[:, None])
            found, tokens = (part.view(-1, len(present)) for part in (words.found, words.tokens))
            torch.where(present, found, tokens, out=tokens)
        self.image_layer(pictures, absent_image)
        self.text_layer(words, absent)


def _attend(
    query: Sequence[Tensor], key: Sequence[Tensor], value: Sequence[Tensor], absent: Tensor | None, out: Tensor
) -> None:
    weights = sum_of_products(query, key, start=absent)  # (n_heads, n_queries, n_keys, batch)
    # In place, and divided after the sum: torch's softmax takes half as long again.
    weights.sub_(weights.amax(dim=2, keepdim=True)).exp_()
    total = weights.sum(dim=2).unsqueeze(1)
    sum_of_products(weights.unsqueeze(1).unbind(3), value, out=out).div_(total)


def _absent(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What to add to the logits of the tokens, ``(n_tokens, batch)``."""
    if mask is None:
        return None
    return torch.zeros(mask.T.shape, dtype=dtype).masked_fill_(~mask.T, torch.finfo(dtype).min)


def _folded(weight: Tensor, affine: _Affine, bias: Tensor | None = None) -> Tensor:
    """``weight`` and ``bias`` for tokens before the affine map, with a one below them."""
    weight = full_precision(weight)
    constant = weight @ affine.shift
    constant = constant if bias is None else constant + bias
    return torch.cat([weight * affine.gain, constant[:, None]], dim=1)


def _scaled(weight: Tensor, n_heads: int) -> Tensor:
    """A projection to queries, keys and values with the scale of the attention in the queries."""
    dim = weight.shape[1]
    query, rest = full_precision(weight).tensor_split([dim])
    return torch.cat([query * (dim / n_heads) ** -0.5, rest])
