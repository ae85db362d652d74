/* What `make install` puts beside a program: PREFIX/bin/deqd finds PREFIX/share/deqd. A program of a
 * source tree has nothing there. */
#ifndef DEQ_BASE_INSTALLED_H
#define DEQ_BASE_INSTALLED_H

#include "core/base/base.h"

/* The path of PREFIX/share/deqd/NAME, links resolved; false when there is none. "etc" in it is a link to the
 * configuration's directory. */
bool deq_installed(const char *name, char ret_path[4096]);

#endif
