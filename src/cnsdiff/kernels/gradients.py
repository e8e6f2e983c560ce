"""Rows of tables, their squares and a softmax, with gradients that autograd would waste time on.

Each is an ``autograd.Function`` equal to the plain torch of its docstring:

- of rows, autograd makes a table of zeros for each selection and adds these tables up; beside the
  propagation of a small graph that is most of a training step. Here all rows that a batch takes
  from a table fill one gradient.
- of a softmax of ``B`` rows against ``N`` columns that they share, autograd writes and reads the
  ``B × N`` logits, the largest thing in a training step, a dozen times. Here a slice of rows that
  fits the cache is scored, turned into probabilities and into its share of all gradients at once,
  and forgotten: what is kept has the size of the rows and the columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Logits of a slice: a megabyte of float32, which stays in a core's cache.
_SLICE = 2**18
#: The same on a GPU, where a slice should fill the device.
_SLICE_ON_GPU = 2**26
#: The least length by which a row is divided.
_SHORTEST = 1e-12
#: In the place of minus infinity: exp() of it is zero, and no difference is NaN.
_NEVER = -1e30


def rows_of(table: Tensor, *ids: Tensor, unit: bool = False) -> tuple[Tensor, ...]:
    """``[table[some] for some in ids]``: ``(m, d)`` rows for each ``(m,)`` ids, with gradient.

    With ``unit`` brought to unit length, as ``F.normalize`` does.
    """
    rows: tuple[Tensor, ...] = _Rows.apply(table, unit, *ids)  # type: ignore[no-untyped-call]
    return rows


def half_mean_squares(table: Tensor, *ids: Tensor) -> Tensor:
    """``sum((table[some] ** 2).sum() / (2 * len(some)) for some in ids)``, ids ``(m,)`` each."""
    total: Tensor = _HalfMeanSquares.apply(table, *ids)  # type: ignore[no-untyped-call]
    return total


def shared_softmax(
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    *,
    temperature: float = 1.0,
    own: Tensor | None = None,
    bias: Tensor | None = None,
    barred: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``Σ_b w_b ( log( e^{o_b} + Σ_n e^{r_b·c_n/τ + β_n} ) - o_b )``, a scalar with gradient.

    ``len(own) * sampled_softmax(own, rows @ columns.T / τ + bias, admissible, weights)``, the
    softmax of :mod:`cnsdiff.objectives.losses`. Without ``own``:
    ``Σ_b w_b log Σ_n e^{r_b·c_n/τ + β_n}``.

    Parameters
    ----------
    rows, columns
        ``(B, d)`` and ``(N, d)``.
    weights
        ``(B,)`` how much each row counts, without gradient.
    temperature
        ``τ``.
    own
        ``(B,)`` logits of each row's own, the numerator's; or ``(B, d)`` vectors ``v`` that make
        them: ``o_b = r_b·v_b/τ``.
    bias
        ``(N,)`` what is added to a column's logits, without gradient.
    barred
        ``(B,)`` and ``(N,)`` ids: a column does not count in a row of the same id.
    """
    loss: Tensor = _SharedSoftmax.apply(  # type: ignore[no-untyped-call]
        rows, columns, own, weights, temperature, bias, barred
    )
    return loss


class _Rows(torch.autograd.Function):
    """All rows at once: beside a small graph, calls cost more than the rows of a few ids."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, unit: bool, *ids: Tensor) -> tuple[Tensor, ...]:
        every = ids[0] if len(ids) == 1 else torch.cat(ids)
        rows = table.index_select(0, every)
        units: tuple[Tensor, ...] = ()
        if unit:
            lengths = rows.norm(dim=1, keepdim=True).clamp_min_(_SHORTEST)
            units = rows.div_(lengths), lengths
        ctx.save_for_backward(every, *units)
        ctx.shape, ctx.sizes = table.shape, [len(some) for some in ids]
        ctx.set_materialize_grads(False)
        parts: tuple[Tensor, ...] = torch.split(rows, ctx.sizes)
        return parts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        every, *units = ctx.saved_tensors
        nothing = (None,) * (len(gradients) + 1)
        one = next((g for g in gradients if g is not None), None)
        if one is None:
            return None, *nothing
        gradient, whole = one, one.new_zeros(ctx.shape)
        if len(gradients) > 1:
            width = ctx.shape[1]
            parts = zip(gradients, ctx.sizes, strict=True)
            gradient = torch.cat([one.new_zeros(n, width) if g is None else g for g, n in parts])
        if units:
            # A unit vector moves only at right angles to itself.
            rows, lengths = units
            along = (gradient * rows).sum(dim=1, keepdim=True)
            gradient = torch.addcmul(gradient, rows, along, value=-1).div_(lengths)
        return whole.index_add_(0, every, gradient), *nothing


class _HalfMeanSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, *ids: Tensor) -> Tensor:
        rows = [table.index_select(0, some) for some in ids]
        ctx.save_for_backward(*ids, *rows)
        ctx.shape = table.shape
        total = table.new_zeros(())
        for row in rows:
            flat = row.flatten()
            total += torch.dot(flat, flat) / (2 * len(row))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        n = len(ctx.saved_tensors) // 2
        ids, rows = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        moved = [row * (outer[0] / len(row)) for row in rows]
        some, values = (ids[0], moved[0]) if n == 1 else (torch.cat(ids), torch.cat(moved))
        # A table of zeros but for these rows, and a pass to add it to another, are saved: PyTorch
        # adds the rows to the gradient that comes from propagation, in place.
        gradient = torch.sparse_coo_tensor(
            some.unsqueeze(0), values, ctx.shape, check_invariants=False
        )
        return gradient, *(None,) * n


class _SharedSoftmax(torch.autograd.Function):
    """The loss is one number, so its gradient is known but for a factor when it is computed."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        columns: Tensor,
        own: Tensor | None,
        weights: Tensor,
        temperature: float,
        bias: Tensor | None,
        barred: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        dtype = rows.dtype if rows.dtype.itemsize >= 4 else torch.float32
        with torch.autocast(rows.device.type, enabled=False):
            loss, *gradients = _slices(
                rows.to(dtype),
                columns.to(dtype),
                None if own is None else own.to(dtype),
                weights.to(dtype),
                temperature,
                None if bias is None else bias.to(dtype),
                barred,
            )
        ctx.dtypes = rows.dtype, columns.dtype, rows.dtype if own is None else own.dtype
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # The host of a GPU would wait to learn that the factor is one.
        alone = outer[0].device.type == "cpu" and outer[0] == 1
        gradients = [
            None if gradient is None else (gradient if alone else outer[0] * gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None, None


def _slices(
    rows: Tensor,
    columns: Tensor,
    own: Tensor | None,
    weights: Tensor,
    temperature: float,
    bias: Tensor | None,
    barred: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The loss, and its gradient by rows, columns and own."""
    budget = _SLICE if rows.device.type == "cpu" else _SLICE_ON_GPU
    size = max(1, min(budget // max(1, len(columns)), len(rows)))
    bar = None if barred is None else _Bar(*barred)
    by_rows, by_columns = torch.empty_like(rows), torch.zeros_like(columns)
    by_own = None if own is None else torch.empty_like(own)
    loss = weights.new_zeros(())
    buffer = rows.new_empty(size, len(columns))
    per = 1 / temperature
    scaled = columns * per
    for begin in range(0, len(rows), size):
        cut = slice(begin, begin + size)
        some, logits = rows[cut], buffer[: len(rows) - begin]
        torch.mm(some, scaled.T, out=logits)
        if bias is not None:
            logits += bias
        if bar is not None:
            bar(logits, begin)
        largest = logits.amax(dim=1)
        shares = torch.softmax(logits, dim=1, out=logits)
        # The largest share is e^{largest} over the sum, and at least 1/N.
        others = largest - shares.amax(dim=1).log_()
        torch.mm(shares, scaled, out=by_rows[cut])
        if own is None or by_own is None:
            moved = weights[cut]
            loss += torch.dot(moved, others)
        else:
            of_own = own[cut]
            vectors = of_own.ndim == 2
            ahead = others - ((some * of_own).sum(dim=1) * per if vectors else of_own)
            moved = weights[cut] * torch.sigmoid(ahead)
            loss += torch.dot(weights[cut], torch.nn.functional.softplus(ahead))
            if vectors:
                by_rows[cut].sub_(of_own, alpha=per)
        by_rows[cut].mul_(moved.unsqueeze(1))
        weighted = some * moved.unsqueeze(1)
        by_columns.addmm_(shares.T, weighted, alpha=per)
        if by_own is not None:
            if by_own.ndim == 2:
                torch.mul(weighted, -per, out=by_own[cut])
            else:
                torch.neg(moved, out=by_own[cut])
    return loss, by_rows, by_columns, by_own


class _Bar:
    """Takes the columns of a row's own id out of its logits."""

    def __init__(self, of_rows: Tensor, of_columns: Tensor) -> None:
        self._rows, self._columns = of_rows.contiguous(), of_columns
        # A GPU compares all pairs sooner than it tells the host how many are alike.
        self._sparse = of_rows.device.type == "cpu"
        if self._sparse:
            ordered, order = of_columns.sort()
            first = torch.searchsorted(ordered, self._rows)
            count = torch.searchsorted(ordered, self._rows, right=True) - first
            self._row = torch.arange(len(self._rows)).repeat_interleave(count)
            shift = first - (count.cumsum(0) - count)
            self._column = order[torch.arange(len(self._row)) + shift[self._row]]

    def __call__(self, logits: Tensor, begin: int) -> None:
        """Of the rows from ``begin`` on, in place."""
        end = begin + len(logits)
        if not self._sparse:
            alike = self._rows[begin:end].unsqueeze(1) == self._columns
            logits.masked_fill_(alike, _NEVER)
            return
        low, high = torch.searchsorted(self._row, torch.tensor([begin, end])).tolist()
        logits[self._row[low:high] - begin, self._column[low:high]] = _NEVER
