/* The page at /: the files of server/page, linked in as they stand. They hold nothing of anybody's, so that no key is
 * asked for; what the page shows it asks of the API, as any other client would. */
#include <stdio.h>
#include <string.h>

#include "core/base/hash.h"
#include "server/api/endpoints.h"
#include "server/api/exchange.h"
#include "server/net/header.h"

#define HTML "text/html; charset=utf-8"
#define CSS "text/css; charset=utf-8"
#define SVG "image/svg+xml"
#define JS "text/javascript; charset=utf-8"

#define PAGE_FILES(X)                    \
    X(index, "index.html", HTML)         \
    X(style, "style.css", CSS)           \
    X(icon, "icon.svg", SVG)             \
    X(main, "main.js", JS)               \
    X(api, "api.js", JS)                 \
    X(dom, "dom.js", JS)                 \
    X(plot, "plot.js", JS)               \
    X(tokens, "tokens.js", JS)           \
    X(settings, "settings.js", JS)       \
    X(playground, "playground.js", JS)   \
    X(convergence, "convergence.js", JS) \
    X(figures, "figures.js", JS)         \
    X(scoring, "scoring.js", JS)         \
    X(live, "live.js", JS)

#define LINK_IN(id, name, type)                                                                            \
    __asm__(".section .rodata\n"                                                                           \
            ".global page_" #id "_begin\npage_" #id "_begin:\n.incbin \"server/page/" name "\"\n"          \
            ".global page_" #id "_end\npage_" #id "_end:\n.byte 0\n"                                       \
            ".previous\n");                                                                                \
    extern const char page_##id##_begin[], page_##id##_end[];
PAGE_FILES(LINK_IN)

static const struct page_file {
    const char *name, *type, *begin, *end;
} files[] = {
#define ROW(id, name, type) {name, type, page_##id##_begin, page_##id##_end},
    PAGE_FILES(ROW)
#undef ROW
};

/* Nothing but these files and this server's API: no text that got into the page could send anything anywhere, nor run,
 * nor be shown inside another site's page. */
static const struct reply_header headers[] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
     "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Cache-Control", "no-cache"}, /* kept, but asked about each time, so that a new version is seen at once */
    {NULL, NULL},
};

static const struct page_file *find(const char *path)
{
    const char *name = strcmp(path, "/") ? path + strlen("/page/") : files[0].name;
    for (size_t i = 0; i < DEQ_COUNT(files); i++)
        if (!strcmp(name, files[i].name))
            return &files[i];
    return NULL;
}

void ep_page(struct service *s, struct served *m, struct exchange *x)
{
    static const struct deq_hash key = {{0, 0}}; /* nobody sends these files but this program */
    const struct page_file *f = find(x->path);
    (void)s;
    (void)m;
    if (!f) {
        exchange_error(x, 404, "unknown_path", NULL, "the page has no such file");
        return;
    }
    const size_t n = (size_t)(f->end - f->begin);
    snprintf(x->etag, sizeof x->etag, "\"%016llx\"", (unsigned long long)deq_siphash(&key, f->begin, n).h[0]);
    x->reply_type = f->type;
    x->headers = headers;
    x->status = x->if_none_match && header_has_tag(x->if_none_match, x->etag) ? 304 : 200;
    if (x->status == 200)
        deq_buf_add(&x->reply, f->begin, n);
}
