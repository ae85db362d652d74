#include "server/net/head.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_MAX_MS = 86400000 };

static const struct {
    const char *name;
    size_t offset;
} kept[] = {
    {"Host", offsetof(struct head, host_value)},
    {"Origin", offsetof(struct head, origin)},
    {"Sec-Fetch-Site", offsetof(struct head, site)},
    {"Sec-Fetch-Mode", offsetof(struct head, mode)},
    {"Content-Type", offsetof(struct head, content_type)},
    {"If-None-Match", offsetof(struct head, none_match)},
    {"Expect", offsetof(struct head, expect)},
    {"X-Request-Id", offsetof(struct head, id)},
    {"traceparent", offsetof(struct head, traceparent)},
    {"X-Request-Timeout-Ms", offsetof(struct head, timeout)},
    {"Access-Control-Request-Method", offsetof(struct head, ask_method)},
    {"Access-Control-Request-Headers", offsetof(struct head, ask_headers)},
    {"Access-Control-Request-Private-Network", offsetof(struct head, ask_private)},
};

bool head_is_token(const char *s, size_t n)
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

/* The buffer is ours to change until the request is done. */
static const char *end_at(const char *value, size_t n)
{
    ((char *)(uintptr_t)value)[n] = 0;
    return value;
}

/* What says where the request ends. */
static void take_framing(struct head *c, const char *key, size_t key_len, const char *value, size_t n)
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

static void take_credential(struct head *c, const char *key, size_t key_len, const char *value, size_t n)
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

void head_add(struct head *c, const char *key, size_t key_len, const char *value, size_t value_len)
{
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
    if (!head_is_token(key, key_len))
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
}

void head_move_blanks(char *line)
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

bool head_id_is_printable(const char *id)
{
    size_t n = 0;
    for (; id[n]; n++)
        if (id[n] < 0x21 || id[n] > 0x7e || id[n] == '"' || id[n] == '\\')
            return false;
    return n > 0 && n <= 128;
}

bool head_trace(const char *v, char ret_trace[33], char ret_parent[17])
{
    static const int dashes[] = {2, 35, 52};
    if (!v || strlen(v) != 55 || strncmp(v, "00-", 3) || strspn(v, "0123456789abcdef-") != 55)
        return false;
    size_t n_dashes = 0;
    for (size_t i = 0; i < 55; i++)
        n_dashes += v[i] == '-';
    for (size_t i = 0; i < DEQ_COUNT(dashes); i++)
        if (v[dashes[i]] != '-')
            return false;
    if (n_dashes != 3 || strspn(v + 3, "0") >= 32 || strspn(v + 36, "0") >= 16)
        return false;
    memcpy(ret_trace, v + 3, 32);
    memcpy(ret_parent, v + 36, 16);
    ret_trace[32] = ret_parent[16] = 0;
    return true;
}

const char *head_path_of_target(const char *target, const char **host, char ret_host[HEAD_HOST_MAX_BYTES])
{
    const size_t scheme = !strncasecmp(target, "http://", 7) ? 7 : !strncasecmp(target, "https://", 8) ? 8 : 0;
    const size_t n = scheme ? strcspn(target + scheme, "/?#") : 0;
    if (!n || n >= HEAD_HOST_MAX_BYTES || memchr(target + scheme, '@', n))
        return target;
    memcpy(ret_host, target + scheme, n);
    ret_host[n] = 0;
    *host = ret_host;
    return target[scheme + n] ? target + scheme + n : "/";
}

uint32_t head_timeout_ms(const char *text)
{
    const size_t n = strlen(text);
    const unsigned long ms = n && n < 9 && strspn(text, "0123456789") == n ? strtoul(text, NULL, 10) : 0;
    return ms <= TIMEOUT_MAX_MS ? (uint32_t)ms : 0;
}
