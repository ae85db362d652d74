/* Chat templates of tokenizers: one that is understood, written as Jinja2 once more (as /tokenizer_info tells it), is
 * understood as the same chat. Input: a letter for which texts its two tokens have, the template. */
#include "core/import/chat_template.h"
#include "server/api/request.h"
#include "tests/fuzz/fuzz.h"

static bool ends(const char *s, size_t n)
{
    return memchr(s, 0, n) != NULL;
}

static void check(const struct deq_chat *c, const char *bos, const char *eos, const struct deq_tokenizer *tok)
{
    FUZZ_HOLDS(ends(c->begin, sizeof c->begin) && ends(c->message, sizeof c->message) &&
               ends(c->reply, sizeof c->reply) && ends(c->stop, sizeof c->stop));
    FUZZ_HOLDS(strstr(c->message, "{content}") || strstr(c->message, "{content_trimmed}"));
    const struct chat_template t = {"model", c->begin, c->message, c->reply, c->stop};
    struct deq_buf text;
    struct deq_chat again = {0};
    struct deq_err err;
    deq_buf_init(&text, 1 << 20);
    request_chat_jinja(&t, &text);
    FUZZ_HOLDS(!text.failed && !deq_chat_template_derive(text.data, text.len, bos, eos, tok, &again, &err));
    FUZZ_HOLDS(!strcmp(c->begin, again.begin) && !strcmp(c->message, again.message) && !strcmp(c->reply, again.reply));
    deq_buf_free(&text);
}

FUZZ(jinja)
{
    static const char *const texts[] = {NULL, "<|bos|>", "<s>", "</s>", ""};
    static struct deq_tokenizer *tok;
    const unsigned which = fuzz_letter(&data, &n, DEQ_COUNT(texts) * DEQ_COUNT(texts));
    const char *bos = texts[which % DEQ_COUNT(texts)], *eos = texts[which / DEQ_COUNT(texts)];
    struct deq_chat c = {0};
    struct deq_err err;
    if (!tok)
        FUZZ_HOLDS(!deq_tokenizer_load("tests/golden/tiny", &tok, &err));
    char *text = fuzz_copy(data, n);
    const enum deq_rc rc = deq_chat_template_derive(text, n, bos, eos, tok, &c, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    else
        check(&c, bos, eos, tok);
    free(text);
}
