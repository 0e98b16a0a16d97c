/* folder.h - the files of a model folder, by name.
 * Owns: the difference between a file that is absent and one that cannot be read. A directory, a FIFO, a link to nothing or a Git LFS pointer
 * in place of a file is an error that names it, never an absent file. Opening never blocks. */
#ifndef KVI_FOLDER_H
#define KVI_FOLDER_H
#include "os.h"

/* Maps DIR/NAME (`copy`: reads it into memory). found == NULL: the file must be there. Otherwise *found says whether it is; when it is not, *out is
 * empty and the status is OK. Errors: IO, NOMEM_HOST. */
kvrt_status kvi_folder_map(const char *dir, const char *name, bool copy, kvi_map *out, bool *found, kvrt_error *error);
/* True when DIR/NAME is there, as whatever. */
bool kvi_folder_has(const char *dir, const char *name);

#endif
