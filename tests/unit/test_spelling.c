/* core/form/spelling.c: the trie has every token where its bytes end, once, and what is not text nowhere. */
#include "core/form/spelling.h"

#include "tests/unit/forms.h"

TEST(spelling_has_every_token_where_it_ends)
{
    const struct deq_spelling *s = some_spelling();
    bool seen[FORMS_VOCAB] = {false};
    char path[DEQ_SPELLING_LONGEST];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        const struct deq_spelling_node *node = &s->node[i];
        path[node->depth - 1] = (char)node->byte;
        CHECK(node->behind > i && node->behind <= s->n);
        CHECK(i + 1 == node->behind || s->node[i + 1].depth == node->depth + 1);
        for (uint32_t k = 0; k < node->n; k++) {
            const struct deq_token_text *t = &s->text[s->ids[node->first + k]];
            CHECK(t->len == node->depth && !memcmp(t->bytes, path, t->len) && !seen[t->id]);
            seen[t->id] = true;
            n++;
        }
    }
    CHECK_EQ(n, s->n_ids);
    for (uint32_t id = 0; id < FORMS_VOCAB; id++)
        CHECK_EQ(seen[id], s->text[id].bytes != NULL);
    CHECK(!seen[FORMS_EOS] && !seen[FORMS_VOCAB - 1]);
    for (unsigned b = 0; b < 256; b++)
        CHECK(s->alone[b]);
}

static const char *only_ab(const void *ctx, uint32_t id, size_t *ret_len)
{
    static const char longest[DEQ_SPELLING_LONGEST + 2] = "a";
    (void)ctx;
    *ret_len = id == 2 ? DEQ_SPELLING_LONGEST + 1 : id == 3 ? 0 : 1;
    return id == 0 ? "a" : id == 1 ? "b" : id == 2 ? longest : id == 3 ? "" : NULL;
}

/* A form asks for no byte that no token spells alone: it could end between tokens. */
TEST(spelling_says_which_bytes_a_form_may_ask_for)
{
    struct deq_spelling *s;
    struct deq_forms *forms;
    struct deq_form *f = NULL;
    struct deq_err err;
    REQUIRE(!deq_spelling_new(5, only_ab, NULL, &s, NULL) && !deq_forms_new(s, -1, &forms, NULL));
    CHECK_EQ(s->n_ids, 2); /* neither what is too long nor what is empty */
    CHECK_EQ(deq_forms_get(forms, DEQ_FORM_REGEX, "c|ab?", 5, &f, &err), DEQ_OK);
    struct deq_readings r;
    uint32_t allowed[1];
    deq_form_begin(f, &r);
    deq_form_mask(f, &r, allowed);
    CHECK_EQ(allowed[0], 1);
    deq_form_free(f);
    CHECK_EQ(deq_forms_get(forms, DEQ_FORM_REGEX, "ac", 2, &f, &err), DEQ_EINVAL);
    CHECK(strstr(err.text, "can spell"));
    deq_forms_free(forms);
    deq_spelling_free(s);
}
