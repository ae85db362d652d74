/* core/data/torch_state.c: names, views and limits of a state dict. */
#include "core/data/torch_state.h"

#include <stdlib.h>

#include "core/data/pickle.h"
#include "tests/unit/crafted.h"
#include "tests/unit/test.h"

TEST(torchfile_views_outside_their_storage)
{
    static const struct {
        struct tensor_in t;
        const char *says; /* NULL: reads */
    } t[] = {
        {{"FloatStorage", "0", 6, 0, 2, {2, 3}, {3, 1}}, NULL},
        {{"FloatStorage", "0", 6, 5, 0, {0}, {0}}, NULL},
        {{"FloatStorage", "0", 6, 5, 1, {1}, {INT64_MAX}}, NULL}, /* the stride of a dimension of one is not used */
        {{"FloatStorage", "0", 6, 6, 1, {0}, {1}}, NULL},
        {{"FloatStorage", "0", 6, 0, 2, {0, INT64_MAX}, {1, INT64_MAX}}, NULL},
        {{"FloatStorage", "0", 6, 0, 8, {1, 1, 1, 1, 1, 1, 2, 3}, {6, 6, 6, 6, 6, 6, 3, 1}}, NULL},
        {{"HalfStorage", "0", 12, 0, 1, {2}, {3}}, NULL},
        {{"FloatStorage", "0", 6, 6, 0, {0}, {0}}, "its last element lies outside its storage of 6 elements"},
        {{"FloatStorage", "0", 6, 7, 1, {0}, {1}}, "begins outside its storage of 6"},
        {{"FloatStorage", "0", 6, 1, 2, {2, 3}, {3, 1}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {7}, {1}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {2}, {6}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {3}, {INT64_MAX}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, INT64_MAX, 1, {2}, {INT64_MAX}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 3, {1ll << 32, 1ll << 32, 2}, {0, 0, 1}}, "its last element lies outside"},
        {{"FloatStorage", "0", 6, 0, 1, {7}, {0}}, "7 elements in a storage of 6"},
        {{"FloatStorage", "0", 6, -1, 1, {1}, {1}}, "its storage offset is not a number of elements"},
        {{"FloatStorage", "0", 6, 0, 1, {-1}, {1}}, "dimension 0 has no size or no stride"},
        {{"FloatStorage", "0", 6, 5, 1, {2}, {-1}}, "dimension 0 has no size or no stride"},
        {{"FloatStorage", "0", 6, 0, 9, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1}},
         "9 dimensions, at most 8"},
        {{"FloatStorage", "0", 5, 0, 1, {5}, {1}},
         "its storage 0 has 24 bytes, not those of 5 elements of FloatStorage"},
        {{"FloatStorage", "0", 1ll << 62, 0, 1, {5}, {1}}, "its storage 0 has 24 bytes"},
        {{"FloatStorage", "0", -6, 0, 1, {5}, {1}}, "its storage's size is not a number"},
        {{"DoubleStorage", "0", 6, 0, 1, {3}, {1}},
         "its storage 0 has 24 bytes, not those of 6 elements of DoubleStorage"},
        {{"LongStorage", "0", 6, 0, 1, {3}, {1}}, "its storage 0 has 24 bytes"}, /* of ignored tensors too */
        {{"FloatStorage", "1", 6, 0, 1, {6}, {1}}, "its storage 1 is not in the file"},
        {{"FloatStorage", "../data.pkl", 6, 0, 1, {6}, {1}}, "its storage ../data.pkl is not in the file"},
        {{"float32", "0", 6, 0, 1, {6}, {1}}, "names no class of storages"},
        {{"Tensor", "0", 6, 0, 1, {6}, {1}}, "global torch.Tensor is not part"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        static struct bytes b;
        struct deq_err err = {0};
        b.n = 0;
        PUT(&b, "\x80\2}");
        put_text(&b, "w");
        put_tensor(&b, &t[i].t);
        PUT(&b, "s.");
        enum deq_rc rc = try_pickle(&b, NULL, &err);
        if (t[i].says)
            CHECK_MSG(rc == DEQ_EFORMAT && strstr(err.text, t[i].says), "case %zu: %s", i, err.text);
        else
            CHECK_MSG(!rc, "case %zu: %s", i, err.text);
        if (t[i].says && !strstr(t[i].says, "global"))
            CHECK_MSG(strstr(err.text, "m.pth: data.pkl: entry w: "), "%s", err.text);
    }
}

TEST(torchfile_names)
{
    static const struct tensor_in w = {"FloatStorage", "0", 6, 0, 1, {6}, {1}};
    static struct bytes b;
    struct deq_torchfile *f = NULL;
    struct deq_err err = {0};

    /* {"a": {-7: w, "b": [None, w], "a.b.0": 1}} */
    b.n = 0;
    PUT(&b, "\x80\2}");
    put_text(&b, "a");
    PUT(&b, "}(J\xf9\xff\xff\xff");
    put_tensor(&b, &w);
    put_text(&b, "b");
    PUT(&b, "](N");
    put_tensor(&b, &w);
    PUT(&b, "eus.");
    CHECK_MSG(!try_pickle(&b, &f, &err), "%s", err.text);
    if (f) {
        CHECK(deq_torchfile_count(f) == 2 && deq_torchfile_find(f, "a.-7") && deq_torchfile_find(f, "a.b.1"));
        check_ignored(f, "a.b.0", "None");
        deq_torchfile_close(f);
    }

    /* one name twice: as two keys, and as a tensor and something else */
    for (int second = 0; second < 2; second++) {
        b.n = 0;
        PUT(&b, "\x80\2}(");
        put_text(&b, "a.b");
        put_tensor(&b, &w);
        put_text(&b, "a");
        PUT(&b, "}(");
        put_text(&b, "b");
        if (second)
            put_tensor(&b, &w);
        else
            PUT(&b, "K\1");
        PUT(&b, "K\0]uu.");
        CHECK(try_pickle(&b, NULL, &err) == DEQ_EFORMAT);
        CHECK_MSG(strstr(err.text, second ? "two tensors are called a.b" : "a tensor and another entry are called a.b"),
                  "%s", err.text);
    }

    /* the longest name, and one more */
    for (size_t n = DEQ_TORCH_NAME_MAX; n <= DEQ_TORCH_NAME_MAX + 1; n++) {
        b.n = 0;
        char name[DEQ_TORCH_NAME_MAX + 2];
        memset(name, 'n', n);
        name[n] = 0;
        PUT(&b, "\x80\2}");
        put_text(&b, name);
        put_tensor(&b, &w);
        PUT(&b, "s.");
        enum deq_rc rc = try_pickle(&b, NULL, &err);
        CHECK_MSG(n > DEQ_TORCH_NAME_MAX ? rc == DEQ_EFORMAT && strstr(err.text, "longer than 256 bytes") : !rc, "%s",
                  err.text);
    }
}

static bool no_storage(void *ctx, const char *key, size_t key_len, uint64_t *ret_storage, uint64_t *ret_bytes)
{
    (void)ctx, (void)key, (void)key_len, (void)ret_storage, (void)ret_bytes;
    return false;
}

static enum deq_rc parse_state(const void *p, size_t n, size_t *ret_ignored, struct deq_err *err)
{
    struct deq_torch_state s;
    enum deq_rc rc = deq_torch_state_parse(p, n, "p", no_storage, NULL, &s, err);
    *ret_ignored = rc ? 0 : s.n_ignored;
    if (!rc)
        deq_torch_state_free(&s);
    return rc;
}

TEST(torchfile_limits)
{
    static struct bytes b;
    struct deq_err err = {0};
    size_t ignored;

    /* dictionaries inside each other: {"a": {"a": ... {"a": {}}}} */
    for (int depth = DEQ_TORCH_DEPTH_MAX; depth <= DEQ_TORCH_DEPTH_MAX + 1; depth++) {
        b.n = 0;
        PUT(&b, "\x80\2");
        for (int i = 0; i < depth; i++) {
            PUT(&b, "}");
            put_text(&b, "a");
        }
        PUT(&b, "}");
        for (int i = 0; i < depth; i++)
            PUT(&b, "s");
        PUT(&b, ".");
        enum deq_rc rc = parse_state(b.p, b.n, &ignored, &err);
        CHECK_MSG(depth > DEQ_TORCH_DEPTH_MAX
                      ? rc == DEQ_EFORMAT && strstr(err.text, "more than 32 containers inside each other")
                      : !rc,
                  "%s", err.text);
    }

    /* a dictionary that holds the one before it twice, and so on: 2^30 paths, but every container is walked once. BUILD
     * takes each from the stack again; the memo keeps it. */
    b.n = 0;
    PUT(&b, "\x80\2}}q\0b");
    for (unsigned char i = 1; i <= 30; i++) {
        PUT(&b, "}(K\0h");
        put_int(&b, i - 1u, 1);
        PUT(&b, "K\1h");
        put_int(&b, i - 1u, 1);
        PUT(&b, "uq");
        put_int(&b, i, 1);
        PUT(&b, "b");
    }
    PUT(&b, "K\0h\36s.");
    CHECK_MSG(!parse_state(b.p, b.n, &ignored, &err) && ignored == 31, "%zu: %s", ignored, err.text);

    /* marks */
    b.n = 0;
    PUT(&b, "\x80\2");
    for (int i = 0; i <= DEQ_PICKLE_MARKS_MAX; i++)
        PUT(&b, "(");
    CHECK(parse_state(b.p, b.n, &ignored, &err) == DEQ_EFORMAT &&
          strstr(err.text, "byte 258: more than 256 containers inside each other"));

    /* entries */
    const size_t n = 4 * (DEQ_TORCH_ENTRIES_MAX + 1) + 6;
    unsigned char *p = malloc(n);
    memcpy(p, "\x80\2}(", 4);
    for (size_t i = 0; i <= DEQ_TORCH_ENTRIES_MAX; i++)
        memcpy(p + 4 + 4 * i, "M\1\1N", 4);
    memcpy(p + n - 2, "u.", 2);
    CHECK_MSG(parse_state(p, n, &ignored, &err) == DEQ_EFORMAT && strstr(err.text, "more than 65536 entries"), "%s",
              err.text);
    memcpy(p + n - 6, "u.", 2);
    CHECK_MSG(!parse_state(p, n - 4, &ignored, &err) && ignored == DEQ_TORCH_ENTRIES_MAX, "%s", err.text);
    free(p);

    /* values on the stack, values, bytes */
    p = malloc(DEQ_PICKLE_VALUES_MAX + 8192);
    memset(p, 'N', DEQ_PICKLE_STACK_MAX + 3);
    memcpy(p, "\x80\2", 2);
    CHECK_MSG(parse_state(p, DEQ_PICKLE_STACK_MAX + 3, &ignored, &err) == DEQ_EFORMAT &&
                  strstr(err.text, "more than 1048576 values on the stack"),
              "%s", err.text);
    for (size_t i = 2; i < DEQ_PICKLE_VALUES_MAX + 8192; i++)
        p[i] = i % 1024 == 2 ? '(' : i % 1024 == 1 ? 't' : 'N';
    CHECK_MSG(parse_state(p, DEQ_PICKLE_VALUES_MAX + 8192, &ignored, &err) == DEQ_EFORMAT &&
                  strstr(err.text, "more than 4194304 values"),
              "%s", err.text);
    CHECK_MSG(parse_state(p, DEQ_PICKLE_BYTES_MAX + 1u, &ignored, &err) == DEQ_EFORMAT &&
                  strstr(err.text, "at most 67108864 are read"),
              "%s", err.text);
    free(p);
}
