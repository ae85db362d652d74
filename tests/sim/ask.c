/* What clients ask for: bodies made of the seed, over all fields that change a text or how it comes. Each is answered
 * once alone, before the day begins; and what an answer says, whichever pieces it came in, is brought into one form, so
 * that two are the same or not. */
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "tests/sim/sim.h"

enum { BODY_BYTES = 8192, LARGE_BYTES = 70000 };

static struct ask asks[ASKS];

struct ask *ask_number(size_t i)
{
    return &asks[i];
}

/* --- Bodies --- */

struct text {
    char bytes[BODY_BYTES];
    size_t n;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(t->bytes + t->n, sizeof t->bytes - t->n, format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof t->bytes - t->n)
        abort();
    t->n += (size_t)n;
}

/* Words that begin alike, so that prompts share blocks of the prefix cache. */
static void add_prompt(struct text *t, bool sound)
{
    static const char *const words[] = {"the ", "people ", "MENENIUS ", "and you ", "of ", "his ", "would ", "not ",
                                        "\\u00e9", "\\ud83d\\ude00 ", "x", "that ", "\\n"};
    const bool longer = sim_one_in(5);
    const size_t shared = longer ? sim_between(20, 110) : sim_below(4), own = sim_between(1, longer ? 40 : 8);
    add(t, "\"");
    for (size_t i = 0; i < shared; i++)
        add(t, "%s", words[i * 5 % 8]);
    for (size_t i = 0; i < own; i++)
        add(t, "%s", words[sim_below(DEQ_COUNT(words))]);
    if (!sound && sim_one_in(12))
        add(t, "~"); /* POISON */
    add(t, "\"");
}

static const char *pick(const char *const *from, size_t n)
{
    return from[sim_below(n)];
}

static void add_solve(struct ask *a, struct text *t, bool scored)
{
    static const char *const solvers[] = {"picard", "anderson", "broyden"};
    static const char *const starts[] = {"zero", "previous", "predictor"};
    static const char *const tolerances[] = {"0.3", "0.05", "0.01", "0.001", "0.00001"};
    if (sim_one_in(3))
        return;
    add(t, ",\"deq\":{\"solver\":\"%s\",\"warm_start\":\"%s\"", pick(solvers, 3), pick(starts, 3));
    if (scored && sim_one_in(12)) { /* opens with the load: another text then, by right */
        add(t, ",\"tol\":0.001,\"depth\":\"elastic\"");
        a->judged = false;
    } else if (sim_one_in(2)) { /* may never be reached */
        add(t, ",\"tol\":%s", pick(tolerances, 5));
    }
    if (sim_one_in(2))
        add(t, ",\"max_iter\":%u", (unsigned)sim_between(1, 24));
    if (sim_one_in(2))
        add(t, ",\"window\":%u", (unsigned)sim_between(1, 8));
    add(t, "}");
    if (scored && sim_one_in(4))
        add(t, ",\"include\":[\"deq.tokens\"]");
}

static void add_sampling(struct text *t)
{
    static const char *const temperatures[] = {"0", "0", "0.7", "1.2"};
    add(t, ",\"temperature\":%s,\"seed\":%u", pick(temperatures, 4), (unsigned)sim_below(1000));
    if (sim_one_in(4))
        add(t, ",\"stop\":[\"he\",\" y\"]");
    if (sim_one_in(6))
        add(t, ",\"repetition_penalty\":1.3");
    if (sim_one_in(6))
        add(t, ",\"ignore_eos\":true");
    if (sim_one_in(5))
        add(t, ",\"cache\":\"off\"");
    if (sim_one_in(3))
        add(t, ",\"priority\":%d", (int)sim_between(0, 6) - 3);
}

static void completion(struct ask *a, struct text *t, unsigned state)
{
    const unsigned prompts = sim_one_in(6) && !state ? 2 : 1, n = sim_one_in(4) ? 2 : 1;
    a->path = "/v1/completions";
    a->stream = sim_one_in(2);
    add(t, "{\"prompt\":%s", prompts > 1 ? "[" : "");
    for (unsigned i = 0; i < prompts; i++) {
        add(t, "%s", i ? "," : "");
        add_prompt(t, false);
    }
    add(t, "%s,\"max_tokens\":%u,\"n\":%u", prompts > 1 ? "]" : "", (unsigned)sim_between(1, 28), n);
    if (!a->stream && sim_one_in(6))
        add(t, ",\"best_of\":%u", n + 1);
    if (sim_one_in(3))
        add(t, ",\"logprobs\":%u", (unsigned)sim_below(4));
    if (!state && sim_one_in(5))
        add(t, ",\"echo\":true");
    if (sim_one_in(4))
        add(t, ",\"return_token_ids\":true");
    if (state)
        add(t, ",\"state\":\"s%u\"", state - 1);
    add_sampling(t);
    add_solve(a, t, true);
    if (a->stream)
        add(t, ",\"stream\":true");
    add(t, "}");
}

static void chat(struct ask *a, struct text *t)
{
    a->stream = sim_one_in(2);
    a->responses = sim_one_in(2);
    a->path = a->responses ? "/v1/responses" : "/v1/chat/completions";
    add(t, "{\"%s\":[{\"role\":\"user\",\"content\":", a->responses ? "input" : "messages");
    add_prompt(t, false);
    add(t, "}],\"%s\":%u,\"temperature\":0.8,\"seed\":7", a->responses ? "max_output_tokens" : "max_tokens",
        (unsigned)sim_between(1, 16));
    if (a->stream)
        add(t, ",\"stream\":true");
    add(t, "}");
}

static void states(struct ask *a, struct text *t)
{
    static const char *const paths[] = {"/v1/logits", "/v1/equilibria", "/v1/embeddings"};
    a->path = pick(paths, 3);
    add(t, "{\"%s\":", strcmp(a->path, "/v1/embeddings") ? "prompt" : "input");
    add_prompt(t, false);
    add_solve(a, t, false);
    add(t, "}");
}

void asks_begin(void)
{
    for (size_t i = 0; i < ASKS; i++) {
        static struct text t;
        struct ask *a = &asks[i];
        t.n = 0;
        *a = (struct ask){.method = "POST", .judged = true};
        if (i < 2) {
            a->path = "/v1/states";
            add(&t, "{\"name\":\"s%u\",\"prompt\":", (unsigned)i);
            add_prompt(&t, true);
            add(&t, "}");
        } else if (i < 30) {
            completion(a, &t, i < 5 ? (unsigned)sim_between(1, 2) : 0);
        } else if (i < 35) {
            chat(a, &t);
        } else {
            states(a, &t);
        }
        const size_t blanks = sim_one_in(12) ? LARGE_BYTES : 0; /* some bodies go another way than small ones */
        a->body = sim_alloc(blanks + t.n + 1);
        memset(a->body, ' ', blanks);
        memcpy(a->body + blanks, t.bytes, t.n + 1);
    }
}

/* --- Answers --- */

/* What differs from one answer to the next by right. */
static void drop_volatile(json_t *v)
{
    static const char *const keys[] = {
        "id",      "item_id", "created",       "created_at",      "completed_at",          "timings",
        "cache",   "cached_tokens", "prompt_iters_mean", "sequence_number", "prompt_tokens_details",
        "input_tokens_details"};
    const char *key;
    json_t *inner;
    void *next;
    size_t i;
    for (i = 0; i < DEQ_COUNT(keys); i++)
        json_object_del(v, keys[i]);
    json_object_foreach_safe(v, next, key, inner)
        drop_volatile(inner);
    json_array_foreach(v, i, inner)
        drop_volatile(inner);
}

/* Lists go on, objects are merged, the last of other values stays. */
static void merge(json_t *into, const char *key, json_t *v)
{
    json_t *there = json_object_get(into, key), *inner;
    const char *k;
    if (json_is_null(v) && there)
        return;
    if (json_is_array(v) && json_is_array(there)) {
        json_array_extend(there, v);
    } else if (json_is_object(v) && json_is_object(there)) {
        json_object_foreach(v, k, inner)
            merge(there, k, inner);
    } else {
        json_object_set_new(into, key, json_deep_copy(v));
    }
}

static void add_text(json_t *all, unsigned index, const char *more)
{
    char key[16];
    snprintf(key, sizeof key, "%u", index);
    json_t *texts = json_object_get(all, "texts");
    const char *before = json_string_value(json_object_get(texts, key));
    char *both = sim_alloc(strlen(before ? before : "") + strlen(more) + 1);
    strcpy(both, before ? before : "");
    strcat(both, more);
    json_object_set_new(texts, key, json_string(both));
    free(both);
}

/* One choice, or a piece of it. */
static void take_choice(json_t *all, json_t *choice)
{
    const unsigned index = (unsigned)json_integer_value(json_object_get(choice, "index"));
    const char *k, *const in[] = {"delta", "message"};
    char key[24];
    json_t *v, *text = json_object_get(choice, "text");
    snprintf(key, sizeof key, "choice%u", index);
    for (size_t i = 0; i < 2 && !text; i++)
        text = json_object_get(json_object_get(choice, in[i]), "content");
    if (!json_object_get(all, key))
        json_object_set_new(all, key, json_object());
    add_text(all, index, text && json_is_string(text) ? json_string_value(text) : "");
    json_object_foreach(choice, k, v)
        if (strcmp(k, "text") && strcmp(k, "delta") && strcmp(k, "message"))
            merge(json_object_get(all, key), k, v);
}

/* piece: of a stream, whose report is of the choice in it. */
static void take_object(json_t *all, json_t *o, bool piece)
{
    const char *k, *const type = json_string_value(json_object_get(o, "type"));
    const char *const delta = json_string_value(json_object_get(o, "delta"));
    json_t *v, *choice, *choices = json_object_get(o, "choices");
    size_t i;
    if (type && !strcmp(type, "response.output_text.delta") && delta)
        add_text(all, 0, delta);
    if (type && !strncmp(type, "response.", 9) && strcmp(type, "response.completed") &&
        strcmp(type, "response.incomplete") && strcmp(type, "response.failed"))
        return;
    if (json_object_get(o, "error") && !json_is_null(json_object_get(o, "error")))
        json_object_set(all, "error", json_object_get(o, "error"));
    if (piece && json_array_size(choices) == 1 && json_object_get(o, "deq")) {
        json_object_set(json_array_get(choices, 0), "report", json_object_get(o, "deq"));
        json_object_del(o, "deq");
    }
    json_array_foreach(choices, i, choice)
        take_choice(all, choice);
    json_object_foreach(o, k, v)
        if (strcmp(k, "choices") && strcmp(k, "error"))
            merge(all, k, v);
}

/* The events of a stream. Returns whether it has its end. */
static bool take_events(json_t *all, const char *body, size_t n)
{
    bool ended = false;
    for (const char *line = body, *end; (end = memchr(line, '\n', (size_t)(body + n - line))); line = end + 1) {
        const size_t len = (size_t)(end - line);
        if (len < 6 || memcmp(line, "data: ", 6))
            continue;
        if (len == 12 && !memcmp(line, "data: [DONE]", 12)) {
            ended = true;
            continue;
        }
        json_t *o = json_loadb(line + 6, len - 6, JSON_ALLOW_NUL, NULL);
        if (!o)
            sim_fail("an event that is no JSON: %.*s", (int)len, line);
        const char *type = json_string_value(json_object_get(o, "type"));
        ended = ended || (type && (!strcmp(type, "response.completed") || !strcmp(type, "response.incomplete")));
        drop_volatile(o);
        take_object(all, o, true);
        json_decref(o);
    }
    return ended;
}

char *answer_canonical(const struct ask *a, const char *body, size_t n, bool partial)
{
    const bool events = a->stream && (n < 1 || body[0] != '{');
    json_t *all = json_object(), *o = NULL;
    char *ret = NULL;
    json_object_set_new(all, "texts", json_object());
    if (events) {
        if (!take_events(all, body, n) && !partial && !json_object_get(all, "error"))
            sim_fail("a stream that ended cleanly has no end");
    } else if ((o = json_loadb(body, n, JSON_ALLOW_NUL, NULL))) {
        drop_volatile(o);
        take_object(all, o, false);
    }
    if (events || o) {
        char *dumped = json_dumps(all, JSON_SORT_KEYS | JSON_COMPACT);
        ret = sim_alloc(strlen(dumped) + 1);
        strcpy(ret, dumped);
        deq_free_plain(dumped);
    }
    json_decref(o);
    json_decref(all);
    return ret;
}

/* A text that was cut by a deadline ends with a token that was not solved to its tolerance, and perhaps with half of a
 * character. */
static bool begins(const char *part, const char *whole)
{
    enum { TOKEN_MAX_BYTES = 16 };
    const size_t n = strlen(part), sure = n > TOKEN_MAX_BYTES ? n - TOKEN_MAX_BYTES : 0;
    return !strncmp(part, whole, sure);
}

bool answer_begins(const char *part, const char *whole)
{
    json_t *p = json_loads(part, JSON_ALLOW_NUL, NULL), *w = json_loads(whole, JSON_ALLOW_NUL, NULL), *v;
    const char *k;
    bool ok = true;
    json_object_foreach(json_object_get(p, "texts"), k, v) {
        const char *const full = json_string_value(json_object_get(json_object_get(w, "texts"), k));
        ok = ok && begins(json_string_value(v), full ? full : "");
    }
    json_decref(p);
    json_decref(w);
    return ok;
}
