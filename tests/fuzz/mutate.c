#include "tests/fuzz/mutate.h"

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#include <jansson.h>

#include "core/base/hash.h"
#include "core/data/safetensors.h"

/* --- JSON --- */

enum { SPANS_MAX = 512, DEPTH_MAX = 64, TEXT_MAX = 1 << 16 };

struct span { /* of a value; of a member `member` is where its name begins, else its begin */
    size_t begin, end, member;
    bool name; /* is a member's */
};

struct spans {
    struct span at[SPANS_MAX];
    size_t n;
};

static size_t string_end(const uint8_t *s, size_t n, size_t at)
{
    for (at++; at < n && s[at] != '"'; at++)
        at += s[at] == '\\';
    return DEQ_MIN(at + 1, n);
}

static size_t word_end(const uint8_t *s, size_t n, size_t at)
{
    while (at < n && !memchr("{}[],:\" \t\r\n", s[at], 11))
        at++;
    return at;
}

/* All that looks like a value, also in what is not quite JSON. */
static void find_spans(const uint8_t *s, size_t n, struct spans *ret)
{
    size_t open[DEPTH_MAX], depth = 0, member = SIZE_MAX;
    ret->n = 0;
    for (size_t at = 0, end; at < n && ret->n < SPANS_MAX; at = end) {
        const uint8_t c = s[at];
        end = at + 1;
        if (strchr(" \t\r\n,", c) || !c)
            continue;
        if (c == ':') {
            struct span *last = ret->n ? &ret->at[ret->n - 1] : NULL;
            if (last) {
                last->name = true;
                member = last->begin;
            }
            continue;
        }
        if (c == '}' || c == ']') {
            if (depth)
                ret->at[open[--depth]].end = end;
            continue;
        }
        struct span *x = &ret->at[ret->n++];
        *x = (struct span){at, n, member == SIZE_MAX ? at : member, false};
        member = SIZE_MAX;
        if ((c == '{' || c == '[') && depth < DEPTH_MAX)
            open[depth++] = ret->n - 1;
        else if (c != '{' && c != '[')
            x->end = end = c == '"' ? string_end(s, n, at) : DEQ_MAX(word_end(s, n, at), at + 1);
    }
}

static const char *const literals[] = {
    "null", "true", "false", "0", "-0", "-1", "1", "2", "0.5", "1e999", "-1e999", "1e-400", "0.1", "16.0", "1e3", "63",
    "64", "65", "127", "128", "255", "256", "4096", "65535", "65536", "2147483647", "2147483648", "4294967295",
    "4294967296", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "18446744073709551616", "[]", "{}", "[[]]", "\"\"", "\" \"", "\"\\u0000\"", "\"a\\u0000b\"", "\"\\ud83d\\ude00\"",
    "\"\\ufeff\"", "\"\xc3\xa9\"", "\"\xf0\x9f\x98\x80\"", "\"\\n\"", "\"a\"", "[0]", "[1, 2]", "[\"a\"]", "{\"a\": 1}",
};

/* Bytes [begin, end) become piece [k]; the text's new length, or n when there is no room. */
static size_t replace(uint8_t *s, size_t n, size_t max, size_t begin, size_t end, const void *piece, size_t k)
{
    static uint8_t copy[TEXT_MAX];
    if (n - (end - begin) + k > max || k > sizeof copy)
        return n;
    memcpy(copy, piece, k); /* which may lie in s */
    memmove(s + begin + k, s + end, n - end);
    memcpy(s + begin, copy, k);
    return n - (end - begin) + k;
}

/* A member or an element goes, with a comma beside it. */
static size_t drop(uint8_t *s, size_t n, const struct span *x)
{
    size_t begin = x->member, end = x->end;
    while (end < n && strchr(" \t\r\n", s[end]) && s[end])
        end++;
    if (end < n && s[end] == ',') {
        end++;
    } else {
        size_t k = begin;
        while (k && strchr(" \t\r\n", s[k - 1]) && s[k - 1])
            k--;
        begin = k && s[k - 1] == ',' ? k - 1 : begin;
    }
    memmove(s + begin, s + end, n - end);
    return n - (end - begin);
}

/* A member or an element stands there twice, the second as the piece [k], or as it is. */
static size_t twice(uint8_t *s, size_t n, size_t max, const struct span *x)
{
    static uint8_t piece[TEXT_MAX];
    const size_t k = x->end - x->member;
    if (k + 1 > sizeof piece)
        return n;
    piece[0] = ',';
    memcpy(piece + 1, s + x->member, k);
    return replace(s, n, max, x->end, x->end, piece, k + 1);
}

static size_t change_inside(uint8_t *s, size_t n, size_t max, const struct span *x)
{
    static uint8_t piece[TEXT_MAX];
    const bool text = s[x->begin] == '"' && x->end - x->begin >= 2;
    const size_t begin = x->begin + text, end = x->end - text, k = end - begin;
    if (k > sizeof piece / 2)
        return n;
    memcpy(piece, s + begin, k);
    return replace(s, n, max, begin, end, piece, LLVMFuzzerMutate(piece, k, DEQ_MIN(k + 16, max - (n - k))));
}

size_t fuzz_mutate_json(uint8_t *s, size_t n, size_t max, unsigned seed)
{
    static struct spans spans;
    uint64_t random = seed;
    size_t rounds = 1 + fuzz_next(&random) % 4;
    if (fuzz_next(&random) % 3 == 0)
        return LLVMFuzzerMutate(s, n, max);
    while (rounds--) {
        find_spans(s, n, &spans);
        if (!spans.n)
            return LLVMFuzzerMutate(s, n, max);
        const struct span *x = &spans.at[fuzz_next(&random) % spans.n], *y = &spans.at[fuzz_next(&random) % spans.n];
        const char *word = literals[fuzz_next(&random) % DEQ_COUNT(literals)];
        switch (fuzz_next(&random) % 6) {
        case 0:
            n = replace(s, n, max, x->begin, x->end, s + y->begin, y->end - y->begin);
            break;
        case 1:
            if (!x->name || word[0] == '"')
                n = replace(s, n, max, x->begin, x->end, word, strlen(word));
            break;
        case 2: n = drop(s, n, x); break;
        case 3: n = twice(s, n, max, x); break;
        default: n = change_inside(s, n, max, x); break;
        }
    }
    return n;
}

size_t fuzz_mutate_json_in(uint8_t *data, size_t n, size_t max, unsigned seed, size_t letters)
{
    static uint8_t behind[TEXT_MAX];
    uint64_t random = seed ^ 0x5eed;
    const uint8_t *rest;
    size_t n_rest;
    const size_t front = fuzz_split(data, n, &rest, &n_rest);
    const bool zero = front < n;
    if (n < letters + 2 || front <= letters || n_rest > sizeof behind || fuzz_next(&random) % 16 == 0)
        return LLVMFuzzerMutate(data, n, max);
    if (zero && fuzz_next(&random) % 3 == 0) /* what stands behind */
        return front + 1 + LLVMFuzzerMutate(data + front + 1, n_rest, max - front - 1);
    memcpy(behind, rest, n_rest);
    const size_t room = max - (zero ? n_rest + 1 : 0) - letters;
    size_t k = letters + fuzz_mutate_json(data + letters, front - letters, room, seed);
    if (zero)
        data[k++] = 0;
    memcpy(data + k, behind, zero ? n_rest : 0);
    return k + (zero ? n_rest : 0);
}

/* --- safetensors --- */

static uint64_t bytes_of(const json_t *tensor)
{
    static const struct {
        const char *name;
        uint64_t bytes;
    } types[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8}, {"I64", 8}, {"I32", 4}, {"I8", 1}, {"U8", 1}};
    const char *type = json_string_value(json_object_get(tensor, "dtype"));
    const json_t *shape = json_object_get(tensor, "shape");
    uint64_t n = 0;
    for (size_t i = 0; type && i < DEQ_COUNT(types); i++)
        n = strcmp(type, types[i].name) ? n : types[i].bytes;
    for (size_t i = 0; i < json_array_size(shape); i++)
        if (__builtin_mul_overflow(n, (uint64_t)json_integer_value(json_array_get(shape, i)), &n))
            return UINT64_MAX;
    return n;
}

/* The tensors one behind the other, but for tensor `slipped`, which lies over the first. Returns how long their data
 * are together, or UINT64_MAX: they are not to be had. */
static uint64_t tile(json_t *header, uint64_t most, uint64_t slipped)
{
    const char *key;
    json_t *t;
    uint64_t at = 0;
    json_object_foreach(header, key, t) {
        if (!json_is_object(t) || !strcmp(key, "__metadata__"))
            continue;
        const uint64_t n = bytes_of(t);
        if (n > most || at > most - n)
            return UINT64_MAX;
        const json_int_t begin = slipped-- ? (json_int_t)at : 0;
        json_object_set_new(t, "data_offsets", json_pack("[I, I]", begin, begin + (json_int_t)n));
        at += n;
    }
    return at;
}

static void put_length(uint8_t *s, uint64_t n)
{
    for (int i = 0; i < 8; i++)
        s[i] = (uint8_t)(n >> 8 * i);
}

/* A new header [k] in front of the data, which are made `data` long (as they are: UINT64_MAX). */
static size_t put_header(uint8_t *s, size_t n, size_t max, size_t header_end, const void *header, size_t k,
                         uint64_t data)
{
    n = replace(s, n, max, 8, header_end, header, k);
    if (n < 8 + k || memcmp(s + 8, header, k)) /* there was no room */
        return n;
    put_length(s, k);
    if (data > max - 8 - k)
        return n;
    if (8 + k + data > n)
        memset(s + n, 0, (size_t)(8 + k + data - n));
    return (size_t)(8 + k + data);
}

static void put_checksum(uint8_t *s, size_t n)
{
    enum { CHUNK = 1 << 16 };
    struct deq_hash h = {{0x6465712e73746174u, 0x652e707265666978u}};
    if (n < sizeof h)
        return;
    for (size_t at = 0; at < n - sizeof h; at += CHUNK)
        h = deq_siphash(&h, s + at, DEQ_MIN((size_t)CHUNK, n - sizeof h - at));
    memcpy(s + n - sizeof h, &h, sizeof h);
}

size_t fuzz_mutate_safetensors(uint8_t *s, size_t n, size_t max, unsigned seed, bool checksum)
{
    static uint8_t header[TEXT_MAX];
    uint64_t random = seed ^ 0x7e5, length = 0;
    for (int i = 7; i >= 0 && n >= 8; i--)
        length = length << 8 | s[i];
    if (n < 10 || length < 2 || length > n - 8 || length > sizeof header / 2 || fuzz_next(&random) % 16 == 0)
        return LLVMFuzzerMutate(s, n, max);
    const size_t end = 8 + (size_t)length;
    if (fuzz_next(&random) % 4 == 0 && n > end) { /* the data */
        n = end + LLVMFuzzerMutate(s + end, n - end, n - end);
    } else {
        memcpy(header, s + 8, (size_t)length);
        size_t k = fuzz_mutate_json(header, (size_t)length, DEQ_MIN(sizeof header, max - (n - (size_t)length)), seed);
        json_t *root = json_loadb((const char *)header, k, 0, NULL);
        const uint64_t slipped = fuzz_next(&random) % 8 ? UINT64_MAX : fuzz_next(&random) % 8;
        const uint64_t data = root && fuzz_next(&random) % 8 ? tile(root, max, slipped) : UINT64_MAX;
        char *text = data == UINT64_MAX ? NULL : json_dumps(root, JSON_COMPACT);
        n = put_header(s, n, max, end, text ? (const void *)text : header, text ? strlen(text) : k, data);
        free(text);
        json_decref(root);
    }
    if (checksum && fuzz_next(&random) % 8)
        put_checksum(s, n);
    return n;
}
#endif
