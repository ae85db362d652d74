/* core/import/jinja.c, jinja_run.c: the text that Jinja2 3.1 gives of the same template, with trim_blocks and
 * lstrip_blocks, for messages whose contents are the bytes that stand for them. (In use: test_chat_template.c.) */
#include "core/import/jinja.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/unit/test.h"

#define FOR "{% for m in messages %}"
#define END "{% endfor %}"

static void check(const char *template, const char *want)
{
    static const char *const roles[] = {"user", "assistant"};
    struct deq_jinja t;
    struct deq_err err = {0};
    struct deq_jinja_output *o = DEQ_NEW(struct deq_jinja_output);
    REQUIRE(o);
    const enum deq_rc parsed = deq_jinja_parse(template, strlen(template), &t, &err);
    CHECK_MSG(!parsed, "%s: %s", template, err.text);
    if (!parsed) {
        const enum deq_rc rc = deq_jinja_run(&t, roles, 2, "<s>", NULL, o, &err);
        CHECK_MSG(!rc && o->len == strlen(want) && !memcmp(o->text, want, o->len), "%s: %s\n  \"%.*s\", not \"%s\"",
                  template, err.text, (int)o->len, o->text, want);
        deq_jinja_free(&t);
    }
    deq_free(o);
}

TEST(jinja_white_space)
{
    check("a\n" FOR "\nb\n" END "\nc\n", "a\nb\nb\nc");
    check("a \n  {%- for m in messages -%} \n b \n {%- endfor -%} \n c\n\n", "abbc\n");
    check("  " FOR "  {% if true %}  x  {% endif %}  \n  " END "  ", "    x    \n    x    \n  ");
    check(" {%+ for m in messages +%}\n x\n\t" END "\n\n", " \n x\n\n x\n");
    check("{# c #}\n\n" FOR "{# d -#}  \n y{#- e #}\n" END, "\nyy");
    check("a\r\n" FOR "\r\n\rb\r" END "\r\n", "a\n\nb\n\nb\n");
    check(FOR "\n  {{ m.content }}\n  {{- m.role -}}\n  z\n" END, "  \x01userz\n  \x01" "assistantz\n");
    check(FOR " \xc2\xa0{%- if true %}\n \xc2\xa0 {% endif -%}\xe2\x80\x83 q" END, "qq");
    check(FOR END "{% if true %}\n\n {% endif %}\n  {# #}\n  {# #}  x", "\n  x");
    check(FOR "{{ '{% x %} }} {#' }}" END "{", "{% x %} }} {#{% x %} }} {#{");
    check(FOR "a{ {b}%}" END "#}", "a{ {b}%}a{ {b}%}#}");
}

TEST(jinja_expressions)
{
    check("{% set x = 'a' %}" FOR "{{ x }}{% set x = x + 'b' %}{{ x }}" END "{{ x }}", "aabaaba");
    check(FOR "{% if loop.first %}1{% elif loop.last %}2{% else %}3{% endif %}" END, "12");
    check(FOR "{% if loop.index0 != 0 and not loop.first or loop.index == 1 %}y{% endif %}" END, "yy");
    check(FOR "{{ ('a' ~ m['role']) + \"\\n\\t\\\\\\'\\\"\" ~ ' b ' | trim }}" END,
          "auser\n\t\\'\"baassistant\n\t\\'\"b");
    check(FOR "{% if m.role == 'user' and (loop.first or bos_token == 'x') %}{{ bos_token }}"
          "{% elif 'assistant' == m.role %}{% if not m.role != 'assistant' %}"
          "{{ m.content + m[ \"role\" ] }}{% endif %}{% else %}{{ x.y[0] | bad(7) }}{% endif %}" END,
          "<s>\x01" "assistant");
    check("{% set a = messages %}{% set b = a %}{% for z in b %}{% set r = z %}{{ r.role }}" END
          "{% if false %}{% for q in nothing %}{% if x %}{% endif %}" END "{% endif %}",
          "userassistant");
    check(FOR "{% if '' %}e{% endif %}{% if bos_token %}b{% endif %}"
          "{% if not not true %}t{% endif %}{{ ' s '.strip() ~ (m.role | trim | trim) }}" END,
          "btsuserbtsassistant");
    check("{% set messages_ = 'x' %}" FOR "{{ messages_ }}" END "{% if add_generation_prompt %}g{% else %}h{% endif %}",
          "xxg");
}

/* Any bytes: an answer or an error, within the template. */
TEST(jinja_of_anything)
{
    static const char *const parts[] = {"{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "'", "\"", "\\", " ", "\n", "x",
                                        "if ", "endif", "else", "elif ", "for m in messages", "endfor", "set x = ",
                                        "m.role", "loop.first", "(", ")", "[", "]", "|trim", "==", "not ", "and "};
    static const char *const roles[] = {"user", "assistant"};
    struct deq_jinja_output *o = DEQ_NEW(struct deq_jinja_output);
    REQUIRE(o);
    srand(7);
    for (size_t round = 0; round < 20000; round++) {
        struct deq_buf text;
        struct deq_jinja t;
        struct deq_err err = {0};
        deq_buf_init(&text, 4096);
        for (int n = rand() % 24; n >= 0; n--)
            deq_buf_str(&text, parts[(size_t)rand() % DEQ_COUNT(parts)]);
        char *exact = deq_alloc(text.len); /* so that a sanitizer sees its end */
        REQUIRE(exact);
        memcpy(exact, text.data, text.len);
        if (!deq_jinja_parse(exact, text.len, &t, &err)) {
            const enum deq_rc rc = deq_jinja_run(&t, roles, 2, "<s>", NULL, o, &err);
            CHECK_MSG(rc == DEQ_OK || (rc == DEQ_EFORMAT && *err.text), "%s: %d", text.data, rc);
            deq_jinja_free(&t);
        } else {
            CHECK(err.code == DEQ_EFORMAT && *err.text);
        }
        deq_free(exact);
        deq_buf_free(&text);
    }
    deq_free(o);
}
