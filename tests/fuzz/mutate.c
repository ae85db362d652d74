#include "tests/fuzz/mutate.h"

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
#include <jansson.h>
#include <math.h>

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

enum { TENSORS_MAX = 64, SIZE_MOST = 64, WORD_MAX = 8 };

/* Of a header that is read; data_offsets count from its end. */
struct tensor {
    const char *name; /* borrowed of the header */
    size_t begin, end, unit, row;
    bool real;
};

static const struct {
    const char *name;
    size_t bytes;
    bool real;
} types[] = {{"F32", 4, true},  {"F16", 2, true},  {"BF16", 2, true}, {"F64", 8, true},
             {"I64", 8, false}, {"I32", 4, false}, {"I8", 1, false},  {"U8", 1, false}};

static size_t type_of(const json_t *tensor)
{
    const char *type = json_string_value(json_object_get(tensor, "dtype"));
    size_t i = 0;
    while (type && i < DEQ_COUNT(types) && strcmp(type, types[i].name))
        i++;
    return type ? i : DEQ_COUNT(types);
}

static uint64_t bytes_of(const json_t *tensor)
{
    const json_t *shape = json_object_get(tensor, "shape");
    const size_t type = type_of(tensor);
    uint64_t n = type < DEQ_COUNT(types) ? types[type].bytes : 0;
    for (size_t i = 0; i < json_array_size(shape); i++)
        if (__builtin_mul_overflow(n, (uint64_t)json_integer_value(json_array_get(shape, i)), &n))
            return UINT64_MAX;
    return n;
}

static size_t rows_of(const json_t *tensor)
{
    const json_int_t n = json_integer_value(json_array_get(json_object_get(tensor, "shape"), 0));
    return n > 0 ? (size_t)n : 1;
}

/* What of the header is a tensor inside `data` bytes. */
static size_t find_tensors(const json_t *header, size_t data, struct tensor out[TENSORS_MAX])
{
    const char *key;
    json_t *t;
    size_t n = 0;
    json_object_foreach ((json_t *)(uintptr_t)header, key, t) {
        const json_t *at = json_object_get(t, "data_offsets");
        const json_int_t begin = json_integer_value(json_array_get(at, 0)),
                         end = json_integer_value(json_array_get(at, 1));
        const size_t type = type_of(t);
        if (n < TENSORS_MAX && type < DEQ_COUNT(types) && begin >= 0 && begin < end && (uint64_t)end <= data &&
            (size_t)(end - begin) >= types[type].bytes)
            out[n++] = (struct tensor){key,
                                       (size_t)begin,
                                       (size_t)end,
                                       types[type].bytes,
                                       DEQ_MAX((size_t)(end - begin) / rows_of(t), types[type].bytes),
                                       types[type].real};
    }
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

/* The file of a header [k], whose tensors have what those of the same name had among the old data; more of it again
 * and again. The new length, or 0: there is no room. */
static size_t put_file(uint8_t *s, size_t max, const char *header, size_t k, const json_t *now, size_t data,
                       const struct tensor *old, size_t n_old, const uint8_t *old_data)
{
    struct tensor fresh[TENSORS_MAX];
    if (data > max || k > max - data || 8 > max - data - k)
        return 0;
    put_length(s, k);
    memcpy(s + 8, header, k);
    memset(s + 8 + k, 0, data);
    const size_t n = find_tensors(now, data, fresh);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n_old; j++) {
            const size_t len = old[j].end - old[j].begin;
            if (strcmp(fresh[i].name, old[j].name))
                continue;
            for (size_t at = fresh[i].begin; at < fresh[i].end; at += len)
                memcpy(s + 8 + k + at, old_data + old[j].begin, DEQ_MIN(len, fresh[i].end - at));
        }
    return 8 + k + data;
}

static void put_checksum(uint8_t *s, size_t n)
{
    if (n < sizeof(struct deq_hash))
        return;
    const struct deq_hash h = fuzz_saved_sum(s, n - sizeof h);
    memcpy(s + n - sizeof h, &h, sizeof h);
}

/* One number of a tensor becomes one that is none, a neighbour of its own or of the tensor's length, or another's:
 * large tensors get no more of it than small ones, which are what others are counted by. */
static void change_number(uint8_t *data, const struct tensor *t, uint64_t *random)
{
    static const double reals[] = {NAN, INFINITY, -INFINITY, -1, 0, 1, -0.0, 1e-45, 3e38, 1e308, -1e-30, 2};
    const size_t n = (t->end - t->begin) / t->unit, i = fuzz_next(random) % n;
    uint8_t *const at = data + t->begin + i * t->unit, word[WORD_MAX] = {0};
    uint64_t whole = 0;
    memcpy(&whole, at, t->unit);
    switch (fuzz_next(random) % 6) {
    case 0: whole++; break;
    case 1: whole--; break;
    case 2: whole = UINT64_MAX << fuzz_next(random) % 64; break;
    case 3: whole = (uint64_t)1 << fuzz_next(random) % 64; break;
    case 4: whole = n + fuzz_next(random) % 3 - 1; break;
    default: memcpy(&whole, data + t->begin + fuzz_next(random) % n * t->unit, t->unit); break;
    }
    memcpy(word, &whole, sizeof word);
    const double real = reals[fuzz_next(random) % DEQ_COUNT(reals)];
    const float single = (float)real;
    if (t->real && t->unit == 8 && fuzz_next(random) % 2)
        memcpy(word, &real, sizeof real);
    else if (t->real && fuzz_next(random) % 2) /* of two bytes: bf16 */
        memcpy(word, (const uint8_t *)&single + (t->unit == 2) * 2, t->unit == 2 ? 2 : 4);
    memcpy(at, word, t->unit);
}

static void change_data(uint8_t *data, const struct tensor *t, size_t n, uint64_t *random)
{
    for (size_t rounds = 1 + fuzz_next(random) % 3; rounds--;) {
        const struct tensor *x = &t[fuzz_next(random) % n];
        const size_t rows = (x->end - x->begin) / x->row;
        const unsigned way = fuzz_next(random) % 8;
        if (way == 0) /* a row is another, too */
            memmove(data + x->begin + fuzz_next(random) % rows * x->row,
                    data + x->begin + fuzz_next(random) % rows * x->row, x->row);
        else if (way < 6)
            change_number(data, x, random);
        else
            (void)LLVMFuzzerMutate(data + x->begin, x->end - x->begin, x->end - x->begin);
    }
}

/* A size becomes another, of one tensor, or of all that have it as well. */
static void change_sizes(json_t *header, uint64_t *random)
{
    const json_int_t any = (json_int_t)(fuzz_next(random) % (SIZE_MOST + 1));
    const bool all = fuzz_next(random) % 2;
    const unsigned way = fuzz_next(random) % 4;
    json_t *shapes[TENSORS_MAX], *t;
    size_t n = 0;
    const char *key;
    json_object_foreach (header, key, t) {
        json_t *const shape = json_object_get(t, "shape");
        if (json_array_size(shape) && n < TENSORS_MAX)
            shapes[n++] = shape;
    }
    if (!n)
        return;
    const size_t at = fuzz_next(random) % n, dim = fuzz_next(random) % json_array_size(shapes[at]);
    const json_int_t old = json_integer_value(json_array_get(shapes[at], dim));
    const json_int_t size = DEQ_MIN(DEQ_MAX(old, 0), INT32_MAX);
    const json_int_t new = way == 0 ? size + 1 : way == 1 ? DEQ_MAX(size - 1, 0) : way == 2 ? any : 2 * size;
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < json_array_size(shapes[i]); d++)
            if (json_integer_value(json_array_get(shapes[i], d)) == old && (all || (i == at && d == dim)))
                json_array_set_new(shapes[i], d, json_integer(new));
}

/* Its header changes, as one or as JSON, and what lies behind it follows. */
static size_t change_header(uint8_t *s, size_t n, size_t max, size_t end, json_t *root, const struct tensor *old,
                            size_t n_old, uint64_t *random)
{
    static uint8_t text[TEXT_MAX], data[TEXT_MAX];
    json_t *now = NULL;
    size_t k = end - 8, ret = 0;
    if (n - end > sizeof data)
        return n;
    memcpy(data, s + end, n - end);
    memcpy(text, s + 8, k);
    if (fuzz_next(random) % 2) {
        now = json_deep_copy(root);
        for (size_t rounds = 1 + fuzz_next(random) % 3; now && rounds--;)
            change_sizes(now, random);
    } else {
        k = fuzz_mutate_json(text, k, DEQ_MIN(sizeof text, max - (n - k)), (unsigned)fuzz_next(random));
        now = json_loadb((const char *)text, k, 0, NULL);
    }
    const uint64_t slipped = fuzz_next(random) % 8 ? UINT64_MAX : fuzz_next(random) % 8;
    const uint64_t length = now && fuzz_next(random) % 8 ? tile(now, max, slipped) : UINT64_MAX;
    char *made = length == UINT64_MAX ? NULL : json_dumps(now, JSON_COMPACT);
    if (made) {
        ret = put_file(s, max, made, strlen(made), now, (size_t)length, old, n_old, data);
    } else if (8 + k + (n - end) <= max) { /* as it came, and the data where they were */
        put_length(s, k);
        memcpy(s + 8, text, k);
        memcpy(s + 8 + k, data, n - end);
        ret = 8 + k + (n - end);
    }
    free(made);
    json_decref(now);
    return ret ? ret : n;
}

size_t fuzz_mutate_safetensors(uint8_t *s, size_t n, size_t max, unsigned seed, bool checksum)
{
    struct tensor t[TENSORS_MAX];
    uint64_t random = seed ^ 0x7e5, length = 0;
    for (int i = 7; i >= 0 && n >= 8; i--)
        length = length << 8 | s[i];
    json_t *root = n >= 10 && length >= 2 && length <= n - 8 && length <= TEXT_MAX / 2
                       ? json_loadb((const char *)s + 8, (size_t)length, 0, NULL)
                       : NULL;
    const size_t end = 8 + (size_t)length, tensors = root ? find_tensors(root, n - end, t) : 0;
    if (!root || fuzz_next(&random) % 16 == 0)
        n = LLVMFuzzerMutate(s, n, max);
    else if (tensors && fuzz_next(&random) % 2)
        change_data(s + end, t, tensors, &random);
    else
        n = change_header(s, n, max, end, root, t, tensors, &random);
    json_decref(root);
    if (checksum && fuzz_next(&random) % 8)
        put_checksum(s, n);
    return n;
}
#endif
