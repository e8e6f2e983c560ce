"""Rows of embedding tables, with a gradient that fills one table however often rows are taken.

Autograd makes a table of zeros for each selection of rows and adds these tables up; beside the
propagation of a small graph that is most of a training step. Here all rows that a batch takes from
a table are taken at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rows_of(table: Tensor, *ids: Tensor) -> tuple[Tensor, ...]:
    """``(m, d)`` rows of a table ``(n, d)`` for each ``(m,)`` ids, with gradient."""
    rows: tuple[Tensor, ...] = _Rows.apply(table, *ids)  # type: ignore[no-untyped-call]
    return rows


def half_mean_squares(table: Tensor, *ids: Tensor) -> Tensor:
    """``Σ_s ‖X_s‖² / (2 m_s)`` over the rows ``X_s (m_s, d)`` of each ``(m_s,)`` ids."""
    total: Tensor = _HalfMeanSquares.apply(table, *ids)  # type: ignore[no-untyped-call]
    return total


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, *ids: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*ids)
        ctx.shape = table.shape
        ctx.set_materialize_grads(False)
        return tuple(table.index_select(0, some) for some in ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ids = ctx.saved_tensors
        known = [(some, g) for some, g in zip(ids, gradients, strict=True) if g is not None]
        nothing = (None,) * len(ids)
        if not known:
            return None, *nothing
        whole = known[0][1].new_zeros(ctx.shape)
        for some, gradient in known:
            whole.index_add_(0, some, gradient)
        return whole, *nothing


class _HalfMeanSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, *ids: Tensor) -> Tensor:
        ctx.save_for_backward(table, *ids)
        total = table.new_zeros(())
        for some in ids:
            flat = table.index_select(0, some).flatten()
            total += torch.dot(flat, flat) / (2 * len(some))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        table, *ids = ctx.saved_tensors
        whole = torch.zeros_like(table)
        for some in ids:
            whole.index_add_(0, some, table.index_select(0, some) * (outer[0] / len(some)))
        return whole, *(None,) * len(ids)
