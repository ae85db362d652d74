/* core/data/safetensors.c: what is cut, crafted or changing is refused by name; what is written reads back. */
#include "core/data/safetensors.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

/* header text and n bytes of data as a file in a block of exactly its size, so that a sanitizer
 * sees every byte read past it */
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

#define T(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

TEST(safetensors_damaged_headers)
{
    static const struct {
        const char *header;
        size_t data;
        const char *says; /* beside the file's name */
    } t[] = {
        {"", 0, "the header is empty"},
        {"[]", 0, "not a safetensors file: its header does not start"},
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
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[8,12]") "}", 12,
         "tensor b: its data leave a hole"},
        {"{" T("a", "F32", "[2]", "[0,8]") "," T("b", "F32", "[1]", "[4,8]") "}", 8, "tensor b: its data overlap"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[0,4]") "}", 4, "its data overlap"},
        {"{" T("a", "F32", "[1]", "[0,4]") "," T("a", "F32", "[1]", "[4,8]") "}", 8, "not JSON: duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "not JSON: duplicate"},
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
        {"{" T("a", "F32", "[4611686018427387905]", "[0,4]") "}", 4,
         "tensor a: shape times"}, /* 4 * that is 4 modulo 2^64 */
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
        CHECK_MSG(strstr(e.text, "broken.safetensors: ") && strstr(e.text, t[i].says), "%s: \"%s\" lacks \"%s\"",
                  t[i].header, e.text, t[i].says);
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
        CHECK_MSG(deq_safetensors_parse(q, cut, "cut", &f, &e) == DEQ_EFORMAT && !f && strstr(e.text, "cut: "),
                  "%zu bytes", cut);
        free(q);
    }
    static const uint64_t lengths[] = {0, 1, sizeof header - 2, sizeof header, sizeof header + 12, (16 << 20) + 1,
                                       1ull << 32, 1ull << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < DEQ_COUNT(lengths); i++) {
        for (int b = 0; b < 8; b++)
            p[b] = (unsigned char)(lengths[i] >> (8 * b));
        CHECK_MSG(deq_safetensors_parse(p, len, "len", &f, &e) == DEQ_EFORMAT && !f, "%llu",
                  (unsigned long long)lengths[i]);
    }
    free(p);
    /* spaces after the JSON are how writers align the data */
    p = container("{" T("w", "F32", "[3]", "[0,12]") "}     ", 12, NULL, &len);
    REQUIRE(!deq_safetensors_parse(p, len, "padded", &f, &e));
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
    static const char header[] =
        "{" T("f64", "F64", "[2]", "[0,16]") "," T("f32", "F32", "[2]", "[16,24]") ","
        T("bf16", "BF16", "[2]", "[24,28]") "," T("f16", "F16", "[2]", "[28,32]") ","
        T("i64", "I64", "[1]", "[32,40]") "," T("i32", "I32", "[1]", "[40,44]") ","
        T("i8", "I8", "[1]", "[44,45]") "," T("u8", "U8", "[1]", "[45,46]") "}";
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
            CHECK_MSG(deq_tensor_to_f32(f, t, out, &e) == DEQ_EFORMAT && strstr(e.text, "values.st: tensor ") &&
                          strstr(e.text, names[i]) && strstr(e.text, "element 1 "),
                      "%s: %s", names[i], e.text);
        } else {
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(e.text, names[i]) && strstr(e.text, "floating"), "%s: %s", names[i],
                      e.text);
        }
        deq_safetensors_close(f);
        free(p);
    }
}

/* Longer than the piece that is widened at once: each number comes to its place, from any first one on. */
TEST(safetensors_values_in_pieces)
{
    enum { N = 2 * 4096 + 5 };
    static const char header[] = "{" T("h", "BF16", "[8197]", "[0,16394]") "}";
    static uint16_t data[N];
    static float out[N];
    size_t len, wrong = 0;
    struct deq_safetensors *f = NULL;
    struct deq_err e;
    for (size_t i = 0; i < N; i++)
        data[i] = (uint16_t)(i % 0x7f80); /* all of them finite */
    unsigned char *p = container(header, sizeof data, data, &len);
    REQUIRE(!deq_safetensors_parse(p, len, "pieces.st", &f, &e));
    const struct deq_tensor *t = deq_safetensors_find(f, "h");
    for (uint64_t first = 0; first < 3; first++) {
        CHECK(!deq_tensor_piece_to_f32(f, t, first, N - first, out, &e));
        for (size_t i = 0; i < N - first; i++) {
            const uint32_t bits = (uint32_t)data[first + i] << 16;
            wrong += memcmp(&out[i], &bits, 4) != 0;
        }
    }
    CHECK_EQ(wrong, (size_t)0);
    deq_safetensors_close(f);
    free(p);
}

TEST(safetensors_round_trip)
{
    REQUIRE(scratch_begin());
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
    CHECK_MSG(!deq_safetensors_write(scratch_path("t"), t, DEQ_COUNT(t), meta, &e), "%s", e.text);
    struct deq_safetensors *f = NULL;
    CHECK_MSG(!deq_safetensors_open(scratch_path("t"), &f, &e), "%s", e.text);
    REQUIRE(f);
    CHECK(deq_safetensors_count(f) == DEQ_COUNT(t));
    CHECK(!strcmp(deq_safetensors_meta(f, "format"), "test") && !strcmp(deq_safetensors_meta(f, "note"), "line\nend"));
    CHECK(!deq_safetensors_meta(f, "absent") && !deq_safetensors_find(f, "a") &&
          !deq_safetensors_find(f, "__metadata__"));
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
        CHECK(bytes <= sizeof raw && !deq_tensor_read(f, r, 0, r->count, raw, &e) &&
              (!bytes || !memcmp(raw, t[i].data, bytes)));
    }
    uint64_t at = 0; /* in the order of their data */
    for (size_t i = 0; i < deq_safetensors_count(f); i++) {
        const struct deq_tensor *r = deq_safetensors_at(f, i);
        CHECK(!at || r->offset == at);
        at = r->offset + r->bytes;
    }
    CHECK(deq_safetensors_at(f, 0)->offset % 8 == 0);
    deq_safetensors_close(f);
    f = NULL;
    /* no tensors at all */
    CHECK(!deq_safetensors_write(scratch_path("t"), NULL, 0, NULL, &e) &&
          !deq_safetensors_open(scratch_path("t"), &f, &e));
    CHECK(f && deq_safetensors_count(f) == 0 && !deq_safetensors_meta(f, "format"));
    deq_safetensors_close(f);
    f = NULL;
    CHECK(deq_safetensors_open(scratch_path("none"), &f, &e) == DEQ_ENOTFOUND && !f && strstr(e.text, "/none"));
    CHECK(deq_safetensors_open(scratch_dir(), &f, &e) == DEQ_EIO && !f);
    scratch_put("t", "short");
    CHECK(deq_safetensors_open(scratch_path("t"), &f, &e) == DEQ_EFORMAT && !f && strstr(e.text, "/t: "));
    unsigned n = 1;
    for (enum deq_rc rc = DEQ_ENOMEM; rc && n < 50; n++) { /* no memory: the old file stays whole */
        deq_mem_fault(n, false);
        rc = deq_safetensors_write(scratch_path("t"), t, DEQ_COUNT(t), meta, &e);
        deq_mem_fault(0, false);
        CHECK(rc == DEQ_OK || rc == DEQ_ENOMEM);
        enum deq_rc open = deq_safetensors_open(scratch_path("t"), &f, NULL);
        CHECK(rc ? open == DEQ_EFORMAT : !open);
    }
    CHECK(n > 2 && n < 50);
    deq_safetensors_close(f);
    scratch_end("t", NULL);
}

/* A file that somebody cuts in place while it is read: an error that names it and the tensor, and no signal. */
TEST(safetensors_cut_while_it_is_read)
{
    REQUIRE(scratch_begin());
    enum { N = 50000, PAGE = 4096 };
    static float x[N], out[N];
    struct deq_err e;
    const struct deq_tensor_out t[] = {{.name = "first", .dtype = DEQ_F32, .n_dims = 1, .shape = {N}, .data = x},
                                       {.name = "second", .dtype = DEQ_BF16, .n_dims = 1, .shape = {N}, .data = x}};
    for (off_t left = 0; left <= 6 * N; left += 20 * PAGE) {
        struct deq_safetensors *f = NULL;
        CHECK(!deq_safetensors_write(scratch_path("t"), t, 2, NULL, &e) &&
              !deq_safetensors_open(scratch_path("t"), &f, &e));
        const struct deq_tensor *first = deq_safetensors_find(f, "first"), *second = deq_safetensors_find(f, "second");
        CHECK(!deq_tensor_to_f32(f, first, out, &e));
        CHECK(!truncate(scratch_path("t"), left));
        CHECK_MSG(deq_tensor_to_f32(f, second, out, &e) == DEQ_EIO &&
                      strstr(e.text, "/t: tensor second: the file changed"),
                  "%s", e.text);
        CHECK_MSG(deq_tensor_to_f32(f, first, out, &e) == DEQ_EIO &&
                      strstr(e.text, "/t: tensor first: the file changed"),
                  "%s", e.text);
        deq_safetensors_close(f);
    }
    scratch_end("t", NULL);
}

TEST(safetensors_shape_text)
{
    const uint64_t shape[] = {4, 3, UINT64_MAX};
    char text[32], small[6];
    deq_shape_text(0, shape, text, sizeof text);
    CHECK(!strcmp(text, "[]"));
    deq_shape_text(1, shape, text, sizeof text);
    CHECK(!strcmp(text, "[4]"));
    deq_shape_text(3, shape, text, sizeof text);
    CHECK(!strcmp(text, "[4, 3, 18446744073709551615]"));
    deq_shape_text(3, shape, small, sizeof small);
    CHECK(!strcmp(small, "[4, 3"));
    memset(text, 'x', sizeof text);
    deq_shape_text(2, shape, text, 6); /* the last bracket has no room */
    CHECK(!strcmp(text, "[4, 3") && text[6] == 'x');
}
