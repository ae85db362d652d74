#include "core/text/bpe_write.h"

#include "core/base/utf8.h"
#include "core/text/bpe.h"

/* A token in the byte alphabet, with the escapes of JSON; the alphabet has no control characters. */
static void write_token(struct deq_buf *out, const struct deq_bpe_token *token)
{
    deq_buf_str(out, "\"");
    for (size_t i = 0; i < token->len; i++) {
        char symbol[4];
        int n = deq_utf8_encode(deq_byte_to_cp((uint8_t)token->bytes[i]), symbol);
        if (n == 1 && (symbol[0] == '"' || symbol[0] == '\\'))
            deq_buf_str(out, "\\");
        deq_buf_add(out, symbol, (size_t)n);
    }
    deq_buf_str(out, "\"");
}

void deq_bpe_write(const struct deq_bpe_token *token, size_t n_tokens, const struct deq_bpe_parts *merge,
                   size_t n_merges, struct deq_buf *out)
{
    static const char byte_level[] =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}";
    deq_buf_fmt(out,
                "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n"
                "    {\"id\": 0, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                "\"normalized\": false, \"special\": true}\n  ],\n  \"normalizer\": null,\n",
                DEQ_BPE_END_OF_TEXT);
    deq_buf_fmt(out, "  \"pre_tokenizer\": %s,\n  \"post_processor\": null,\n  \"decoder\": %s,\n", byte_level,
                byte_level);
    deq_buf_str(out, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
                     "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
                     "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                     "    \"vocab\": {");
    for (size_t i = 0; i < n_tokens; i++) {
        deq_buf_str(out, i ? ",\n      " : "\n      ");
        write_token(out, &token[i]);
        deq_buf_fmt(out, ": %zu", i);
    }
    deq_buf_str(out, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < n_merges; i++) {
        deq_buf_str(out, i ? ",\n      [" : "\n      [");
        write_token(out, &token[merge[i].left]);
        deq_buf_str(out, ", ");
        write_token(out, &token[merge[i].right]);
        deq_buf_str(out, "]");
    }
    deq_buf_str(out, n_merges ? "\n    ]\n  }\n}\n" : "]\n  }\n}\n");
}
