/* Requests, saved states and reloads while memory, files and threads fail, beside a request that began before. What
 * goes wrong is answered by an error; a fault that comes once takes one request at most; who is beside has the same
 * bytes, or, where it was the one, an error; and the next one is served as ever. */
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/mem.h"
#include "tests/fault/walk.h"
#include "tests/unit/inside.h"
#include "tests/unit/scratch.h"

#define BESIDE_BODY                                                                                              \
    "{\"prompt\":\"What shall I say more\",\"max_tokens\":150,\"ignore_eos\":true,\"cache\":\"off\",\"seed\":3," \
    "\"temperature\":0.8}"

static struct outcome beside_good, beside_got, good, got;

static struct exchange head_of(const char *method, const char *path)
{
    return (struct exchange){.method = method, .path = path, .request_id = "r", .arrived_ns = deq_now_ns(),
                             .caller = {.id = 1, .weight = 1}};
}

/* Numbers that time gives. */
static void forget_time(char *text)
{
    static const char *const names[] = {"\"created", "\"queue_ms", "_ms\":", "_per_second\":", "\"age_ms"};
    for (size_t i = 0; i < DEQ_COUNT(names); i++)
        for (char *p = text; (p = strstr(p, names[i])) != NULL;)
            for (p += strcspn(p, "0123456789"); (*p >= '0' && *p <= '9') || *p == '.'; p++)
                *p = '0';
}

/* Of an answer in events the texts one after the other; how many make an event is a matter of time. */
static void join_events(char *text)
{
    static const char mark[] = "\"text\":\"";
    char *to = text;
    const bool whole = strstr(text, "[DONE]");
    for (const char *p = text; (p = strstr(p, mark)) != NULL;)
        for (p += sizeof mark - 1; *p && *p != '"'; p++) {
            if (*p == '\\')
                *to++ = *p++;
            *to++ = *p;
        }
    memcpy(to, whole ? "#" : "", whole ? 2 : 1);
}

static bool is_error(const struct outcome *o)
{
    static const int codes[] = {500, 503, 507};
    if (o->streamed)
        return !o->status || !strchr(o->text, '#');
    bool ok = !o->status; /* cut: nothing could be said */
    for (size_t i = 0; i < DEQ_COUNT(codes); i++)
        ok = ok || (o->status == codes[i] && strstr(o->text, "\"error\""));
    return ok;
}

static bool same(const struct outcome *a, const struct outcome *b)
{
    return a->status == b->status && a->streamed == b->streamed && a->n == b->n && !memcmp(a->text, b->text, a->n + 1);
}

static void take(struct asked *r, struct outcome *ret)
{
    inside_close(r, ret);
    if (ret->type && !strcmp(ret->type, "application/octet-stream"))
        return;
    if (ret->streamed)
        join_events(ret->text);
    forget_time(ret->text);
    ret->n = strlen(ret->text);
}

static void ask_plainly(const char *method, const char *path, const char *body, struct outcome *ret)
{
    struct asked r;
    const struct exchange head = head_of(method, path);
    CHECK(inside_open(&r, &head, body));
    inside_handle(&r);
    inside_wait(&r);
    take(&r, ret);
    inside_rest();
}

/* --- Who is beside --- */

static struct asked beside;

/* It is in the engine when this returns, or over already, where this thread came late. */
static void beside_begin(void)
{
    const uint64_t before = atomic_load(&inside.metrics.prompt_tokens);
    const struct exchange head = head_of("POST", "/v1/completions");
    CHECK(inside_open(&beside, &head, BESIDE_BODY));
    inside_handle(&beside);
    while (!beside.x.status && atomic_load(&inside.metrics.prompt_tokens) == before)
        sched_yield();
}

/* Its answer is there, or it was the one: true. */
static bool beside_end(void)
{
    inside_wait(&beside);
    take(&beside, &beside_got);
    inside_rest();
    const bool whole = same(&beside_got, &beside_good);
    CHECK_MSG(whole || is_error(&beside_got), "beside: %d %.300s", beside_got.status, beside_got.text);
    return whole;
}

/* What the log says of faults is right, and of no interest here. A sanitizer needs standard error. */
static int standard_error = -1;

static void hush(void)
{
#ifndef DEQ_BUG_ENDS
    const int nowhere = open("/dev/null", O_WRONLY);
    standard_error = dup(STDERR_FILENO);
    CHECK(nowhere >= 0 && standard_error >= 0 && dup2(nowhere, STDERR_FILENO) >= 0);
    close(nowhere);
#endif
}

static void end(void)
{
    inside_end();
    if (standard_error < 0)
        return;
    CHECK(dup2(standard_error, STDERR_FILENO) >= 0);
    close(standard_error);
    standard_error = -1;
}

static bool begin(const char *const *set)
{
    if (!inside_begin(set))
        return false;
    hush();
    ask_plainly("POST", "/v1/completions", BESIDE_BODY, &beside_good);
    CHECK_MSG(beside_good.status == 200, "%s", beside_good.text);
    return true;
}

/* --- Requests --- */

/* One request under the fault, its neighbour beside it; false: there was no memory to begin it. */
static bool ask_walked(const struct exchange *head, const char *body, struct outcome *ret)
{
    struct asked r;
    beside_begin();
    walk_arm();
    const bool opened = inside_open(&r, head, body);
    if (opened) {
        inside_handle(&r);
        inside_wait(&r);
    }
    inside_wait(&beside);
    walk_disarm();
    if (opened)
        take(&r, ret);
    return opened;
}

struct request {
    const char *what, *method, *path, *body;
};

static bool request(void *ctx)
{
    const struct request *t = ctx;
    const struct exchange head = head_of(t->method, t->path);
    const bool opened = ask_walked(&head, t->body, &got);
    const bool whole = opened && same(&got, &good), other = beside_end();
    CHECK_MSG(!opened || whole || is_error(&got), "%s: %d %.400s\n, not %.400s", t->what, got.status, got.text,
              good.text);
    CHECK_MSG(whole || other || !walk_once(), "%s: one fault, two answers: %.200s, %.200s", t->what, got.text,
              beside_got.text);
    return whole && other;
}

TEST(fault_requests)
{
    static struct request requests[] = {
        {"completion", "POST", "/v1/completions",
         "{\"prompt\":\"The\",\"max_tokens\":6,\"logprobs\":2,\"n\":2,\"stop\":\"zzz\",\"seed\":1}"},
        {"stream", "POST", "/v1/completions",
         "{\"prompt\":\"The\",\"max_tokens\":6,\"stream\":true,\"seed\":1}"},
        {"form", "POST", "/v1/completions",
         "{\"prompt\":\"The\",\"max_tokens\":6,\"seed\":1,\"structured_outputs\":{\"regex\":\"[a-z ]{1,40}\"}}"},
        {"chat", "POST", "/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"The\"}],"
                                                 "\"max_tokens\":3,\"seed\":1}"},
        {"logits", "POST", "/v1/logits", "{\"prompt\":\"A\",\"positions\":\"last\"}"},
        {"embeddings", "POST", "/v1/embeddings", "{\"input\":[\"A\",\"The\"]}"},
        {"tokenize", "POST", "/tokenize", "{\"prompt\":\"The king\"}"},
        {"models", "GET", "/v1/models", ""},
    };
    REQUIRE(begin((const char *const[]){"engine.max_sequences=6", "stream.flush_ms=0", NULL}));
    for (size_t i = 0; i < DEQ_COUNT(requests); i++) {
        ask_plainly(requests[i].method, requests[i].path, requests[i].body, &good);
        CHECK_MSG(good.status == 200, "%s: %d %s", requests[i].what, good.status, good.text);
        walk(requests[i].what, WALK_ALLOC, request, &requests[i]);
    }
    end();
}

/* --- Saved states --- */

#define BEHIND_BODY "{\"state\":\"a\",\"prompt\":\" more\",\"max_tokens\":4,\"seed\":1}"

static struct outcome old_state, new_state;

static bool save_state(void *ctx)
{
    (void)ctx;
    const struct exchange head = head_of("POST", "/v1/states");
    ask_plainly("POST", "/v1/states", "{\"name\":\"a\",\"prompt\":\"The\"}", &got);
    const bool opened = ask_walked(&head, "{\"name\":\"a\",\"prompt\":\"What shall\"}", &got);
    const bool saved = opened && got.status == 200, other = beside_end();
    CHECK_MSG(!opened || saved || is_error(&got), "%d %.300s", got.status, got.text);
    CHECK(saved || other || !walk_once());
    ask_plainly("GET", "/v1/states/a", "", &got);
    CHECK_MSG(same(&got, &new_state) || (!saved && same(&got, &old_state)), "the file is another: %d, %zu bytes",
              got.status, got.n);
    return saved && other;
}

static bool restore_state(void *ctx)
{
    (void)ctx;
    struct request behind = {"restore state", "POST", "/v1/completions", BEHIND_BODY};
    return request(&behind);
}

TEST(fault_states)
{
    char set[600];
    REQUIRE(scratch_begin());
    snprintf(set, sizeof set, "state.dir=%s", scratch_path("d"));
    REQUIRE(begin((const char *const[]){set, "engine.max_sequences=4", NULL}));
    ask_plainly("POST", "/v1/states", "{\"name\":\"a\",\"prompt\":\"The\"}", &got);
    ask_plainly("GET", "/v1/states/a", "", &old_state);
    ask_plainly("POST", "/v1/states", "{\"name\":\"a\",\"prompt\":\"What shall\"}", &got);
    ask_plainly("GET", "/v1/states/a", "", &new_state);
    CHECK(old_state.status == 200 && new_state.status == 200 && !same(&old_state, &new_state));
    walk("save state", WALK_ALLOC | WALK_FILES, save_state, NULL);
    ask_plainly("POST", "/v1/completions", BEHIND_BODY, &good);
    CHECK(good.status == 200);
    walk("restore state", WALK_ALLOC | WALK_FILES, restore_state, NULL);
    end();
    (void)deq_io_sweep(scratch_path("d"));
    scratch_end("d/a.safetensors", "d", NULL);
}

/* --- Reloads --- */

struct reload {
    sem_t over;
    enum deq_rc rc;
};

static void on_reloaded(void *ctx, enum deq_rc rc, const struct deq_err *err, const char *fingerprint)
{
    struct reload *r = ctx;
    (void)err;
    (void)fingerprint;
    r->rc = rc;
    sem_post(&r->over);
}

static bool reload(void *ctx)
{
    (void)ctx;
    struct reload r = {.rc = DEQ_EINVAL};
    sem_init(&r.over, 0, 0);
    beside_begin();
    walk_arm();
    const bool begun = store_reload(inside.service.store, on_reloaded, &r);
    while (begun && sem_wait(&r.over))
        ;
    inside_wait(&beside);
    walk_disarm();
    sem_destroy(&r.over);
    const bool other = beside_end();
    CHECK_MSG(!begun || !r.rc || walk_expects(r.rc), "%d", r.rc);
    CHECK((begun && !r.rc) || other || !walk_once());
    ask_plainly("POST", "/v1/completions", BESIDE_BODY, &got); /* by the old model or the new one */
    CHECK(same(&got, &beside_good));
    return begun && !r.rc && other;
}

TEST(fault_reload)
{
    /* cores that others have claimed meanwhile would be descriptors more */
    REQUIRE(begin((const char *const[]){"engine.threads=2", "engine.pin=never", NULL}));
    walk("reload", WALK_ALLOC | WALK_FILES | WALK_THREAD, reload, NULL);
    end();
}
