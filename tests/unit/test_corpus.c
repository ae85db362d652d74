/* core/text/corpus.c: documents between lines that end them. */
#include "core/text/corpus.h"

#include <stdlib.h>

#include "tests/unit/test.h"

TEST(corpus_documents)
{
#define E "<|endoftext|>"
    static const struct {
        const char *text, *docs[5];
    } t[] = {
        {"", {NULL}},
        {"\n", {NULL}},
        {"one", {"one"}},
        {"one\n", {"one"}},
        {"one\ntwo\n", {"one\ntwo"}},
        {"one\n\n", {"one\n"}}, /* only the line end beside the end goes */
        {E, {NULL}},
        {E "\n", {NULL}},
        {E "\n" E "\n\n" E, {NULL}},
        {"one\n" E "\ntwo", {"one", "two"}},
        {"one\n" E "\ntwo\n" E "\n", {"one", "two"}},
        {"one\n" E "\ntwo\n" E, {"one", "two"}},
        {E "\none\n" E "\ntwo\n", {"one", "two"}},
        {E "\n" E "\none\n" E "\n" E "\n" E "\ntwo\n" E "\n", {"one", "two"}},
        {"\n" E "\none", {"one"}}, /* an empty line is an empty document */
        {"one\n\n" E "\n\ntwo\n", {"one\n", "\ntwo"}},
        {"one " E "\ntwo", {"one " E "\ntwo"}}, /* not a line of its own */
        {E " \none", {E " \none"}},
        {" " E "\none", {" " E "\none"}},
        {E "\r\none", {E "\r\none"}},
        {"<|endoftext|\n" E E "\nx", {"<|endoftext|\n" E E "\nx"}},
        {"a\n" E "\nb\n" E "\nc\n" E "\nd", {"a", "b", "c", "d"}},
    };
#undef E
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        const size_t len = strlen(t[i].text);
        char *text = malloc(len ? len : 1); /* no NUL behind it */
        memcpy(text, t[i].text, len);
        size_t at = 0, n = 0, k = 0;
        const char *doc = NULL;
        while (deq_corpus_next(text, len, &at, &doc, &n) && k < 5) {
            CHECK_MSG(t[i].docs[k] && n == strlen(t[i].docs[k]) && !memcmp(doc, t[i].docs[k], n),
                      "case %zu document %zu: \"%.*s\"", i, k, (int)n, doc);
            k += t[i].docs[k] != NULL ? 1 : 5;
        }
        CHECK_MSG(k < 5 && !t[i].docs[k] && at == len, "case %zu: %zu documents, stopped at %zu", i, k, at);
        CHECK(!deq_corpus_next(text, len, &at, &doc, &n)); /* stays at the end */
        free(text);
    }
    /* NUL bytes are text */
    static const char nul[] = "a\0b\n<|endoftext|>\n\0";
    size_t at = 0, n = 0;
    const char *doc;
    CHECK(deq_corpus_next(nul, sizeof nul - 1, &at, &doc, &n) && n == 3 && !memcmp(doc, "a\0b", 3));
    CHECK(deq_corpus_next(nul, sizeof nul - 1, &at, &doc, &n) && n == 1 && !doc[0]);
    CHECK(!deq_corpus_next(nul, sizeof nul - 1, &at, &doc, &n));
}
