/* tokenizer_config.json, which stands beside a tokenizer.json for others: transformers' AutoTokenizer takes from it
 * which class to make and which tokens stand at a text's ends. deqd itself needs none: config.json has bos_token_id and
 * eos_token_id. */
#ifndef DEQ_TEXT_TOKENIZER_CONFIG_H
#define DEQ_TEXT_TOKENIZER_CONFIG_H

#include "core/text/tokenizer.h"

struct json_t; /* jansson's */

/* Writes it beside the tokenizer.json at `path`, which is loaded to see which of the ids it has: bos_id, which stands
 * before a text, eos_id, unk_id (-1: none). A file of another name is nobody's model directory: then nothing is
 * written. */
enum deq_rc deq_tokenizer_config_save(const char *path, int64_t bos_id, int64_t eos_id, int64_t unk_id,
                                      struct deq_err *err);

/* The one in `dir`, an object, which is the caller's; NULL: there is none. */
enum deq_rc deq_tokenizer_config_read(const char *dir, struct json_t **ret, struct deq_err *err);
/* The text of a token that it names: "eos_token": "...", or {"content": "..."}, as older files have it. NULL: none, of
 * an object that is NULL too. */
const char *deq_tokenizer_config_token(const struct json_t *root, const char *key);

/* The ids of the tokens at the ends of a text, -1: none. What stands before it: bos_token of the tokenizer_config.json
 * in `dir` where that has add_bos_token true, none where false; else what the tokenizer's post-processor puts there;
 * where there is no such file either, <|bos|>. What ends it: eos_token, else <|endoftext|>, <eos> or <|eos|>. A token
 * that the vocabulary lacks is DEQ_EFORMAT. */
enum deq_rc deq_tokenizer_config_ends(const char *dir, const struct deq_tokenizer *tok, int64_t *ret_bos,
                                      int64_t *ret_eos, struct deq_err *err);

#endif
