/* Files into checked structs: safetensors, config.json, weights, corpora; the pages of the cache; and all of it without memory. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/data/config.h"
#include "core/data/safetensors.h"
#include "core/data/weights.h"
#include "core/math/half.h"
#include "core/text/corpus.h"
#include "tests/unit/test.h"

static char dir[256];

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static unsigned next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static bool make_dir(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/deq-data-XXXXXX", base && *base ? base : "/tmp");
    if (mkdtemp(dir))
        return true;
    SKIP("no temporary directory");
    return false;
}

/* Removes the named files; the directory must then be empty: no temporary file was left behind. */
static void drop_dir(const char *a, const char *b)
{
    if (a)
        unlink(in_dir(a));
    if (b)
        unlink(in_dir(b));
    CHECK(!rmdir(dir));
}

/* --- safetensors --- */

/* header text and n bytes of data as a file in a block of exactly its size, so that a sanitizer sees every byte read past it */
static unsigned char *container(const char *header, size_t n, const void *data, size_t *ret_len)
{
    const size_t h = strlen(header);
    unsigned char *p = malloc(8 + h + n);
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)((uint64_t)h >> (8 * i));
    memcpy(p + 8, header, h);
    if (data)
        memcpy(p + 8 + h, data, n);
    else
        memset(p + 8 + h, 0, n);
    *ret_len = 8 + h + n;
    return p;
}

#define T(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

TEST(safetensors_damaged_headers)
{
    static const struct {
        const char *header;
        size_t data;
        const char *says; /* beside the file's name */
    } t[] = {
        {"", 0, "does not start"},
        {"[]", 0, "does not start"},
        {" {}", 0, "does not start"},
        {"{", 0, "not JSON"},
        {"{]", 0, "not JSON"},
        {"{}{}", 0, "not JSON"},
        {"{} x", 0, "not JSON"},
        {"{\"a\":\xff}", 0, "not JSON"},
        {"{" T("a", "F32", "[1]", "[0,4]") ",}", 4, "not JSON"},
        {"{}", 1, "1 bytes follow"},
        {"{" T("a", "F32", "[1]", "[0,4]") "}", 5, "1 bytes follow"},
        {"{" T("a", "F32", "[2]", "[0,8]") "}", 7, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[4,8]") "}", 8, "tensor a: its data leave a hole"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[8,12]") "}", 12, "tensor b: its data leave a hole"},
        {"{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[1]", "[4,8]") "}", 8, "tensor b: its data overlap"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[0,4]") "}", 4, "its data overlap"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("a", "F32", "[1]", "[4,8]") "}", 8, "not JSON: duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "not JSON: duplicate"},
        {"{" T("a", "F32", "[2]", "[0,4]") "}", 4, "tensor a: shape times F32"},
        {"{" T("a", "F16", "[2]", "[0,8]") "}", 8, "tensor a: shape times F16"},
        {"{" T("a", "I64", "[2,3]", "[0,24]") "}", 24, "tensor a: shape times I64"},
        {"{" T("a", "F32", "[0]", "[0,4]") "}", 4, "tensor a: shape times"},
        {"{" T("a", "F32", "[]", "[0,0]") "}", 0, "tensor a: shape times"},
        {"{" T("a", "F32", "[1]", "[4,0]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[-4,0]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[0,4,4]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[4]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[0,4.0]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "\"0,4\"") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[0,9223372036854775807]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[9223372036854775804,9223372036854775807]") "}", 4, "tensor a: data_offsets"},
        {"{" T("a", "F32", "[1]", "[0,18446744073709551620]") "}", 4, "not JSON"},
        {"{" T("a", "F32", "[1e400]", "[0,4]") "}", 4, "not JSON"},
        {"{" T("a", "F32", "[-1]", "[0,4]") "}", 4, "tensor a: shape[0]"},
        {"{" T("a", "F32", "[1,1.0]", "[0,4]") "}", 4, "tensor a: shape[1]"},
        {"{" T("a", "F32", "[1,null]", "[0,4]") "}", 4, "tensor a: shape[1]"},
        {"{" T("a", "F32", "[4294967296,4294967296]", "[0,4]") "}", 4, "tensor a: shape[1]"},
        {"{" T("a", "F32", "[4611686018427387905]", "[0,4]") "}", 4, "tensor a: shape times"}, /* 4 * that is 4 modulo 2^64 */
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "tensor a: shape must be"},
        {"{" T("a", "F32", "4", "[0,16]") "}", 16, "tensor a: shape must be"},
        {"{" T("a", "F33", "[1]", "[0,4]") "}", 4, "tensor a: dtype F33"},
        {"{" T("a", "f32", "[1]", "[0,4]") "}", 4, "tensor a: dtype f32"},
        {"{" T("a", "F8_E4M3", "[4]", "[0,4]") "}", 4, "tensor a: dtype F8_E4M3"},
        {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a: dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor a: expected an object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, "tensor a: data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "tensor a: expected an object"},
        {"{\"a\":[]}", 0, "tensor a: expected an object"},
        {"{\"a\\nb\":[]}", 0, "tensor a?b: expected an object"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__.k"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        size_t len;
        unsigned char *p = container(t[i].header, t[i].data, NULL, &len);
        struct deq_safetensors *f = NULL;
        struct deq_err e = {0};
        enum deq_rc rc = deq_safetensors_parse(p, len, "broken.safetensors", &f, &e);
        CHECK_MSG(rc == DEQ_EFORMAT && e.code == rc && !f, "%s", t[i].header);
        CHECK_MSG(strstr(e.text, "broken.safetensors: ") && strstr(e.text, t[i].says), "%s: \"%s\" lacks \"%s\"", t[i].header, e.text, t[i].says);
        deq_safetensors_close(f);
        free(p);
    }
}

TEST(safetensors_damaged_lengths)
{
    static const char header[] = "{" T("w", "F32", "[3]", "[0,12]") "}";
    size_t len;
    struct deq_safetensors *f = NULL;
    struct deq_err e;
    unsigned char *p = container(header, 12, NULL, &len);
    for (size_t cut = 0; cut < len; cut++) { /* every way to cut a good file short */
        unsigned char *q = malloc(cut ? cut : 1);
        memcpy(q, p, cut);
        CHECK_MSG(deq_safetensors_parse(q, cut, "cut", &f, &e) == DEQ_EFORMAT && !f && strstr(e.text, "cut: "), "%zu bytes", cut);
        free(q);
    }
    static const uint64_t lengths[] = {0, 1, sizeof header - 2, sizeof header, sizeof header + 12, (16 << 20) + 1, 1ull << 32, 1ull << 63,
                                       UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < DEQ_COUNT(lengths); i++) {
        for (int b = 0; b < 8; b++)
            p[b] = (unsigned char)(lengths[i] >> (8 * b));
        CHECK_MSG(deq_safetensors_parse(p, len, "len", &f, &e) == DEQ_EFORMAT && !f, "%llu", (unsigned long long)lengths[i]);
    }
    free(p);
    /* spaces after the JSON are how writers align the data */
    p = container("{" T("w", "F32", "[3]", "[0,12]") "}     ", 12, NULL, &len);
    CHECK(!deq_safetensors_parse(p, len, "padded", &f, &e));
    deq_safetensors_close(f);
    free(p);
    char longest[600];
    for (int n = DEQ_ST_NAME_MAX; n <= DEQ_ST_NAME_MAX + 1; n++) {
        snprintf(longest, sizeof longest, "{\"%0*d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", n, 0);
        p = container(longest, 1, NULL, &len);
        f = NULL;
        CHECK(deq_safetensors_parse(p, len, "name", &f, &e) == (n == DEQ_ST_NAME_MAX ? DEQ_OK : DEQ_EFORMAT));
        deq_safetensors_close(f);
        free(p);
    }
    deq_safetensors_close(NULL);
}

TEST(safetensors_values)
{
    /* every dtype that widens, and an element that is not finite in each */
    static const char header[] = "{" T("f64", "F64", "[2]", "[0,16]") "," T("f32", "F32", "[2]", "[16,24]") "," T("bf16", "BF16", "[2]", "[24,28]")
        "," T("f16", "F16", "[2]", "[28,32]") "," T("i64", "I64", "[1]", "[32,40]") "," T("i32", "I32", "[1]", "[40,44]")
        "," T("i8", "I8", "[1]", "[44,45]") "," T("u8", "U8", "[1]", "[45,46]") "}";
    unsigned char data[46] = {0};
    const double d[2] = {-0.1, 3};
    const float s[2] = {1.5f, -2};
    const uint16_t b[2] = {0x3f80, 0xc000}, h[2] = {0x3c00, 0x0001};
    memcpy(data, d, 16);
    memcpy(data + 16, s, 8);
    memcpy(data + 24, b, 4);
    memcpy(data + 28, h, 4);
    static const float want[4][2] = {{-0.1f, 3}, {1.5f, -2}, {1, -2}, {1, 0x1p-24f}};
    static const char *const names[] = {"f64", "f32", "bf16", "f16", "i64", "i32", "i8", "u8"};
    size_t len;
    struct deq_safetensors *f = NULL;
    struct deq_err e;
    float out[2];
    for (size_t i = 0; i < DEQ_COUNT(names); i++) {
        unsigned char *p = container(header, sizeof data, data, &len);
        CHECK(!deq_safetensors_parse(p, len, "values.st", &f, &e));
        const struct deq_tensor *t = deq_safetensors_find(f, names[i]);
        CHECK(t != NULL);
        enum deq_rc rc = deq_tensor_to_f32(f, t, out, &e);
        if (i < 4) {
            CHECK_MSG(!rc && !memcmp(out, want[i], sizeof out), "%s", names[i]);
            /* the second element: F64 too large for F32, F32 NaN, BF16 infinity, F16 NaN */
            static const uint64_t bad[] = {0x7fe0000000000000, 0x7fc00000, 0xff80, 0x7e00};
            memcpy(p + t->offset + t->bytes / 2, &bad[i], deq_dtype_bytes(t->dtype));
            e.text[0] = 0;
            CHECK_MSG(deq_tensor_to_f32(f, t, out, &e) == DEQ_EFORMAT && strstr(e.text, "values.st: tensor ") && strstr(e.text, names[i]) &&
                          strstr(e.text, "element 1 "), "%s: %s", names[i], e.text);
        } else {
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(e.text, names[i]) && strstr(e.text, "floating"), "%s: %s", names[i], e.text);
        }
        deq_safetensors_close(f);
        free(p);
    }
}

TEST(safetensors_round_trip)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    const float a[6] = {1, -2, 3.5f, 0, -0.0f, 1e-40f};
    const uint16_t b[3] = {0x3f80, 0x8000, 0x0001};
    const int64_t c[1] = {-5};
    const struct deq_tensor_out t[] = {
        {.name = "a.weight", .dtype = DEQ_F32, .n_dims = 2, .shape = {2, 3}, .data = a},
        {.name = "empty", .dtype = DEQ_F32, .n_dims = 2, .shape = {0, 3}, .data = NULL},
        {.name = "b \"quoted\" \xc3\xa4", .dtype = DEQ_BF16, .n_dims = 1, .shape = {3}, .data = b},
        {.name = "scalar", .dtype = DEQ_I64, .n_dims = 0, .data = c},
        {.name = "deep", .dtype = DEQ_F32, .n_dims = 8, .shape = {1, 1, 1, 1, 1, 1, 1, 6}, .data = a},
    };
    static const char *const meta[] = {"format", "test", "note", "line\nend", NULL};
    CHECK_MSG(!deq_safetensors_write(in_dir("t"), t, DEQ_COUNT(t), meta, &e), "%s", e.text);
    struct deq_safetensors *f = NULL;
    CHECK_MSG(!deq_safetensors_open(in_dir("t"), &f, &e), "%s", e.text);
    if (f) {
        CHECK(deq_safetensors_count(f) == DEQ_COUNT(t));
        CHECK(!strcmp(deq_safetensors_meta(f, "format"), "test") && !strcmp(deq_safetensors_meta(f, "note"), "line\nend"));
        CHECK(!deq_safetensors_meta(f, "absent") && !deq_safetensors_find(f, "a") && !deq_safetensors_find(f, "__metadata__"));
        for (size_t i = 0; i < DEQ_COUNT(t); i++) {
            const struct deq_tensor *r = deq_safetensors_find(f, t[i].name);
            size_t bytes = deq_dtype_bytes(t[i].dtype);
            CHECK_MSG(r && r->dtype == t[i].dtype && r->n_dims == t[i].n_dims, "%s", t[i].name);
            if (!r)
                continue;
            for (unsigned d = 0; d < r->n_dims; d++) {
                CHECK(r->shape[d] == t[i].shape[d]);
                bytes *= t[i].shape[d];
            }
            CHECK(r->bytes == bytes && r->count == bytes / deq_dtype_bytes(t[i].dtype));
            char raw[64];
            CHECK(bytes <= sizeof raw && !deq_tensor_read(f, r, 0, r->count, raw, &e) && (!bytes || !memcmp(raw, t[i].data, bytes)));
        }
        uint64_t at = 0; /* in the order of their data */
        for (size_t i = 0; i < deq_safetensors_count(f); i++) {
            const struct deq_tensor *r = deq_safetensors_at(f, i);
            CHECK(!at || r->offset == at);
            at = r->offset + r->bytes;
        }
        CHECK(deq_safetensors_at(f, 0)->offset % 8 == 0);
    }
    deq_safetensors_close(f);
    f = NULL;
    CHECK(!deq_safetensors_write(in_dir("t"), NULL, 0, NULL, &e) && !deq_safetensors_open(in_dir("t"), &f, &e)); /* no tensors at all */
    CHECK(f && deq_safetensors_count(f) == 0 && !deq_safetensors_meta(f, "format"));
    deq_safetensors_close(f);
    f = NULL;
    CHECK(deq_safetensors_open(in_dir("none"), &f, &e) == DEQ_ENOTFOUND && !f && strstr(e.text, "/none"));
    CHECK(deq_safetensors_open(dir, &f, &e) == DEQ_EIO && !f);
    CHECK(!deq_io_replace(in_dir("t"), &(struct deq_part){"short", 5}, 1, NULL));
    CHECK(deq_safetensors_open(in_dir("t"), &f, &e) == DEQ_EFORMAT && !f && strstr(e.text, "/t: "));
    unsigned n = 1;
    for (enum deq_rc rc = DEQ_ENOMEM; rc && n < 50; n++) { /* no memory: the old file stays whole */
        deq_mem_fault(n, false);
        rc = deq_safetensors_write(in_dir("t"), t, DEQ_COUNT(t), meta, &e);
        deq_mem_fault(0, false);
        CHECK(rc == DEQ_OK || rc == DEQ_ENOMEM);
        enum deq_rc open = deq_safetensors_open(in_dir("t"), &f, NULL);
        CHECK(rc ? open == DEQ_EFORMAT : !open);
    }
    CHECK(n > 2 && n < 50);
    deq_safetensors_close(f);
    drop_dir("t", NULL);
}

/* A file that somebody cuts in place while it is read: an error that names it and the tensor, and no signal. */
TEST(safetensors_cut_while_it_is_read)
{
    if (!make_dir())
        return;
    enum { N = 50000, PAGE = 4096 };
    static float x[N], out[N];
    struct deq_err e;
    const struct deq_tensor_out t[] = {{.name = "first", .dtype = DEQ_F32, .n_dims = 1, .shape = {N}, .data = x},
                                       {.name = "second", .dtype = DEQ_BF16, .n_dims = 1, .shape = {N}, .data = x}};
    for (off_t left = 0; left <= 6 * N; left += 20 * PAGE) {
        struct deq_safetensors *f = NULL;
        CHECK(!deq_safetensors_write(in_dir("t"), t, 2, NULL, &e) && !deq_safetensors_open(in_dir("t"), &f, &e));
        const struct deq_tensor *first = deq_safetensors_find(f, "first"), *second = deq_safetensors_find(f, "second");
        CHECK(!deq_tensor_to_f32(f, first, out, &e));
        CHECK(!truncate(in_dir("t"), left));
        CHECK_MSG(deq_tensor_to_f32(f, second, out, &e) == DEQ_EIO && strstr(e.text, "/t: tensor second: the file changed"), "%s", e.text);
        CHECK_MSG(deq_tensor_to_f32(f, first, out, &e) == DEQ_EIO && strstr(e.text, "/t: tensor first: the file changed"), "%s", e.text);
        deq_safetensors_close(f);
    }
    drop_dir("t", NULL);
}

/* --- config.json --- */

static const struct key {
    const char *name, *good;
    bool required;
    const char *bad[6];
} keys[] = {
    {"model_type", "\"deq_transformer\"", true, {"\"gpt2\"", "3", "null"}},
    {"format_version", "1", false, {"2", "0", "\"1\"", "1.0"}},
    {"vocab_size", "100", true, {"1", "4194305", "-1", "100.0", "\"100\"", "9223372036854775807"}},
    {"hidden_size", "32", true, {"0", "16386", "33", "-32", "true"}},
    {"num_attention_heads", "4", true, {"0", "1025", "4294967300", "[]"}},
    {"head_dim", "8", true, {"0", "1025", "8.5"}},
    {"intermediate_size", "64", true, {"0", "262145", "null"}},
    {"num_blocks", "1", false, {"0", "17", "{}"}},
    {"attention_window", "96", true, {"0", "65537", "-1"}},
    {"predictor_hidden_size", "0", false, {"65537", "-1", "false"}},
    {"eos_token_id", "99", false, {"100", "-1", "4294967295", "\"</s>\"", "null"}},
    {"norm", "\"pre\"", true, {"\"rms\"", "\"\"", "1"}},
    {"norm_affine", "true", false, {"1", "\"true\"", "null"}},
    {"inject_residual", "false", false, {"0", "\"no\""}},
    {"final_norm", "true", false, {"2", "[]"}},
    {"tie_word_embeddings", "true", false, {"null", "1"}},
    {"embedding_size", "32", false, {"0", "16385", "\"32\""}},
    {"div_val", "1", false, {"0", "1025", "null"}},
    {"cutoffs", "[]", false, {"3", "[0]", "[100]", "[1.5]", "[1, 2, 3, 4, 5, 6, 7, 8]"}},
    {"tie_projections", "[true]", false, {"[]", "[1]", "true"}},
    {"head_bias", "false", false, {"0", "null"}},
    {"segment_length", "0", false, {"65537", "-1"}},
    {"segment_memory", "0", false, {"65537", "-1"}},
    {"norm_eps", "1e-05", false, {"0", "-1e-5", "0.2", "\"1e-5\"", "true"}},
    {"deq", "{}", false, {"[]", "3", "null"}},
    {"training", "{\"steps\": 5}", false, {NULL}},
    {"deq.solver", "\"anderson\"", false, {"\"newton\"", "1"}},
    {"deq.stop_mode", "\"rel\"", false, {"\"both\"", "null"}},
    {"deq.warm_start", "\"zero\"", false, {"\"cold\"", "0", "\"predictor\""}}, /* there is no predictor */
    {"deq.max_iter", "32", false, {"0", "100001", "3.5"}},
    {"deq.min_iter", "1", false, {"-1", "100001", "33"}},
    {"deq.memory", "3", false, {"0", "17", "\"3\""}},
    {"deq.window", "8", false, {"0", "65", "[8]"}},
    {"deq.tol", "0.01", false, {"-0.1", "10.5", "\"0\"", "null"}},
    {"deq.beta", "1", false, {"0", "1.01", "-1", "true"}},
    {"deq.reg", "0.0001", false, {"-1", "1.5", "\"\""}},
};

/* The good configuration with one key replaced (value) or left out (value NULL), and text added inside the root or deq object. */
static size_t config_text(char *out, size_t cap, const char *key, const char *value, const char *root_extra, const char *deq_extra)
{
    struct deq_buf b;
    deq_buf_init(&b, cap - 1);
    deq_buf_str(&b, "{");
    const char *comma = "";
    bool whole_deq = key && !strcmp(key, "deq");
    for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
        const char *v = key && !strcmp(key, keys[i].name) ? value : keys[i].good;
        if (!v || !strncmp(keys[i].name, "deq.", 4) || (!strcmp(keys[i].name, "deq") && !whole_deq))
            continue;
        deq_buf_fmt(&b, "%s\"%s\": %s", comma, keys[i].name, v);
        comma = ", ";
    }
    if (!whole_deq) {
        deq_buf_str(&b, ", \"deq\": {");
        comma = "";
        for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
            const char *v = key && !strcmp(key, keys[i].name) ? value : keys[i].good;
            if (!v || strncmp(keys[i].name, "deq.", 4))
                continue;
            deq_buf_fmt(&b, "%s\"%s\": %s", comma, keys[i].name + 4, v);
            comma = ", ";
        }
        deq_buf_fmt(&b, "%s}", deq_extra);
    }
    deq_buf_fmt(&b, "%s}", root_extra);
    CHECK(!b.failed);
    const size_t n = b.len;
    memcpy(out, b.data, n + 1);
    deq_buf_free(&b);
    return n;
}

static enum deq_rc parse_with(const char *key, const char *value, struct deq_arch *a, struct deq_err *e)
{
    char text[4096];
    size_t n = config_text(text, sizeof text, key, value, "", "");
    memset(e, 0, sizeof *e);
    return deq_config_parse(text, n, "config.json", a, e);
}

TEST(config_keys)
{
    struct deq_arch a = {0};
    struct deq_err e;
    CHECK_MSG(!parse_with(NULL, NULL, &a, &e), "%s", e.text);
    CHECK(a.vocab.size == 100 && a.vocab.d_model == 32 && a.n_head == 4 && a.d_head == 8 && a.d_inner == 64 && a.n_block == 1 && a.attn_window == 96 &&
          a.norm == DEQ_NORM_PRE && a.norm_affine && !a.inject_residual && a.final_norm && a.norm_eps == 1e-5f && a.vocab.eos_id == 99 &&
          a.predictor_hidden == 0 && a.serving.row_window == 8 && a.serving.warm == DEQ_WARM_ZERO && a.serving.solver.method == DEQ_ANDERSON &&
          a.serving.solver.stop == DEQ_STOP_REL && a.serving.solver.memory == 3 && a.serving.solver.max_iter == 32 && a.serving.solver.min_iter == 1 &&
          a.serving.solver.tol == 0.01f && a.serving.solver.beta == 1 && a.serving.solver.reg == 1e-4f);
    CHECK(deq_inject_dim(&a) == 96);
    a.inject_residual = true;
    CHECK(deq_inject_dim(&a) == 128);

    for (size_t i = 0; i < DEQ_COUNT(keys); i++) {
        const struct key *k = &keys[i];
        struct deq_arch before = {.vocab.size = 7}, got = before;
        char want[80];
        enum deq_rc rc = parse_with(k->name, NULL, &got, &e);
        snprintf(want, sizeof want, "config.json: %s: missing", k->name);
        CHECK_MSG(k->required ? rc == DEQ_EFORMAT && !strcmp(e.text, want) && got.vocab.size == 7 : !rc, "without %s: %s", k->name, e.text);
        for (size_t j = 0; j < DEQ_COUNT(k->bad) && k->bad[j]; j++) {
            got = before;
            rc = parse_with(k->name, k->bad[j], &got, &e);
            const char *leaf = strncmp(k->name, "deq.", 4) ? k->name : k->name + 4;
            CHECK_MSG(rc < 0 && e.code == rc && got.vocab.size == 7, "%s: %s", k->name, k->bad[j]);
            CHECK_MSG(strstr(e.text, "config.json: ") && strstr(e.text, leaf), "%s: %s: \"%s\"", k->name, k->bad[j], e.text);
        }
    }
    /* the ends of every range, as the messages print them */
    static const struct {
        const char *key, *value;
    } edge[] = {{"vocab_size", "4194304"}, {"hidden_size", "16384"}, {"hidden_size", "2"}, {"num_attention_heads", "1024"}, {"head_dim", "1024"},
                {"head_dim", "1"}, {"intermediate_size", "262144"}, {"num_blocks", "16"}, {"attention_window", "65536"},
                {"attention_window", "1"}, {"predictor_hidden_size", "65536"}, {"eos_token_id", "0"}, {"norm_eps", "1e-12"}, {"norm_eps", "0.1"},
                {"norm", "\"post\""}, {"norm", "\"pre_sub\""}, {"deq.max_iter", "100000"}, {"deq.max_iter", "1"}, {"deq.min_iter", "0"},
                {"deq.memory", "16"}, {"deq.memory", "1"}, {"deq.window", "64"}, {"deq.window", "1"}, {"deq.tol", "10"},
                {"deq.beta", "0.001"}, {"deq.reg", "0"}, {"deq.reg", "1"}, {"deq.solver", "\"picard\""}, {"deq.solver", "\"broyden\""},
                {"deq.stop_mode", "\"abs\""}, {"deq.warm_start", "\"previous\""}, {"deq", "{}"}};
    for (size_t i = 0; i < DEQ_COUNT(edge); i++)
        CHECK_MSG(!parse_with(edge[i].key, edge[i].value, &a, &e), "%s = %s: %s", edge[i].key, edge[i].value, e.text);
    /* a fixed number of steps is taken from zero, one row at a time */
    CHECK(parse_with("deq.tol", "0", &a, &e) == DEQ_EFORMAT && strstr(e.text, "deq.window"));
    a.serving.solver.tol = 0;
    a.serving.row_window = 1;
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_OK);
    a.serving.warm = DEQ_WARM_PREVIOUS;
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_EFORMAT);
}

TEST(config_of_another_kind_of_model)
{
    static const char llama[] = "{\"model_type\": \"llama\", \"vocab_size\": 7}";
    struct deq_arch a;
    struct deq_err e;
    CHECK(deq_config_parse(llama, sizeof llama - 1, "config.json", &a, &e) == DEQ_EFORMAT && strstr(e.text, "model_type: ") &&
          strstr(e.text, "\"llama\"") && strstr(e.text, "only deep equilibrium models are served") && strstr(e.text, "deq import"));
}

TEST(config_structure)
{
    static const struct {
        const char *root, *deq, *says;
    } t[] = {
        {", \"hidden_sise\": 3", "", "hidden_sise: unknown key"},
        {"", ", \"momentum\": 3", "deq.momentum: unknown key"},
        {", \"tol\": 0.1", "", "tol: unknown key"},
        {", \"vocab_size\": 100", "", "config.json: line 1"}, /* a second time */
        {"", ", \"tol\": 0.1", "config.json: line 1"},
        {", \"a\\nb\": 3", "", "a?b: unknown key"},
        {", \"chat\": []", "", "chat: expected an object"},
        {", \"chat\": {\"reply\": \"\"}", "", "chat.message: missing"},
        {", \"chat\": {\"message\": \"{role}\"}", "", "chat.message: must hold {content}"},
        {", \"chat\": {\"message\": \"{content}\", \"stop\": 1}", "", "chat.stop: expected a string"},
        {", \"chat\": {\"message\": \"{content}\", \"tail\": \"\"}", "", "chat.tail: unknown key"},
        {", \"chat\": {\"message\": \"{content}\", \"stop\": "
         "\"0123456789012345678901234567890123456789012345678901234567890123\"}",
         "", "of at most 63 bytes"},
    };
    struct deq_arch a = {.vocab.size = 7};
    struct deq_err e;
    char text[4096];
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        size_t n = config_text(text, sizeof text, NULL, NULL, t[i].root, t[i].deq);
        CHECK(deq_config_parse(text, n, "config.json", &a, &e) == DEQ_EFORMAT && a.vocab.size == 7);
        CHECK_MSG(strstr(e.text, t[i].says), "\"%s\" lacks \"%s\"", e.text, t[i].says);
    }
    static const char *const broken[] = {"", "[]", "3", "{", "{} x", "\xff", "{\"vocab_size\": 01}", "null"};
    for (size_t i = 0; i < DEQ_COUNT(broken); i++)
        CHECK_MSG(deq_config_parse(broken[i], strlen(broken[i]), "config.json", &a, &e) == DEQ_EFORMAT && strstr(e.text, "config.json: "), "%s",
                  broken[i]);
    size_t n = config_text(text, sizeof text, NULL, NULL, "", "");
    for (size_t cut = 0; cut < n; cut += 7) {
        char *copy = malloc(cut ? cut : 1); /* of exactly that size, for the sanitizer */
        memcpy(copy, text, cut);
        CHECK(deq_config_parse(copy, cut, "config.json", &a, &e) == DEQ_EFORMAT);
        free(copy);
    }
    CHECK(deq_config_load("/nonexistent/config.json", &a, &e) == DEQ_ENOTFOUND && a.vocab.size == 7);
    for (int i = 0; i < 3; i++) {
        enum deq_warm warm = DEQ_WARM_ZERO;
        CHECK(deq_warm_by_name(deq_warm_name((enum deq_warm)i), &warm) && (int)warm == i);
        CHECK(!deq_warm_by_name("", &warm) && (int)warm == i);
    }
}

static struct deq_arch tiny(enum deq_norm norm, bool affine)
{
    return (struct deq_arch){.vocab.size = 37, .vocab.d_model = 12, .n_head = 3, .d_head = 5, .d_inner = 20, .n_block = 2, .attn_window = 40,
                             .norm = norm, .norm_affine = affine, .inject_residual = !affine, .final_norm = affine, .norm_eps = 1e-5f,
                             .vocab.eos_id = 0, .predictor_hidden = affine ? 9 : 0, .serving.solver = deq_solver_defaults(), .serving.row_window = 4};
}

static bool same_arch(const struct deq_arch *a, const struct deq_arch *b)
{
    const struct deq_solver_opts *s = &a->serving.solver, *t = &b->serving.solver;
    return a->vocab.size == b->vocab.size && a->vocab.d_model == b->vocab.d_model && a->n_head == b->n_head && a->d_head == b->d_head &&
           a->d_inner == b->d_inner && a->n_block == b->n_block && a->attn_window == b->attn_window && a->norm == b->norm &&
           a->norm_affine == b->norm_affine && a->inject_residual == b->inject_residual && a->final_norm == b->final_norm &&
           a->norm_eps == b->norm_eps && a->vocab.eos_id == b->vocab.eos_id && a->predictor_hidden == b->predictor_hidden &&
           !strcmp(a->chat_message, b->chat_message) && !strcmp(a->chat_reply, b->chat_reply) &&
           !strcmp(a->chat_stop, b->chat_stop) &&
           a->serving.row_window == b->serving.row_window && a->serving.warm == b->serving.warm && s->method == t->method && s->stop == t->stop && s->memory == t->memory &&
           s->max_iter == t->max_iter && s->min_iter == t->min_iter && s->tol == t->tol && s->beta == t->beta && s->reg == t->reg;
}

TEST(config_round_trip)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    for (unsigned i = 0; i < 24; i++) {
        struct deq_arch a = tiny((enum deq_norm)(i % 3), i & 1), b = {0};
        a.serving.solver = (struct deq_solver_opts){.method = (enum deq_solver_method)(i / 3 % 3), .stop = i & 2 ? DEQ_STOP_ABS : DEQ_STOP_REL,
                                            .memory = 1 + i % 16, .max_iter = 20 + i, .min_iter = i, .tol = 1.25e-4f * (float)(i + 1),
                                            .beta = 1.0f / (float)(1 + i), .reg = i & 4 ? 0 : 1e-6f};
        a.serving.warm = a.predictor_hidden ? (enum deq_warm)(i / 2 % 3) : DEQ_WARM_ZERO;
        a.vocab.eos_id = (int64_t)i % 5 - 1;
        a.norm_eps = i & 1 ? 1e-5f : 1e-12f;
        a.serving.row_window = 1 + i * 2;
        if (i & 2) {
            strcpy(a.chat_message, "<{role}> {content}\n");
            strcpy(a.chat_reply, i & 4 ? "<assistant>" : "");
            strcpy(a.chat_stop, i & 8 ? "\n<" : "");
        }
        /* the file keeps seven digits so that 0.01 reads 0.01; numbers that people write have fewer */
        char digits[32];
        snprintf(digits, sizeof digits, "%.6g", (double)a.serving.solver.beta);
        a.serving.solver.beta = strtof(digits, NULL);
        snprintf(digits, sizeof digits, "%.6g", (double)a.serving.solver.tol);
        a.serving.solver.tol = strtof(digits, NULL);
        CHECK_MSG(!deq_config_save(in_dir("c"), &a, i & 1 ? "{\"data\": \"x\", \"steps\": 12}" : NULL, &e), "%s", e.text);
        CHECK_MSG(!deq_config_load(in_dir("c"), &b, &e), "case %u: %s", i, e.text);
        CHECK_MSG(same_arch(&a, &b), "case %u", i);
        char *text;
        size_t n;
        CHECK(!deq_io_read(in_dir("c"), 1 << 20, &text, &n, &e));
        CHECK(!(i & 1) == !strstr(text, "\"steps\": 12"));
        deq_free(text);
    }
    drop_dir("c", NULL);
}

TEST(config_smallest_beta_can_be_given_and_reloaded)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    struct deq_arch a = tiny(DEQ_NORM_PRE, false), b;
    a.serving.solver.beta = 1e-3f; /* the smallest value that the message allows */
    CHECK(!deq_config_save(in_dir("c"), &a, NULL, &e));
    CHECK_MSG(!deq_config_load(in_dir("c"), &b, &e), "%s", e.text);
    drop_dir("c", NULL);
}

TEST(config_arch_check)
{
    struct deq_err e;
    struct deq_arch good = tiny(DEQ_NORM_PRE, true), a;
    CHECK(!deq_arch_check(&good, "here", &e));
#define BAD(change, word)                                                                                                     \
    do {                                                                                                                      \
        a = good;                                                                                                             \
        change;                                                                                                               \
        memset(&e, 0, sizeof e);                                                                                              \
        CHECK_MSG(deq_arch_check(&a, "here", &e) < 0 && strstr(e.text, "here: ") && strstr(e.text, word), "%s: %s", word, e.text); \
    } while (0)
    BAD(a.vocab.size = 1, "vocab_size");
    BAD(a.vocab.d_model = 0, "hidden_size");
    BAD(a.vocab.d_model = 7, "hidden_size");
    BAD(a.n_head = 0, "num_attention_heads");
    BAD(a.d_head = 2000, "head_dim");
    BAD(a.d_inner = 0, "intermediate_size");
    BAD(a.n_block = 17, "num_blocks");
    BAD(a.attn_window = 0, "attention_window");
    BAD(a.predictor_hidden = 1 << 17, "predictor_hidden_size");
    BAD(a.serving.row_window = 0, "deq.window");
    BAD(a.serving.row_window = DEQ_ROW_WINDOW_MAX + 1, "deq.window");
    BAD(a.vocab.eos_id = 37, "eos_token_id");
    BAD((a.serving.warm = DEQ_WARM_PREDICTOR, a.predictor_hidden = 0), "warm_start");
    BAD(a.serving.solver.memory = 0, "memory");
#undef BAD
}

TEST(config_clusters)
{
    if (!make_dir())
        return;
    struct deq_arch a = tiny(DEQ_NORM_POST, false), b = {0};
    struct deq_err e = {0};
    a.vocab.n_cutoffs = 2;
    a.vocab.cutoffs[0] = 10;
    a.vocab.cutoffs[1] = 30;
    a.vocab.d_embed = 16;
    a.vocab.div_val = 4;
    a.vocab.head_bias = a.vocab.head_untied = true;
    a.vocab.proj_untied[1] = true;
    a.segment_len = 150;
    a.segment_memory = 480;
    CHECK_MSG(!deq_config_save(in_dir("c"), &a, NULL, &e) && !deq_config_load(in_dir("c"), &b, &e), "%s", e.text);
    CHECK(b.vocab.n_cutoffs == 2 && b.vocab.cutoffs[0] == 10 && b.vocab.cutoffs[1] == 30 && b.vocab.d_embed == 16 && b.vocab.div_val == 4 && b.vocab.head_bias && b.vocab.head_untied &&
          !b.vocab.proj_untied[0] && b.vocab.proj_untied[1] && !b.vocab.proj_untied[2] && b.segment_len == 150 && b.segment_memory == 480);
    CHECK(deq_clusters(&b.vocab) == 3 && deq_cluster_begin(&b.vocab, 2) == 30 && deq_cluster_size(&b.vocab, 2) == 7 && deq_cluster_embed(&b.vocab, 2) == 1 && deq_projects(&b.vocab));
    CHECK(deq_cluster_of(&b.vocab, 0) == 0 && deq_cluster_of(&b.vocab, 9) == 0 && deq_cluster_of(&b.vocab, 10) == 1 && deq_cluster_of(&b.vocab, 36) == 2);
    a.vocab.div_val = 5; /* 16 / 25 */
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_EFORMAT && strstr(e.text, "cluster 2"));
    a.vocab.div_val = 4;
    a.vocab.cutoffs[1] = 10; /* not above the one before */
    CHECK(deq_arch_check(&a, "c", &e) == DEQ_EFORMAT && strstr(e.text, "cutoffs: 10"));
    drop_dir("c", NULL);
}

/* --- weights --- */

static struct deq_weights *random_weights(const struct deq_arch *a, uint64_t seed)
{
    struct deq_weights *w = NULL;
    CHECK(!deq_weights_new(a, &w, NULL));
    for (size_t i = 0; w && i < w->n_params; i++)
        for (size_t j = 0; j < w->params[i].count; j++)
            w->data[w->params[i].offset + j] = (float)deq_rng_normal(seed, i, j);
    return w;
}

TEST(weights_layout)
{
    for (unsigned c = 0; c < 6; c++) {
        struct deq_arch a = tiny((enum deq_norm)(c % 3), c < 3);
        struct deq_weights *w = random_weights(&a, 1);
        if (!w)
            return;
        size_t at = 0, total = 0;
        for (size_t i = 0; i < w->n_params; i++) {
            const struct deq_param *p = &w->params[i];
            CHECK(p->offset == at && p->offset % 16 == 0 && p->count == (p->rows ? p->rows : 1) * p->cols);
            at = DEQ_ROUND_UP(p->offset + p->count, (size_t)16);
            total += p->count;
            for (size_t j = 0; j < i; j++)
                CHECK(strcmp(w->params[j].name, p->name));
        }
        CHECK(w->n == at && (uintptr_t)w->data % 64 == 0);
        /* V D + L (U D + U + 3 H Dh D + H Dh D + 2 H Dh + D H Dh + D + F D + F + D F + D + norms) + final norm + predictor */
        const size_t V = 37, D = 12, HD = 15, F = 20, U = 3 * HD + (c < 3 ? 0 : D), norms = c < 3 ? 4 * D + (c % 3 == 2 ? 2 * HD : 0) : 0;
        CHECK(total == V * D + 2 * (U * D + U + 4 * HD * D + 2 * HD + D * HD + D + F * D + F + D * F + D + norms) +
                           (c < 3 ? 2 * D + 9 * D + 9 * D + 9 + D * 9 + D : 0));
        CHECK((c < 3) == (w->final_norm_g != NULL) && (c < 3) == (w->pred_b != NULL) && (c < 3) == (w->block[1].ffn_norm_b != NULL));
        CHECK((c == 2) == (w->block[0].sub_norm_g != NULL) && w->embed[0] == w->data);
        CHECK(c < 3 ? w->pred_tok_w == w->data + w->n_main : w->n_main == w->n);
        deq_weights_free(w);
    }
    deq_weights_free(NULL);
}

TEST(weights_round_trip)
{
    if (!make_dir())
        return;
    struct deq_err e = {0};
    for (unsigned c = 0; c < 6; c++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct deq_arch a = tiny((enum deq_norm)(c % 3), c < 3);
            struct deq_weights *w = random_weights(&a, 2 + c), *r = NULL;
            bool was_bf16 = !bf16;
            if (!w)
                return;
            CHECK_MSG(!deq_weights_save(in_dir("w"), w, bf16, &e), "%s", e.text);
            CHECK_MSG(!deq_weights_load(in_dir("w"), &a, &r, &was_bf16, &e), "%s", e.text);
            CHECK(was_bf16 == bf16);
            bool same = r && r->n == w->n;
            for (size_t i = 0; same && i < w->n; i++)
                same = r->data[i] == (bf16 ? deq_bf16_to_f32(deq_f32_to_bf16(w->data[i])) : w->data[i]);
            CHECK_MSG(same, "case %u bf16=%d", c, bf16);
            deq_weights_free(r);
            r = NULL;
            CHECK(!deq_weights_load(in_dir("w"), &a, &r, NULL, &e));
            deq_weights_free(r);
            deq_weights_free(w);
        }
    drop_dir("w", NULL);
}

/* The tensors of w as deq_safetensors_write takes them. */
static size_t as_tensors(const struct deq_weights *w, struct deq_tensor_out *out)
{
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        out[i] = (struct deq_tensor_out){.name = p->name, .dtype = DEQ_F32, .n_dims = p->rows ? 2 : 1,
                                         .shape = {p->rows ? p->rows : p->cols, p->cols}, .data = w->data + p->offset};
    }
    return w->n_params;
}

static void refused(const struct deq_tensor_out *t, size_t n, const struct deq_arch *a, const char *name, const char *says)
{
    struct deq_err e = {0};
    struct deq_weights *r = NULL;
    bool bf16 = true;
    CHECK(!deq_safetensors_write(in_dir("w"), t, n, NULL, &e));
    CHECK_MSG(deq_weights_load(in_dir("w"), a, &r, &bf16, &e) == DEQ_EFORMAT && !r && bf16, "%s %s", name, says);
    CHECK_MSG(strstr(e.text, "/w: tensor ") && strstr(e.text, name) && strstr(e.text, says), "\"%s\" lacks \"%s\" or \"%s\"", e.text, name, says);
    deq_weights_free(r);
}

TEST(weights_that_do_not_fit)
{
    if (!make_dir())
        return;
    struct deq_arch a = tiny(DEQ_NORM_PRE_SUB, true);
    struct deq_weights *w = random_weights(&a, 3);
    struct deq_tensor_out t[80], u[80];
    struct deq_err e = {0};
    if (!w)
        return;
    const size_t n = as_tensors(w, t);
    CHECK(n < DEQ_COUNT(t));
    for (size_t i = 0; i < n; i++) {
        char says[100];
        const struct deq_param *p = &w->params[i];
        memcpy(u, t, sizeof t); /* missing */
        u[i] = t[n - 1];
        refused(u, n - 1, &a, t[i].name, "missing");
        memcpy(u, t, sizeof t); /* one column less */
        if (p->rows) {
            u[i].shape[1]--;
            snprintf(says, sizeof says, "expected [%zu, %zu]", p->rows, p->cols);
        } else {
            u[i].shape[0]--;
            snprintf(says, sizeof says, "expected [%zu]", p->cols);
        }
        refused(u, n, &a, t[i].name, says);
        memcpy(u, t, sizeof t); /* the right number of elements in another shape */
        u[i].n_dims = p->rows ? 1 : 2;
        u[i].shape[0] = p->rows ? p->count : 1;
        u[i].shape[1] = p->cols;
        refused(u, n, &a, t[i].name, says);
        memcpy(u, t, sizeof t); /* the right sizes and one dimension more */
        u[i].shape[u[i].n_dims++] = 1;
        refused(u, n, &a, t[i].name, says);
        memcpy(u, t, sizeof t); /* a name that nobody knows */
        u[i].name = "blocks.0.attn.qkv.weights";
        refused(u, n, &a, t[i].name, "missing");
        const size_t last = p->offset + p->count - 1;
        const float was = w->data[last];
        snprintf(says, sizeof says, "element %zu is not finite", p->count - 1);
        w->data[last] = i % 2 ? NAN : -INFINITY;
        refused(t, n, &a, t[i].name, says);
        w->data[last] = was;
    }
    memcpy(u, t, sizeof t);
    u[n] = (struct deq_tensor_out){.name = "lm_head.weight", .dtype = DEQ_F32, .n_dims = 1, .shape = {1}, .data = w->data};
    refused(u, n + 1, &a, "lm_head.weight", "not part of a model");
    u[n].name = "blocks.2.ffn.up.bias"; /* one block too many */
    refused(u, n + 1, &a, "blocks.2.ffn.up.bias", "not part of a model");
    memcpy(u, t, sizeof t);
    int64_t ints[64] = {0};
    for (size_t i = 0; i < n; i++)
        if (!strcmp(u[i].name, "blocks.1.attn_norm.bias")) {
            u[i].dtype = DEQ_I64;
            u[i].data = ints;
        }
    refused(u, n, &a, "blocks.1.attn_norm.bias", "I64");
    /* mixed dtypes are fine, but that is not a bf16 model */
    uint16_t half[64] = {0};
    memcpy(u, t, sizeof t);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(u[i].name, "blocks.1.attn_norm.bias")) {
            u[i].dtype = DEQ_BF16;
            u[i].data = half;
        }
    struct deq_weights *r = NULL;
    bool bf16 = true;
    CHECK(!deq_safetensors_write(in_dir("w"), u, n, NULL, &e) && !deq_weights_load(in_dir("w"), &a, &r, &bf16, &e) && !bf16);
    deq_weights_free(r);
    /* a model without a predictor refuses the file of one that has it, and the other way round */
    struct deq_arch plain = a;
    plain.predictor_hidden = 0;
    refused(t, n, &plain, "predictor.", "not part of a model");
    r = NULL;
    CHECK(deq_weights_load(in_dir("none"), &a, &r, NULL, &e) == DEQ_ENOTFOUND && !r);
    deq_weights_free(w);
    drop_dir("w", NULL);
}

TEST(weights_sinusoid)
{
    float p[12], zero[12];
    deq_sinusoid(5, 12, p);
    deq_sinusoid(0, 12, zero);
    for (int i = 0; i < 6; i++) {
        double angle = 5 * exp(-log(10000.0) * i / 6);
        /* rounded once from double; exp/log here and pow there differ by a few 1e-16 of an angle below 5 */
        CHECK(fabs((double)p[i] - sin(angle)) < 1e-7 && fabs((double)p[6 + i] - cos(angle)) < 1e-7);
        CHECK(zero[i] == 0 && zero[6 + i] == 1);
    }
}

/* Loads a model with the nth allocation failing, for every n, until it succeeds. jansson allocates by itself and is not hit. */
static unsigned load_under_faults(void)
{
    for (unsigned n = 1; n < 200; n++) {
        struct deq_arch a = {0};
        struct deq_weights *w = NULL;
        struct deq_err e = {0};
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_config_load(in_dir("c"), &a, &e);
        if (!rc)
            rc = deq_weights_load(in_dir("w"), &a, &w, NULL, &e);
        deq_mem_fault(0, false);
        if (!rc) {
            CHECK(w && a.vocab.d_model == 12);
            deq_weights_free(w);
            return n;
        }
        CHECK_MSG(rc == DEQ_ENOMEM && e.code == rc && e.text[0] && !w, "allocation %u: %s: %s", n, deq_rc_name(rc), e.text);
    }
    return 0;
}

TEST(loading_without_memory)
{
    if (!make_dir())
        return;
    struct deq_arch a = tiny(DEQ_NORM_PRE, true);
    a.vocab.size = 8000; /* the block is then 400 KB: one leaked block stands out */
    struct deq_weights *w = random_weights(&a, 5);
    struct deq_err e = {0};
    if (!w)
        return;
    CHECK(!deq_config_save(in_dir("c"), &a, NULL, &e) && !deq_weights_save(in_dir("w"), w, false, &e));
    unsigned n = load_under_faults();
    CHECK_MSG(n > 5, "%u", n); /* config text; file, path, tensors; weights, block, table */
#if defined(__GLIBC__)
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < 3; i++)
        CHECK(load_under_faults() == n);
    struct mallinfo2 after = mallinfo2();
    /* blocks that free() keeps for reuse count as used, hence not zero; a sanitizer build sees leaks exactly */
    CHECK_MSG(after.uordblks + after.hblkhd <= before.uordblks + before.hblkhd + 32768, "%zu bytes more",
              after.uordblks + after.hblkhd - before.uordblks - before.hblkhd);
#endif
    /* saving: the old file stays */
    for (n = 1; n < 100; n++) {
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_weights_save(in_dir("w"), w, true, &e);
        deq_mem_fault(0, false);
        if (!rc)
            break;
        struct deq_weights *r = NULL;
        bool bf16 = true;
        CHECK(rc == DEQ_ENOMEM && !deq_weights_load(in_dir("w"), &a, &r, &bf16, &e) && !bf16);
        deq_weights_free(r);
    }
    CHECK(n > 2 && n < 100);
    deq_weights_free(w);
    drop_dir("c", "w");
}

/* --- corpus --- */

TEST(corpus_documents)
{
#define E "<|endoftext|>"
    static const struct {
        const char *text, *docs[5];
    } t[] = {
        {"", {NULL}},
        {"\n", {NULL}},
        {"one", {"one"}},
        {"one\n", {"one"}},
        {"one\ntwo\n", {"one\ntwo"}},
        {"one\n\n", {"one\n"}}, /* only the line end beside the end goes */
        {E, {NULL}},
        {E "\n", {NULL}},
        {E "\n" E "\n\n" E, {NULL}},
        {"one\n" E "\ntwo", {"one", "two"}},
        {"one\n" E "\ntwo\n" E "\n", {"one", "two"}},
        {"one\n" E "\ntwo\n" E, {"one", "two"}},
        {E "\none\n" E "\ntwo\n", {"one", "two"}},
        {E "\n" E "\none\n" E "\n" E "\n" E "\ntwo\n" E "\n", {"one", "two"}},
        {"\n" E "\none", {"one"}}, /* an empty line is an empty document */
        {"one\n\n" E "\n\ntwo\n", {"one\n", "\ntwo"}},
        {"one " E "\ntwo", {"one " E "\ntwo"}}, /* not a line of its own */
        {E " \none", {E " \none"}},
        {" " E "\none", {" " E "\none"}},
        {E "\r\none", {E "\r\none"}},
        {"<|endoftext|\n" E E "\nx", {"<|endoftext|\n" E E "\nx"}},
        {"a\n" E "\nb\n" E "\nc\n" E "\nd", {"a", "b", "c", "d"}},
    };
#undef E
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const size_t len = strlen(t[i].text);
        char *text = malloc(len ? len : 1); /* no NUL behind it */
        memcpy(text, t[i].text, len);
        size_t at = 0, n = 0, k = 0;
        const char *doc = NULL;
        while (deq_corpus_next(text, len, &at, &doc, &n) && k < 5) {
            CHECK_MSG(t[i].docs[k] && n == strlen(t[i].docs[k]) && !memcmp(doc, t[i].docs[k], n), "case %zu document %zu: \"%.*s\"", i, k, (int)n,
                      doc);
            k += t[i].docs[k] != NULL ? 1 : 5;
        }
        CHECK_MSG(k < 5 && !t[i].docs[k] && at == len, "case %zu: %zu documents, stopped at %zu", i, k, at);
        CHECK(!deq_corpus_next(text, len, &at, &doc, &n)); /* stays at the end */
        free(text);
    }
    /* NUL bytes are text */
    static const char nul[] = "a\0b\n<|endoftext|>\n\0";
    size_t at = 0, n = 0;
    const char *doc;
    CHECK(deq_corpus_next(nul, sizeof nul - 1, &at, &doc, &n) && n == 3 && !memcmp(doc, "a\0b", 3));
    CHECK(deq_corpus_next(nul, sizeof nul - 1, &at, &doc, &n) && n == 1 && !doc[0]);
    CHECK(!deq_corpus_next(nul, sizeof nul - 1, &at, &doc, &n));
}
