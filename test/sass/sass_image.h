/* sass_image.h - a cubin: its kernels with code, constants and limits. The code is the text that cuobjdump -sass printed of the same file. */
#ifndef KVRT_SASS_IMAGE_H
#define KVRT_SASS_IMAGE_H
#include "sass_machine.h"

typedef struct sass_image {
    uint8_t *bytes; /* owned copies of the file and of its text */
    char *text;
    size_t n_bytes, n_text;
    sass_kernel *kernels;
    uint32_t n;
    uint8_t *variables; /* of the device: those with contents, then those that are zero */
    size_t n_variables;
    uint32_t sections[2]; /* theirs, in the file */
    size_t zeros_at;
} sass_image;

/* The length of an ELF file in memory, by its headers. */
size_t sass_elf_bytes(const void *elf);
/* Where the section <prefix><name> of a cubin is. */
bool sass_image_section(const uint8_t *bytes, size_t n_bytes, const char *prefix, const char *name, size_t *offset,
                        size_t *size);
/* Takes both buffers. Only names and limits are read; code is decoded by sass_kernel_decode. False: error says why, and nothing is kept. */
bool sass_image_read(uint8_t *bytes, size_t n_bytes, char *text, size_t n_text, sass_image *out, char *error,
                     size_t cap);
bool sass_kernel_decode(sass_kernel *kernel, char *error, size_t cap);
void sass_image_free(sass_image *image);

#endif
