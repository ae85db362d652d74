/* core/train/train.c: a run goes on exactly where it was stopped, and takes texts as they come. */
#include "core/train/train.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/base/rng.h"
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
    size_t na, nb;
    char *ma = read_in(a, "model.safetensors", &na), *mb = read_in(b, "model.safetensors", &nb);
    CHECK(na == nb && !memcmp(ma, mb, na));
    deq_free(ma);
    deq_free(mb);
    /* a checkpoint of another shape is refused by name, and what is there stays */
    assign_recipe(r, "model.inner_size=64");
    CHECK(deq_train_run(r, &ob, &none, &err) != DEQ_OK && strstr(err.text, "ffn"));
    assign_recipe(r, "model.inner_size=48");
    assign_recipe(r, "train.steps=11"); /* and one that is further than the recipe goes */
    CHECK(deq_train_run(r, &ob, &none, &err) == DEQ_EINVAL && strstr(err.text, "step: 12") &&
          strstr(err.text, "train.steps are 11"));
    deq_recipe_free(r);
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s %s %s", a, b, data);
    CHECK(system(cmd) == 0);
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
    size_t n[2];
    char *m[2];
    for (int i = 0; i < 2; i++)
        m[i] = read_in(out[i], "model.safetensors", &n[i]);
    CHECK(n[0] == n[1] && !memcmp(m[0], m[1], n[0]));
    unsigned same = 0;
    for (uint64_t step = 0; step < 64; step++) {
        const unsigned drawn = deq_train_drawn(r, step);
        r->seed++;
        same += drawn == deq_train_drawn(r, step);
        r->seed--;
    }
    CHECK(same < 64);
    deq_free(m[0]);
    deq_free(m[1]);
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
