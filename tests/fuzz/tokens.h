/* What is promised of any tokenizer and any text, for fuzz_tokenizer.c (any tokenizer) and fuzz_encode.c (any text). */
#ifndef DEQ_FUZZ_TOKENS_H
#define DEQ_FUZZ_TOKENS_H

#include "core/text/tokenizer.h"

/* exact: decoding what was encoded gives the text's bytes again. */
void fuzz_check_tokenizer(const struct deq_tokenizer *tok, const char *text, size_t n, bool exact);

#endif
