#define _GNU_SOURCE
#include "server/net/origin.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { NAME_MAX_BYTES = 255 };

/* HOST[:PORT]; IPv6 in brackets. */
struct authority {
    const char *name;
    size_t n; /* without the dot that may end a name */
    unsigned long port;
};

static bool parse_authority(const char *s, size_t len, unsigned long default_port, struct authority *ret)
{
    const bool v6 = len && s[0] == '[';
    const char *close = v6 ? memchr(s, ']', len) : NULL;
    const size_t n = v6 ? (close ? (size_t)(close - s) + 1 : 0) : strcspn(s, ":");
    *ret = (struct authority){s, DEQ_MIN(n, len), default_port};
    if (ret->n <= (v6 ? strlen("[]") : 0) || ret->n > NAME_MAX_BYTES || strcspn(s, " \t\"#*,/<>?@\\^`{|}") < len)
        return false;
    if (ret->n < len) {
        const char *digits = s + ret->n + 1;
        const size_t n_digits = len - ret->n - 1;
        if (s[ret->n] != ':' || n_digits > 5 || strspn(digits, "0123456789") < n_digits)
            return false;
        unsigned long port = 0;
        for (size_t i = 0; i < n_digits; i++)
            port = port * 10 + (unsigned long)(digits[i] - '0');
        ret->port = n_digits ? port : default_port;
    }
    if (!v6 && ret->n > 1 && s[ret->n - 1] == '.')
        ret->n--;
    return ret->port <= 65535;
}

static bool same_name(const struct authority *a, const char *name, size_t n)
{
    return a->n == n && !strncasecmp(a->name, name, n);
}

struct origin {
    const char *scheme;
    size_t n_scheme;
    unsigned long default_port; /* of the scheme; 0: none */
    struct authority at;
};

static bool parse_origin(const char *s, size_t len, struct origin *ret)
{
    const char *sep = memmem(s, len, "://", 3);
    const size_t n = sep ? (size_t)(sep - s) : 0;
    if (!n)
        return false;
    ret->scheme = s;
    ret->n_scheme = n;
    ret->default_port = n == 4 && !strncasecmp(s, "http", 4) ? 80 : n == 5 && !strncasecmp(s, "https", 5) ? 443 : 0;
    return parse_authority(sep + 3, len - n - 3, ret->default_port, &ret->at);
}

static bool same_origin(const char *a, size_t n_a, const char *b)
{
    struct origin x, y;
    if (!strcmp(b, "null"))
        return n_a == 4 && !strncmp(a, "null", 4);
    return parse_origin(a, n_a, &x) && parse_origin(b, strlen(b), &y) && x.n_scheme == y.n_scheme &&
           !strncasecmp(x.scheme, y.scheme, x.n_scheme) && x.at.port == y.at.port &&
           same_name(&x.at, y.at.name, y.at.n);
}

/* The next item of a list, or NULL. */
static const char *next_item(const char **list, size_t *ret_n)
{
    const char *item = *list;
    *ret_n = strcspn(item, "\n");
    *list = item + *ret_n + (item[*ret_n] == '\n');
    return *ret_n ? item : NULL;
}

static bool is_any(const char *item, size_t n)
{
    return n == 1 && *item == '*';
}

static bool listed(const char *list, const char *origin)
{
    size_t n;
    for (const char *item; (item = next_item(&list, &n));)
        if (is_any(item, n) || (origin && same_origin(item, n, origin)))
            return true;
    return false;
}

/* A page that came from the host that is asked now. Which of http and https is the proxy's in front, who may have taken
 * TLS off; a page of another scheme is an app's, whatever its host is called. */
static bool from_here(const char *origin, const char *host)
{
    struct origin o;
    struct authority h;
    return host && parse_origin(origin, strlen(origin), &o) && o.default_port &&
           parse_authority(host, strlen(host), o.default_port, &h) && h.port == o.at.port &&
           same_name(&h, o.at.name, o.at.n);
}

static bool is_site(const struct origin_head *h, const char *site)
{
    return h->site && !strcasecmp(h->site, site);
}

enum origin_verdict origin_judge(const char *list, const struct origin_head *h)
{
    if (h->n_origins > 1)
        return ORIGIN_FOREIGN;
    if (h->origin && listed(list, h->origin))
        return ORIGIN_ALLOWED;
    if (h->site) { /* the browser knows, and no page can write this header */
        if (is_site(h, "same-origin") || is_site(h, "none"))
            return ORIGIN_NONE;
        /* who follows a link has left the other page; a page that reads nothing and costs nothing */
        const bool safe = !strcmp(h->method, "GET") || !strcmp(h->method, "HEAD");
        const bool link = safe && !h->origin && h->mode && !strcasecmp(h->mode, "navigate");
        return link || (!h->origin && listed(list, NULL)) ? ORIGIN_NONE : ORIGIN_FOREIGN;
    }
    return !h->origin || from_here(h->origin, h->host) ? ORIGIN_NONE : ORIGIN_FOREIGN;
}

static bool is_address(const struct authority *a)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char bytes[16];
    if (a->n >= sizeof text)
        return false;
    const bool v6 = a->name[0] == '[';
    snprintf(text, sizeof text, "%.*s", (int)(v6 ? a->n - 2 : a->n), a->name + v6);
    return inet_pton(v6 ? AF_INET6 : AF_INET, text, bytes) == 1;
}

bool origin_host_allowed(const char *list, const char *host)
{
    static const char local[] = ".localhost";
    struct authority a;
    size_t n;
    if (!host || !*host)
        return true;
    if (!parse_authority(host, strlen(host), 0, &a))
        return false;
    if (is_address(&a) || !memchr(a.name, '.', a.n))
        return true;
    if (a.n >= sizeof local && !strncasecmp(a.name + a.n - (sizeof local - 1), local, sizeof local - 1))
        return true;
    for (const char *item; (item = next_item(&list, &n));)
        if (is_any(item, n) || same_name(&a, item, n))
            return true;
    return false;
}

enum deq_rc origin_check_origins(const char *option, const char *list, struct deq_err *err)
{
    struct origin o;
    size_t n;
    for (const char *item; (item = next_item(&list, &n));)
        if (!is_any(item, n) && !(n == 4 && !strncmp(item, "null", 4)) && !parse_origin(item, n, &o))
            return deq_fail(
                err, DEQ_EINVAL,
                "%s: \"%.*s\" is not an origin: expected SCHEME://HOST[:PORT] without a path, \"null\" or \"*\"",
                option, (int)n, item);
    return DEQ_OK;
}

enum deq_rc origin_check_hosts(const char *option, const char *list, struct deq_err *err)
{
    size_t n;
    for (const char *item; (item = next_item(&list, &n));)
        if (!is_any(item, n) &&
            (memchr(item, '/', n) || memchr(item, '*', n) || (*item != '[' && memchr(item, ':', n))))
            return deq_fail(err, DEQ_EINVAL,
                            "%s: \"%.*s\" is not a name: expected one without port and scheme, or \"*\"", option,
                            (int)n, item);
    return DEQ_OK;
}
