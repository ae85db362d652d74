#include "models/cli/bench/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS_MAX = 16, TEXT_MAX = 64 };

static void value_text(const json_t *v, char out[TEXT_MAX])
{
    if (json_is_integer(v))
        snprintf(out, TEXT_MAX, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, TEXT_MAX, fabs(json_real_value(v)) >= 1000 ? "%.0f" : "%.3g", json_real_value(v));
    else
        snprintf(out, TEXT_MAX, "%s", json_is_string(v) ? json_string_value(v) : "-");
}

void bench_table(const char *title, const json_t *rows)
{
    const json_t *first = json_array_get(rows, 0);
    const char *key;
    json_t *value;
    size_t width[COLUMNS_MAX], n = 0;
    char text[TEXT_MAX];
    json_object_foreach((json_t *)first, key, value) {
        if (n == COLUMNS_MAX)
            break;
        width[n] = strlen(key);
        for (size_t i = 0; i < json_array_size(rows); i++) {
            value_text(json_object_get(json_array_get(rows, i), key), text);
            if (strlen(text) > width[n])
                width[n] = strlen(text);
        }
        n++;
    }
    printf("\n%s\n", title);
    for (size_t i = 0; i <= json_array_size(rows); i++) { /* the head, then the rows */
        size_t c = 0;
        json_object_foreach((json_t *)first, key, value) {
            if (c == n)
                break;
            if (i)
                value_text(json_object_get(json_array_get(rows, i - 1), key), text);
            printf("  %*s", (int)width[c++], i ? text : key);
        }
        putchar('\n');
    }
    fflush(stdout);
}
