// Functions of elements, with broadcasting. No element depends on another, so there is no order to keep.
#include "groups.cuh"
#include "rows.cuh"

namespace arithmetic {

// An operand of an elementwise operation: element (request, row, column) is
// data[request * request_stride + row * row_stride + column / each].
struct Broadcast {
    const float *data;
    u32 request_stride, row_stride, each;

    MEMBER float at(u32 request, u32 row, u32 column) const {
        return data[(u64)request * request_stride + (u64)row * row_stride + column / each];
    }
};

struct Place {
    u32 request, row, column;
};

DEVICE Place place(u64 i, u32 rows, u32 cols) {
    u32 line = (u32)(i / cols);
    return {line / rows, line % rows, (u32)(i - (u64)line * cols)};
}

KERNEL(unary_all, 256, float *out, const float *x, u64 count, u32 function) {
    for (u64 i = first_index(); i < count; i += index_step()) out[i] = unary(function, x[i]);
}

KERNEL(binary_all, 256, float *out, u64 count, u32 rows, u32 cols, u32 function, u32 causal, const float *x, u32 x_request,
       u32 x_row, u32 x_each, const float *y, u32 y_request, u32 y_row, u32 y_each) {
    Broadcast a = {x, x_request, x_row, x_each}, b = {y, y_request, y_row, y_each};
    for (u64 i = first_index(); i < count; i += index_step()) {
        Place p = place(i, rows, cols);
        bool defined = p.column < extent(causal, p.row, cols);
        out[i] = defined ? binary(function, a.at(p.request, p.row, p.column), b.at(p.request, p.row, p.column)) : 0.0f;
    }
}

// function(x, y) of operands that lie exactly as the result does.
KERNEL(binary_alike, 256, float *out, const float *x, const float *y, u64 count, u32 function) {
    for (u64 i = first_index(); i < count; i += index_step()) out[i] = binary(function, x[i], y[i]);
}

// The same for rows that are quantised.
KERNEL(binary_groups, 256, float *out, const float *x, const float *y, u64 rows, u32 cols, u32 function, GROUP_PARAMETERS) {
    auto element = [x, y, function](u64 at) { return binary(function, x[at], y[at]); };
    GROUPS(cols).make_rows(rows, element, [out](u64 at, float result) { out[at] = result; });
}

KERNEL(mul_add_all, 256, float *out, u64 count, u32 rows, u32 cols, const float *x, u32 x_request, u32 x_row, u32 x_each,
       const float *y, u32 y_request, u32 y_row, u32 y_each, const float *z, u32 z_request, u32 z_row, u32 z_each) {
    Broadcast a = {x, x_request, x_row, x_each}, b = {y, y_request, y_row, y_each}, c = {z, z_request, z_row, z_each};
    for (u64 i = first_index(); i < count; i += index_step()) {
        Place p = place(i, rows, cols);
        float value = fma(a.at(p.request, p.row, p.column), b.at(p.request, p.row, p.column), c.at(p.request, p.row, p.column));
        out[i] = canonical(value);
    }
}

KERNEL(select_all, 256, float *out, u64 count, u32 rows, u32 cols, const float *x, u32 x_request, u32 x_row, u32 x_each,
       const float *y, u32 y_request, u32 y_row, u32 y_each, const float *z, u32 z_request, u32 z_row, u32 z_each) {
    Broadcast mask = {x, x_request, x_row, x_each}, a = {y, y_request, y_row, y_each}, b = {z, z_request, z_row, z_each};
    for (u64 i = first_index(); i < count; i += index_step()) {
        Place p = place(i, rows, cols);
        // NaN is not 0: an unordered comparison is true.
        bool chosen = mask.at(p.request, p.row, p.column) != 0.0f;
        out[i] = chosen ? a.at(p.request, p.row, p.column) : b.at(p.request, p.row, p.column);
    }
}

// Integers as f32. `kind`: 0 u32, 1 u8, 2 i8.
KERNEL(convert_all, 256, float *out, const void *x, u64 count, u32 kind) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        if (kind == 0) out[i] = from_u32(((const u32 *)x)[i]);
        if (kind == 1) out[i] = from_u32(((const u8 *)x)[i]);
        if (kind == 2) out[i] = from_i32(((const i8 *)x)[i]);
    }
}

// Rotary embedding (P-32) of one or two tensors of equal rows, `y` with `y_cols` columns, none if there is no second.
// `positions[row]` is the position of a row, or its row within the request without it. A table has `table_request` elements
// for each request, none if all share it.
KERNEL(rope_all, 256, float *x_out, const float *x, u32 x_cols, float *y_out, const float *y, u32 y_cols, const float *cosines,
       const float *sines, const u32 *positions, u64 count, u32 rows, u32 head, u32 rotary, u32 cosine_request,
       u32 sine_request) {
    u32 half = rotary / 2, width = x_cols + y_cols;
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / width), column = (u32)(i - (u64)line * width);
        bool second = column >= x_cols;
        if (second) column -= x_cols;
        u32 d = column % head;
        u64 at = (u64)line * (second ? y_cols : x_cols) + column;
        const float *from = (second ? y : x) + at;
        float *to = (second ? y_out : x_out) + at;
        if (d >= rotary) {
            *to = *from;
            continue;
        }
        u32 position = positions ? positions[line] : line % rows, request = line / rows;
        u32 angle = d < half ? d : d - half;
        float cosine = cosines[(u64)request * cosine_request + (u64)position * half + angle];
        float sine = sines[(u64)request * sine_request + (u64)position * half + angle];
        float turned = mul(*from, cosine);
        *to = canonical(d < half ? sub(turned, mul(from[half], sine)) : add(turned, mul(*(from - half), sine)));
    }
}

} // namespace arithmetic
