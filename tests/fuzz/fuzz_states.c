/* PUT /v1/states/NAME, from the router to the file, without sockets: what is taken is told back as the same bytes, is
 * listed, is what a completion goes on behind, and goes when it is deleted; of what is refused nothing is kept.
 *
 * Input: the name up to a zero byte, the body. Where it names the model and its configuration it has PLACE_HOLDERS,
 * which become the tiny model's, and its checksum follows. */
#define _GNU_SOURCE
#include <time.h>

#include "core/base/clock.h"
#include "server/api/route.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/service.h"

enum { ANSWER_MAX = 1 << 17, NAME_BYTES = 200, OF_FINGERPRINT = 0, OF_CONFIGURATION, PLACES };

static const char *const place_holders[PLACES] = {"0123456789abcdef", "00000000000000000000000000000000"};

struct answer {
    int status;
    const char *type;
    size_t n;
    char text[ANSWER_MAX];
};

/* --- Asking --- */

static void on_resume(void *conn, struct wakeups *w)
{
    (void)conn;
    (void)w;
}

/* As the connection's thread does. */
static void wait_until_done(struct channel *c)
{
    static const struct timespec nap = {.tv_nsec = 10000};
    for (bool done = false; !done;) {
        pthread_mutex_lock(&c->lock);
        while (channel_render(c))
            ;
        done = c->done;
        pthread_mutex_unlock(&c->lock);
        if (!done)
            nanosleep(&nap, NULL);
    }
}

static void ask(const char *method, const char *path, const void *body, size_t n, struct answer *ret)
{
    struct service *s = fuzz_service();
    struct exchange x = {.method = method,
                         .path = path,
                         .request_id = "r",
                         .arrived_ns = deq_now_ns(),
                         .wants_octets = true,
                         .caller = {.id = 1, .weight = 1}};
    x.channel = channel_new(&x, on_resume, 1 << 20, s->budget, 1);
    FUZZ_HOLDS(x.channel);
    x.body = (struct deq_buf){.max = ANSWER_MAX, .allowance = &x.channel->allowance};
    x.reply = x.body;
    route_check(s, &x, NULL, 0);
    FUZZ_HOLDS(deq_buf_add(&x.body, body, n));
    if (!x.status)
        route_handle(s, &x);
    if (x.status) {
        FUZZ_HOLDS(!x.reply.failed);
        channel_give(x.channel, &x.reply);
    } else {
        wait_until_done(x.channel);
    }
    struct channel *c = x.channel;
    *ret = (struct answer){.status = x.status ? x.status : c->status,
                           .type = x.status ? x.reply_type : c->content_type,
                           .n = c->bytes.len};
    FUZZ_HOLDS(ret->n < sizeof ret->text);
    memcpy(ret->text, ret->n ? c->bytes.data : "", ret->n);
    ret->text[ret->n] = 0;
    deq_buf_free(&x.body);
    deq_buf_free(&x.reply);
    channel_disconnect(c);
    channel_unref(c);
}

/* --- The model's names --- */

static void metadata_of(const char *file, size_t n, const char *key, size_t len, char *out)
{
    char word[32];
    snprintf(word, sizeof word, "\"%s\":\"", key);
    const char *at = memmem(file, n, word, strlen(word));
    FUZZ_HOLDS(at && strspn(at + strlen(word), "0123456789abcdef") == len);
    memcpy(out, at + strlen(word), len);
}

static const char *const *names(void)
{
    static const char prompt[] = "{\"prompt\": [1]}", *known[PLACES];
    static char fingerprint[32], configuration[64];
    static struct answer a;
    if (!known[0]) {
        ask("POST", "/v1/states", prompt, strlen(prompt), &a);
        FUZZ_HOLDS(a.status == 200);
        metadata_of(a.text, a.n, "fingerprint", strlen(place_holders[OF_FINGERPRINT]), fingerprint);
        metadata_of(a.text, a.n, "configuration", strlen(place_holders[OF_CONFIGURATION]), configuration);
        known[OF_FINGERPRINT] = fingerprint;
        known[OF_CONFIGURATION] = configuration;
    }
    return known;
}

static void rename_all(char *file, size_t n, const char *const *from, const char *const *to)
{
    const struct deq_hash was = fuzz_saved_sum(file, n < sizeof was ? 0 : n - sizeof was);
    const bool good = n >= sizeof was && !memcmp(file + n - sizeof was, &was, sizeof was);
    for (size_t i = 0; i < PLACES; i++) {
        const size_t len = strlen(from[i]);
        for (char *at = file; (at = memmem(at, n - (size_t)(at - file), from[i], len)); at += len)
            memcpy(at, to[i], len);
    }
    const struct deq_hash now = fuzz_saved_sum(file, good ? n - sizeof now : 0);
    if (good)
        memcpy(file + n - sizeof now, &now, sizeof now);
}

/* --- What is promised --- */

static void check_kept(const char *name, const char *path)
{
    static const char removed[] = "\"deleted\":true";
    static struct answer a, b;
    char text[NAME_BYTES + 80];
    ask("GET", path, "", 0, &a);
    FUZZ_HOLDS(a.status == 200 && a.type && !strcmp(a.type, "application/octet-stream"));
    ask("PUT", path, a.text, a.n, &b);
    FUZZ_HOLDS(b.status == 200);
    ask("GET", path, "", 0, &b);
    FUZZ_HOLDS(b.status == 200 && b.n == a.n && !memcmp(a.text, b.text, a.n));
    ask("GET", "/v1/states", "", 0, &a);
    snprintf(text, sizeof text, "\"id\":\"%s\"", name);
    FUZZ_HOLDS(a.status == 200 && strstr(a.text, text));
    snprintf(text, sizeof text, "{\"state\": \"%s\", \"max_tokens\": 1, \"deq\": {\"max_iter\": 2}}", name);
    ask("POST", "/v1/completions", text, strlen(text), &a);
    FUZZ_HOLDS(a.status == 200 || a.status == 400 || strstr(a.text, "solver_diverged")); /* long */
    ask("DELETE", path, "", 0, &a);
    FUZZ_HOLDS(a.status == 200 && strstr(a.text, removed));
}

FUZZ(states)
{
    static struct answer a;
    char path[NAME_BYTES + 32];
    const uint8_t *rest;
    size_t n_rest;
    const size_t front = fuzz_split(data, n, &rest, &n_rest);
    if (front >= NAME_BYTES || n_rest >= ANSWER_MAX)
        return;
    const char *const *known = names();
    char *body = fuzz_copy(rest, n_rest);
    snprintf(path, sizeof path, "/v1/states/%.*s", (int)front, (const char *)data);
    const char *const name = path + strlen("/v1/states/");
    rename_all(body, n_rest, place_holders, known);
    ask("PUT", path, body, n_rest, &a);
    free(body);
    const bool kept = a.status == 200;
    FUZZ_HOLDS(kept || (a.status >= 400 && a.status < 500 && strstr(a.text, "\"code\":\"")));
    FUZZ_HOLDS(!kept || states_good_name(name, front));
    if (kept)
        check_kept(name, path);
    ask("GET", path, "", 0, &a);
    FUZZ_HOLDS(a.status != 200 || !front);
    ask("GET", "/v1/states", "", 0, &a);
    FUZZ_HOLDS(a.status == 200 && strstr(a.text, "\"data\":[]"));
}

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
enum { TOKENS_MAX = 24 };

/* One of its own, of some tokens. */
static size_t begin_with(size_t tokens, uint8_t *data, size_t max)
{
    static struct deq_buf known[TOKENS_MAX + 1];
    static struct answer a;
    struct deq_buf *file = &known[tokens];
    char prompt[256];
    size_t at = (size_t)snprintf(prompt, sizeof prompt, "{\"prompt\": [1");
    for (size_t i = 1; i < tokens; i++)
        at += (size_t)snprintf(prompt + at, sizeof prompt - at, ", %zu", 1 + i % 5);
    at += (size_t)snprintf(prompt + at, sizeof prompt - at, "]}");
    if (!file->len) {
        const char *const *own = names();
        ask("POST", "/v1/states", prompt, at, &a);
        FUZZ_HOLDS(a.status == 200);
        rename_all(a.text, a.n, own, place_holders);
        deq_buf_init(file, 1 << 20);
        FUZZ_HOLDS(deq_buf_add(file, a.text, a.n));
    }
    const size_t n = DEQ_MIN(file->len, max - 2);
    memcpy(data, "a", 2);
    memcpy(data + 2, file->data, n);
    return n + 2;
}

FUZZ_MUTATOR
{
    uint64_t random = seed;
    const size_t tokens = 1 + fuzz_next(&random) % TOKENS_MAX;
    const uint8_t *rest;
    size_t n_rest;
    if (n < 64 || fuzz_next(&random) % 32 == 0)
        n = begin_with(tokens, data, max);
    const size_t front = fuzz_split(data, n, &rest, &n_rest);
    if (front == n || fuzz_next(&random) % 16 == 0) /* the name, at the body's cost */
        return LLVMFuzzerMutate(data, n, max);
    return front + 1 + fuzz_mutate_safetensors(data + front + 1, n_rest, max - front - 1, seed, true);
}
#endif
