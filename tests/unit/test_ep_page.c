/* server/api/ep_page.c: the files as they stand, their types, and what a browser is told besides. */
#include <dirent.h>

#include "core/base/io.h"
#include "core/base/mem.h"
#include "server/api/endpoints.h"
#include "tests/unit/test.h"

static struct exchange ask(const char *path, const char *if_none_match)
{
    struct exchange x = {.method = "GET", .path = path, .if_none_match = if_none_match, .reply.max = 1 << 20};
    ep_page(NULL, NULL, &x);
    return x;
}

static const char *header(const struct exchange *x, const char *name)
{
    for (const struct reply_header *h = x->headers; h && h->name; h++)
        if (!strcmp(h->name, name))
            return h->value;
    return "";
}

static const char *type_of(const char *name)
{
    static const char *const types[][2] = {{".html", "text/html; charset=utf-8"},
                                           {".css", "text/css; charset=utf-8"},
                                           {".js", "text/javascript; charset=utf-8"},
                                           {".svg", "image/svg+xml"}};
    for (size_t i = 0; i < DEQ_COUNT(types); i++) {
        const size_t n = strlen(types[i][0]), len = strlen(name);
        if (len > n && !strcmp(name + len - n, types[i][0]))
            return types[i][1];
    }
    return NULL;
}

/* Every file of the room but its pictures, which are the README's. */
TEST(ep_page_is_its_directory)
{
    size_t total = 0;
    unsigned n_files = 0;
    DIR *d = opendir("server/page");
    REQUIRE(d);
    for (const struct dirent *e; (e = readdir(d));) {
        char path[512], file[512];
        const char *type = type_of(e->d_name);
        char *want = NULL;
        size_t n = 0;
        if (!type)
            continue;
        snprintf(file, sizeof file, "server/page/%s", e->d_name);
        snprintf(path, sizeof path, "/page/%s", e->d_name);
        REQUIRE(!deq_io_read(file, 1 << 20, &want, &n, NULL));
        struct exchange x = ask(path, NULL);
        CHECK_MSG(x.status == 200 && x.reply.len == n && !memcmp(x.reply.data, want, n), "%s: %d", path, x.status);
        CHECK_EQ(x.reply_type, type);
        CHECK(x.etag[0] == '"' && x.etag[strlen(x.etag) - 1] == '"');
        total += n;
        n_files++;
        deq_buf_free(&x.reply);
        deq_free(want);
    }
    closedir(d);
    CHECK(n_files > 8);
    CHECK_MSG(total < 120 << 10, "the page has %zu bytes: it is loaded over slow lines too", total);
}

TEST(ep_page_index_and_unknown)
{
    struct exchange root = ask("/", NULL), index = ask("/page/index.html", NULL), none = ask("/page/none.js", NULL),
                    up = ask("/page/../main.c", NULL);
    CHECK(root.status == 200 && root.reply.len == index.reply.len && !strcmp(root.etag, index.etag));
    CHECK(none.status == 404 && strstr(none.reply.data, "unknown_path") && !none.headers && !none.etag[0]);
    CHECK_EQ(up.status, 404);
    deq_buf_free(&root.reply);
    deq_buf_free(&index.reply);
    deq_buf_free(&none.reply);
    deq_buf_free(&up.reply);
}

TEST(ep_page_is_told_once)
{
    struct exchange style = ask("/page/style.css", NULL), again = ask("/page/style.css", style.etag),
                    other = ask("/page/main.js", style.etag);
    CHECK(again.status == 304 && !again.reply.len && !strcmp(again.etag, style.etag));
    CHECK(other.status == 200 && strcmp(other.etag, style.etag));
    CHECK_EQ(header(&again, "Cache-Control"), "no-cache");
    deq_buf_free(&style.reply);
    deq_buf_free(&other.reply);
}

TEST(ep_page_lets_nothing_else_in)
{
    struct exchange x = ask("/", NULL);
    const char *policy = header(&x, "Content-Security-Policy");
    CHECK(!strncmp(policy, "default-src 'none'; ", 20) && strstr(policy, "script-src 'self';"));
    CHECK(!strstr(policy, "unsafe") && !strstr(policy, "*") && strstr(policy, "frame-ancestors 'none'"));
    CHECK_EQ(header(&x, "X-Content-Type-Options"), "nosniff");
    CHECK_EQ(header(&x, "Referrer-Policy"), "no-referrer");
    deq_buf_free(&x.reply);
}
