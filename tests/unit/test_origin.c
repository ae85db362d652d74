/* Whose pages may ask, and under which names. */
#include "server/net/origin.h"

#include "tests/unit/test.h"

#define LIST "https://app.example.com\nhttp://localhost:3000\nhttp://[::1]:5173"

TEST(origin_of_pages)
{
    static const struct {
        enum origin_verdict want;
        const char *list, *method, *host, *origin, *site, *mode;
    } t[] = {
        /* no browser */
        {ORIGIN_NONE, "", "POST", "localhost", NULL, NULL, NULL},
        {ORIGIN_NONE, LIST, "POST", NULL, NULL, NULL, NULL},
        /* the daemon's own pages */
        {ORIGIN_NONE, "", "POST", "localhost:8080", "http://localhost:8080", NULL, NULL},
        {ORIGIN_NONE, "", "POST", "LOCALHOST:8080", "http://localhost:8080", NULL, NULL},
        {ORIGIN_NONE, "", "POST", "deqd", "http://deqd", NULL, NULL},
        {ORIGIN_NONE, LIST, "POST", "deqd:8080", "http://deqd:8080", NULL, NULL}, /* whatever is on the list */
        {ORIGIN_NONE, LIST, "DELETE", "localhost:8080", "http://localhost:8080", "same-origin", "cors"},
        {ORIGIN_FOREIGN, LIST, "DELETE", "localhost:8080", "http://localhost:3001", "same-site", "cors"},
        {ORIGIN_NONE, "", "POST", "deqd:80", "http://deqd", NULL, NULL},
        {ORIGIN_NONE, "", "POST", "deqd", "https://deqd", NULL, NULL}, /* a proxy took TLS off */
        {ORIGIN_NONE, "", "POST", "deqd:443", "https://deqd", NULL, NULL},
        {ORIGIN_NONE, "", "POST", "[::1]:8080", "http://[::1]:8080", NULL, NULL},
        {ORIGIN_NONE, "", "POST", "inner", "https://outer", "same-origin", "cors"}, /* a proxy changed Host */
        {ORIGIN_NONE, "", "GET", "localhost", NULL, "none", "navigate"},
        /* others */
        {ORIGIN_FOREIGN, "", "POST", "localhost:8080", "http://localhost:3000", NULL, NULL},
        {ORIGIN_FOREIGN, "", "GET", "localhost:8080", "http://localhost", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "http://localhost:3000", NULL, NULL}, /* no port is the scheme's */
        {ORIGIN_FOREIGN, "", "POST", "localhost", "https://localhost:80", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "capacitor://localhost", NULL, NULL}, /* an app's page */
        {ORIGIN_FOREIGN, "", "POST", "localhost", "http://localhost.evil.example", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "http://evil.example", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "null", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "localhost", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "http://x@localhost", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", NULL, "http://localhost", NULL, NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", NULL, "cross-site", "no-cors"},
        {ORIGIN_FOREIGN, "", "POST", "localhost", NULL, "same-site", "no-cors"},
        {ORIGIN_FOREIGN, "", "POST", "localhost", NULL, "Cross-Site", NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "http://localhost", "cross-site", NULL},
        {ORIGIN_FOREIGN, "", "POST", "localhost", NULL, "what", NULL},
        {ORIGIN_FOREIGN, "", "GET", "localhost", NULL, "cross-site", "no-cors"},
        /* a link is followed, a form is not sent */
        {ORIGIN_NONE, "", "GET", "localhost", NULL, "cross-site", "navigate"},
        {ORIGIN_FOREIGN, "", "POST", "localhost", "http://evil.example", "cross-site", "navigate"},
        {ORIGIN_FOREIGN, "", "POST", "localhost", NULL, "cross-site", "navigate"},
        /* the list: exactly */
        {ORIGIN_ALLOWED, LIST, "POST", "localhost", "https://app.example.com", "cross-site", "cors"},
        {ORIGIN_ALLOWED, LIST, "POST", "localhost", "https://app.example.com:443", NULL, NULL},
        {ORIGIN_ALLOWED, LIST, "POST", "localhost", "HTTPS://APP.example.com", NULL, NULL},
        {ORIGIN_ALLOWED, LIST, "POST", "localhost", "http://localhost:3000", "same-site", "cors"},
        {ORIGIN_ALLOWED, LIST, "POST", "localhost", "http://[::1]:5173", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "http://app.example.com", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "https://app.example.com:8443", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "https://x.app.example.com", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "https://app.example.com.evil.example", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "https://app.example.co", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "https://app.example.com/", NULL, NULL},
        {ORIGIN_FOREIGN, LIST, "POST", "localhost", "null", NULL, NULL},
        {ORIGIN_ALLOWED, "null", "POST", "localhost", "null", "cross-site", NULL},
        {ORIGIN_ALLOWED, "*", "POST", "localhost", "https://any.example", "cross-site", "cors"},
        {ORIGIN_ALLOWED, "*", "POST", "localhost", "null", NULL, NULL},
        {ORIGIN_NONE, "*", "GET", "localhost", NULL, "cross-site", "no-cors"},
    };
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const struct origin_head h = {t[i].method, t[i].host, t[i].origin, t[i].origin != NULL, t[i].site, t[i].mode};
        CHECK_MSG(origin_judge(t[i].list, &h) == t[i].want, "case %zu: %s from %s", i, t[i].host ? t[i].host : "-",
                  t[i].origin ? t[i].origin : "-");
    }
    const struct origin_head twice = {"POST", "localhost", "http://localhost", 2, NULL, NULL};
    CHECK(origin_judge("*", &twice) == ORIGIN_FOREIGN);
}

TEST(origin_hosts)
{
    static const char *const always[] = {"", "localhost", "LocalHost:8080", "localhost.", "a.localhost:1", "127.0.0.1",
                                         "127.0.0.1:8080", "[::1]", "[::1]:8080", "10.1.2.3:80", "deqd", "x:",
                                         "deqd:80"};
    static const char *const never[] = {"evil.example", "evil.example:8080", "localhost.evil.example",
                                        "127.0.0.1.evil.example", "1.2.3", "a.b@localhost", "evil.example.", "[::1",
                                        "[evil.example]x", "evil.localhost.example", "localhost:x", ".localhost.x",
                                        "[]", "a b", "local#host"};
    for (size_t i = 0; i < DEQ_COUNT(always); i++)
        CHECK_MSG(origin_host_allowed("", always[i]), "%s", always[i]);
    for (size_t i = 0; i < DEQ_COUNT(never); i++)
        CHECK_MSG(!origin_host_allowed("", never[i]), "%s", never[i]);
    CHECK(origin_host_allowed("", NULL));
    CHECK(origin_host_allowed("api.example.com\nother.example", "API.example.com:443") &&
          origin_host_allowed("api.example.com\nother.example", "other.example."));
    CHECK(!origin_host_allowed("api.example.com", "x.api.example.com") &&
          !origin_host_allowed("api.example.com", "api.example.co"));
    CHECK(origin_host_allowed("*", "evil.example"));
}

TEST(origin_lists)
{
    static const char *const origins[] = {"", "*", "null", LIST, "chrome-extension://abcdef"};
    static const char *const no_origins[] = {"app.example.com", "https://", "https://a/", "http://a:x", "a\n*",
                                             "https://*.example.com", "http://a b"};
    static const char *const hosts[] = {"", "*", "api.example.com\ndeqd", "[::1]"};
    static const char *const no_hosts[] = {"http://a", "a:80", "*.example.com", "a/b"};
    struct deq_err err;
    for (size_t i = 0; i < DEQ_COUNT(origins); i++)
        CHECK_MSG(origin_check_origins("o", origins[i], &err) == DEQ_OK, "%s", origins[i]);
    for (size_t i = 0; i < DEQ_COUNT(no_origins); i++)
        CHECK_MSG(origin_check_origins("o", no_origins[i], &err) == DEQ_EINVAL && !strncmp(err.text, "o: \"", 4), "%s",
                  no_origins[i]);
    for (size_t i = 0; i < DEQ_COUNT(hosts); i++)
        CHECK_MSG(origin_check_hosts("h", hosts[i], &err) == DEQ_OK, "%s", hosts[i]);
    for (size_t i = 0; i < DEQ_COUNT(no_hosts); i++)
        CHECK_MSG(origin_check_hosts("h", no_hosts[i], &err) == DEQ_EINVAL, "%s", no_hosts[i]);
}
