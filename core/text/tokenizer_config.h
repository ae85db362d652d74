/* tokenizer_config.json, which stands beside a tokenizer.json for others: transformers' AutoTokenizer takes from it
 * which class to make and which token ends a text. deqd itself needs none: config.json has eos_token_id. */
#ifndef DEQ_TEXT_TOKENIZER_CONFIG_H
#define DEQ_TEXT_TOKENIZER_CONFIG_H

#include "core/text/tokenizer.h"

struct json_t; /* jansson's */

/* Writes it beside the tokenizer.json at `path`, which is loaded to see which of the ids it has: eos_id, unk_id (-1:
 * none). A file of another name is nobody's model directory: then nothing is written. */
enum deq_rc deq_tokenizer_config_save(const char *path, int64_t eos_id, int64_t unk_id, struct deq_err *err);

/* The one in `dir`, an object, which is the caller's; NULL: there is none. */
enum deq_rc deq_tokenizer_config_read(const char *dir, struct json_t **ret, struct deq_err *err);
/* The text of a token that it names: "eos_token": "...", or {"content": "..."}, as older files have it. NULL: none, of
 * an object that is NULL too. */
const char *deq_tokenizer_config_token(const struct json_t *root, const char *key);

/* The id of the token that ends a text: eos_token of the tokenizer_config.json in `dir`, else <|endoftext|>, <eos> or
 * <|eos|>; -1: none of them. An eos_token that the vocabulary lacks is DEQ_EFORMAT. */
enum deq_rc deq_tokenizer_config_eos(const char *dir, const struct deq_tokenizer *tok, int64_t *ret_id,
                                     struct deq_err *err);

#endif
