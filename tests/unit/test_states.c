/* server/work/states.c: names, limits, and what is told of states that are not there. What it reads and writes is the
 * library's (test_state.c); how it all works together, with restarts, is told by tests/e2e/states.py. */
#include "server/work/states.h"

#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "server/log.h"
#include "tests/unit/answers.h"
#include "tests/unit/scratch.h"

struct saved {
    struct state_task task;
    _Atomic bool done;
    enum deq_rc rc;
    uint64_t bytes;
    struct deq_err err;
};

static void on_done(struct state_task *t, enum deq_rc rc, uint64_t bytes, const struct deq_err *err)
{
    struct saved *s = (struct saved *)t;
    s->rc = rc;
    s->bytes = bytes;
    s->err = *err;
    atomic_store(&s->done, true);
}

/* Waits until it is written. */
static struct saved save(struct states *s, const struct deq_model *m, const struct deq_state *state, const char *name)
{
    const struct timespec nap = {.tv_nsec = 100000};
    struct saved x = {.task = {.model = m, .state = state, .done = on_done}};
    snprintf(x.task.name, sizeof x.task.name, "%s", name);
    states_save(s, &x.task);
    while (!atomic_load(&x.done))
        nanosleep(&nap, NULL);
    return x;
}

static struct deq_state *state_of(const struct deq_model *m, const char *text)
{
    struct deq_tokens p = encode_text(m, text);
    struct answer x = {0};
    struct deq_state *s = NULL;
    struct deq_engine *e = tiny_engine(m, 1, 1);
    struct deq_request q = tiny_request(m, &p, 0, &x);
    CHECK(!deq_state_new(m, p.n, &s, NULL));
    q.want_logits = false;
    q.keep = s;
    (void)ask(e, &q, NULL);
    deq_engine_free(e);
    deq_tokens_free(&p);
    return s;
}

TEST(states_have_good_names)
{
    static const struct {
        const char *name;
        bool good;
    } cases[] = {{"a", true}, {"A-b_c.9", true}, {"-", true}, {"a..b", true}, {"", false}, {".a", false},
                 {"..", false}, {"a/b", false}, {"/a", false}, {"a b", false}, {"a\n", false}, {"\xc3\xa9", false},
                 {"a%2fb", false}, {"a\\b", false}};
    char longest[STATE_NAME_MAX + 2];
    for (size_t i = 0; i < DEQ_COUNT(cases); i++)
        CHECK_MSG(states_good_name(cases[i].name, strlen(cases[i].name)) == cases[i].good, "\"%s\"", cases[i].name);
    memset(longest, 'x', sizeof longest);
    CHECK(states_good_name(longest, STATE_NAME_MAX) && !states_good_name(longest, STATE_NAME_MAX + 1));
    CHECK(!states_good_name("a\0b", 3));
}

static struct states *open_states(struct conf *c, struct metrics *m, const char *dir)
{
    struct states *s = NULL;
    struct deq_err err = {0};
    snprintf(c->state_dir, sizeof c->state_dir, "%s", dir);
    CHECK_MSG(!states_new(c, m, &s, &err), "%s", err.text);
    return s;
}

/* The prefix cache's file would be a state called prefix. */
TEST(states_not_beside_the_prefix_cache)
{
    REQUIRE(scratch_begin());
    const struct {
        const char *state_dir, *cache_dir;
        bool apart;
    } cases[] = {{"", "", true},        {"d", "", true},      {"", "d", true},      {"d", "e", true},
                 {"d", "d/e", true},    {"new", "e", true},   {"d", "d", false},    {"d", "d/", false},
                 {"d", "./d/.", false}, {"d", "link", false}, {"new", "new", false}};
    REQUIRE(!mkdir(scratch_path("d"), 0700) && !mkdir(scratch_path("d/e"), 0700) && !mkdir(scratch_path("e"), 0700) &&
            !symlink("d", scratch_path("link")));
    for (size_t i = 0; i < DEQ_COUNT(cases); i++) {
        static struct metrics metrics;
        struct conf c = {.state_max = 1};
        struct states *s = NULL;
        struct deq_err err = {0};
        if (*cases[i].state_dir)
            snprintf(c.state_dir, sizeof c.state_dir, "%s", scratch_path(cases[i].state_dir));
        if (*cases[i].cache_dir)
            snprintf(c.cache_dir, sizeof c.cache_dir, "%s", scratch_path(cases[i].cache_dir));
        const enum deq_rc rc = states_check(&c, &err);
        CHECK_MSG(rc == (cases[i].apart ? DEQ_OK : DEQ_EINVAL), "%s, %s: %s", c.state_dir, c.cache_dir, err.text);
        CHECK(cases[i].apart || (states_new(&c, &metrics, &s, &err) == DEQ_EINVAL && !s &&
                                 strstr(err.text, "state.dir") && strstr(err.text, "engine.cache_dir")));
    }
    scratch_end("d/e", "d", "e", "link", "new", NULL);
}

/* A further name is refused at either limit, one in place of its own is not; what is deleted makes room. */
TEST(states_are_kept_within_limits)
{
    static struct metrics metrics;
    struct conf c = {.state_max = 2};
    struct deq_model *m = tiny_model();
    REQUIRE(m && scratch_begin());
    log_init("error");
    metrics_init(&metrics);
    struct deq_state *state = state_of(m, "Once upon a time"), *back = NULL;
    const uint64_t most = deq_state_bytes(m, deq_state_info(state).n_tokens);
    struct deq_err err = {0};
    c.state_max_bytes = 3 * most;
    struct states *s = open_states(&c, &metrics, scratch_path("d")); /* which it makes */
    REQUIRE(s);
    const struct saved a = save(s, m, state, "a"), b = save(s, m, state, "b"), third = save(s, m, state, "c"),
                       again = save(s, m, state, "b");
    CHECK(!a.rc && !b.rc && !again.rc && a.bytes == again.bytes && a.bytes <= most);
    CHECK_MSG(third.rc == DEQ_EFULL && strstr(third.err.text, "state.max_states"), "%s", third.err.text);
    CHECK(states_room(s, "c", most, &err) == DEQ_EFULL && !states_room(s, "a", most, &err));
    CHECK(states_room(s, "a", 3 * most - b.bytes + 1, &err) == DEQ_EFULL && strstr(err.text, "state.max_bytes"));
    struct state_entry *e = NULL;
    size_t n = 0;
    CHECK(!states_list(s, &e, &n, &err) && n == 2 && !strcmp(e[0].name, "a") && !strcmp(e[1].name, "b") &&
          e[0].bytes == a.bytes && e[0].written_s > 1500000000);
    deq_free(e);
    CHECK(!states_remove(s, "a", &err) && states_remove(s, "a", &err) == DEQ_ENOTFOUND);
    CHECK(!states_room(s, "c", 1, &err));
    /* what is told of one names no path */
    REQUIRE(!states_load(s, m, "b", most, &back, &err));
    CHECK_EQ(deq_state_info(back).n_tokens, deq_state_info(state).n_tokens);
    deq_state_free(back);
    back = NULL;
    CHECK(states_load(s, m, "b", 100, &back, &err) == DEQ_EFORMAT && !strncmp(err.text, "b: ", 3));
    CHECK(states_load(s, m, "a", most, &back, &err) == DEQ_ENOTFOUND && !strncmp(err.text, "a: there is no", 14));
    CHECK(states_load(s, m, "../d/b", most, &back, &err) == DEQ_ENOTFOUND && !back);
    CHECK(atomic_load(&metrics.state_writes[1]) == 3 && atomic_load(&metrics.state_writes[0]) == 1 &&
          atomic_load(&metrics.state_reads[1]) == 1 && atomic_load(&metrics.state_reads[0]) == 1);
    states_free(s);
    s = open_states(&c, &metrics, "");
    CHECK(s && !states_kept(s) && states_load(s, m, "b", most, &back, &err) == DEQ_ENOTFOUND &&
          !states_list(s, &e, &n, &err) && n == 0);
    states_free(s);
    scratch_end("d/b.safetensors", "d", NULL);
    deq_state_free(state);
    deq_model_free(m);
    log_init("info");
}
