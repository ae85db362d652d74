/* Fields that OpenAI's or vLLM's clients send and that this server does not serve: each with the values that ask for
 * what it does anyway, and why any other is refused. Hints that no answer depends on are taken as they are. The same
 * table stands in openapi.json as x-neutral (a test compares). */
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "server/api/fields.h"

struct neutral {
    const char *name;
    unsigned where;     /* enum body */
    const char *values; /* a JSON array of them, with ' for "; or the type of a hint: string, integer, object */
    const char *why;    /* not of hints */
};

enum { VALUES_MAX_BYTES = 160 };
enum {
    BOTH = BODY_COMPLETION | BODY_CHAT,
    ALL = BOTH | BODY_RESPONSES,
    TALK = BODY_CHAT | BODY_RESPONSES,
    TEMPLATE = TALK | BODY_TOKENIZE,
};

static const char NO_TOOLS[] = "no tools are called";
static const char OTHER_FORMAT[] = "text.format has it";
static const char OLD_FORMAT[] = "structured_outputs has it";
static const char TEXT_ONLY[] = "text is all there is";
static const char NO_BEAMS[] = "there is no beam search";
static const char PLAIN_TEMPLATE[] = "messages become text by chat.message and chat.reply alone";
static const char NO_REASONING[] = "models here do not reason apart from their answer";
static const char NO_BANS[] = "logit_bias bans or forces tokens";
static const char NO_REPETITIONS[] = "repetitions are not looked for";
static const char ITS_OWN_CACHE[] = "the prefix cache is in memory and needs no advice; see cache and cache_salt";
static const char WHOLE_CONVERSATION[] = "answers are not kept; send the whole conversation as input";
static const char TEXT_OF_TOKENS[] = "the text is all tokens but the special ones; return_token_ids shows those";

static const struct neutral table[] = {
    /* OpenAI's */
    {"suffix", BODY_COMPLETION, "['']", "texts are continued at their end"},
    {"tools", TEMPLATE, "[[]]", NO_TOOLS},
    {"tool_choice", TALK, "['auto', 'none']", NO_TOOLS},
    {"parallel_tool_calls", TALK, "[true, false]", NO_TOOLS},
    {"functions", BODY_CHAT, "[[]]", NO_TOOLS},
    {"function_call", BODY_CHAT, "['auto', 'none']", NO_TOOLS},
    {"web_search_options", BODY_CHAT, "[]", NO_TOOLS},
    {"response_format", BODY_RESPONSES, "[{}, {'type': 'text'}]", OTHER_FORMAT},
    {"modalities", BODY_CHAT, "[['text']]", TEXT_ONLY},
    {"audio", BODY_CHAT, "[]", TEXT_ONLY},
    {"prediction", BODY_CHAT, "[]", "the engine makes its own guesses"},
    {"reasoning_effort", BODY_CHAT, "['none']", NO_REASONING},
    {"verbosity", BODY_CHAT | BODY_TEXT, "['medium']", "models here know no verbosity"},
    {"moderation", TALK, "[]", "nothing is moderated"},
    {"store", ALL, "[false]", "answers are not kept"},
    {"service_tier", ALL, "['auto', 'default']", "there is one tier; see priority"},
    {"prompt_cache_retention", ALL, "['in_memory']", ITS_OWN_CACHE},
    {"prompt_cache_options", ALL, "[{}, {'mode': 'implicit'}]", ITS_OWN_CACHE},
    {"prompt_cache_key", ALL, "string", NULL},
    {"safety_identifier", ALL, "string", NULL},
    {"metadata", BOTH, "object", NULL},
    {"previous_response_id", BODY_RESPONSES, "[]", WHOLE_CONVERSATION},
    {"conversation", BODY_RESPONSES, "[]", WHOLE_CONVERSATION},
    {"prompt", BODY_RESPONSES, "[]", "no prompts are kept; instructions and input are the prompt"},
    {"background", BODY_RESPONSES, "[false]", "answers are not kept"},
    {"background_options", BODY_RESPONSES, "[{}]", "answers are not kept"},
    {"access_programs", BODY_RESPONSES, "[{}]", "there are no programs of access"},
    {"image", BODY_RESPONSES, "[{}]", TEXT_ONLY},
    {"context_management", BODY_RESPONSES, "[[]]", "nothing is made shorter; see truncation"},
    {"max_tool_calls", BODY_RESPONSES, "integer", NULL},
    {"reasoning", BODY_RESPONSES, "[{}, {'effort': 'none'}]", NO_REASONING},
    {"stream_options", BODY_RESPONSES, "[{}, {'include_obfuscation': false}]", "events are not padded"},
    {"n", BODY_RESPONSES, "[1]", "a response is one answer"},
    {"include_obfuscation", BODY_STREAM_OPTIONS, "[false]", "events are not padded"},
    /* vLLM's */
    {"watermarking", ALL, "[false]", "answers are not marked"},
    {"use_beam_search", ALL, "[false]", NO_BEAMS},
    {"length_penalty", ALL, "[1]", NO_BEAMS},
    {"early_stopping", ALL, "[false]", NO_BEAMS},
    {"include_stop_str_in_output", ALL, "[false]", "stop strings are not part of the answer"},
    {"skip_special_tokens", ALL, "[true]", TEXT_OF_TOKENS},
    {"spaces_between_special_tokens", ALL, "[true, false]", TEXT_OF_TOKENS},
    {"detokenize", ALL, "[true]", "answers are text; return_token_ids adds the tokens"},
    {"add_special_tokens", TALK, "[true, false]", "a chat begins as its template says"},
    {"allowed_token_ids", ALL, "[[]]", NO_BANS},
    {"bad_words", ALL, "[[]]", NO_BANS},
    {"logits_processors", ALL, "[[]]", NO_BANS},
    {"prompt_logprobs", ALL, "[]", "echo with logprobs scores a prompt (/v1/completions)"},
    {"flat_logprobs", ALL, "[false]", "log probabilities have one shape"},
    {"structured_outputs", BODY_RESPONSES, "[{}]", OTHER_FORMAT},
    {"structural_tag", ALL | BODY_STRUCTURED, "['']", NO_TOOLS},
    {"guided_json", ALL, "[]", OLD_FORMAT},
    {"guided_regex", ALL, "['']", OLD_FORMAT},
    {"guided_choice", ALL, "[[]]", OLD_FORMAT},
    {"guided_grammar", ALL, "['']", OLD_FORMAT},
    {"disable_fallback", BODY_STRUCTURED, "[true, false]", "there is nothing to fall back to"},
    {"disable_any_whitespace", BODY_STRUCTURED, "[false]", "JSON has one blank at most, behind a comma or colon"},
    {"disable_additional_properties", BODY_STRUCTURED, "[false]", "additionalProperties of the schema says it"},
    {"whitespace_pattern", BODY_STRUCTURED, "['']", "JSON has one blank at most, behind a comma or colon"},
    {"guided_decoding_backend", ALL, "string", NULL},
    {"guided_whitespace_pattern", ALL, "string", NULL},
    {"prompt_embeds", BODY_COMPLETION, "[]", "prompts are text or token ids"},
    {"request_id", ALL, "[]", "the header X-Request-Id names a request"},
    {"session_id", ALL, "string", NULL},
    {"stream_interval", ALL, "[1]", "tokens are sent as they come; see stream.flush_ms"},
    {"truncation_side", ALL, "['left']", "of a prompt that is cut the end stays"},
    {"routed_experts_prompt_start", ALL, "[0]", "models here have no experts"},
    {"return_mm_kwargs", ALL, "[true, false]", TEXT_ONLY},
    {"return_token_ids", BODY_RESPONSES, "[false]", "/v1/completions shows tokens"},
    {"enable_response_messages", BODY_RESPONSES, "[false]", "/v1/completions shows tokens"},
    {"previous_input_messages", BODY_RESPONSES, "[[]]", WHOLE_CONVERSATION},
    {"previous_response", BODY_RESPONSES, "[]", WHOLE_CONVERSATION},
    {"kv_transfer_params", ALL, "[{}]", "states are not passed between servers"},
    {"ec_transfer_params", ALL, "[{}]", "states are not passed between servers"},
    {"vllm_xargs", ALL, "[{}]", "there are no extensions"},
    {"repetition_detection", ALL, "[]", NO_REPETITIONS},
    {"max_repetition_pattern_size", ALL, "[0]", NO_REPETITIONS},
    {"min_repetition_pattern_size", ALL, "[0]", NO_REPETITIONS},
    {"repetition_min_count", ALL, "[0]", NO_REPETITIONS},
    {"return_prompt_text", ALL, "[false]", "echo shows the prompt (/v1/completions)"},
    {"return_token_offsets", ALL, "[false]", "logprobs have text_offset (/v1/completions)"},
    {"thinking_token_budget", ALL, "[-1]", NO_REASONING},
    {"include_reasoning", BODY_CHAT, "[true, false]", NO_REASONING},
    {"best_of", BODY_CHAT, "[0, 1]", "chats have n (best_of is of /v1/completions)"},
    {"echo", BODY_CHAT, "[false]", "chats are not echoed (/v1/completions does)"},
    {"add_generation_prompt", TEMPLATE, "[true]", PLAIN_TEMPLATE},
    {"continue_final_message", TEMPLATE, "[false]", PLAIN_TEMPLATE},
    {"chat_template", TEMPLATE, "['']", PLAIN_TEMPLATE},
    {"chat_template_kwargs", TEMPLATE, "[{}]", PLAIN_TEMPLATE},
    {"documents", BODY_CHAT, "[[]]", PLAIN_TEMPLATE},
    {"mm_processor_kwargs", TEMPLATE, "[{}]", TEXT_ONLY},
    {"media_io_kwargs", TEMPLATE, "[{}]", TEXT_ONLY},
    {"messages", BODY_TOKENIZE, "[]", "texts are tokenized; see prompt"},
    {"return_token_strs", BODY_TOKENIZE, "[false]", "/detokenize shows the text of tokens"},
    /* of messages, as they come back from an answer */
    {"name", BODY_MESSAGE, "string", NULL},
    {"refusal", BODY_MESSAGE, "['']", "messages are text"},
    {"audio", BODY_MESSAGE, "[]", TEXT_ONLY},
    {"tool_calls", BODY_MESSAGE, "[[]]", NO_TOOLS},
    {"tool_call_id", BODY_MESSAGE, "['']", NO_TOOLS},
    {"function_call", BODY_MESSAGE, "[]", NO_TOOLS},
    {"annotations", BODY_MESSAGE, "[[]]", "messages are text"},
    {"reasoning", BODY_MESSAGE, "['']", NO_REASONING},
    {"id", BODY_ITEM, "string", NULL},
    {"status", BODY_ITEM, "string", NULL},
    {"phase", BODY_ITEM, "string", NULL},
    {"reasoning_content", BODY_MESSAGE, "['']", NO_REASONING},
};

static bool is_hint(const struct neutral *n)
{
    return n->values[0] != '[';
}

static void as_json(const char *values, char out[VALUES_MAX_BYTES])
{
    snprintf(out, VALUES_MAX_BYTES, "%s", values);
    for (char *s = out; *s; s++)
        if (*s == '\'')
            *s = '"';
}

static bool take_hint(const struct object *o, const struct neutral *n, const json_t *v)
{
    int64_t unused;
    bool held;
    if (!strcmp(n->values, "string"))
        return json_is_string(v) || fields_bad_type(o, n->name, "a string");
    if (!strcmp(n->values, "integer"))
        return fields_whole(v, &unused, &held) || fields_bad_type(o, n->name, "an integer");
    return json_is_object(v) || fields_bad_type(o, n->name, "an object");
}

/* 1 and 1.0 are the same number. */
static bool same(const json_t *a, const json_t *b)
{
    return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b) : json_equal(a, b);
}

static bool take_neutral(const struct object *o, const struct neutral *n, const json_t *v)
{
    char text[VALUES_MAX_BYTES];
    as_json(n->values, text);
    json_t *values, *one;
    json_error_t where;
    size_t i;
    bool is_neutral = false;
    if (deq_json_parse(text, strlen(text), 0, &values, &where))
        return fields_no_memory(o);
    json_array_foreach(values, i, one)
        is_neutral = is_neutral || same(v, one);
    json_decref(values);
    return is_neutral || fields_unsupported(o, n->name, n->why);
}

bool fields_take_neutral(const struct object *o, const char *name, const json_t *v, bool *ret_known)
{
    for (size_t i = 0; i < DEQ_COUNT(table); i++)
        if ((table[i].where & o->fields->body) && !strcmp(name, table[i].name)) {
            *ret_known = true;
            return is_hint(&table[i]) ? take_hint(o, &table[i], v) : take_neutral(o, &table[i], v);
        }
    *ret_known = false;
    return true;
}

void fields_print_neutral(const char *where, enum body body)
{
    for (size_t i = 0; i < DEQ_COUNT(table); i++) {
        char text[VALUES_MAX_BYTES];
        if (!(table[i].where & body))
            continue;
        as_json(table[i].values, text);
        printf("%s\t%s\t%s%s\t0\t0\n", where, table[i].name, is_hint(&table[i]) ? "hint: " : "neutral: ", text);
    }
}
