/* A directory of the test's own below TMPDIR, one at a time; whatever is in it at the end was named by the test. */
#ifndef DEQ_TEST_SCRATCH_H
#define DEQ_TEST_SCRATCH_H

#include <stdbool.h>

bool scratch_begin(void);
/* The directory itself, and a path in it; a test may keep 32 of them. */
const char *scratch_dir(void);
const char *scratch_path(const char *name);
void scratch_put(const char *name, const char *text);
bool scratch_is(const char *name, const char *text);
/* Removes what is named up to a NULL, files before the directories that hold them, and
 * itself: nothing else was left. */
void scratch_end(const char *name, ...) __attribute__((sentinel));

#endif
