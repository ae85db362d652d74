/* core/train/train.c: a run goes on exactly where it was stopped, and takes texts as they come. */
#include "core/train/train.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/score/plain.h"
#include "core/score/segment.h"
#include "core/text/corpus.h"
#include "tests/unit/test.h"
#include "tests/unit/training.h"

struct stopper {
    uint32_t at, seen;
};

static bool stop_at(void *ctx)
{
    struct stopper *s = ctx;
    return s->seen++ == s->at;
}

/* A directory with a data set that is validated in no time: the head of the sample. */
static void small_data(char dir[32])
{
    char path[64], *text;
    size_t len;
    snprintf(dir, 32, "/tmp/deq-test-XXXXXX");
    CHECK(mkdtemp(dir) && deq_io_join(path, sizeof path, dir, "sample.txt"));
    REQUIRE(!deq_io_read("tests/golden/tokenizer/sample.txt", 1 << 20, &text, &len, NULL) && len > 16000);
    CHECK(!deq_io_replace(path, &(struct deq_part){text, 16000}, 1, NULL));
    deq_free(text);
}

/* What a directory's checkpoint holds. */
struct saved {
    struct deq_weights *w;
    float *m, *v; /* [w->n] */
    struct deq_progress at;
};

static struct saved saved_in(const struct deq_recipe *r, const char *dir)
{
    char path[512];
    struct deq_arch *a;
    struct deq_err err;
    struct saved s = {0};
    deq_io_join(path, sizeof path, dir, "checkpoint.safetensors");
    CHECK_MSG(!deq_recipe_arch(r, r->vocab_size, &a, &err) && !deq_weights_new(a, &s.w, &err), "%s", err.text);
    s.m = DEQ_NEW_ARRAY(float, s.w->n);
    s.v = DEQ_NEW_ARRAY(float, s.w->n);
    CHECK_MSG(!deq_checkpoint_load(path, s.w, s.m, s.v, &s.at, &err), "%s", err.text);
    deq_free(a);
    return s;
}

static void saved_free(struct saved *s)
{
    deq_weights_free(s->w);
    deq_free(s->m);
    deq_free(s->v);
}

static bool same_model(const char *a, const char *b)
{
    size_t n[2];
    char *m[2] = {read_in(a, "model.safetensors", &n[0]), read_in(b, "model.safetensors", &n[1])};
    const bool same = n[0] == n[1] && !memcmp(m[0], m[1], n[0]);
    deq_free(m[0]);
    deq_free(m[1]);
    return same;
}

/* 12 steps in one go with two threads; 5 steps, stop, resume with one thread: the same bytes. */
TEST(train_resume_is_exact)
{
    char a[] = "/tmp/deq-test-XXXXXX", b[] = "/tmp/deq-test-XXXXXX", data[32];
    REQUIRE(mkdtemp(a) && mkdtemp(b));
    small_data(data);
    struct deq_recipe *r = small_recipe(12);
    struct deq_err err;
    struct stopper s = {.at = 5};
    const struct deq_train_hooks none = {0}, stopping = {NULL, stop_at, &s};
    struct deq_train_opts oa = {.data_dir = data, .out_dir = a, .threads = 2}, ob = oa;
    ob.out_dir = b;
    ob.threads = 1;
    CHECK_MSG(deq_train_run(r, &oa, &none, &err) == DEQ_OK, "%s", err.text);
    CHECK_MSG(deq_train_run(r, &ob, &stopping, &err) == DEQ_OK, "%s", err.text);
    ob.resume = true;
    CHECK_MSG(deq_train_run(r, &ob, &none, &err) == DEQ_OK, "%s", err.text);
    CHECK(same_model(a, b));
    /* a checkpoint of another shape is refused by name, and what is there stays */
    assign_recipe(r, "model.inner_size=64");
    ob.new_recipe = true;
    CHECK(deq_train_run(r, &ob, &none, &err) != DEQ_OK && strstr(err.text, "ffn"));
    ob.new_recipe = false;
    assign_recipe(r, "model.inner_size=48");
    assign_recipe(r, "train.steps=11"); /* and one that is further than the recipe goes */
    CHECK(deq_train_run(r, &ob, &none, &err) == DEQ_EINVAL && strstr(err.text, "step: 12") &&
          strstr(err.text, "train.steps are 11"));
    deq_recipe_free(r);
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s %s %s", a, b, data);
    CHECK(system(cmd) == 0);
}

/* --- The predictor --- */

/* A stop while it is fitted is a stop as any other: no model yet, and resumed the run ends as it would have. */
TEST(train_stops_while_the_predictor_is_fitted)
{
    char base[] = "/tmp/deq-test-XXXXXX", out[2][64], path[128];
    REQUIRE(mkdtemp(base) != NULL);
    write_sample(base, 2000);
    struct deq_recipe *r = small_recipe(4);
    struct deq_err err;
    struct stopper s = {.at = 5}; /* asked once a step: after the first of the predictor's */
    const struct deq_train_hooks none = {0}, stopping = {NULL, stop_at, &s};
    for (int i = 0; i < 2; i++)
        snprintf(out[i], sizeof out[i], "%s/out%d", base, i);
    struct deq_train_opts o = {.data_dir = base, .out_dir = out[0], .threads = 1};
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    o.out_dir = out[1];
    CHECK_MSG(!deq_train_run(r, &o, &stopping, &err), "%s", err.text);
    CHECK_EQ(s.seen, 6u);
    CHECK(deq_io_join(path, sizeof path, out[1], "model.safetensors") && !deq_io_exists(path));
    o.resume = true;
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    CHECK(same_model(out[0], out[1]));
    deq_recipe_free(r);
    remove_tree(base);
}

struct errors {
    double first, last;
    unsigned fitted;
};

static void on_joint(void *ctx, const struct deq_train_event *e)
{
    struct errors *t = ctx;
    t->fitted += e->kind == DEQ_TRAIN_PREDICTOR;
    if (e->kind != DEQ_TRAIN_STEP)
        return;
    CHECK_MSG(!strcmp(e->phase, "deq") == (e->predictor > 0), "step %llu", (unsigned long long)e->step);
    t->first = t->first > 0 ? t->first : e->predictor;
    t->last = e->predictor;
}

/* Trained with the model it learns from the first step through the equilibrium on, is not fitted behind, is where it
 * was when a stopped run goes on, and leaves the model what it is without it. */
TEST(train_joint_predictor)
{
    char base[] = "/tmp/deq-test-XXXXXX", out[3][64];
    REQUIRE(mkdtemp(base) != NULL);
    write_sample(base, 2000);
    struct deq_recipe *r = small_recipe(16);
    struct deq_err err;
    struct errors errors = {0};
    struct stopper s = {.at = 9};
    const struct deq_train_hooks whole = {on_joint, NULL, &errors}, stopping = {NULL, stop_at, &s}, none = {0};
    assign_recipe(r, "predictor.joint=true");
    assign_recipe(r, "predictor.lr=2e-2");
    assign_recipe(r, "train.log_every=1");
    for (int i = 0; i < 3; i++)
        snprintf(out[i], sizeof out[i], "%s/out%d", base, i);
    struct deq_train_opts o = {.data_dir = base, .out_dir = out[0], .threads = 2};
    CHECK_MSG(!deq_train_run(r, &o, &whole, &err), "%s", err.text);
    CHECK_MSG(!errors.fitted && errors.last < 0.9 * errors.first, "relative error %g, then %g", errors.first,
              errors.last);
    o.out_dir = out[1];
    o.threads = 1;
    CHECK_MSG(!deq_train_run(r, &o, &stopping, &err), "%s", err.text);
    o.resume = true;
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    CHECK(same_model(out[0], out[1]));
    o = (struct deq_train_opts){.data_dir = base, .out_dir = out[2], .threads = 1};
    assign_recipe(r, "predictor.joint=false");
    assign_recipe(r, "predictor.steps=0");
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    struct saved with = saved_in(r, out[0]), without = saved_in(r, out[2]);
    const size_t n_main = with.w->n_main, rest = with.w->n - n_main;
    CHECK(!memcmp(with.w->data, without.w->data, n_main * sizeof(float)));
    CHECK(rest && memcmp(with.w->data + n_main, without.w->data + n_main, rest * sizeof(float)));
    saved_free(&with);
    saved_free(&without);
    deq_recipe_free(r);
    remove_tree(base);
}

/* --- What steps do --- */

static void on_tolerance(void *ctx, const struct deq_train_event *e)
{
    double *evaluations = ctx; /* [2] of the first step and of the last */
    if (e->kind == DEQ_TRAIN_STEP)
        evaluations[e->step > 1] = e->evaluations;
}

/* Steps are solved to the tolerance that the schedule has for them: at first to one that a single evaluation reaches,
 * in the end to one that none does. */
TEST(train_steps_follow_the_tolerance_schedule)
{
    char base[] = "/tmp/deq-test-XXXXXX", out[64];
    REQUIRE(mkdtemp(base) != NULL);
    write_sample(base, 2000);
    snprintf(out, sizeof out, "%s/out", base);
    struct deq_recipe *r = plain_recipe(3);
    struct deq_err err;
    double evaluations[2] = {0};
    const struct deq_train_hooks hooks = {on_tolerance, NULL, evaluations};
    const struct deq_train_opts o = {.data_dir = base, .out_dir = out, .threads = 1};
    static const char *const options[] = {"train.shallow_steps=0", "train.log_every=1", "solver.tol_start=10",
                                          "solver.tol=1e-8", "solver.max_iter=6"};
    for (size_t i = 0; i < DEQ_COUNT(options); i++)
        assign_recipe(r, options[i]);
    CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
    CHECK_MSG(evaluations[0] == 1 && evaluations[1] >= 6, "%g, then %g", evaluations[0], evaluations[1]);
    deq_recipe_free(r);
    remove_tree(base);
}

struct tally {
    const struct deq_recipe *recipe;
    bool met[4]; /* numbers of evaluations drawn */
    uint64_t steps;
};

/* A step's evaluations are those drawn for it and the recorded one. */
static void on_drawn(void *ctx, const struct deq_train_event *e)
{
    struct tally *t = ctx;
    if (e->kind != DEQ_TRAIN_STEP)
        return;
    const unsigned n = deq_train_drawn(t->recipe, e->step - 1);
    REQUIRE(n < DEQ_COUNT(t->met));
    CHECK_EQ(e->evaluations, n + 1.0);
    t->met[n] = true;
    t->steps++;
}

/* The number of evaluations is drawn anew in every step; a run that was stopped draws the same ones and goes on to the
 * same bytes, while another seed draws others. */
TEST(train_draws_evaluations)
{
    char base[] = "/tmp/deq-test-XXXXXX", out[2][64];
    REQUIRE(mkdtemp(base) != NULL);
    write_sample(base, 2000);
    struct deq_recipe *r = plain_recipe(12);
    struct deq_err err;
    assign_recipe(r, "train.grad=unroll");
    assign_recipe(r, "train.unroll=1");
    assign_recipe(r, "train.shallow_steps=0");
    assign_recipe(r, "train.drawn_evaluations=3");
    assign_recipe(r, "train.log_every=1");
    struct tally t = {.recipe = r};
    struct stopper s = {.at = 5};
    const struct deq_train_hooks whole = {on_drawn, NULL, &t}, stopping = {NULL, stop_at, &s}, rest = {0};
    for (int i = 0; i < 2; i++)
        snprintf(out[i], sizeof out[i], "%s/out%d", base, i);
    struct deq_train_opts o = {.data_dir = base, .out_dir = out[0], .threads = 1};
    CHECK_MSG(!deq_train_run(r, &o, &whole, &err), "%s", err.text);
    CHECK(t.steps == 12 && t.met[0] && t.met[1] && t.met[2] && t.met[3]); /* of this seed */
    o.out_dir = out[1];
    CHECK_MSG(!deq_train_run(r, &o, &stopping, &err), "%s", err.text);
    o.resume = true;
    CHECK_MSG(!deq_train_run(r, &o, &rest, &err), "%s", err.text);
    CHECK(same_model(out[0], out[1]));
    unsigned same = 0;
    for (uint64_t step = 0; step < 64; step++) {
        const unsigned drawn = deq_train_drawn(r, step);
        r->seed++;
        same += drawn == deq_train_drawn(r, step);
        r->seed--;
    }
    CHECK(same < 64);
    deq_recipe_free(r);
    remove_tree(base);
}

/* A file whose lines end in CR LF, with a byte order mark, is the text it was: the same model comes of it. */
TEST(train_takes_line_ends_as_they_come)
{
    char base[] = "/tmp/deq-test-XXXXXX", path[512], out[2][64];
    REQUIRE(mkdtemp(base) != NULL);
    struct deq_recipe *r = plain_recipe(4);
    struct deq_err err;
    const struct deq_train_hooks none = {0};
    size_t n = 0, sizes[2];
    write_sample(base, 2000);
    char *text = read_in(base, "sample.txt", &n), *models[2];
    REQUIRE(text);
    struct deq_buf b[2]; /* with LF and with CR LF; every fourth line is followed by the end of a document */
    const char *const ends[2] = {"\n", "\r\n"};
    for (int crlf = 0; crlf < 2; crlf++) {
        deq_buf_init(&b[crlf], 1 << 24);
        deq_buf_str(&b[crlf], crlf ? "\xef\xbb\xbf" : "");
        for (size_t i = 0, line = 0; i < n; i++) {
            if (text[i] != '\n')
                deq_buf_add(&b[crlf], text + i, 1);
            else if (++line % 4)
                deq_buf_str(&b[crlf], ends[crlf]);
            else
                deq_buf_fmt(&b[crlf], "%s<|endoftext|>%s", ends[crlf], ends[crlf]);
        }
        CHECK(!b[crlf].failed);
    }
    for (int crlf = 0; crlf < 2; crlf++) {
        snprintf(out[crlf], sizeof out[crlf], "%s/out%d", base, crlf);
        deq_io_join(path, sizeof path, base, "sample.txt");
        CHECK(!deq_io_replace(path, &(struct deq_part){b[crlf].data, b[crlf].len}, 1, &err));
        const struct deq_train_opts o = {.data_dir = base, .out_dir = out[crlf], .threads = 1};
        CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
        models[crlf] = read_in(out[crlf], "model.safetensors", &sizes[crlf]);
    }
    CHECK(sizes[0] == sizes[1] && !memcmp(models[0], models[1], sizes[0]));
    deq_free(models[0]);
    deq_free(models[1]);
    deq_free(text);
    deq_buf_free(&b[0]);
    deq_buf_free(&b[1]);
    deq_recipe_free(r);
    remove_tree(base);
}

/* --- Explicit networks --- */

struct lines {
    struct deq_train_size size;
    unsigned starts, steps, valids, predictor;
    double evaluations, nats; /* of the last step; of the last validation */
};

static void on_explicit(void *ctx, const struct deq_train_event *e)
{
    struct lines *l = ctx;
    l->starts += e->kind == DEQ_TRAIN_START;
    l->steps += e->kind == DEQ_TRAIN_STEP;
    l->valids += e->kind == DEQ_TRAIN_VALID;
    l->predictor += e->kind == DEQ_TRAIN_PREDICTOR;
    if (e->kind == DEQ_TRAIN_START)
        l->size = *e->size;
    if (e->kind == DEQ_TRAIN_STEP)
        l->evaluations = e->evaluations;
    if (e->kind == DEQ_TRAIN_VALID)
        l->nats = e->loss;
    if (e->kind == DEQ_TRAIN_STEP || e->kind == DEQ_TRAIN_VALID)
        CHECK_EQ(e->phase, "explicit");
}

/* Nats a token of dir's sample as validation reads it, by what the model directory says of itself. */
static double nats_of_sample(const char *dir, const char *model, size_t T)
{
    struct deq_plain m = {0};
    struct deq_tokens t = {0};
    struct deq_segment *s;
    struct deq_err err;
    size_t len, n = 0;
    uint64_t bytes = 0;
    double nats = 0, *nll = DEQ_NEW_ARRAY(double, T);
    char *text = read_in(dir, "sample.txt", &len);
    CHECK_MSG(!deq_plain_open(model, true, &m, &err), "%s", err.text);
    CHECK(nll && deq_tokens_push(&t, (uint32_t)m.arch->vocab.eos_id) &&
          !deq_corpus_encode(m.tokenizer, -1, m.arch->vocab.eos_id, text, len, &t, &bytes, &err) &&
          !deq_segment_new(m.arch, m.weights, 1, T, 0, &m.arch->serving.solver, &s, &err));
    for (size_t at = 0; at + T < t.n; at += T) {
        struct deq_solve_report r;
        s->seq->ops->forget(s->seq);
        CHECK(!deq_segment_solve(s, t.ids + at, T, NULL, &r, &err));
        deq_seq_loss(s->seq, s->z, t.ids + at + 1, 1, NULL, NULL, nll);
        for (size_t i = 0; i < T; i++, n++)
            nats += nll[i];
    }
    deq_segment_free(s);
    deq_tokens_free(&t);
    deq_plain_close(&m);
    deq_free(text);
    deq_free(nll);
    return nats / (double)n;
}

/* A recipe's explicit twins: so many evaluations in every step, in validation, and in what the model says of itself;
 * with recomputing the same bytes; tied ones have a DEQ's parameters, whatever their depth. */
TEST(train_explicit_networks)
{
    static const struct {
        const char *depth, *blocks, *recompute;
        double evaluations; /* of a step: all but the last are made again, each from its own input */
    } runs[] = {{"9", "1", "false", 9}, {"9", "1", "true", 17}, {"1", "3", "false", 1}};
    char base[] = "/tmp/deq-test-XXXXXX", out[64];
    REQUIRE(mkdtemp(base) != NULL);
    write_sample(base, 2000);
    size_t n[DEQ_COUNT(runs)];
    char *model[DEQ_COUNT(runs)];
    struct lines lines[DEQ_COUNT(runs)] = {0};
    for (size_t i = 0; i < DEQ_COUNT(runs); i++) {
        struct deq_recipe *r = small_recipe(4); /* its shallow steps, penalty and predictor are no matter */
        struct deq_err err;
        char text[64];
        snprintf(out, sizeof out, "%s/out%zu", base, i);
        assign_recipe(r, "train.grad=explicit");
        snprintf(text, sizeof text, "solver.max_iter=%s", runs[i].depth);
        assign_recipe(r, text);
        snprintf(text, sizeof text, "model.blocks=%s", runs[i].blocks);
        assign_recipe(r, text);
        snprintf(text, sizeof text, "train.recompute=%s", runs[i].recompute);
        assign_recipe(r, text);
        const struct deq_train_hooks hooks = {on_explicit, NULL, &lines[i]};
        const struct deq_train_opts o = {.data_dir = base, .out_dir = out, .threads = 1};
        CHECK_MSG(!deq_train_run(r, &o, &hooks, &err), "%s", err.text);
        model[i] = read_in(out, "model.safetensors", &n[i]);
        const struct lines *l = &lines[i];
        CHECK(l->starts == 1 && l->steps == 1 && l->valids == 1 && !l->predictor);
        CHECK_EQ(l->evaluations, runs[i].evaluations);
        CHECK(l->size.depth == r->max_iter && l->size.threads == 1 && !l->size.predictor &&
              l->size.parameters == l->size.non_embedding + (uint64_t)r->vocab_size * 32 &&
              l->size.parameter_bytes == l->size.non_embedding * (3 + 2) * 4);
        /* the file's weights are the run's; sums in another order */
        const double nats = nats_of_sample(base, out, r->seq_len);
        CHECK_MSG(fabs(nats - l->nats) < 1e-5, "run %zu: %.7f nats in validation, %.7f by the model", i, l->nats, nats);
        deq_recipe_free(r);
    }
    CHECK(n[0] == n[1] && !memcmp(model[0], model[1], n[0]));
    CHECK(lines[0].size.segment == 0 && lines[1].size.segment == 1);
    CHECK(2 * lines[1].size.activation_bytes < lines[0].size.activation_bytes);
    /* untied: a cell's parameters for every layer, but for the norm before the head */
    CHECK_EQ(lines[2].size.non_embedding - 64, 3 * (lines[0].size.non_embedding - 64));
    for (size_t i = 0; i < DEQ_COUNT(runs); i++)
        deq_free(model[i]);
    remove_tree(base);
}

/* --- Runs that diverge --- */

/* Multiplies the weights in a directory's checkpoint, so that what is computed with them is not finite. */
static void spoil(const struct deq_recipe *r, const char *dir)
{
    char path[512];
    struct deq_err err;
    struct saved s = saved_in(r, dir);
    for (size_t i = 0; i < s.w->n; i++)
        s.w->data[i] *= 1e37f;
    deq_io_join(path, sizeof path, dir, "checkpoint.safetensors");
    CHECK(!deq_checkpoint_save(path, s.w, s.m, s.v, &s.at, NULL, &err));
    deq_io_join(path, sizeof path, dir, "model.safetensors");
    CHECK(!deq_weights_save(path, s.w, false, &err));
    saved_free(&s);
}

/* A run whose steps are not finite ends by itself, says where it was and what is left, and leaves that as it was. */
TEST(train_divergence_keeps_the_last_good_checkpoint)
{
    static const char *const kept[] = {"checkpoint.safetensors", "model.safetensors", "config.json"};
    char base[] = "/tmp/deq-test-XXXXXX", out[64], other[64], says[256];
    REQUIRE(mkdtemp(base) != NULL);
    write_sample(base, 2000);
    snprintf(out, sizeof out, "%s/out", base);
    snprintf(other, sizeof other, "%s/other", base);
    struct deq_recipe *r = plain_recipe(4);
    struct deq_err err;
    const struct deq_train_hooks none = {0};
    struct deq_train_opts o = {.data_dir = base, .out_dir = out, .threads = 1};
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    spoil(r, out);
    char *before[DEQ_COUNT(kept)], *after;
    size_t n[DEQ_COUNT(kept)], m;
    for (size_t i = 0; i < DEQ_COUNT(kept); i++)
        before[i] = read_in(out, kept[i], &n[i]);
    o.resume = true;
    r->steps = 60;
    r->checkpoint_every = 1;
    CHECK_EQ(deq_train_run(r, &o, &none, &err), DEQ_ENUMERIC);
    snprintf(says, sizeof says, "step 24: 20 steps in a row gave values that are not finite; the last good checkpoint "
             "is %s/checkpoint.safetensors, of step 4", out);
    CHECK_EQ(err.text, says);
    for (size_t i = 0; i < DEQ_COUNT(kept); i++) {
        after = read_in(out, kept[i], &m);
        CHECK_MSG(m == n[i] && !memcmp(after, before[i], m), "%s", kept[i]);
        deq_free(after);
        deq_free(before[i]);
    }
    o = (struct deq_train_opts){.data_dir = base, .out_dir = other, .threads = 1, .init = out};
    CHECK_EQ(deq_train_run(r, &o, &none, &err), DEQ_ENUMERIC);
    CHECK_EQ(err.text, "step 20: 20 steps in a row gave values that are not finite; no checkpoint was saved");
    char path[128];
    CHECK(deq_io_join(path, sizeof path, other, "checkpoint.safetensors") && !deq_io_exists(path));
    deq_recipe_free(r);
    remove_tree(base);
}
