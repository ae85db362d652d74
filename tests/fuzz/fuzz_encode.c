/* Any text through the tokenizers that are here: byte-level BPE of four pre-tokenisers, whose decoding gives the text's
 * bytes again, and a word-level one. Input: a letter for the tokenizer, the text. */
#include "tests/fuzz/tokens.h"

#include "tests/fuzz/fuzz.h"

FUZZ(encode)
{
    static struct {
        const char *path;
        bool exact;
        struct deq_tokenizer *tok;
    } known[] = {{"models/stories", true, NULL},
                 {"tests/golden/tiny", true, NULL},
                 {"tests/golden/tokenizer/parcae", true, NULL},
                 {"tests/golden/tokenizer/gpt2", true, NULL},
                 {"tests/golden/tiny-trellis", false, NULL}};
    const unsigned which = fuzz_letter(&data, &n, DEQ_COUNT(known));
    struct deq_err err;
    if (!known[which].tok)
        FUZZ_HOLDS(!deq_tokenizer_load(known[which].path, &known[which].tok, &err));
    fuzz_check_tokenizer(known[which].tok, (const char *)data, n, known[which].exact);
}
