/* A request's head: who asks, by which id, whether it can be trusted. Refuses what could mean one thing to us and
 * another to a proxy in front (request smuggling), and what no honest client sends. libmicrohttpd shows headers after
 * it has cut them; what it does not show is read off its buffer. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "server/net/header.h"
#include "server/net/http_impl.h"

enum {
    HEADER_MAX_BYTES = 32 << 10,
    HEADERS_MAX = 100,
    TARGET_MAX_BYTES = 8 << 10,
    TIMEOUT_MAX_MS = 86400000,
    HOST_MAX_BYTES = 512,
};

/* What is kept of a request's headers, and what there is to say against them. */
struct header_check {
    unsigned content_length, transfer_encoding, host, authorization, api_key, origins, count;
    size_t bytes;
    uint64_t length;
    const char *problem;
    const char *end; /* of the value before, in libmicrohttpd's buffer */
    struct credential bearer, key; /* of Authorization, of x-api-key */
    struct header_weight octets, json;
    bool is_encoded, browser;
    /* the first value of each, without the blanks round it; or NULL */
    const char *host_value, *origin, *site, *mode, *content_type, *expect, *id, *traceparent, *timeout, *ask_method,
        *ask_headers, *ask_private;
};

static const struct {
    const char *name;
    size_t offset;
} kept[] = {
    {"Host", offsetof(struct header_check, host_value)},
    {"Origin", offsetof(struct header_check, origin)},
    {"Sec-Fetch-Site", offsetof(struct header_check, site)},
    {"Sec-Fetch-Mode", offsetof(struct header_check, mode)},
    {"Content-Type", offsetof(struct header_check, content_type)},
    {"Expect", offsetof(struct header_check, expect)},
    {"X-Request-Id", offsetof(struct header_check, id)},
    {"traceparent", offsetof(struct header_check, traceparent)},
    {"X-Request-Timeout-Ms", offsetof(struct header_check, timeout)},
    {"Access-Control-Request-Method", offsetof(struct header_check, ask_method)},
    {"Access-Control-Request-Headers", offsetof(struct header_check, ask_headers)},
    {"Access-Control-Request-Private-Network", offsetof(struct header_check, ask_private)},
};

/* RFC 9110: a name is a token. */
static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", s[i]) || !s[i])
            return false;
    return n > 0;
}

static bool is_name(const char *key, size_t n, const char *name)
{
    return n == strlen(name) && !strcasecmp(key, name);
}

/* The value lies in libmicrohttpd's buffer, which is ours to change until the request is done. */
static const char *end_at(const char *value, size_t n)
{
    ((char *)(uintptr_t)value)[n] = 0;
    return value;
}

/* What says where the request ends. */
static void take_framing(struct header_check *c, const char *key, size_t key_len, const char *value, size_t n)
{
    c->host += is_name(key, key_len, "Host");
    if (is_name(key, key_len, "Content-Length")) {
        c->content_length++;
        if (!n || n > 18 || strspn(value, "0123456789") < n)
            c->problem = "Content-Length is not a number";
        else
            c->length = strtoull(value, NULL, 10);
    }
    if (is_name(key, key_len, "Transfer-Encoding")) {
        c->transfer_encoding++;
        /* what stands behind it was not seen by libmicrohttpd as it is here */
        if (!is_name(value, n, "chunked") || value[n])
            c->problem = "Transfer-Encoding other than chunked";
    }
}

static void take_credential(struct header_check *c, const char *key, size_t key_len, const char *value, size_t n)
{
    if (is_name(key, key_len, "Authorization")) {
        const bool bearer = n > 7 && !strncasecmp(value, "Bearer ", 7);
        const size_t blanks = bearer ? 7 + strspn(value + 7, " \t") : 0;
        c->authorization++;
        c->bearer = bearer ? (struct credential){value + blanks, n - blanks} : (struct credential){NULL, 0};
    }
    if (is_name(key, key_len, "x-api-key")) {
        c->api_key++;
        c->key = (struct credential){value, n};
    }
}

static enum MHD_Result check_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_len,
                                    const char *value, size_t value_len)
{
    struct header_check *c = cls;
    (void)kind;
    c->count++;
    c->bytes += key_len + value_len;
    /* Lines lie in the buffer one behind the other, two zeros between them where CRLF stood. A gap is what
     * libmicrohttpd does not show: a zero byte in the line, which cuts the value; a folded line, which it takes for
     * part of the name; a bare LF. */
    if (c->end && key != c->end + 2)
        c->problem = "a header line is folded, holds a zero byte or does not end in CRLF";
    c->end = value + value_len;
    if (key + key_len >= value)
        c->problem = "a header is folded";
    for (const char *p = key + key_len + 1; p < value; p++)
        if (*p != ' ' && *p != '\t')
            c->problem = "a header is folded";
    for (size_t i = 0; i < value_len; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            c->problem = "a header holds a control character";
    if (!is_token(key, key_len))
        c->problem = "a header's name holds what no name may hold";
    /* blanks behind a value are no part of it; libmicrohttpd leaves them on */
    while (value_len && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
        value_len--;
    take_framing(c, key, key_len, value, value_len);
    take_credential(c, key, key_len, value, value_len);
    for (size_t i = 0; i < DEQ_COUNT(kept); i++) {
        const char **const slot = (const char **)((char *)c + kept[i].offset);
        if (is_name(key, key_len, kept[i].name) && !*slot)
            *slot = end_at(value, value_len);
    }
    if (is_name(key, key_len, "Accept")) {
        header_accept(end_at(value, value_len), "application/octet-stream", &c->octets);
        header_accept(value, "application/json", &c->json);
    }
    c->is_encoded =
        c->is_encoded || (is_name(key, key_len, "Content-Encoding") && !header_is_identity(end_at(value, value_len)));
    c->origins += is_name(key, key_len, "Origin");
    c->browser = c->browser || is_name(key, key_len, "Origin") || (key_len > 10 && !strncasecmp(key, "Sec-Fetch-", 10));
    return MHD_YES;
}

/* libmicrohttpd reads Content-Length and Transfer-Encoding before it shows them, with the blanks behind them. Blanks
 * may stand before a value as well: they are moved there, in the lines that have come along with the request's first.
 * Behind what has come the buffer is zero; nothing past this page is looked at, since the buffer may end there. */
static void move_blanks(char *line)
{
    enum { PAGE_BYTES = 4096 };
    const char *const stop = line + (PAGE_BYTES - (uintptr_t)line % PAGE_BYTES);
    for (;;) {
        char *end = line;
        while (end < stop && *end && *end != '\n')
            end++;
        if (end == stop || !*end || end - line < 2 || end[-1] != '\r')
            return; /* not all there, or the empty line */
        char *const from = memchr(line, ':', (size_t)(end - line)), *value_end = end - 1;
        while (from && value_end > from + 1 && (value_end[-1] == ' ' || value_end[-1] == '\t'))
            value_end--;
        if (from && value_end > from + 1 && *line != ' ' && *line != '\t') {
            const size_t blanks = (size_t)(end - 1 - value_end);
            memmove(from + 1 + blanks, from + 1, (size_t)(value_end - from - 1));
            memset(from + 1, ' ', blanks);
        }
        line = end + 1;
    }
}

/* The request's target as it came, before libmicrohttpd cuts it: a zero byte in it, or controls, or more of it than
 * anybody needs. */
void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct socket_state *s = i ? i->socket_context : NULL;
    const size_t n = strlen(uri);
    (void)cls;
    if (!s)
        return NULL;
    s->bad_target = strstr(uri, "%00") != NULL;
    for (size_t k = 0; k < n; k++)
        s->bad_target = s->bad_target || (unsigned char)uri[k] <= 0x20 || uri[k] == 0x7f;
    s->long_target = n > TARGET_MAX_BYTES;
    s->target_end = uri + n + 1;
    char *const version = (char *)(uintptr_t)uri + n + 1;
    const bool crlf = !strncmp(version, "HTTP/1.", 7) && strlen(version) == 8 && !version[9]; /* two zeros now */
    if (!s->bad_target && crlf)
        move_blanks(version + 10);
    /* No path of ours takes a query. Behind the '?' it would be cut into pieces that fill libmicrohttpd's memory; it is
     * ended here. */
    char *query = strchr((char *)(uintptr_t)uri, '?');
    if (query && query[1])
        query[1] = 0;
    return NULL;
}

static bool printable_id(const char *id)
{
    size_t n = 0;
    for (; id[n]; n++)
        if (id[n] < 0x21 || id[n] > 0x7e || id[n] == '"' || id[n] == '\\')
            return false;
    return n > 0 && n <= 128;
}

/* W3C Trace Context, version 00: 00-<32 hex>-<16 hex>-<2 hex>, ids not all zero; anything else counts as absent. */
static void take_traceparent(struct exchange *x, const char *v)
{
    static const int dashes[] = {2, 35, 52};
    if (!v || strlen(v) != 55 || strncmp(v, "00-", 3) || strspn(v, "0123456789abcdef-") != 55)
        return;
    size_t n_dashes = 0;
    for (size_t i = 0; i < 55; i++)
        n_dashes += v[i] == '-';
    for (size_t i = 0; i < DEQ_COUNT(dashes); i++)
        if (v[dashes[i]] != '-')
            return;
    if (n_dashes != 3 || strspn(v + 3, "0") >= 32 || strspn(v + 36, "0") >= 16)
        return;
    memcpy(x->trace_id, v + 3, 32);
    memcpy(x->parent_id, v + 36, 16);
}

void http_refuse(struct request_state *s, int status, const char *code, const char *message)
{
    if (!s->x.status) /* the first reason counts */
        s->http->handler.refuse(&s->x, status, code, NULL, message);
}

static struct caller anonymous(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = i ? i->client_addr : NULL;
    if (a && a->sa_family == AF_INET)
        return auth_anonymous(&((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    if (a && a->sa_family == AF_INET6 &&
        IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr))
        return auth_anonymous((const char *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr + 12, 4);
    if (a && a->sa_family == AF_INET6)
        return auth_anonymous(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 8); /* one customer's */
    return auth_anonymous("", 0);
}

/* RFC 9112 3.2.2: the path behind http://HOST, and the host, which counts instead of the header's. Other targets stay
 * as they are. */
static const char *path_of_target(const char *target, const char **host, char ret_host[HOST_MAX_BYTES])
{
    const size_t scheme = !strncasecmp(target, "http://", 7) ? 7 : !strncasecmp(target, "https://", 8) ? 8 : 0;
    const size_t n = scheme ? strcspn(target + scheme, "/?#") : 0;
    if (!n || n >= HOST_MAX_BYTES || memchr(target + scheme, '@', n))
        return target;
    memcpy(ret_host, target + scheme, n);
    ret_host[n] = 0;
    *host = ret_host;
    return target[scheme + n] ? target + scheme + n : "/";
}

/* Who asks, and in whose name. */
static void take_page(struct request_state *s, const struct listener *l, struct header_check *c)
{
    struct exchange *x = &s->x;
    const struct conf *conf = s->http->conf;
    char host[HOST_MAX_BYTES];
    x->path = path_of_target(x->path, &c->host_value, host);
    const struct origin_head h = {x->method, c->host_value, c->origin, c->origins, c->site, c->mode};
    x->wrong_host = (l->loopback || conf->hosts[0]) && !origin_host_allowed(conf->hosts, c->host_value);
    x->browser = c->browser;
    x->page = origin_judge(conf->cors_origins, &h);
    x->origin = x->page == ORIGIN_ALLOWED ? c->origin : NULL;
    x->preflight = !strcmp(x->method, "OPTIONS") && c->origin && c->ask_method && x->page != ORIGIN_FOREIGN;
    x->ask_headers = c->ask_headers;
    x->ask_private = c->ask_private && !strcasecmp(c->ask_private, "true");
}

/* Against the head as a whole, what single headers do not tell. */
static const char *problem_of(struct request_state *s, const struct header_check *c, const struct socket_state *from,
                              const char *version)
{
    const struct exchange *x = &s->x;
    const union MHD_ConnectionInfo *size = MHD_get_connection_info(s->conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (c->content_length > 1 || c->transfer_encoding > 1 || (c->content_length && c->transfer_encoding))
        return "Content-Length or Transfer-Encoding given twice or together";
    if (from && (from->bad_target || x->method + strlen(x->method) + 1 != x->path || from->target_end != version ||
                 !is_token(x->method, strlen(x->method))))
        return "the request line holds a zero byte, a control character or further blanks";
    if (c->transfer_encoding && strcmp(version, "HTTP/1.1"))
        return "Transfer-Encoding in a request that is not HTTP/1.1";
    if (c->host > 1)
        return "Host given twice";
    /* behind the last header stands the empty line, and there the head ends: else the last header went on, or a line
     * began with ':' or a zero byte, which libmicrohttpd takes for the end */
    if (c->end && (!size || c->end + 4 != x->method + size->header_size))
        return "the last header line is folded, holds a zero byte or does not end in CRLF, or another has no name";
    return c->problem;
}

/* 0: not a number in its range. */
static uint32_t timeout_of(const char *text)
{
    const size_t n = strlen(text);
    const unsigned long ms = n && n < 9 && strspn(text, "0123456789") == n ? strtoul(text, NULL, 10) : 0;
    return ms <= TIMEOUT_MAX_MS ? (uint32_t)ms : 0;
}

/* What the headers decide: an answer, or that the body is wanted. */
void http_check_head(struct request_state *s, const struct listener *l, const struct socket_state *from,
                     const char *version)
{
    struct http *h = s->http;
    struct exchange *x = &s->x;
    struct header_check c = {0};
    struct credential keys[2];
    size_t n_keys = 0;
    MHD_get_connection_values_n(s->conn, MHD_HEADER_KIND, check_header, &c);
    if (c.id && printable_id(c.id))
        snprintf(x->request_id, sizeof x->request_id, "%s", c.id);
    else
        snprintf(x->request_id, sizeof x->request_id, "%016llx",
                 (unsigned long long)deq_rng_u64(h->run_id, 0, atomic_fetch_add(&h->next_request, 1)));
    x->content_type = c.content_type && *c.content_type ? c.content_type : NULL; /* an empty one names no type */
    x->is_encoded = c.is_encoded;
    /* what is named goes before what is covered by an asterisk */
    x->wants_octets = c.octets.q && (c.octets.q > c.json.q || (c.octets.q == c.json.q && c.octets.specific == 3));
    take_traceparent(x, c.traceparent);
    if (from && from->long_target)
        http_refuse(s, 414, "uri_too_long", "the request's target exceeds 8192 bytes");
    const char *problem = problem_of(s, &c, from, version);
    if (problem)
        http_refuse(s, 400, "invalid_header", problem);
    x->timeout_ms = c.timeout ? timeout_of(c.timeout) : 0;
    if (c.timeout && !x->timeout_ms)
        http_refuse(s, 400, "invalid_header", "X-Request-Timeout-Ms is not a number from 1 to 86400000");
    if (c.count > HEADERS_MAX || c.bytes > HEADER_MAX_BYTES)
        http_refuse(s, 431, "headers_too_large", "the headers are too many or too large");
    take_page(s, l, &c);
    x->caller = anonymous(s->conn);
    s->close_after_reply = x->status != 0;
    s->body_bytes = c.transfer_encoding ? DISCARD_MAX_BYTES + 1 : c.length;
    /* the same header twice: a proxy in front may have looked at the other one */
    if (c.authorization == 1 && c.bearer.n)
        keys[n_keys++] = c.bearer;
    if (c.api_key == 1 && c.key.n && c.authorization < 2)
        keys[n_keys++] = c.key;
    h->handler.check(h->handler.ctx, x, keys, c.api_key > 1 ? 0 : n_keys);
    /* whoever asks first whether to send the body is told now, and then does not send it */
    s->close_after_reply = s->close_after_reply || x->overfull || c.length > h->conf->max_body_bytes || c.expect;
    if (c.length > h->conf->max_body_bytes)
        http_refuse(s, 413, "body_too_large", "the body exceeds server.max_body_bytes");
}
