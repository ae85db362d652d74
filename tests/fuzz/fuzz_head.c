/* A request's head as it is checked around libmicrohttpd: lines cut as that cuts them, then server/net/head.c.
 *
 * Input: the lines behind the request line. A head that is taken is one of the grammar of RFC 9112, read here a second
 * time without libmicrohttpd's ways, and says the same; folded lines, which libmicrohttpd moves about in memory, are
 * fuzz_http.c's. Then every header's value goes through the grammars of values. */
#define _GNU_SOURCE
#include <strings.h>

#include "server/net/head.h"
#include "server/net/origin.h"
#include "tests/fuzz/fuzz.h"

enum { PAGE = 4096, BUFFER = 4 * PAGE };

/* --- As libmicrohttpd 0.9.75 reads --- */

/* Zeroes the end of the line at [at, n); returns where the next begins, or 0: it is not all there. */
static size_t cut_line(char *s, size_t n, size_t at)
{
    while (at < n && s[at] != '\r' && s[at] != '\n')
        at++;
    if (at >= n || (s[at] == '\r' && at + 1 >= n))
        return 0;
    if (s[at] == '\r' && s[at + 1] == '\n')
        s[at++] = 0;
    s[at++] = 0;
    return at;
}

/* False: it would refuse, wait for more, or fold. *ret_end: behind the empty line. */
static bool read_head(char *s, size_t n, struct head *c, size_t *ret_end)
{
    for (size_t at = 0, next; (next = cut_line(s, n, at)); at = next) {
        char *const line = s + at, *const colon = strchr(line, ':');
        if (!*line) {
            *ret_end = next;
            return true;
        }
        if (*line == ' ' || *line == '\t' || !colon)
            return false;
        *colon = 0;
        const char *const value = colon + 1 + strspn(colon + 1, " \t");
        if (next < n && (s[next] == ' ' || s[next] == '\t'))
            return false;
        head_add(c, line, strlen(line), value, strlen(value));
    }
    return false;
}

/* --- As the grammar has it --- */

struct strict {
    bool ok;
    size_t count, end, lengths, codings, hosts;
    uint64_t length;
    const char *host, *type, *id; /* the first of each, [n] */
    size_t n_host, n_type, n_id;
};

static void keep_first(const char **ret, size_t *ret_n, const char *value, size_t n)
{
    if (!*ret) {
        *ret = value;
        *ret_n = n;
    }
}

static bool named(const char *key, size_t n, const char *name)
{
    return n == strlen(name) && !strncasecmp(key, name, n);
}

static void take_strict(struct strict *r, const char *key, size_t n_key, const char *value, size_t n)
{
    r->count++;
    r->hosts += named(key, n_key, "Host");
    r->codings += named(key, n_key, "Transfer-Encoding");
    if (named(key, n_key, "Host"))
        keep_first(&r->host, &r->n_host, value, n);
    if (named(key, n_key, "Content-Type"))
        keep_first(&r->type, &r->n_type, value, n);
    if (named(key, n_key, "X-Request-Id"))
        keep_first(&r->id, &r->n_id, value, n);
    if (!named(key, n_key, "Content-Length"))
        return;
    r->lengths++;
    r->length = 0;
    for (size_t i = 0; i < n; i++)
        r->length = r->length * 10 + (uint64_t)(value[i] - '0');
}

static struct strict read_strict(const char *s, size_t n)
{
    struct strict r = {0};
    for (size_t at = 0;;) {
        const char *const end = memmem(s + at, n - at, "\r\n", 2);
        if (!end)
            return r;
        if (end == s + at) {
            r.ok = true;
            r.end = at + 2;
            return r;
        }
        const char *const key = s + at, *const colon = memchr(key, ':', (size_t)(end - key));
        if (!colon || !head_is_token(key, (size_t)(colon - key)))
            return r;
        const char *value = colon + 1, *stop = end;
        for (const char *p = value; p < end; p++)
            if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f)
                return r;
        while (value < stop && (*value == ' ' || *value == '\t'))
            value++;
        while (stop > value && (stop[-1] == ' ' || stop[-1] == '\t'))
            stop--;
        take_strict(&r, key, (size_t)(colon - key), value, (size_t)(stop - value));
        at = (size_t)(end - s) + 2;
    }
}

static void check_kept(const char *got, const char *want, size_t n)
{
    FUZZ_HOLDS(!got == !want && (!got || (strlen(got) == n && !memcmp(got, want, n))));
}

static bool is_line_end(char c)
{
    return !c || c == '\r' || c == '\n';
}

/* Two bytes of which one is a zero byte, or a bare CR behind one, look like CRLF once both are zeros: that is known
 * (tests/http/headers.http). */
static void check_taken(const struct head *c, const uint8_t *data, size_t n, size_t end)
{
    char *raw = fuzz_copy(data, n);
    for (size_t i = 0; i + 1 < end; i++)
        if (is_line_end(raw[i]) && is_line_end(raw[i + 1])) {
            memcpy(raw + i, "\r\n", 2);
            i++;
        }
    const struct strict r = read_strict(raw, n);
    FUZZ_HOLDS(r.ok && r.end == end && r.count == c->count);
    FUZZ_HOLDS(r.lengths == c->content_length && r.codings == c->transfer_encoding && r.hosts == c->host);
    FUZZ_HOLDS(!r.lengths || r.length == c->length);
    check_kept(c->host_value, r.host, r.n_host);
    check_kept(c->content_type, r.type, r.n_type);
    check_kept(c->id, r.id, r.n_id);
    free(raw);
}

/* --- Values --- */

static void check_value(const char *text)
{
    static const char *const origins[] = {"*", "null", "https://a.example\nhttp://b.example:8080"};
    struct header_weight w = {0, 0};
    char trace[33] = "", parent[17] = "", host[HEAD_HOST_MAX_BYTES];
    const char *named_host = NULL;
    header_accept(text, "application/json", &w);
    FUZZ_HOLDS(w.specific <= 3 && w.q <= 1000);
    FUZZ_HOLDS(!header_type_is(text, "application/json") || strcasestr(text, "application/json"));
    FUZZ_HOLDS(!header_is_identity(text) || !strcasestr(text, "gzip"));
    FUZZ_HOLDS(!header_has_tag(text, "\"x\"") || strstr(text, "\"x\"") || strchr(text, '*'));
    FUZZ_HOLDS(head_timeout_ms(text) <= 86400000);
    FUZZ_HOLDS(!head_id_is_printable(text) || strlen(text) <= 128);
    if (head_trace(text, trace, parent))
        FUZZ_HOLDS(strlen(trace) == 32 && strlen(parent) == 16 && strspn(trace, "0123456789abcdef") == 32);
    const char *path = head_path_of_target(text, &named_host, host);
    FUZZ_HOLDS(!named_host || (named_host == host && *host && !strpbrk(host, "/?#@") && *path));
    FUZZ_HOLDS(named_host || path == text);
    for (size_t i = 0; i < DEQ_COUNT(origins); i++) {
        const struct origin_head h = {"POST", "a.example", text, 1, "cross-site", "cors"};
        FUZZ_HOLDS(origin_judge(origins[i], &h) != ORIGIN_ALLOWED || !i ||
                   strcasestr(text, i == 1 ? "null" : ".example"));
    }
    const char *dot = strchr(text, '.');
    const bool somebodys = dot && dot[1] && dot[1] != ':' && *text != '[' && text[strspn(text, "0123456789.:")];
    FUZZ_HOLDS(!origin_host_allowed("a.example", text) || !somebodys || strcasestr(text, "a.example") ||
               strcasestr(text, ".localhost"));
    struct deq_err err;
    if (origin_check_origins("server.cors_origins", text, &err))
        fuzz_check_err(err.code, &err);
    if (origin_check_hosts("server.hosts", text, &err))
        fuzz_check_err(err.code, &err);
}

static void check_values(const uint8_t *data, size_t n)
{
    char *text = fuzz_text(data, n), *save = NULL;
    for (char *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        const char *colon = strchr(line, ':');
        char *value = fuzz_text((const uint8_t *)(colon ? colon + 1 : line), strlen(colon ? colon + 1 : line));
        check_value(value);
        free(value);
    }
    free(text);
}

/* Moves nothing but blanks, which then stay where they are. */
static void check_moved(const char *moved, const uint8_t *raw, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        FUZZ_HOLDS((raw[i] == '\n') == (moved[i] == '\n'));
        if (raw[i] == ' ' || raw[i] == '\t')
            continue;
        while (moved[at] == ' ' || moved[at] == '\t')
            at++;
        FUZZ_HOLDS((uint8_t)moved[at++] == raw[i]);
    }
}

FUZZ(head)
{
    static char again[BUFFER] __attribute__((aligned(PAGE)));
    struct head c = {0};
    size_t end;
    if (n >= BUFFER)
        return;
    char *s = aligned_alloc(PAGE, BUFFER);
    if (!s)
        abort();
    memset(s, 0, BUFFER);
    memcpy(s, data, n);
    head_move_blanks(s);
    check_moved(s, data, n);
    memcpy(again, s, BUFFER);
    head_move_blanks(again);
    FUZZ_HOLDS(!memcmp(again, s, BUFFER));
    if (read_head(s, n, &c, &end) && !c.problem && (c.end ? c.end + 4 == s + end && !c.end[1] && !c.end[2] : end == 2))
        check_taken(&c, data, n, end);
    free(s);
    check_values(data, n);
}
