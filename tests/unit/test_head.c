/* server/net/head.c: lines of a request's head as libmicrohttpd cuts them, good ones and those that a proxy in front
 * may have read otherwise. */
#include "server/net/head.h"

#include <stdio.h>
#include <string.h>

#include "core/base/base.h"
#include "tests/unit/test.h"

/* Lies where libmicrohttpd would have it: zeros behind what has come. */
static char buffer[8192] __attribute__((aligned(4096)));

/* Reads the lines of a head, each with its end; names end at the first ':', values begin behind blanks. */
static struct head read_head(const char *lines)
{
    struct head h = {0};
    memset(buffer, 0, sizeof buffer);
    snprintf(buffer, sizeof buffer, "%s", lines);
    for (char *line = buffer, *end; (end = strstr(line, "\r\n")); line = end + 2) {
        char *const colon = strchr(line, ':'), *const value = colon + 1 + strspn(colon + 1, " \t");
        *colon = 0;
        end[0] = end[1] = 0;
        head_add(&h, line, (size_t)(colon - line), value, (size_t)(end - value));
    }
    return h;
}

TEST(head_lines_are_kept_without_blanks)
{
    const struct head h =
        read_head("Host: a.example \r\nX-Request-Id:\tabc\t \r\nX-Request-Id: second\r\nContent-Length: 12 \r\n"
                  "authorization: bEARER  k1\r\nX-Api-Key: k2\r\nOrigin: https://a.example\r\n");
    CHECK(!h.problem);
    CHECK_EQ(h.count, 7);
    CHECK_EQ(h.host_value, "a.example");
    CHECK_EQ(h.id, "abc"); /* the first counts */
    CHECK_EQ(h.length, 12);
    CHECK(h.browser && h.origins == 1 && h.authorization == 1 && h.api_key == 1);
    CHECK(h.bearer.n == 2 && !memcmp(h.bearer.key, "k1", 2) && h.key.n == 2 && !memcmp(h.key.key, "k2", 2));
}

TEST(head_lines_that_mean_two_things)
{
    static const struct {
        const char *lines, *problem;
    } t[] = {
        {"Content-Length: 5\r\n", NULL},
        {"Content-Length: +5\r\n", "Content-Length is not a number"},
        {"Content-Length: 5, 5\r\n", "Content-Length is not a number"},
        {"Content-Length:\r\n", "Content-Length is not a number"},
        {"Content-Length: 1234567890123456789\r\n", "Content-Length is not a number"},
        {"Transfer-Encoding: CHUNKED\r\n", NULL},
        {"Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding other than chunked"},
        {"Transfer-Encoding: chunked \r\n", "Transfer-Encoding other than chunked"},
        {"A: b\x01\r\n", "a header holds a control character"},
        {"A: b\tc\r\n", NULL},
        {"A b: c\r\n", "a header's name holds what no name may hold"},
        {"A : c\r\n", "a header's name holds what no name may hold"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const struct head h = read_head(t[i].lines);
        CHECK_MSG(!h.problem == !t[i].problem && (!h.problem || !strcmp(h.problem, t[i].problem)), "%s: %s", t[i].lines,
                  h.problem ? h.problem : "-");
    }
    /* a gap between two lines is what libmicrohttpd did not show */
    static char lines[] = "A:b\0\0?C:d\0\0";
    struct head h = {0};
    head_add(&h, lines, 1, lines + 2, 1);
    CHECK(!h.problem);
    head_add(&h, lines + 6, 1, lines + 8, 1);
    CHECK_EQ(h.problem, "a header line is folded, holds a zero byte or does not end in CRLF");
}

TEST(head_blanks_go_before_the_value)
{
    static const char *const t[][2] = {
        {"Content-Length: 5  \r\nA: b\t\r\n\r\n", "Content-Length:   5\r\nA:  b\r\n\r\n"},
        {"A:\r\nB:   \r\n\r\n", "A:\r\nB:   \r\n\r\n"},                 /* nothing but blanks */
        {"A: b\r\n c: d \r\n\r\n", "A: b\r\n c: d \r\n\r\n"},           /* a folded line is left as it is */
        {"A: b \r\nC: d ", "A:  b\r\nC: d "},                           /* the second has not come whole */
        {"A: b \nC: d \r\n", "A: b \nC: d \r\n"},                       /* a bare LF ends it */
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        memset(buffer, 0, sizeof buffer);
        snprintf(buffer, sizeof buffer, "%s", t[i][0]);
        head_move_blanks(buffer);
        CHECK_EQ((const char *)buffer, t[i][1]);
    }
    /* at the end of a page nothing is looked at behind it, and nothing changed */
    memset(buffer, 'x', sizeof buffer);
    memcpy(buffer + 4096 - 6, "A: b \r", 6);
    head_move_blanks(buffer + 4096 - 6);
    CHECK(!memcmp(buffer + 4096 - 6, "A: b \rx", 7));
}

TEST(head_ids_and_times)
{
    char trace[33] = "", parent[17] = "", longest[130];
    memset(longest, 'a', 129);
    longest[129] = 0;
    CHECK(!head_id_is_printable(longest) && head_id_is_printable(longest + 1));
    CHECK(head_id_is_printable("a~!") && !head_id_is_printable("") && !head_id_is_printable("a b") &&
          !head_id_is_printable("a\"") && !head_id_is_printable("a\\") && !head_id_is_printable("\xc3\xa9"));
    CHECK(head_trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", trace, parent));
    CHECK_EQ((const char *)trace, "0af7651916cd43dd8448eb211c80319c");
    CHECK_EQ((const char *)parent, "b7ad6b7169203331");
    static const char *const absent[] = {
        "",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
    };
    CHECK(!head_trace(NULL, trace, parent));
    for (size_t i = 0; i < DEQ_COUNT(absent); i++)
        CHECK_MSG(!head_trace(absent[i], trace, parent), "%s", absent[i]);
    CHECK(head_timeout_ms("1") == 1 && head_timeout_ms("86400000") == 86400000);
    CHECK(!head_timeout_ms("0") && !head_timeout_ms("86400001") && !head_timeout_ms("-1") && !head_timeout_ms("1.5") &&
          !head_timeout_ms("") && !head_timeout_ms("000000001"));
}

TEST(head_targets_with_a_host)
{
    static const struct {
        const char *target, *path, *host; /* host NULL: the header's stays */
    } t[] = {
        {"/v1/models", "/v1/models", NULL},
        {"http://a.example:80/v1/models", "/v1/models", "a.example:80"},
        {"HTTPS://a.example", "/", "a.example"},
        {"http://a.example?x", "?x", "a.example"},
        {"http://user@a.example/", "http://user@a.example/", NULL},
        {"http:///v1", "http:///v1", NULL},
        {"ftp://a.example/", "ftp://a.example/", NULL},
        {"*", "*", NULL},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        char room[HEAD_HOST_MAX_BYTES];
        const char *host = "of-the-header";
        CHECK_EQ(head_path_of_target(t[i].target, &host, room), t[i].path);
        CHECK_EQ(host, t[i].host ? t[i].host : "of-the-header");
    }
}
