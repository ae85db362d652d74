/* The CPU levels that tests visit: those of the machine, and those whose instructions it may lack, compiled against
 * intrinsics in plain C (tests/unit/emulate). */
#ifndef DEQ_TEST_LEVELS_H
#define DEQ_TEST_LEVELS_H

#include "core/math/kern.h"

enum { LEVELS_OF_MACHINES = 5, LEVELS = 8 };

extern const char *const level_names[LEVELS];
/* [i] NULL where the machine lacks the level; [0] never is. Filled by find_levels. */
extern const struct deq_kern *levels[LEVELS];
void find_levels(void);
/* What deq_kern() returns from now on; false where there is no such level. */
bool force_level(int i);
/* Plain C, of a level's own or emulated. */
bool slow_level(int i);

#endif
