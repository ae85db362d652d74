/* The table of tensors: layout, files in both forms, what does not fit and by what name, and loading
 * and saving without memory. */
#define _GNU_SOURCE
#include "core/data/weights.h"

#include <malloc.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/config.h"
#include "core/cell/transformer.h"
#include "core/math/half.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

static struct deq_transformer_arch tiny(enum deq_norm norm, bool affine)
{
    return (struct deq_transformer_arch){
        .base = {.kind = &deq_transformer_kind, .vocab = {.size = 37, .d_model = 12, .eos_id = 0},
                 .predictor_hidden = affine ? 9 : 0, .serving = {.solver = deq_solver_defaults(), .row_window = 4}},
        .n_head = 3, .d_head = 5, .d_inner = 20, .n_block = 2, .attn_window = 40,
        .norm = norm, .norm_affine = affine, .inject_residual = !affine, .final_norm = affine, .norm_eps = 1e-5f};
}

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
        const struct deq_transformer_arch a = tiny((enum deq_norm)(c % 3), c < 3);
        struct deq_weights *w = random_weights(&a.base, 1);
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
        /* V D + L (U D + U + 3 H Dh D + H Dh D + 2 H Dh + D H Dh + D + F D + F + D
         * F + D + norms) + final norm + predictor */
        const size_t V = 37, D = 12, HD = 15, F = 20, U = 3 * HD + (c < 3 ? 0 : D),
                     norms = c < 3 ? 4 * D + (c % 3 == 2 ? 2 * HD : 0) : 0;
        CHECK(total == V * D + 2 * (U * D + U + 4 * HD * D + 2 * HD + D * HD + D + F * D + F + D * F + D + norms) +
                           (c < 3 ? 2 * D + 9 * D + 9 * D + 9 + D * 9 + D : 0));
        const struct deq_transformer_weights *tw = deq_transformer_weights(w);
        CHECK((c < 3) == (tw->final_norm_g != NULL) && (c < 3) == (tw->predictor.b != NULL) &&
              (c < 3) == (tw->block[1].ffn_norm_b != NULL));
        CHECK((c == 2) == (tw->block[0].sub_norm_g != NULL) && tw->vocabulary.embed[0] == w->data);
        CHECK(c < 3 ? tw->predictor.tok_w == w->data + w->n_main : w->n_main == w->n);
        deq_weights_free(w);
    }
    deq_weights_free(NULL);
}

static bool same_numbers(const struct deq_weights *w, const struct deq_weights *r, bool bf16)
{
    bool same = r && r->n == w->n;
    for (size_t i = 0; same && i < w->n; i++)
        same = r->data[i] == (bf16 ? deq_bf16_to_f32(deq_f32_to_bf16(w->data[i])) : w->data[i]);
    return same;
}

/* A file read plain has the numbers; read packed it is what packing them gives. */
TEST(weights_round_trip)
{
    REQUIRE(scratch_begin());
    struct deq_err e = {0};
    for (unsigned c = 0; c < 6; c++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            const struct deq_transformer_arch t = tiny((enum deq_norm)(c % 3), c < 3);
            struct deq_weights *w = random_weights(&t.base, 2 + c), *plain = NULL, *packed = NULL, *again = NULL;
            REQUIRE(w != NULL);
            CHECK_MSG(!deq_weights_save(scratch_path("w"), w, bf16, &e), "%s", e.text);
            CHECK_MSG(!deq_weights_load(scratch_path("w"), &t.base, false, &plain, &e), "%s", e.text);
            CHECK_MSG(!deq_weights_load(scratch_path("w"), &t.base, true, &packed, &e), "%s", e.text);
            REQUIRE(plain && packed && !deq_weights_packed(&t.base, plain, bf16, &again, &e));
            CHECK_MSG(same_numbers(w, plain, bf16), "case %u bf16=%d", c, bf16);
            CHECK(packed->bf16 == bf16);
            CHECK_EQ(packed->fingerprint, again->fingerprint);
            CHECK_EQ(packed->parameters, again->parameters);
            CHECK_EQ(packed->parameters, plain->parameters);
            CHECK_EQ(packed->bytes, again->bytes);
            deq_weights_free(again);
            deq_weights_free(packed);
            deq_weights_free(plain);
            deq_weights_free(w);
        }
    scratch_end("w", NULL);
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

/* In both forms. */
static void refused(const struct deq_tensor_out *t, size_t n, const struct deq_arch *a, const char *name,
                    const char *says)
{
    struct deq_err e = {0};
    CHECK(!deq_safetensors_write(scratch_path("w"), t, n, NULL, &e));
    for (int packed = 0; packed < 2; packed++) {
        struct deq_weights *r = NULL;
        CHECK_MSG(deq_weights_load(scratch_path("w"), a, packed, &r, &e) == DEQ_EFORMAT && !r, "%s %s", name, says);
        const char *file = strstr(e.text, "/w: ");
        CHECK_MSG(file && !strncmp(file, "/w: tensor ", 11) && strstr(file, name) && strstr(file, says),
                  "\"%s\" lacks \"%s\" or \"%s\"", e.text, name, says);
        deq_weights_free(r);
    }
}

struct tensors {
    struct deq_transformer_arch t;
    struct deq_weights *w;
    struct deq_tensor_out good[80], bad[80]; /* bad: begins as a copy of good, to be changed */
    size_t n;
};

static bool set_up(struct tensors *x)
{
    x->t = tiny(DEQ_NORM_PRE_SUB, true);
    x->w = random_weights(&x->t.base, 3);
    x->n = x->w && x->w->n_params < DEQ_COUNT(x->good) ? as_tensors(x->w, x->good) : 0;
    return x->n && scratch_begin();
}

static struct deq_tensor_out *copy(struct tensors *x)
{
    memcpy(x->bad, x->good, sizeof x->bad);
    return x->bad;
}

static struct deq_tensor_out *copy_of(struct tensors *x, const char *name)
{
    for (size_t i = 0; i < x->n; i++)
        if (!strcmp(x->good[i].name, name))
            return copy(x) + i;
    return NULL;
}

/* bad[i] is refused, and both shapes are told. */
static void misshapen(struct tensors *x, size_t i)
{
    char has[100], wants[60], says[200];
    deq_shape_text(x->bad[i].n_dims, x->bad[i].shape, has, sizeof has);
    deq_shape_text(x->good[i].n_dims, x->good[i].shape, wants, sizeof wants);
    snprintf(says, sizeof says, "has shape %s, expected %s (config.json)", has, wants);
    refused(x->bad, x->n, &x->t.base, x->good[i].name, says);
}

static void check_tensor(struct tensors *x, size_t i)
{
    char says[100];
    const struct deq_param *p = &x->w->params[i];
    const struct deq_arch *a = &x->t.base;
    const char *name = x->good[i].name;
    copy(x)[i] = x->good[x->n - 1];
    refused(x->bad, x->n - 1, a, name, "missing");
    copy(x)[i].shape[p->rows ? 1 : 0]--; /* one column less */
    misshapen(x, i);
    struct deq_tensor_out *t = copy(x) + i; /* the right number of elements in another shape */
    t->n_dims = p->rows ? 1 : 2;
    t->shape[0] = p->rows ? p->count : 1;
    t->shape[1] = p->cols;
    misshapen(x, i);
    t = copy(x) + i; /* the right sizes and one dimension more */
    t->shape[t->n_dims++] = 1;
    misshapen(x, i);
    copy(x)[i].name = "blocks.0.attn.qkv.weights"; /* a name that nobody knows */
    refused(x->bad, x->n, a, name, "missing");
    const size_t last = p->offset + p->count - 1;
    const float was = x->w->data[last];
    snprintf(says, sizeof says, "element %zu is not finite", p->count - 1);
    x->w->data[last] = i % 2 ? NAN : -INFINITY;
    refused(x->good, x->n, a, name, says);
    x->w->data[last] = was;
}

TEST(weights_that_do_not_fit)
{
    struct tensors x;
    REQUIRE(set_up(&x));
    const struct deq_arch *a = &x.t.base;
    for (size_t i = 0; i < x.n; i++)
        check_tensor(&x, i);
    copy(&x)[x.n] = (struct deq_tensor_out){.name = "lm_head.weight", .dtype = DEQ_F32, .n_dims = 1, .shape = {1},
                                            .data = x.w->data};
    refused(x.bad, x.n + 1, a, "lm_head.weight", "not part of a model");
    x.bad[x.n].name = "blocks.2.ffn.up.bias"; /* one block too many */
    refused(x.bad, x.n + 1, a, "blocks.2.ffn.up.bias", "not part of a model");
    int64_t ints[64] = {0};
    struct deq_tensor_out *t = copy_of(&x, "blocks.1.attn_norm.bias");
    REQUIRE(t != NULL);
    t->dtype = DEQ_I64;
    t->data = ints;
    const float was = x.w->data[0];
    x.w->data[0] = NAN; /* what the header says comes before any number */
    refused(x.bad, x.n, a, t->name, "I64");
    x.w->data[0] = was;
    /* a model without a predictor refuses the file of one that has it */
    struct deq_transformer_arch plain = x.t;
    plain.base.predictor_hidden = 0;
    refused(x.good, x.n, &plain.base, "predictor.", "not part of a model");
    struct deq_weights *r = NULL;
    struct deq_err e;
    CHECK(deq_weights_load(scratch_path("none"), a, false, &r, &e) == DEQ_ENOTFOUND && !r);
    deq_weights_free(x.w);
    scratch_end("w", NULL);
}

/* Mixed dtypes are fine, but that is not a bf16 model. */
TEST(weights_of_mixed_dtypes)
{
    struct tensors x;
    struct deq_weights *r = NULL;
    struct deq_err e;
    const uint16_t half[64] = {0};
    REQUIRE(set_up(&x));
    struct deq_tensor_out *t = copy_of(&x, "blocks.1.attn_norm.bias");
    REQUIRE(t != NULL);
    t->dtype = DEQ_BF16;
    t->data = half;
    CHECK(!deq_safetensors_write(scratch_path("w"), x.bad, x.n, NULL, &e));
    CHECK_MSG(!deq_weights_load(scratch_path("w"), &x.t.base, true, &r, &e), "%s", e.text);
    CHECK(r && !r->bf16);
    deq_weights_free(r);
    deq_weights_free(x.w);
    scratch_end("w", NULL);
}

/* Loads a model, plain or packed, with the nth allocation failing, for every n, until it succeeds. jansson allocates
 * by itself and is not hit. */
static unsigned load_under_faults(bool packed)
{
    for (unsigned n = 1; n < 200; n++) {
        struct deq_arch *a = NULL;
        struct deq_weights *w = NULL;
        struct deq_err e = {0};
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_config_load(scratch_path("c"), &a, &e);
        if (!rc)
            rc = deq_weights_load(scratch_path("w"), a, packed, &w, &e);
        deq_mem_fault(0, false);
        const uint32_t width = a ? a->vocab.d_model : 0;
        deq_free(a);
        if (!rc) {
            CHECK(w && width == 12);
            deq_weights_free(w);
            return n;
        }
        CHECK_MSG(rc == DEQ_ENOMEM && e.code == rc && e.text[0] && !w, "allocation %u: %s: %s", n, deq_rc_name(rc),
                  e.text);
    }
    return 0;
}

/* While it is saved under faults the old file stays. */
static void save_under_faults(const struct deq_arch *a, const struct deq_weights *w)
{
    struct deq_err e;
    unsigned n;
    for (n = 1; n < 100; n++) {
        deq_mem_fault(n, false);
        enum deq_rc rc = deq_weights_save(scratch_path("w"), w, true, &e);
        deq_mem_fault(0, false);
        if (!rc)
            break;
        struct deq_weights *r = NULL;
        CHECK(rc == DEQ_ENOMEM && !deq_weights_load(scratch_path("w"), a, true, &r, &e) && !r->bf16);
        deq_weights_free(r);
    }
    CHECK(n > 2 && n < 100);
}

TEST(loading_without_memory)
{
    REQUIRE(scratch_begin());
    struct deq_transformer_arch a = tiny(DEQ_NORM_PRE, true);
    a.base.vocab.size = 8000; /* the block is then 400 KB: one leaked block stands out */
    struct deq_weights *w = random_weights(&a.base, 5);
    struct deq_err e = {0};
    REQUIRE(w && !deq_config_save(scratch_path("c"), &a.base, NULL, &e) &&
            !deq_weights_save(scratch_path("w"), w, false, &e));
    for (int packed = 0; packed < 2; packed++) {
        const unsigned n = load_under_faults(packed);
        CHECK_MSG(n > 5, "%u", n); /* config text, architecture; file, path, tensors; weights, table, block */
#if defined(__GLIBC__)
        struct mallinfo2 before = mallinfo2();
        for (int i = 0; i < 3; i++)
            CHECK(load_under_faults(packed) == n);
        struct mallinfo2 after = mallinfo2();
        /* blocks that free() keeps for reuse count as used, hence not zero; a sanitizer build sees leaks exactly */
        CHECK_MSG(after.uordblks + after.hblkhd <= before.uordblks + before.hblkhd + 32768, "%zu bytes more",
                  after.uordblks + after.hblkhd - before.uordblks - before.hblkhd);
#endif
    }
    save_under_faults(&a.base, w);
    deq_weights_free(w);
    scratch_end("c", "w", NULL);
}
