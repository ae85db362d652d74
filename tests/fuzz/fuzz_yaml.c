/* YAML: the daemon's configuration, training recipes, and any file of keys.
 *
 * Input: a letter for what it is, the file. A configuration that is taken, printed and read again prints the same; an
 * error of the file names line and column, or a key. */
#include "core/base/yaml.h"
#include "core/base/mem.h"
#include "core/train/recipe.h"
#include "server/conf.h"
#include "server/net/listen.h"
#include "server/net/origin.h"
#include "tests/fuzz/fuzz.h"

enum { CONFIGURATION, RECIPE, ANY, FILES };

static char *printed(const struct deq_opt_table *t, const void *values, size_t *ret_n)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_n);
    FUZZ_HOLDS(f);
    deq_opt_dump(t, values, true, f);
    fclose(f);
    return text;
}

/* What is printed says all there is. */
static void check_printed(const struct deq_opt_table *t, const void *values, void *again)
{
    size_t n, n_again;
    struct deq_err err;
    char *text = printed(t, values, &n);
    FUZZ_HOLDS(!deq_opt_parse(t, again, text, n, "again", &err));
    char *text_again = printed(t, again, &n_again);
    FUZZ_HOLDS(n == n_again && !memcmp(text, text_again, n));
    free(text);
    free(text_again);
}

static void configuration(const char *data, size_t n)
{
    static struct conf defaults, c, again;
    struct listen_address a;
    struct deq_err err;
    int64_t seed;
    if (!defaults.listen[0])
        FUZZ_HOLDS(!deq_opt_defaults(&conf_table, &defaults, &err));
    c = again = defaults;
    const enum deq_rc rc = deq_opt_parse(&conf_table, &c, data, n, "fuzz", &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        FUZZ_HOLDS(strstr(err.text, "line "));
        return;
    }
    check_printed(&conf_table, &c, &again);
    if (listen_parse("server.listen", c.listen, &a, &err))
        fuzz_check_err(err.code, &err);
    if (origin_check_origins("server.cors_origins", c.cors_origins, &err))
        fuzz_check_err(err.code, &err);
    if (origin_check_hosts("server.hosts", c.hosts, &err))
        fuzz_check_err(err.code, &err);
    (void)conf_seed(&c, &seed);
}

static void recipe(const char *path)
{
    struct deq_recipe *r, *again;
    struct deq_arch *a;
    struct deq_err err;
    enum deq_rc rc = deq_recipe_load(path, NULL, &r, &err);
    if (rc) {
        fuzz_check_err(rc, &err);
        return;
    }
    FUZZ_HOLDS(!deq_recipe_new(r->kind, &again, &err));
    check_printed(&r->table, r, again);
    deq_recipe_free(again);
    rc = deq_recipe_check(r, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    else
        FUZZ_HOLDS(deq_recipe_held_back(r) >= 0 && deq_recipe_held_back(r) < 1 && r->steps);
    rc = deq_recipe_arch(r, r->vocab_size, &a, &err);
    if (rc)
        fuzz_check_err(rc, &err);
    else
        deq_free(a);
    deq_recipe_free(r);
}

static enum deq_rc on_item(void *ctx, const struct deq_yaml_item *item, struct deq_err *err)
{
    unsigned *const line = ctx;
    (void)err;
    FUZZ_HOLDS(item->key && *item->key && strlen(item->key) < 2 * DEQ_YAML_KEY_MAX);
    FUZZ_HOLDS(item->kind != DEQ_YAML_SCALAR || item->value);
    FUZZ_HOLDS(item->line >= item->key_line && item->key_line && item->column && item->key_column);
    FUZZ_HOLDS(item->line >= *line);
    *line = item->line;
    return DEQ_OK;
}

FUZZ(yaml)
{
    const unsigned kind = fuzz_letter(&data, &n, FILES);
    struct deq_err err;
    unsigned line = 0;
    if (kind == CONFIGURATION) {
        configuration((const char *)data, n);
    } else if (kind == RECIPE) {
        recipe(fuzz_file(data, n));
    } else {
        const enum deq_rc rc = deq_yaml_walk((const char *)data, n, "fuzz", on_item, &line, &err);
        if (rc)
            fuzz_check_err(rc, &err);
    }
}
