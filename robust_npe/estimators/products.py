"""Small matrix products for compiled code, whose sums stay in registers.

Matrices have columns of samples, as everywhere in the conditioners, and so many of them that they
fill whole vectors. numba's compiler would turn the usual loops into vector code as well, but goes
to memory and back for every term; written down with vectors, they are twice as fast.

Nothing is checked. All matrices are of one type, their rows are contiguous (but those of w may have
any strides), and the number of samples is a multiple of LANES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "add_outer_products", "add_product", "close"]

WIDE = llvmlite.binding.get_host_cpu_features().get("avx512f", False)
LANES = 32 if WIDE else 16  # numbers of columns are multiples of it; two registers of float32


class _Code:
    """Writes the code of an intrinsic whose arguments are matrices and indices.

    Args:
        context: As given to the code generator, and so are the next three.
        builder: See there.
        signature: See there.
        args: See there.
        lanes: Length of vectors.
    """

    def __init__(
        self, context: Any, builder: Any, signature: Any, args: Sequence[Any], lanes: int
    ) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.arguments: list[Any] = [
            (kind, context.make_array(kind)(context, builder, value))
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, args, strict=True)
        ]
        dtype = signature.args[0].dtype
        self.number = context.get_value_type(dtype)
        self.vector = ir.VectorType(self.number, lanes)
        self.align = dtype.bitwidth // 8  # rows may start anywhere

    def shape(self, matrix: Any) -> Any:
        """Return the numbers of rows and columns."""
        return cgutils.unpack_tuple(self.builder, matrix[1].shape)

    def pointer(self, matrix: Any, row: Any, column: Any) -> Any:
        """Return the place of a number."""
        kind, array = matrix
        return cgutils.get_item_pointer(self.context, self.builder, kind, array, [row, column])

    def load(self, matrix: Any, row: Any, column: Any) -> Any:
        """Return a vector of numbers of one row."""
        place = self.builder.bitcast(self.pointer(matrix, row, column), self.vector.as_pointer())
        return self.builder.load(place, align=self.align)

    def store(self, value: Any, matrix: Any, row: Any, column: Any) -> None:
        """Write a vector of numbers of one row."""
        place = self.builder.bitcast(self.pointer(matrix, row, column), self.vector.as_pointer())
        self.builder.store(value, place, align=self.align)

    def repeat(self, number: Any) -> Any:
        """Return a vector of equal numbers."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        return self._shuffle(first, nothing, [0] * self.lanes)

    def sums(self, vectors: list[Any]) -> list[Any]:
        """Return the sums of the numbers of each vector, in order, as fewer vectors."""
        even, odd = [*range(0, 2 * self.lanes, 2)], [*range(1, 2 * self.lanes, 2)]
        for _ in range(self.lanes.bit_length() - 1):
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                self.builder.fadd(self._shuffle(x, y, even), self._shuffle(x, y, odd))
                for x, y in pairs
            ]
        return vectors

    def _shuffle(self, x: Any, y: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), places)
        return self.builder.shuffle_vector(x, y, mask)

    def variable(self, value: Any) -> Any:
        """Return a variable, which ends up in a register."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)
        return place

    def add_product(self, variable: Any, a: Any, b: Any) -> None:
        """Add a b to a variable."""
        product = self.builder.fmul(a, b, flags=("contract",))
        total = self.builder.fadd(self.builder.load(variable), product, flags=("contract",))
        self.builder.store(total, variable)

    def index(self, number: int) -> Any:
        """Return a constant index."""
        return ir.Constant(self.context.get_value_type(types.intp), number)

    def after(self, index: Any, distance: int) -> Any:
        """Return an index plus a number."""
        return self.builder.add(index, self.index(distance))


def _product_of_rows(rows: int) -> Callable[..., None]:
    @intrinsic
    def block(typing_context: Any, out: Any, w: Any, a: Any, row: Any, column: Any) -> Any:
        """Add w @ a to the given number of rows, and to LANES columns, of out."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, signature, args, LANES)
            out, w, a, row, column = code.arguments
            places = [code.after(row, i) for i in range(rows)]
            totals = [code.variable(code.load(out, place, column)) for place in places]
            with cgutils.for_range(builder, code.shape(w)[1]) as loop:
                below = code.load(a, loop.index, column)
                for place, total in zip(places, totals, strict=True):
                    factor = builder.load(code.pointer(w, place, loop.index))
                    code.add_product(total, code.repeat(factor), below)
            for place, total in zip(places, totals, strict=True):
                code.store(builder.load(total), out, place, column)
            return context.get_dummy_value()

        return types.void(out, w, a, types.intp, types.intp), codegen

    return block


_rows_6, _rows_4, _rows_2, _rows_1 = map(_product_of_rows, (6, 4, 2, 1))


@njit
def add_product(out, w, a):  # type: ignore[no-untyped-def]
    """out += w @ a[: w.shape[1]], for `w (m, k)`, `a (at least k, N)` and `out (m, N)`."""
    height = len(w)
    for column in range(0, out.shape[1], LANES):
        row = 0
        while row + 6 <= height:
            _rows_6(out, w, a, row, column)
            row += 6
        if row + 4 <= height:
            _rows_4(out, w, a, row, column)
            row += 4
        if row + 2 <= height:
            _rows_2(out, w, a, row, column)
            row += 2
        if row < height:
            _rows_1(out, w, a, row, column)


@intrinsic
def _block_of_outer_products(
    typing_context: Any, sums: Any, a: Any, b: Any, c: Any, d: Any, row: Any, column: Any
) -> Any:
    """Write rows row ... row + 3 of a and c, times columns column ... column + 3 of b and d."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, LANES // 2)
        sums, a, b, c, d, row, column = code.arguments
        zero = ir.Constant(code.vector, [0.0] * code.lanes)
        totals = [code.variable(zero) for _ in range(16)]

        def clipped(index: Any, matrix: Any) -> list[Any]:
            last = builder.sub(code.shape(matrix)[0], code.index(1))
            places = [code.after(index, i) for i in range(4)]
            return [
                builder.select(builder.icmp_signed("<", place, last), place, last)
                for place in places
            ]

        rows, columns = clipped(row, a), clipped(column, b)
        start, stop, step = code.index(0), code.shape(a)[1], code.index(code.lanes)
        with cgutils.for_range_slice(builder, start, stop, step, inc=True) as (k, _):
            for left, right in ((a, b), (c, d)):
                lefts = [code.load(left, i, k) for i in rows]
                for j, place in enumerate(columns):
                    other = code.load(right, place, k)
                    for i, own in enumerate(lefts):
                        code.add_product(totals[4 * i + j], own, other)
        for n, vector in enumerate(code.sums([builder.load(total) for total in totals])):
            code.store(vector, sums, code.index(n * code.lanes // 4), code.index(0))
        return context.get_dummy_value()

    return types.void(sums, a, b, c, d, types.intp, types.intp), codegen


@intrinsic
def _close(typing_context: Any, out: Any, gate: Any, row: Any, column: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, LANES)
        out, gate, row, column = code.arguments
        zero = ir.Constant(code.vector, [0.0] * LANES)
        closed = builder.fcmp_ordered("<=", code.load(gate, row, column), zero)
        value = builder.select(closed, zero, code.load(out, row, column))
        code.store(value, out, row, column)
        return context.get_dummy_value()

    return types.void(out, gate, types.intp, types.intp), codegen


@njit
def close(out, gate):  # type: ignore[no-untyped-def]
    """Set out to zero wherever gate, which may be the same matrix, is not above zero."""
    for row in range(len(out)):
        for column in range(0, out.shape[1], LANES):
            _close(out, gate, row, column)  # type: ignore[call-arg]


@njit
def add_outer_products(out, kept, a, b, c, d):  # type: ignore[no-untyped-def]
    """out += a @ b.T + c @ d.T, in the first `kept[r]` columns of row r.

    For `a, c (m, N)`, `b, d (at least k, N)`, `out (m, k)`, and `kept (m,)` that does not decrease.
    """
    height = len(out)
    sums = np.empty((4, 4), out.dtype)
    for r in range(0, height, 4):
        for j in range(0, kept[min(r + 3, height - 1)], 4):
            _block_of_outer_products(sums, a, b, c, d, r, j)  # type: ignore[call-arg]
            for p in range(min(4, height - r)):
                for q in range(min(4, kept[r + p] - j)):
                    out[r + p, j + q] += sums[p, q]
