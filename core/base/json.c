#include "core/base/json.h"

#include <pthread.h>
#include <setjmp.h>

#include "core/base/mem.h"

/* The parse that this thread is in: the blocks that jansson has, and where to when there is none. */
static _Thread_local struct {
    bool on;
    jmp_buf no_memory;
    void **block; /* [n] */
    size_t n, cap;
} parse;

static _Thread_local bool failed;

static void *take(size_t bytes)
{
    if (!parse.on) {
        void *b = deq_alloc_plain(bytes);
        failed = failed || !b;
        return b;
    }
    if (parse.n == parse.cap) {
        const size_t cap = DEQ_MAX(2 * parse.cap, (size_t)64);
        void **more = deq_realloc(parse.block, parse.n * sizeof *more, cap * sizeof *more);
        if (!more)
            longjmp(parse.no_memory, 1);
        parse.block = more;
        parse.cap = cap;
    }
    void *b = deq_alloc_plain(bytes);
    if (!b)
        longjmp(parse.no_memory, 1);
    return parse.block[parse.n++] = b;
}

static void give(void *b)
{
    for (size_t i = parse.n; parse.on && i-- > 0;) /* what is freed was mostly allocated just now */
        if (parse.block[i] == b) {
            parse.block[i] = parse.block[--parse.n];
            break;
        }
    deq_free_plain(b);
}

static void take_allocator(void)
{
    json_set_alloc_funcs(take, give);
}

static json_t *guarded(const char *text, size_t len, size_t flags, json_error_t *where, bool *ret_no_memory)
{
    if (setjmp(parse.no_memory)) {
        while (parse.n)
            deq_free_plain(parse.block[--parse.n]);
        *ret_no_memory = true;
        return NULL;
    }
    parse.on = true;
    return json_loadb(text, len, flags, where);
}

bool deq_json_failed(void)
{
    const bool was = failed;
    failed = false;
    return was;
}

enum deq_rc deq_json_parse(const char *text, size_t len, size_t flags, json_t **ret, json_error_t *ret_where)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    bool no_memory = false;
    (void)pthread_once(&once, take_allocator);
    json_t *root = guarded(text, len, flags, ret_where, &no_memory);
    deq_free(parse.block);
    parse.on = false;
    parse.block = NULL;
    parse.n = parse.cap = 0;
    if (!root)
        return no_memory ? DEQ_ENOMEM : DEQ_EFORMAT;
    *ret = root;
    return DEQ_OK;
}
