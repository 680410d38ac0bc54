// Sampling (S1 to S6) and what surrounds generated tokens: checks, lengths, text. Integers, but for `perturb`, whose
// elements do not depend on each other.
#include "arithmetic.cuh"

namespace arithmetic {

// How a row is sampled: the parameters and seed of its request, and which generated token it is.
struct Sampling {
    float temperature, min_p;
    u32 seed[4];
    u32 step, unused;
};

// S1, S2
DEVICE u32 random_word(const u32 *seed, u32 step, u32 token) {
    u32 c0 = token / 4, c1 = step, c2 = seed[2], c3 = seed[3], k0 = seed[0], k1 = seed[1];
    for (u32 round = 0; round < 10; round++) {
        u64 a = (u64)c0 * 0xd2511f53u, b = (u64)c2 * 0xcd9e8d57u;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ k0, n2 = (u32)(a >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = (u32)b, c2 = n2, c3 = (u32)a;
        k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
    }
    u32 which = token % 4;
    return which == 0 ? c0 : which == 1 ? c1 : which == 2 ? c2 : c3;
}

// S3, S4
DEVICE float gumbel(const u32 *seed, u32 step, u32 token) {
    float u = mul(from_u32(random_word(seed, step, token) >> 9 << 1 | 1), from_bits(0x33800000u));
    return neg(log(neg(log(u))));
}

// S5; at temperature 0 the logit itself.
KERNEL(perturb, 256, float *out, const float *logits, const float *maxima, const Sampling *samplings, u64 count, u32 cols) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 row = (u32)(i / cols), token = (u32)(i - (u64)row * cols);
        const Sampling &s = samplings[row];
        float logit = logits[i];
        if (!(s.temperature > 0.0f)) {
            out[i] = logit;
            continue;
        }
        float threshold = add(maxima[row], mul(s.temperature, log(s.min_p)));
        float score = add(div(logit, s.temperature), gumbel(s.seed, s.step, token));
        out[i] = logit < threshold ? from_bits(0xff800000u) : canonical(score);
    }
}

DEVICE bool contains(const u32 *sorted, u32 count, u32 value) {
    for (u32 i = 0; i < count; i++) {
        if (sorted[i] == value) return true;
    }
    return false;
}

// P-37. `limits[request]` is the token limit of a request.
KERNEL(check_generated, 256, u32 *out, const u32 *tokens, const u32 *samples, const u32 *stop, const u32 *limits, u32 stops,
       u64 count, u32 rows, u32 prompt, u64 tokens_request, u64 samples_request) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 request = (u32)(i / rows), row = (u32)(i % rows);
        u32 token = tokens[request * tokens_request + prompt + row];
        bool stopped = contains(stop, stops, token);
        bool ends = row + 1 == rows ? stopped || rows == limits[request] : !stopped;
        out[i] = token == samples[request * samples_request + row] && ends ? 1 : 0;
    }
}

// P-37: whether the last of `rows` is `length`.
KERNEL(check_length, 32, u32 *out, const u32 *ends, u32 requests, u32 rows, u64 ends_request, u32 length) {
    for (u64 i = first_index(); i < requests; i += index_step()) out[i] = ends[i * ends_request + rows - 1] == length ? 1 : 0;
}

// Bytes of each token's entry; entry `t` of the vocabulary is bytes `offsets[t] .. offsets[t + 1]`.
KERNEL(token_lengths, 256, u32 *out, const u32 *tokens, const u64 *offsets, u64 count, u32 entries) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 token = tokens[i];
        out[i] = token < entries ? (u32)(offsets[token + 1] - offsets[token]) : 0;
    }
}

// A thread to each request: sums modulo 2^32, so any other order would do as well.
KERNEL(prefix_sums, 32, u32 *out, const u32 *x, u32 requests, u32 rows) {
    for (u64 request = first_index(); request < requests; request += index_step()) {
        u32 sum = 0;
        for (u64 i = request * rows; i < (request + 1) * rows; i++) out[i] = sum += x[i];
    }
}

// P-38: a thread to each token of one request.
KERNEL(detokenise, 256, u8 *out, const u32 *tokens, const u32 *ends, const u64 *offsets, const u8 *bytes, u64 count,
       u32 entries, u32 length) {
    for (u64 i = first_index(); i < count; i += index_step()) {
        u32 token = tokens[i], at = i == 0 ? 0 : ends[i - 1];
        if (token >= entries) continue;
        for (u64 b = offsets[token]; b < offsets[token + 1] && at < length; b++) out[at++] = bytes[b];
    }
}

} // namespace arithmetic
