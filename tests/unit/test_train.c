/* Training: implicit gradients against full unrolling, every VJP of the head and the predictor, exact resume, memory that does
 * not grow with the number of iterations. */
#include "core/train/train.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
#include "core/cell/transformer.h"
#include "core/math/kern.h"
#include "core/train/implicit.h"
#include "core/train/predictor.h"
#include "tests/unit/test.h"

static const struct deq_transformer_arch small = {
    .base = {.kind = &deq_transformer_kind, .vocab = {.size = 29, .d_model = 24, .eos_id = 0}, .predictor_hidden = 20,
             .serving = {.row_window = 4}},
    .n_head = 2, .d_head = 12, .d_inner = 32, .n_block = 1, .attn_window = 16,
    .norm = DEQ_NORM_PRE, .norm_affine = true, .inject_residual = true, .final_norm = true, .norm_eps = 1e-5f};

static struct deq_weights *zeros(void)
{
    struct deq_weights *w = NULL;
    CHECK(deq_weights_new(&small.base, &w, NULL) == DEQ_OK);
    return w;
}

/* Weights small enough that the cell contracts quickly. */
static struct deq_weights *contractive(void)
{
    struct deq_weights *w = zeros();
    deq_train_init(w, 0, 3);
    for (size_t i = 0; i < w->n_params; i++) {
        const struct deq_param *p = &w->params[i];
        const bool shrink = p->role == DEQ_ROLE_RESIDUAL_OUT || strstr(p->name, "ffn_norm.weight");
        for (size_t j = 0; j < p->count; j++) {
            if (shrink)
                w->data[p->offset + j] *= 0.5f;
            else if (!p->rows && p->role == DEQ_ROLE_BIAS)
                w->data[p->offset + j] = 0.1f * (float)deq_rng_normal(4, i, j); /* biases that are not zero */
        }
    }
    return w;
}

static void batch(uint32_t *tokens, uint32_t *targets, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        tokens[i] = (uint32_t)deq_rng_below(8, 0, i, small.base.vocab.size);
        targets[i] = (uint32_t)deq_rng_below(8, 1, i, small.base.vocab.size);
    }
}

/* dL/dtheta by theorem 1 against differentiating 60 recorded evaluations from zero: the same number in the limit. */
TEST(train_implicit_equals_unrolled)
{
    enum { B = 2, T = 10, N = B * T, DEPTH = 60 };
    struct deq_weights *w = contractive(), *gi = zeros(), *gu = zeros();
    uint32_t tokens[N], targets[N];
    batch(tokens, targets, N);
    for (int method = DEQ_PICARD; method <= DEQ_BROYDEN; method++) {
        struct deq_grad_opts o = {.mode = DEQ_GRAD_IMPLICIT, .forward = deq_solver_defaults()};
        o.forward.method = (enum deq_solver_method)method;
        o.forward.tol = 1e-7f; /* as tight as floats allow; max_iter ends it */
        o.forward.max_iter = 100;
        o.forward.memory = 5;
        o.adjoint = o.forward;
        struct deq_grad_work work;
        struct deq_grad_report ri, ru;
        CHECK(deq_grad_work_new(&small.base, B, T, &o, DEPTH + 1, false, &work, NULL) == DEQ_OK);
        memset(gi->data, 0, gi->n * sizeof(float));
        memset(gu->data, 0, gu->n * sizeof(float));
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, gi, &ri);
        struct deq_grad_opts u = o;
        u.mode = DEQ_GRAD_SHALLOW;
        u.depth = DEPTH;
        deq_grad_shard(&work, &u, w, tokens, targets, N, 1, 0, 0, gu, &ru);
        CHECK_MSG(fabs(ri.loss - ru.loss) < 1e-4, "loss %g and %g", ri.loss, ru.loss);
        for (size_t i = 0; i < w->n_params; i++) {
            const struct deq_param *p = &w->params[i];
            if (p->offset >= w->n_main)
                continue;
            double diff = sqrt((double)deq_kern()->diff_sumsq(gi->data + p->offset, gu->data + p->offset, p->count));
            double size = sqrt((double)deq_kern()->dot(gu->data + p->offset, gu->data + p->offset, p->count));
            CHECK_MSG(size > 0 && diff <= 1e-3 * size, "%s, %s: relative error %g", deq_solver_name((enum deq_solver_method)method), p->name,
                      diff / size);
        }
        deq_grad_work_free(&work);
    }
    deq_weights_free(w);
    deq_weights_free(gi);
    deq_weights_free(gu);
}

/* The penalty's gradient against a finite difference of the penalty itself, z* and the probe held fixed (as the gradient does). */
TEST(train_jacobian_penalty)
{
    enum { B = 1, T = 8, N = 8 };
    struct deq_weights *w = contractive(), *g = zeros(), *g0 = zeros();
    uint32_t tokens[N], targets[N];
    batch(tokens, targets, N);
    struct deq_grad_opts o = {.mode = DEQ_GRAD_UNROLL, .depth = 1, .forward = deq_solver_defaults(), .adjoint = deq_solver_defaults(), .jac_step = 1e-2f};
    o.forward.tol = 1e-6f;
    o.forward.max_iter = 80;
    struct deq_grad_work work;
    struct deq_grad_report r;
    CHECK(deq_grad_work_new(&small.base, B, T, &o, 3, false, &work, NULL) == DEQ_OK);
    deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, g0, &r);
    o.jac_weight = 1000; /* far above the loss, so that its gradient is what is left after subtraction */
    deq_grad_shard(&work, &o, w, tokens, targets, N, 1, 0, 0, g, &r);
    const double base = r.jac;
    CHECK(base > 0);
    /* f is linear in W_down: scaling it by (1 + h) changes v in proportion, so the slope along W_down itself is computable by difference */
    float *down_w = deq_transformer_weights(w)->block[0].down_w;
    const float *d = deq_weights_at(g, w, down_w), *d0 = deq_weights_at(g0, w, down_w);
    const size_t n = (size_t)small.base.vocab.d_model * small.d_inner;
    double slope = 0;
    for (size_t i = 0; i < n; i++)
        slope += (double)(d[i] - d0[i]) * (double)down_w[i];
    struct deq_solve_report sr;
    double value[2];
    for (int side = 0; side < 2; side++) {
        const float h = side ? 1e-2f : -1e-2f;
        struct deq_seq *s = work.seq;
        const size_t nd = N * s->state_dim;
        float *f0 = DEQ_NEW_ARRAY(float, nd), *f1 = DEQ_NEW_ARRAY(float, nd), *pz = DEQ_NEW_ARRAY(float, nd);
        s->ops->begin(s, w, tokens, NULL);
        deq_grad_solve(&work, &o.forward, &sr); /* z* of the unchanged weights */
        const float step = o.jac_step * sqrtf(deq_kern()->dot(work.z, work.z, nd) / (float)nd) + 1e-8f;
        for (size_t i = 0; i < nd; i++)
            pz[i] = work.z[i] + step * (float)deq_rng_normal(1, 202 + (0 << 8), i);
        deq_kern()->scale(down_w, 1 + h, n);
        s->ops->begin(s, w, tokens, NULL);
        s->ops->forward(s, 0, work.z, f0);
        s->ops->forward(s, 0, pz, f1);
        deq_kern()->scale(down_w, 1 / (1 + h), n);
        value[side] = (double)deq_kern()->diff_sumsq(f1, f0, nd) / ((double)step * step) / (double)nd;
        deq_free(f0);
        deq_free(f1);
        deq_free(pz);
    }
    const double fd = o.jac_weight * (value[1] - value[0]) / 2e-2;
    /* second differences of f in float: 1e-7 / (1e-2)^2 leaves three digits */
    CHECK_MSG(fabs(fd - slope) < 0.02 * fabs(slope), "finite difference %g, gradient %g, penalty %g", fd, slope, base);
    deq_grad_work_free(&work);
    deq_weights_free(w);
    deq_weights_free(g);
    deq_weights_free(g0);
}

TEST(train_predictor_vjp)
{
    enum { N = 7 };
    struct deq_weights *w = contractive(), *g = zeros();
    const struct deq_predictor *pr = &deq_transformer_weights(w)->predictor;
    const size_t D = small.base.vocab.d_model, Hp = pr->hidden;
    float e[N * 24], z[N * 24], t[N * 24], hidden[N * 20], d_hidden[N * 20], out[N * 24];
    CHECK(D == 24 && pr->state_dim == 24 && Hp == 20);
    for (size_t i = 0; i < N * D; i++) {
        e[i] = (float)deq_rng_normal(1, 0, i);
        z[i] = (float)deq_rng_normal(1, 1, i);
        t[i] = (float)deq_rng_normal(1, 2, i);
    }
    deq_predictor_loss(pr, w, D, N, e, z, t, 1, hidden, d_hidden, out, g);
    for (size_t k = 0; k < w->n_params; k++) {
        const struct deq_param *p = &w->params[k];
        if (p->offset < w->n_main)
            continue;
        for (size_t j = 0; j < p->count; j += 37) {
            float *x = w->data + p->offset + j;
            const float keep = *x, h = 2e-3f;
            *x = keep + h;
            const double up = deq_predictor_loss(pr, w, D, N, e, z, t, 1, hidden, d_hidden, out, NULL);
            *x = keep - h;
            const double down = deq_predictor_loss(pr, w, D, N, e, z, t, 1, hidden, d_hidden, out, NULL);
            *x = keep;
            /* losses near 10 in float: 1e-6 / h = 5e-4 absolute; a ReLU kink inside h adds the relative part */
            CHECK_MSG(fabs((up - down) / (2 * h) - (double)g->data[p->offset + j]) < 2e-3 + 0.02 * fabs((double)g->data[p->offset + j]),
                      "%s[%zu]: %g and %g", p->name, j, (up - down) / (2 * h), (double)g->data[p->offset + j]);
        }
    }
    deq_weights_free(w);
    deq_weights_free(g);
}

TEST(train_schedule)
{
    struct deq_recipe *r;
    CHECK(deq_recipe_new(&deq_transformer_kind, &r, NULL) == DEQ_OK);
    r->lr = 1;
    r->lr_min = 0.1f;
    r->warmup = 10;
    r->steps = 110;
    CHECK(fabs((double)deq_train_lr(r, 0) - 0.1) < 1e-6 && fabs((double)deq_train_lr(r, 9) - 1) < 1e-6);
    CHECK(fabs((double)deq_train_lr(r, 60) - 0.55) < 1e-6 && fabs((double)deq_train_lr(r, 110) - 0.1) < 1e-6);
    r->schedule = DEQ_RECIPE_WSD;
    r->decay_share = 0.5f;
    CHECK((double)deq_train_lr(r, 54) == 1 && fabs((double)deq_train_lr(r, 110) - 0.1) < 1e-6);
    deq_recipe_free(r);
}

/* --- Whole runs --- */

static void assign(struct deq_recipe *r, const char *text)
{
    struct deq_err err;
    CHECK_MSG(!deq_opt_assign(&r->table, r, text, &err), "%s", err.text);
}

static struct deq_recipe *run_recipe(uint32_t steps)
{
    static const char *const options[] = {
        "model.hidden_size=32", "model.heads=2", "model.head_dim=16", "model.inner_size=48", "model.attention_window=32",
        "data.train=sample.txt", "data.valid=sample.txt", "data.vocab_size=300",
        "train.seq_len=32", "train.batch=4", "train.micro_batch=2", "train.optimizer=muon", "train.dropout=0.1", "train.warmup=2",
        "train.shallow_steps=4", "train.shallow_depth=2", "train.eval_every=0", "train.checkpoint_every=0",
        "predictor.hidden_size=16", "predictor.steps=3"};
    struct deq_recipe *r = NULL;
    CHECK(deq_recipe_new(&deq_transformer_kind, &r, NULL) == DEQ_OK);
    for (size_t i = 0; i < DEQ_COUNT(options); i++)
        assign(r, options[i]);
    r->steps = steps;
    return r;
}

/* ... of a model without a predictor */
static struct deq_recipe *plain_recipe(uint32_t steps)
{
    struct deq_recipe *r = run_recipe(steps);
    r->predictor_hidden = r->predictor_steps = 0;
    r->serve_warm = DEQ_WARM_PREVIOUS;
    return r;
}

struct stopper {
    uint32_t at, seen;
};

static bool stop_at(void *ctx)
{
    struct stopper *s = ctx;
    return s->seen++ == s->at;
}

static char *slurp(const char *dir, const char *name, size_t *len)
{
    char path[512], *data = NULL;
    deq_io_join(path, sizeof path, dir, name);
    CHECK(deq_io_read(path, 1 << 28, &data, len, NULL) == DEQ_OK);
    return data;
}

/* A directory with a data set that is validated in no time: the head of the sample. */
static void small_data(char dir[32])
{
    char path[64], *text;
    size_t len;
    snprintf(dir, 32, "/tmp/deq-test-XXXXXX");
    CHECK(mkdtemp(dir) && deq_io_join(path, sizeof path, dir, "sample.txt"));
    CHECK(!deq_io_read("tests/golden/tokenizer/sample.txt", 1 << 20, &text, &len, NULL) && len > 16000);
    CHECK(!deq_io_replace(path, &(struct deq_part){text, 16000}, 1, NULL));
    deq_free(text);
}

/* 12 steps in one go with two threads; 5 steps, stop, resume with one thread: the same bytes. */
TEST(train_resume_is_exact)
{
    char a[] = "/tmp/deq-test-XXXXXX", b[] = "/tmp/deq-test-XXXXXX", data[32];
    CHECK(mkdtemp(a) && mkdtemp(b));
    small_data(data);
    struct deq_recipe *r = run_recipe(12);
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
    size_t na, nb;
    char *ma = slurp(a, "model.safetensors", &na), *mb = slurp(b, "model.safetensors", &nb);
    CHECK(na == nb && !memcmp(ma, mb, na));
    deq_free(ma);
    deq_free(mb);
    /* a checkpoint of another shape is refused by name, and what is there stays */
    assign(r, "model.inner_size=64");
    CHECK(deq_train_run(r, &ob, &none, &err) != DEQ_OK && strstr(err.text, "ffn"));
    assign(r, "model.inner_size=48");
    assign(r, "train.steps=11"); /* and one that is further than the recipe goes */
    CHECK(deq_train_run(r, &ob, &none, &err) == DEQ_EINVAL && strstr(err.text, "step: 12") && strstr(err.text, "train.steps are 11"));
    deq_recipe_free(r);
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s %s %s", a, b, data);
    CHECK(system(cmd) == 0);
}

static bool is_there(const char *dir, const char *name)
{
    char path[512];
    return deq_io_join(path, sizeof path, dir, name) && deq_io_exists(path);
}

static void remove_tree(const char *dir)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    CHECK(system(cmd) == 0);
}

/* dir/sample.txt: the first n bytes of the golden one, little enough for runs that take no time. */
static void write_sample(const char *dir, size_t n)
{
    char path[512];
    size_t len;
    char *text = slurp("tests/golden/tokenizer", "sample.txt", &len);
    deq_io_join(path, sizeof path, dir, "sample.txt");
    CHECK(len > n && !deq_io_replace(path, &(struct deq_part){text, n}, 1, NULL));
    deq_free(text);
}

/* What a run wrote or left is never taken for what another one asks for. */
TEST(train_start_takes_nothing_stale)
{
    char base[] = "/tmp/deq-test-XXXXXX", out[64], from[64], text[512];
    CHECK(mkdtemp(base) != NULL);
    snprintf(out, sizeof out, "%s/out", base);
    snprintf(from, sizeof from, "%s/from", base);
    write_sample(base, 2000);
    struct deq_recipe *r = plain_recipe(4);
    struct deq_err err;
    const struct deq_train_hooks none = {0};
    struct deq_train_opts o = {.data_dir = base, .out_dir = out, .threads = 1};

    /* a start that fails, early or late, leaves nothing */
    assign(r, "data.valid=missing.txt");
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_ENOTFOUND && strstr(err.text, "missing.txt") && !deq_io_exists(out));
    assign(r, "data.valid=sample.txt");
    assign(r, "train.seq_len=65536");
    assign(r, "model.attention_window=65536");
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_EINVAL && strstr(err.text, "too few") && !deq_io_exists(out));
    assign(r, "train.seq_len=32");
    assign(r, "model.attention_window=32");
    o.resume = true;
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_ENOTFOUND && strstr(err.text, "checkpoint.safetensors") && !deq_io_exists(out));
    o.resume = false;

    /* a tokenizer of another size is refused with both numbers; of the same size it is used */
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    assign(r, "data.vocab_size=280");
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_EINVAL && strstr(err.text, "has 300 tokens") && strstr(err.text, "is 280"));
    assign(r, "data.vocab_size=300");
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);

    /* weights to start from bring their tokenizer, and no other goes with them */
    CHECK(!rename(out, from));
    o.init = from;
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    size_t n, m;
    char *here = slurp(out, "tokenizer.json", &n), *there = slurp(from, "tokenizer.json", &m);
    CHECK(n == m && !memcmp(here, there, n));
    const struct deq_part longer[2] = {{here, n}, {" \n", 2}}; /* the same to a reader, but nobody can know */
    deq_io_join(text, sizeof text, out, "tokenizer.json");
    CHECK(!deq_io_replace(text, longer, 2, &err));
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_EINVAL && strstr(err.text, "/out/tokenizer.json is not ") && strstr(err.text, "/from/tokenizer.json"));
    deq_free(here);
    deq_free(there);

    /* a run goes on with its own */
    o.init = NULL;
    o.resume = true;
    unlink(text);
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_ENOTFOUND && strstr(err.text, "tokenizer.json: missing") && is_there(out, "checkpoint.safetensors"));
    deq_recipe_free(r);
    remove_tree(base);
}

/* A file whose lines end in CR LF, with a byte order mark, is the text it was: the same model comes of it. */
TEST(train_takes_line_ends_as_they_come)
{
    char base[] = "/tmp/deq-test-XXXXXX", path[512], out[2][64];
    CHECK(mkdtemp(base) != NULL);
    struct deq_recipe *r = plain_recipe(4);
    struct deq_err err;
    const struct deq_train_hooks none = {0};
    size_t n, sizes[2];
    write_sample(base, 2000);
    char *text = slurp(base, "sample.txt", &n), *models[2];
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
        models[crlf] = slurp(out[crlf], "model.safetensors", &sizes[crlf]);
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

TEST(train_checkpoint_metadata)
{
    static const char *const good[] = {"format", "deq_checkpoint", "step", "5", "tokens", "640", "seconds", "1.5", "skipped", "1", NULL};
    static const struct {
        unsigned at;
        const char *value, *says;
    } bad[] = {
        {0, NULL, "format"}, {0, "pt", "format"}, {1, NULL, "step: missing"}, {1, "x", "step: \"x\""}, {1, "", "step"}, {1, "-1", "step"}, {1, "5x", "step"},
        {1, " 5", "step"}, {1, "5.5", "step: \"5.5\" is not a whole number"}, {1, "5e0", "whole"}, {1, "4294967296", "step"},
        {1, "18446744073709551615", "step"}, {1, "99999999999999999999999", "step"}, {2, "1e400", "tokens"}, {2, "9007199254740993000", "tokens"},
        {3, "nan", "seconds"}, {3, "-1", "seconds"}, {3, "inf", "seconds"}, {3, "1e300", "seconds"}, {3, "0x", "seconds"}, {3, "0x10", "seconds"}, {4, "6", "skipped"}, {4, "nan", "skipped"},
    };
    char dir[] = "/tmp/deq-test-XXXXXX", path[64];
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/c", dir);
    struct deq_arch *a;
    struct deq_recipe *r = run_recipe(12);
    struct deq_weights *w;
    struct deq_progress p = {0};
    struct deq_err err;
    CHECK(!deq_recipe_arch(r, 300, &a, &err) && !deq_weights_new(a, &w, &err));
    float *m = DEQ_NEW_ARRAY(float, w->n), *v = DEQ_NEW_ARRAY(float, w->n);
    CHECK(!deq_checkpoint_save(path, w, m, v, &(struct deq_progress){.step = 7, .tokens = 3, .seconds = 1.25, .skipped = 2}, &err));
    CHECK(!deq_checkpoint_load(path, w, m, v, &p, &err) && p.step == 7 && p.tokens == 3 && p.seconds == 1.25 && p.skipped == 2);
    const struct deq_progress before = p;
    for (size_t i = 0; i < DEQ_COUNT(bad); i++) {
        const char *meta[DEQ_COUNT(good)] = {NULL};
        size_t n = 0;
        for (unsigned k = 0; k < 5; k++) {
            if (k == bad[i].at && !bad[i].value)
                continue;
            meta[n++] = good[2 * k];
            meta[n++] = k == bad[i].at ? bad[i].value : good[2 * k + 1];
        }
        CHECK(!deq_safetensors_write(path, NULL, 0, meta, &err));
        CHECK_MSG(deq_checkpoint_load(path, w, m, v, &p, &err) == DEQ_EFORMAT && strstr(err.text, "__metadata__.") && strstr(err.text, bad[i].says) &&
                      strstr(err.text, path), "%u = %s: %s", bad[i].at, bad[i].value ? bad[i].value : "(none)", err.text);
    }
    v[w->params[2].offset + 1] = -1e-9f;
    CHECK(!deq_checkpoint_save(path, w, m, v, &before, &err));
    CHECK(deq_checkpoint_load(path, w, m, v, &p, &err) == DEQ_EFORMAT && strstr(err.text, "tensor adam.v.") && strstr(err.text, "element 1 is"));
    CHECK(!memcmp(&p, &before, sizeof p));
    deq_free(m);
    deq_free(v);
    deq_weights_free(w);
    deq_free(a);
    deq_recipe_free(r);
    remove_tree(dir);
}

/* Bytes that implicit steps with `iterations` forward and adjoint evaluations hold at their peak, beyond weights and gradient. */
static uint64_t peak_bytes(unsigned iterations)
{
    enum { B = 2, T = 16, N = B * T };
    struct deq_weights *w = contractive(), *g = zeros();
    struct deq_grad_opts o = {.mode = DEQ_GRAD_IMPLICIT, .forward = deq_solver_defaults()};
    o.forward.tol = 0; /* never reached: all iterations are made */
    o.forward.max_iter = iterations;
    o.adjoint = o.forward;
    struct deq_grad_work work;
    struct deq_grad_report r = {0};
    uint32_t tokens[N], targets[N];
    batch(tokens, targets, N);
    deq_mem_peak_restart();
    const uint64_t before = deq_mem_live();
    CHECK(!deq_grad_work_new(&small.base, B, T, &o, 2, false, &work, NULL));
    for (uint64_t step = 0; step < 4; step++)
        deq_grad_shard(&work, &o, w, tokens, targets, N, 1, step, 0, g, &r);
    CHECK(r.evaluations == iterations + 1 && r.adjoint_evaluations == iterations);
    const uint64_t peak = deq_mem_peak() - before;
    deq_grad_work_free(&work);
    deq_weights_free(w);
    deq_weights_free(g);
    return peak;
}

TEST(train_memory_does_not_grow_with_iterations)
{
    const uint64_t few = peak_bytes(8), many = peak_bytes(64);
    /* one more stored state alone would be 3 KiB an iteration, its tape 100 KiB; malloc may round a block up by 16 bytes once and not the next time */
    CHECK_MSG(few > 100000 && many < few + 1024, "8 iterations: %llu bytes, 64: %llu bytes", (unsigned long long)few, (unsigned long long)many);
}
