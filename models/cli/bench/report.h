/* Figures as a list of flat JSON objects that have the same keys: one form for --json and for people. */
#ifndef DEQ_MODELS_CLI_BENCH_REPORT_H
#define DEQ_MODELS_CLI_BENCH_REPORT_H

#include <jansson.h>

/* Prints the title and the list as a table whose columns are the keys. */
void bench_table(const char *title, const json_t *rows);

#endif
