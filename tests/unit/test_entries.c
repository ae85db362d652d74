/* core/import/entries.c: entries by name and shape, weight norm folded, and nothing left over; on a checkpoint of the
 * authors' code. */
#include "core/import/entries.h"

#include "core/base/mem.h"
#include "tests/unit/test.h"

#define POST "tests/golden/authors/locuslab-postln-adaptive/checkpoint.pth"
#define FIRST "word_emb.emb_layers.0.weight"

static bool open_entries(struct deq_entries *e, const char *checkpoint, const char *anchor, struct deq_err *err)
{
    *e = (struct deq_entries){.checkpoint = checkpoint, .config = "args.json", .model = "a-model", .err = err};
    deq_entries_init(e);
    enum deq_rc rc = deq_entries_open(e, anchor);
    if (!rc)
        rc = deq_entries_room(e);
    CHECK_MSG(!rc, "%s", err->text);
    return !rc;
}

static bool says(const struct deq_err *err, const char *what)
{
    if (!strstr(err->text, what))
        printf("  it says: %s\n", err->text);
    return strstr(err->text, what);
}

/* Of the file's entry i, which has at most three dimensions. */
static struct deq_entry_shape shape_at(const struct deq_entries *e, size_t i)
{
    const struct deq_checkpoint_tensor *t = deq_checkpoint_at(e->file, i);
    struct deq_entry_shape shape = {.n = t->n_dims};
    for (unsigned d = 0; d < DEQ_MIN(t->n_dims, 3u); d++)
        shape.d[d] = t->shape[d];
    return shape;
}

TEST(entries_read)
{
    struct deq_err err = {0};
    struct deq_entries e;
    float bias[96], more[97];
    if (open_entries(&e, POST, FIRST, &err)) {
        CHECK_EQ(e.prefix, "");
        CHECK(deq_entries_has(&e, FIRST) && !deq_entries_has(&e, "word_emb") && deq_entries_has_any(&e, "word_emb."));
        CHECK(!deq_entries_read(&e, "func.pos_ff.ff1_net.bias", DEQ_SHAPE1(96), bias) && e.n_used == 1);
        CHECK(deq_entries_read(&e, "func.pos_ff.ff1_net.bias", DEQ_SHAPE2(96, 1), bias) == DEQ_EFORMAT);
        CHECK(says(&err, "entry func.pos_ff.ff1_net.bias: has shape [96], expected [96, 1] by args.json"));
        CHECK(deq_entries_read(&e, "func.pos_ff.ff1_net.bias", DEQ_SHAPE1(97), more) == DEQ_EFORMAT);
        CHECK(says(&err, "entry func.pos_ff.ff1_net.bias: has shape [96], expected [97] by args.json"));
        CHECK(deq_entries_read(&e, "func.pos_ff.ff3_net.bias", DEQ_SHAPE2(9, 8), more) == DEQ_EFORMAT);
        CHECK(says(&err, "entry func.pos_ff.ff3_net.bias: missing, expected shape [9, 8]"));
        CHECK_EQ(e.n_used, 1ul);
    }
    deq_entries_close(&e);
}

/* Dimensions of 1 behind the shape asked for do not matter: a convolution of one tap is a matrix. */
TEST(entries_fold)
{
    enum { ROWS = 96, COLS = 32 };
    struct deq_err err = {0};
    struct deq_entries e;
    float w[ROWS * COLS], v[ROWS * COLS], g[ROWS];
    if (open_entries(&e, POST, FIRST, &err)) {
        CHECK(!deq_entries_matrix(&e, "func.dec_attn.qkv_net", ROWS, COLS, w));
        CHECK(!deq_entries_read(&e, "func.dec_attn.qkv_net.weight_v", DEQ_SHAPE2(ROWS, COLS), v));
        CHECK(!deq_entries_read(&e, "func.dec_attn.qkv_net.weight_g", DEQ_SHAPE1(ROWS), g));
        double worst = 0;
        for (size_t r = 0; r < ROWS; r++) {
            double sum = 0;
            for (size_t c = 0; c < COLS; c++)
                sum += (double)v[r * COLS + c] * (double)v[r * COLS + c];
            for (size_t i = r * COLS; i < (r + 1) * COLS; i++)
                worst = worse(worst, fabs((double)w[i] - (double)g[r] / sqrt(sum) * (double)v[i]));
        }
        CHECK_MSG(worst < 1e-7, "off by %g", worst); /* one rounding of numbers below 1 */
        e.weight_norm.clip = true;
        e.weight_norm.clip_value = 1e-3;
        CHECK(!deq_entries_matrix(&e, "func.dec_attn.qkv_net", ROWS, COLS, w));
        CHECK(fabsf(w[5] - 1e-3f * v[5]) < 1e-9f);
        CHECK_EQ(e.n_used, 2ul);
    }
    deq_entries_close(&e);
}

TEST(entries_same)
{
    struct deq_err err = {0};
    struct deq_entries e;
    bool same = false;
    if (open_entries(&e, POST, FIRST, &err)) {
        CHECK(!deq_entries_same(&e, FIRST, "crit.out_layers.0.weight", DEQ_SHAPE2(40, 32), &same) && same);
        CHECK(!deq_entries_same(&e, "func.dec_attn.qkv_net.weight_v", "inject_conv.weight", DEQ_SHAPE2(96, 32), &same));
        CHECK(!same);
    }
    deq_entries_close(&e);
}

/* What the anchor stands behind is the model; the rest of the file is noted. */
TEST(entries_prefix)
{
    struct deq_err err = {0};
    struct deq_entries e;
    float x[40 * 32];
    if (open_entries(&e, POST, "emb_layers.0.weight", &err)) {
        CHECK_EQ(e.prefix, "word_emb.");
        CHECK(!deq_entries_read(&e, "emb_layers.0.weight", DEQ_SHAPE2(40, 32), x) && !deq_entries_has(&e, FIRST));
        CHECK(deq_entries_none_left(&e) == DEQ_EFORMAT && says(&err, "entry word_emb.emb_"));
        for (size_t i = 0; i < deq_checkpoint_count(e.file); i++)
            if (!strncmp(deq_checkpoint_at(e.file, i)->name, "word_emb.", 9))
                CHECK(!deq_entries_pass(&e, deq_checkpoint_at(e.file, i)->name + 9, shape_at(&e, i)));
        CHECK(!deq_entries_none_left(&e));
        CHECK(e.notes.len && strstr(e.notes.data, "tensors outside \"word_emb.\""));
    }
    deq_entries_close(&e);
    static const char *const bad[][2] = {
        {"nobody.weight", "entry nobody.weight: missing; this is not a state dict of a-model; at its top: word_emb, "},
        {"ff1_net.bias.more", "missing"}, {"layers.0.weight", "missing"}, {"0.weight", "holds two models, "}};
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        e = (struct deq_entries){.checkpoint = POST, .config = "args.json", .model = "a-model", .err = &err};
        CHECK(deq_entries_open(&e, bad[i][0]) == DEQ_EFORMAT && says(&err, bad[i][1]));
        deq_entries_close(&e);
    }
}

/* What is there for nothing has its shape all the same. */
TEST(entries_pass_misshapen)
{
    struct deq_err err = {0};
    struct deq_entries e;
    if (open_entries(&e, POST, FIRST, &err)) {
        struct deq_entry_shape shape = shape_at(&e, 0);
        shape.d[0]++;
        CHECK(deq_entries_pass(&e, deq_checkpoint_at(e.file, 0)->name, shape) == DEQ_EFORMAT);
        CHECK(says(&err, deq_checkpoint_at(e.file, 0)->name) && says(&err, "has shape [") && !e.n_used);
    }
    deq_entries_close(&e);
}

/* The first that nobody read is named. */
TEST(entries_none_left)
{
    struct deq_err err = {0};
    struct deq_entries e;
    if (open_entries(&e, POST, FIRST, &err)) {
        CHECK(deq_entries_none_left(&e) == DEQ_EFORMAT);
        CHECK(says(&err, "not part of model_type a-model with the arguments of args.json"));
        for (size_t i = 0; i < deq_checkpoint_count(e.file); i++)
            CHECK(!deq_entries_pass(&e, deq_checkpoint_at(e.file, i)->name, shape_at(&e, i)));
        CHECK(!deq_entries_pass(&e, "nobody", DEQ_SHAPE1(1)));
        CHECK(!deq_entries_none_left(&e) && e.n_used == deq_checkpoint_count(e.file) && !e.notes.len);
    }
    deq_entries_close(&e);
}
