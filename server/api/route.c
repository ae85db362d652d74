#include "server/api/route.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "core/base/clock.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/api/fields.h"
#include "server/log.h"
#include "server/net/header.h"

enum { LOGGED_PATH_MAX_BYTES = 256 };

enum route_flags {
    NEEDS_MODEL = 1, /* 503 model_loading until one is there */
    OPEN = 2,        /* asks for no key */
    PROBE = 4,       /* answered when all connections are taken; not logged */
    ADMIN = 8,       /* an admin key */
    ON_ADMIN = 16,   /* also served on server.admin_listen */
    METRICS = 32,    /* open when auth.open_metrics says so */
    PAGE = 64,       /* a file of the page: asks for no key, is there when server.page says so, no part of the API */
};

struct route {
    const char *method, *path; /* a path that ends in '/', but for that alone, is the beginning of many */
    void (*endpoint)(struct service *s, struct served *m, struct exchange *x);
    unsigned flags;
    const struct fields *body; /* or NULL: none is read */
};

static const struct route table[] = {
    {"POST", "/v1/completions", ep_completions, NEEDS_MODEL, &completion_fields},
    {"POST", "/v1/chat/completions", ep_chat, NEEDS_MODEL, &chat_fields},
    {"POST", "/v1/responses", ep_responses, NEEDS_MODEL, &responses_fields},
    {"POST", "/v1/logits", ep_logits, NEEDS_MODEL, &logits_fields},
    {"POST", "/v1/equilibria", ep_equilibria, NEEDS_MODEL, &equilibria_fields},
    {"POST", "/v1/embeddings", ep_embeddings, NEEDS_MODEL, &embeddings_fields},
    {"GET", "/v1/states", ep_states, 0, NULL},
    {"POST", "/v1/states", ep_state_save, NEEDS_MODEL, &state_fields},
    {"GET", "/v1/states/", ep_state, NEEDS_MODEL, NULL},
    {"PUT", "/v1/states/", ep_state_put, NEEDS_MODEL, NULL},
    {"DELETE", "/v1/states/", ep_state_delete, 0, NULL},
    {"GET", "/v1/models", ep_models, NEEDS_MODEL, NULL},
    {"GET", "/v1/models/", ep_model, NEEDS_MODEL, NULL},
    {"POST", "/tokenize", ep_tokenize, NEEDS_MODEL, &tokenize_fields},
    {"POST", "/detokenize", ep_detokenize, NEEDS_MODEL, &detokenize_fields},
    {"GET", "/tokenizer_info", ep_tokenizer_info, NEEDS_MODEL, NULL},
    {"GET", "/version", ep_version, NEEDS_MODEL | ON_ADMIN, NULL},
    {"GET", "/openapi.json", ep_openapi, 0, NULL},
    {"GET", "/", ep_page, PAGE, NULL},
    {"GET", "/page/", ep_page, PAGE, NULL},
    {"GET", "/health", ep_ready, OPEN | PROBE | ON_ADMIN, NULL},
    {"GET", "/health/live", ep_live, OPEN | PROBE | ON_ADMIN, NULL},
    {"GET", "/health/ready", ep_ready, OPEN | PROBE | ON_ADMIN, NULL},
    {"GET", "/health/startup", ep_startup, OPEN | PROBE | ON_ADMIN, NULL},
    {"GET", "/metrics", ep_metrics, METRICS | PROBE | ON_ADMIN, NULL},
    {"GET", "/v1/sequences", ep_sequences, ADMIN | ON_ADMIN, NULL},
    {"DELETE", "/v1/sequences/", ep_end_sequence, ADMIN | ON_ADMIN, NULL},
    {"POST", "/admin/reload", ep_reload, ADMIN | ON_ADMIN, NULL},
};

void route_print(void)
{
    for (size_t i = 0; i < DEQ_COUNT(table); i++)
        printf("%s %s%s\n", table[i].method, table[i].path,
               table[i].flags & ADMIN     ? " admin"
               : table[i].flags & OPEN    ? " open"
               : table[i].flags & PAGE    ? " page"
               : table[i].flags & METRICS ? " metrics"
                                          : "");
}

static bool has_inner(const struct route *r, const struct fields *f)
{
    for (size_t i = 0; r->body && i < DEQ_COUNT(r->body->inner); i++)
        if (r->body->inner[i] == f)
            return true;
    return false;
}

/* The objects in a route's body, but for those of the routes before. */
static void print_inner(const struct route *r)
{
    for (size_t i = 0; i < DEQ_COUNT(r->body->inner) && r->body->inner[i]; i++) {
        const struct fields *f = r->body->inner[i];
        bool before = false;
        for (const struct route *b = table; b < r && !before; b++)
            before = has_inner(b, f);
        if (!before)
            fields_print(f->name, f);
    }
}

void route_print_fields(void)
{
    for (const struct route *r = table; r < table + DEQ_COUNT(table); r++) {
        if (!r->body)
            continue;
        fields_print(r->path, r->body);
        print_inner(r);
    }
}

/* --- Headers: who may, and what for --- */

/* What a path takes, of all its rows. */
static const char *methods_of(const char *path)
{
    static const struct {
        const char *name;
        unsigned bit;
    } methods[] = {{"GET", 1}, {"POST", 2}, {"PUT", 4}, {"DELETE", 8}};
    static const char *const words[] = {[1] = "GET",    [2] = "POST",        [3] = "GET, POST",
                                        [8] = "DELETE", [9] = "GET, DELETE", [13] = "GET, PUT, DELETE"};
    unsigned all = 0;
    for (size_t i = 0; i < DEQ_COUNT(table); i++)
        for (size_t m = 0; m < DEQ_COUNT(methods) && !strcmp(table[i].path, path); m++)
            all |= strcmp(table[i].method, methods[m].name) ? 0 : methods[m].bit;
    return words[all];
}

static bool ends_in_more(const char *path)
{
    return path[1] && path[strlen(path) - 1] == '/';
}

/* What this daemon serves at the address that was asked. */
static bool is_there(const struct service *s, const struct exchange *x, const struct route *r)
{
    return x->admin_listener ? (r->flags & ON_ADMIN) != 0 : !(r->flags & PAGE) || s->conf->page;
}

static const struct route *find(const struct service *s, struct exchange *x)
{
    for (size_t i = 0; i < DEQ_COUNT(table); i++) {
        const struct route *r = &table[i];
        const size_t n = strlen(r->path);
        if (ends_in_more(r->path) ? strncmp(r->path, x->path, n) || !x->path[n] : strcmp(r->path, x->path) != 0)
            continue;
        if (!is_there(s, x, r))
            continue;
        /* HEAD is GET without a body; libmicrohttpd leaves the body out */
        if (!strcmp(r->method, x->method) || (!strcmp(x->method, "HEAD") && !strcmp(r->method, "GET"))) {
            x->allow = NULL;
            return r;
        }
        x->allow = methods_of(r->path);
    }
    return NULL;
}

/* Deny by default: a path without a flag that opens it asks for a key, also one that does not exist. */
static bool allowed(const struct service *s, struct exchange *x, const struct route *r, const struct credential *keys,
                    size_t n)
{
    const bool open =
        r && ((r->flags & (OPEN | PAGE)) || ((r->flags & METRICS) && (s->conf->open_metrics || x->admin_listener)));
    struct caller caller;
    for (size_t i = 0; i < n && !x->caller.known; i++)
        if (auth_check(s->auth, keys[i].key, keys[i].n, &caller))
            x->caller = caller;
    if (open)
        return true;
    if (auth_has_keys(s->auth) && !x->caller.known) {
        x->authenticate = true;
        exchange_error(x, 401, "invalid_api_key", NULL,
                       "a valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY");
        return false;
    }
    if (r && (r->flags & ADMIN) && !x->caller.admin) {
        exchange_error(x, 403, "admin_only", NULL,
                       auth_has_keys(s->auth) ? "this needs an admin key"
                                              : "this needs an admin key, and auth.keys_file names none");
        return false;
    }
    return true;
}

/* Bodies are in the clear, and of one type: JSON, or the bytes of a state. Absent, and what curl sends by itself, is
 * taken for it; but not from a browser, whose forms send that to any site. */
static bool takes_body(struct exchange *x, const char *wanted)
{
    const char *type = x->content_type;
    const bool form = type && header_type_is(type, "application/x-www-form-urlencoded");
    if (x->is_encoded) {
        x->accept_encoding = "identity";
        exchange_error(x, 415, "unsupported_content_encoding", NULL,
                       "Content-Encoding: the body must be sent as it is (identity)");
    } else if (form && x->browser) {
        exchange_error(
            x, 415, "unsupported_media_type", NULL,
            "Content-Type: application/x-www-form-urlencoded is not taken from a browser; say what the body is");
    } else if (type && !form && !header_type_is(type, wanted)) {
        char text[80];
        snprintf(text, sizeof text, "Content-Type: the body must be %s", wanted);
        exchange_error(x, 415, "unsupported_media_type", NULL, text);
    }
    return !x->status;
}

/* A state, of which there are two for a while: as bytes, and as what they mean. */
static void take_bytes(const struct service *s, struct exchange *x)
{
    x->body.max = s->conf->answer_bytes / 4;
    x->body_limit = "a quarter of limits.answer_bytes";
}

/* Refuses what a page of another site sends, and names that somebody else's pages may have here, before anything else
 * is looked at. */
static bool welcome(struct exchange *x, const struct route *r)
{
    if (x->wrong_host && !(r && (r->flags & OPEN)))
        exchange_error(
            x, 421, "host_not_allowed", NULL,
            "Host: this name is not one of this server's; server.hosts lists those beside addresses and localhost");
    else if (x->page == ORIGIN_FOREIGN)
        exchange_error(x, 403, "origin_not_allowed", NULL,
                       "Origin: pages of this site may not use this server; server.cors_origins lists those that may");
    return !x->status;
}

/* For the log: what a client makes up does not belong there. */
static const char *known_method(const char *method)
{
    static const char *const methods[] = {"GET",    "HEAD",    "POST",  "PUT",    "PATCH",
                                          "DELETE", "OPTIONS", "TRACE", "CONNECT"};
    for (size_t i = 0; i < DEQ_COUNT(methods); i++)
        if (!strcmp(method, methods[i]))
            return methods[i];
    return "-";
}

/* The path of a route; what else was asked for as it came, without query and fragment, what is not printable ASCII as
 * %XX, cut. Another form of a target may hold credentials: "-". */
static void loggable_path(const struct exchange *x, char out[LOGGED_PATH_MAX_BYTES + 1])
{
    const char *path = x->route ? ((const struct route *)x->route)->path
                       : x->path && (x->path[0] == '/' || !strcmp(x->path, "*")) ? x->path
                                                                                 : "-";
    size_t n = 0;
    for (const unsigned char *s = (const unsigned char *)path; *s && *s != '?' && *s != '#'; s++) {
        const bool plain = *s > 0x20 && *s < 0x7f;
        if (n + (plain ? 1 : 3) > LOGGED_PATH_MAX_BYTES)
            break;
        n += (size_t)snprintf(out + n, LOGGED_PATH_MAX_BYTES + 1 - n, plain ? "%c" : "%%%02X", *s);
    }
    out[n] = 0;
}

static void log_exchange(const struct exchange *x)
{
    char path[LOGGED_PATH_MAX_BYTES + 1];
    if (!log_on(LOG_INFO) || x->probe)
        return;
    loggable_path(x, path);
    log_line(LOG_INFO, "request", log_text("request_id", x->request_id), log_text("method", known_method(x->method)),
             log_text("path", path), log_int("status", x->status),
             log_real("ms", (double)(deq_now_ns() - x->arrived_ns) * 1e-6),
             log_text("trace_id", x->trace_id[0] ? x->trace_id : NULL),
             log_text("parent_id", x->trace_id[0] ? x->parent_id : NULL));
}

/* 404 that says what there is, at this address. */
static void unknown_path(const struct service *s, struct exchange *x)
{
    struct deq_buf text;
    const char *before = "there is nothing at this path; there is";
    deq_buf_init(&text, 4096);
    for (size_t i = 0; i < DEQ_COUNT(table); i++) {
        const char *path = table[i].path;
        if (!is_there(s, x, &table[i]) || (table[i].flags & PAGE))
            continue;
        if (i && !strcmp(path, table[i - 1].path))
            continue;
        deq_buf_fmt(&text, "%s %s%s", before, path, ends_in_more(path) ? "{id}" : "");
        before = ",";
    }
    if (!x->admin_listener)
        deq_buf_str(&text, "; /openapi.json describes them");
    exchange_error(x, 404, "unknown_path", NULL, text.failed ? "there is nothing at this path" : text.data);
    deq_buf_free(&text);
}

static void wrong_method(struct exchange *x)
{
    char text[64];
    snprintf(text, sizeof text, "this path takes %s", x->allow);
    exchange_error(x, 405, "method_not_allowed", NULL, text);
}

void route_check(void *ctx, struct exchange *x, const struct credential *keys, size_t n)
{
    struct service *s = ctx;
    const struct route *r = x->status ? NULL : find(s, x);
    x->route = r;
    x->probe = r && (r->flags & PROBE);
    if (x->status) /* what the headers are refused for */
        ;
    else if (x->overfull && !(r && (r->flags & PROBE)))
        exchange_error(x, 503, "too_many_connections", NULL, "all connections are taken");
    else if (!welcome(x, r))
        ;
    else if (x->preflight)
        x->status = 204;
    else if (!allowed(s, x, r, keys, n))
        ;
    else if (!r && x->allow)
        wrong_method(x);
    else if (!r)
        unknown_path(s, x);
    else if (!strcmp(r->method, "POST"))
        (void)takes_body(x, "application/json");
    else if (!strcmp(r->method, "PUT") && takes_body(x, "application/octet-stream"))
        take_bytes(s, x);
    if (x->status) {
        if (x->status != 405)
            x->allow = NULL;
        if (x->status == 503)
            x->retry_after_ms = 1000;
        log_exchange(x);
    }
}

void route_handle(void *ctx, struct exchange *x)
{
    struct service *s = ctx;
    const struct route *r = x->route;
    struct served *m = r->flags & NEEDS_MODEL ? store_acquire(s->store) : NULL;
    if ((r->flags & NEEDS_MODEL) && !m) {
        x->retry_after_ms = 1000;
        exchange_error(x, 503, "model_loading", NULL, "the model is being loaded");
    } else {
        r->endpoint(s, m, x);
    }
    if (x->status && x->reply.failed)
        exchange_no_memory(x);
    if (x->status)
        log_exchange(x);
}
