/* core/train/tokenizer.c: whose tokenizer a run takes. */
#include "core/train/tokenizer.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"
#include "tests/unit/training.h"

static bool is_there(const char *dir, const char *name)
{
    char path[512];
    return deq_io_join(path, sizeof path, dir, name) && deq_io_exists(path);
}

/* What a run wrote or left is never taken for what another one asks for. */
TEST(train_start_takes_nothing_stale)
{
    char base[] = "/tmp/deq-test-XXXXXX", out[64], from[64], text[512];
    REQUIRE(mkdtemp(base) != NULL);
    snprintf(out, sizeof out, "%s/out", base);
    snprintf(from, sizeof from, "%s/from", base);
    write_sample(base, 2000);
    struct deq_recipe *r = plain_recipe(4);
    struct deq_err err;
    const struct deq_train_hooks none = {0};
    struct deq_train_opts o = {.data_dir = base, .out_dir = out, .threads = 1};

    /* a start that fails, early or late, leaves nothing */
    assign_recipe(r, "data.valid=missing.txt");
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_ENOTFOUND && strstr(err.text, "missing.txt") &&
          strstr(err.text, "--set data.valid=null --set data.valid_share=0.1") && !deq_io_exists(out));
    assign_recipe(r, "data.valid=sample.txt");
    assign_recipe(r, "train.seq_len=65536");
    assign_recipe(r, "model.attention_window=65536");
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_EINVAL && strstr(err.text, "too few") && !deq_io_exists(out));
    assign_recipe(r, "train.seq_len=32");
    assign_recipe(r, "model.attention_window=32");
    o.resume = true;
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_ENOTFOUND && strstr(err.text, "checkpoint.safetensors") &&
          !deq_io_exists(out));
    o.resume = false;

    /* a tokenizer of another size is refused with both numbers; of the same size it is used */
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    assign_recipe(r, "data.vocab_size=280");
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_EINVAL && strstr(err.text, "has 300 tokens") &&
          strstr(err.text, "is 280"));
    assign_recipe(r, "data.vocab_size=300");
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);

    /* weights to start from bring their tokenizer, and no other goes with them */
    CHECK(!rename(out, from));
    o.init = from;
    CHECK_MSG(!deq_train_run(r, &o, &none, &err), "%s", err.text);
    size_t n, m;
    char *here = read_in(out, "tokenizer.json", &n), *there = read_in(from, "tokenizer.json", &m);
    CHECK(n == m && !memcmp(here, there, n));
    const struct deq_part longer[2] = {{here, n}, {" \n", 2}}; /* the same to a reader, but nobody can know */
    deq_io_join(text, sizeof text, out, "tokenizer.json");
    CHECK(!deq_io_replace(text, longer, 2, &err));
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_EINVAL && strstr(err.text, "/out/tokenizer.json is not ") &&
          strstr(err.text, "/from/tokenizer.json"));
    deq_free(here);
    deq_free(there);

    /* a run goes on with its own */
    o.init = NULL;
    o.resume = true;
    unlink(text);
    CHECK(deq_train_run(r, &o, &none, &err) == DEQ_ENOTFOUND && strstr(err.text, "tokenizer.json: missing") &&
          is_there(out, "checkpoint.safetensors"));
    deq_recipe_free(r);
    remove_tree(base);
}
