/* How many threads this process can run at once: the processors it may be put on (affinity, cpusets), and no more than
 * its cgroups' quota of processor time (v2 cpu.max, v1 cpu.cfs_quota_us) buys. A container of two processors' worth on
 * a machine of sixty-four sees all of them; threads that wait for one another at barriers would spend the quota on
 * waiting and then all stand still. Any thread. */
#ifndef DEQ_BASE_CORES_H
#define DEQ_BASE_CORES_H

#include "core/base/base.h"

unsigned deq_cores(void); /* 1 to 256, the threads that a pool may have */

/* The least whole number of processors that the quotas of this process's cgroup and those above it buy, at least 1;
 * UINT_MAX: no quota. root stands before /proc and /sys: "" but for tests. */
unsigned deq_cores_quota(const char *root);

#endif
