// Operations that move elements: views, concatenation, lookup of rows and columns, output bytes. What is moved keeps its
// bits; only widened floats are made canonical.
#include "weights.cuh"

// A view for given symbols (P-31), as `view_map` of cuda/run.rs writes it.
struct ViewMap {
    i64 row_digits, col_digits, axes;
    i64 radices[8];
    struct {
        i64 size, offset, row_weight, col_weight;
        i64 steps[8];
    } axis[8];
};

DEVICE void split(i64 *digits, const i64 *radices, u32 count, u32 index) {
    for (u32 d = count; d-- > 0;) {
        u32 radix = (u32)radices[d];
        digits[d] = index % radix;
        index /= radix;
    }
}

// Where element (row, column) comes from; false if from nowhere.
DEVICE bool source(const ViewMap &map, u32 row, u32 column, u32 source_cols, u64 &from) {
    i64 digits[8];
    u32 rows = (u32)map.row_digits, cols = (u32)map.col_digits;
    split(digits, map.radices, rows, row);
    split(digits + rows, map.radices + rows, cols, column);
    i64 at = 0;
    for (u32 a = 0; a < (u32)map.axes; a++) {
        i64 coordinate = map.axis[a].offset;
        for (u32 d = 0; d < rows + cols; d++) coordinate += map.axis[a].steps[d] * digits[d];
        if (coordinate < 0 || coordinate >= map.axis[a].size) return false;
        at += coordinate * (map.axis[a].row_weight * source_cols + map.axis[a].col_weight);
    }
    from = (u64)at;
    return true;
}

template <class T>
DEVICE void view(T *out, const T *x, const ViewMap *map, u64 count, u32 rows, u32 cols, u32 x_cols, u64 x_request, u32 fill) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / cols), column = (u32)(i - (u64)line * cols);
        u64 from = 0;
        bool exists = source(*map, line % rows, column, x_cols, from);
        out[i] = exists ? x[line / rows * x_request + from] : (T)fill;
    }
}

KERNEL(view_words, 256, u32 *out, const u32 *x, const ViewMap *map, u64 count, u32 rows, u32 cols, u32 x_cols, u64 x_request,
       u32 fill) {
    view(out, x, map, count, rows, cols, x_cols, x_request, fill);
}

KERNEL(view_bytes, 256, u8 *out, const u8 *x, const ViewMap *map, u64 count, u32 rows, u32 cols, u32 x_cols, u64 x_request,
       u32 fill) {
    view(out, x, map, count, rows, cols, x_cols, x_request, fill);
}

// A view that moves elements alike within each of `count / size` positions: element `i` of a position is element
// `table[i]` of the same position's `x_size` elements, or the fill.
template <class T> DEVICE void move(T *out, const T *x, const u32 *table, u64 count, u32 size, u32 x_size, u32 fill) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u64 position = i / size;
        u32 from = table[i - position * size];
        out[i] = from == 0xffffffffu ? (T)fill : x[position * x_size + from];
    }
}

KERNEL(move_words, 256, u32 *out, const u32 *x, const u32 *table, u64 count, u32 size, u32 x_size, u32 fill) {
    move(out, x, table, count, size, x_size, fill);
}

KERNEL(move_bytes, 256, u8 *out, const u8 *x, const u32 *table, u64 count, u32 size, u32 x_size, u32 fill) {
    move(out, x, table, count, size, x_size, fill);
}

// One operand of a concatenation: `height x width` bytes of each request to row `top`, byte `left` of the result.
KERNEL(concat_bytes, 256, u8 *out, const u8 *x, u64 count, u32 height, u32 width, u32 top, u32 left, u32 out_height,
       u32 out_width, u64 x_request) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / width), byte = (u32)(i - (u64)line * width), request = line / height, row = line % height;
        out[((u64)request * out_height + top + row) * out_width + left + byte] =
            x[request * x_request + (u64)row * width + byte];
    }
}

// Rows of a table that nodes compute: `ids` are words or bytes.
KERNEL(gather_rows, 256, u8 *out, const void *ids, u32 id_size, const u8 *table, u64 count, u32 rows, u32 width,
       u32 table_rows, u64 ids_request, u64 table_request) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / width), byte = (u32)(i - (u64)line * width), request = line / rows, row = line % rows;
        u64 at = request * ids_request + row;
        u32 id = id_size == 4 ? ((const u32 *)ids)[at] : ((const u8 *)ids)[at];
        out[i] = id < table_rows ? table[request * table_request + (u64)id * width + byte] : 0xff;
    }
}

// Rows of a weight in its packed form, widened to f32.
KERNEL(gather_packed, 256, float *out, const void *ids, u32 id_size, const u8 *values, const float *scales, u64 count,
       u32 cols, u32 table_rows, u32 type) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / cols), column = (u32)(i - (u64)line * cols);
        u32 id = id_size == 4 ? ((const u32 *)ids)[line] : ((const u8 *)ids)[line];
        float element = id < table_rows ? packed_element(values, scales, type, id, column, cols) : 0.0f;
        out[i] = arithmetic::canonical(element);
    }
}

template <class T>
DEVICE void take(T *out, const T *x, const u32 *columns, u64 count, u32 rows, u32 cols, u32 x_cols, u64 x_request,
                 u64 columns_request) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 line = (u32)(i / cols), column = (u32)(i - (u64)line * cols), request = line / rows, row = line % rows;
        u32 from = columns[request * columns_request + column];
        out[i] = from < x_cols ? x[request * x_request + (u64)row * x_cols + from] : (T)~(T)0;
    }
}

KERNEL(take_words, 256, u32 *out, const u32 *x, const u32 *columns, u64 count, u32 rows, u32 cols, u32 x_cols, u64 x_request,
       u64 columns_request) {
    take(out, x, columns, count, rows, cols, x_cols, x_request, columns_request);
}

KERNEL(take_bytes, 256, u8 *out, const u8 *x, const u32 *columns, u64 count, u32 rows, u32 cols, u32 x_cols, u64 x_request,
       u64 columns_request) {
    take(out, x, columns, count, rows, cols, x_cols, x_request, columns_request);
}

// Words as big-endian bytes (P-39).
KERNEL(encode_words, 256, u8 *out, const u32 *x, u64 count) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 word = x[i];
        for (u32 byte = 0; byte < 4; byte++) out[4 * i + byte] = (u8)(word >> (24 - 8 * byte));
    }
}

