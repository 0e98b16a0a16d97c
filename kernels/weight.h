/* weight.h - what a model hands to a backend as a weight, and the handle it gets back.
 *
 *   source form, as on disk  --weight_import-->  kernel form: what this backend's kernels read best for this width
 *
 * A backend aliases the source where it is the kernel form already (the CPU does, and reads the map), or copies and rearranges. Forms it
 * has no way to compute with it refuses in weight_bytes, by tensor and form, so that a plan refuses them too. */
#ifndef KVI_WEIGHT_H
#define KVI_WEIGHT_H
#include "../runtime/model/weight_form.h"

typedef struct kvi_weight kvi_weight; /* the backend's own form; freed by device close */

#endif
