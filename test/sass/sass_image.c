/* sass_image.c - reads a cubin. Sections by name: .text.K code of kernel K (bits 24.. of sh_info: its registers), .nv.constantB.K bank B,
 * .nv.shared.K
 * static shared memory, .nv.info.K attributes: a format byte, an attribute byte, then 16 bits of value, or the length of what follows.
 * .nv.global.init: variables of the device, whose
 * addresses stand in .nv.constant4. Attributes (CUDA's cuobjdump -elf prints their names): 05 MAX_THREADS, 0a PARAM_CBANK (symbol, offset,
 * bytes), 11 FRAME_SIZE (in .nv.info). */
#include "sass_image.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ATTRIBUTE_MAX_THREADS = 0x05, ATTRIBUTE_PARAM_CBANK = 0x0a, ATTRIBUTE_FRAME_SIZE = 0x11, FORMAT_SIZED = 4 };

static Elf64_Ehdr header_of(const void *elf)
{
    Elf64_Ehdr h;
    memcpy(&h, elf, sizeof h);
    return h;
}
static Elf64_Shdr section_at(const uint8_t *elf, const Elf64_Ehdr *h, uint32_t k)
{
    Elf64_Shdr s;
    memcpy(&s, elf + h->e_shoff + (size_t)k * h->e_shentsize, sizeof s);
    return s;
}
size_t sass_elf_bytes(const void *elf)
{
    const Elf64_Ehdr h = header_of(elf);
    size_t end = h.e_shoff + (size_t)h.e_shnum * h.e_shentsize, more = h.e_phoff + (size_t)h.e_phnum * h.e_phentsize;
    if (more > end) end = more;
    for (uint32_t k = 0; k < h.e_shnum; k++) {
        const Elf64_Shdr s = section_at(elf, &h, k);
        more = s.sh_type == SHT_NOBITS ? 0 : s.sh_offset + s.sh_size;
        if (more > end) end = more;
    }
    return end;
}

bool sass_image_section(const uint8_t *bytes, size_t n_bytes, const char *prefix, const char *name, size_t *offset,
                        size_t *size)
{
    const Elf64_Ehdr h = header_of(bytes);
    const size_t n = strlen(prefix);
    if (sass_elf_bytes(bytes) > n_bytes || h.e_shstrndx >= h.e_shnum) return false;
    const char *names = (const char *)bytes + section_at(bytes, &h, h.e_shstrndx).sh_offset;
    for (uint32_t k = 0; k < h.e_shnum; k++) {
        const Elf64_Shdr s = section_at(bytes, &h, k);
        if (strncmp(names + s.sh_name, prefix, n) != 0 || strcmp(names + s.sh_name + n, name) != 0) continue;
        *offset = s.sh_offset, *size = s.sh_size;
        return true;
    }
    return false;
}

static bool fits(const Elf64_Shdr *s, size_t n_bytes)
{
    return s->sh_type == SHT_NOBITS || (s->sh_offset <= n_bytes && s->sh_size <= n_bytes - s->sh_offset);
}
static bool begins(const char *name, const char *with, const char **rest)
{
    const size_t n = strlen(with);
    if (strncmp(name, with, n) != 0) return false;
    *rest = name + n;
    return true;
}
static sass_kernel *kernel_named(sass_image *image, const char *name)
{
    for (uint32_t k = 0; k < image->n; k++)
        if (strcmp(image->kernels[k].function.name, name) == 0) return &image->kernels[k];
    return NULL;
}
static uint32_t word_at(const uint8_t *from)
{
    uint32_t v;
    memcpy(&v, from, 4);
    return v;
}
static void read_attributes(sass_image *image, sass_kernel *k, const uint8_t *from, size_t n)
{
    while (n >= 4) {
        const uint32_t length = from[0] == FORMAT_SIZED ? (uint32_t)from[2] | (uint32_t)from[3] << 8 : 0;
        if (length > n - 4) break;
        const uint8_t *value = from + 4;
        if (k && from[1] == ATTRIBUTE_MAX_THREADS && length >= 12)
            k->max_threads = word_at(value) * word_at(value + 4) * word_at(value + 8);
        if (k && from[1] == ATTRIBUTE_PARAM_CBANK && length >= 8)
            k->param_offset = word_at(value + 4) & 0xffffu, k->param_bytes = word_at(value + 4) >> 16;
        if (!k && from[1] == ATTRIBUTE_FRAME_SIZE && length >= 8)
            for (uint32_t j = 0; j < image->n; j++)
                if (image->kernels[j].symbol == word_at(value)) image->kernels[j].stack_bytes = word_at(value + 4);
        from += 4 + length, n -= 4 + length;
    }
}
/* Where the function's instructions stand in the text. */
static const char *function_text(const sass_image *image, const char *name, size_t *length)
{
    char wanted[200];
    (void)snprintf(wanted, sizeof wanted, "Function : %s\n", name);
    const char *from = strstr(image->text, wanted);
    if (!from) return NULL;
    from += strlen(wanted);
    const char *next = strstr(from, "Function : ");
    *length = next ? (size_t)(next - from) : image->n_text - (size_t)(from - image->text);
    return from;
}

/* ------------------------------------------------------------------------------------------- variables of the device --- */
static bool place_variables(sass_image *image, const Elf64_Ehdr *h)
{
    const Elf64_Shdr given = section_at(image->bytes, h, image->sections[0]),
                     zero = section_at(image->bytes, h, image->sections[1]);
    image->zeros_at = (given.sh_size + 255) & ~(size_t)255; /* section 0 is empty: where there are none */
    image->n_variables = image->zeros_at + zero.sh_size;
    if (!image->n_variables) return true;
    image->variables = aligned_alloc(256, (image->n_variables + 255) & ~(size_t)255);
    if (!image->variables) return false;
    memset(image->variables, 0, image->n_variables);
    if (fits(&given, image->n_bytes)) memcpy(image->variables, image->bytes + given.sh_offset, given.sh_size);
    return true;
}
/* Addresses of variables, put where bank 4 holds them; anything else that a loader would have to patch is refused. */
static bool relocate(sass_image *image, const Elf64_Ehdr *h, const Elf64_Shdr *s)
{
    enum { R_CUDA_64 = 2 };
    const size_t each = s->sh_type == SHT_RELA ? sizeof(Elf64_Rela) : sizeof(Elf64_Rel);
    if (s->sh_info >= h->e_shnum || s->sh_link >= h->e_shnum) return false;
    const Elf64_Shdr target = section_at(image->bytes, h, s->sh_info),
                     symbols = section_at(image->bytes, h, s->sh_link);
    if (!fits(s, image->n_bytes) || !fits(&target, image->n_bytes) || !fits(&symbols, image->n_bytes)) return false;
    for (uint64_t k = 0; k < s->sh_size / each; k++) {
        Elf64_Rela one = {0}; /* Elf64_Rel and an addend */
        Elf64_Sym symbol;
        memcpy(&one, image->bytes + s->sh_offset + k * each, each);
        if (ELF64_R_TYPE(one.r_info) != R_CUDA_64 || (ELF64_R_SYM(one.r_info) + 1) * sizeof symbol > symbols.sh_size)
            return false;
        memcpy(&symbol, image->bytes + symbols.sh_offset + ELF64_R_SYM(one.r_info) * sizeof symbol, sizeof symbol);
        const bool zero = symbol.st_shndx == image->sections[1];
        if ((!zero && symbol.st_shndx != image->sections[0]) || one.r_offset + 8 > target.sh_size || one.r_addend ||
            symbol.st_value > section_at(image->bytes, h, symbol.st_shndx).sh_size)
            return false;
        const uint64_t address =
            (uint64_t)(uintptr_t)(image->variables + (zero ? image->zeros_at : 0) + symbol.st_value);
        memcpy(image->bytes + target.sh_offset + one.r_offset, &address, sizeof address);
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------------- sections --- */
static bool find_kernel(sass_image *image, const Elf64_Shdr *s, const char *name)
{
    sass_kernel *kernel = &image->kernels[image->n++];
    (void)snprintf(kernel->function.name, sizeof kernel->function.name, "%s", name);
    kernel->registers = s->sh_info >> 24, kernel->symbol = s->sh_info & 0xffffffu;
    kernel->text = function_text(image, name, &kernel->text_length);
    return kernel->text != NULL;
}
static void read_section(sass_image *image, const Elf64_Shdr *s, uint32_t index, const char *name)
{
    const char *rest = "";
    uint8_t *at = image->bytes + s->sh_offset;
    const uint32_t size = (uint32_t)s->sh_size;
    if (!fits(s, image->n_bytes)) return;
    if (strcmp(name, ".nv.info") == 0) read_attributes(image, NULL, at, size);
    else if (strcmp(name, ".nv.global.init") == 0) image->sections[0] = index;
    else if (strcmp(name, ".nv.global") == 0) image->sections[1] = index;
    else if (begins(name, ".nv.info.", &rest) && kernel_named(image, rest))
        read_attributes(image, kernel_named(image, rest), at, size);
    else if (begins(name, ".nv.shared.", &rest) && kernel_named(image, rest))
        kernel_named(image, rest)->static_shared = size;
    else if (begins(name, ".nv.constant", &rest) && *rest >= '0' && *rest < '0' + SASS_BANKS)
        for (uint32_t k = 0; k < image->n; k++) { /* of one kernel, or without a name of the module */
            sass_kernel *kernel = &image->kernels[k];
            if (rest[1] && strcmp(rest + 2, kernel->function.name) != 0) continue;
            kernel->bank[*rest - '0'] = at, kernel->bank_bytes[*rest - '0'] = size;
        }
}
static bool read_sections(sass_image *out, char *error, size_t cap)
{
    const Elf64_Ehdr h = header_of(out->bytes);
    const char *names = (const char *)out->bytes + section_at(out->bytes, &h, h.e_shstrndx).sh_offset, *rest = "";
    const char *what = "";
    for (uint32_t pass = 0; pass < 3; pass++) { /* kernels; what belongs to them; addresses of variables */
        if (pass == 2 && !place_variables(out, &h)) return (void)snprintf(error, cap, "out of memory"), false;
        for (uint32_t k = 0; k < h.e_shnum && !*what; k++) {
            const Elf64_Shdr s = section_at(out->bytes, &h, k);
            const char *name = names + s.sh_name;
            const bool relocates = (s.sh_type == SHT_REL || s.sh_type == SHT_RELA) && s.sh_size &&
                                   !strstr(name, "debug") &&
                                   !begins(name, ".nv.merc", &rest); /* another form of the code, which nothing runs */
            if (pass == 0 && begins(name, ".text.", &rest) && !find_kernel(out, &s, rest))
                what = "the disassembly does not have this function";
            if (pass == 1) read_section(out, &s, k, name);
            if (pass == 2 && relocates && !relocate(out, &h, &s)) what = "such relocations are not interpreted";
            if (*what) (void)snprintf(error, cap, "%s: %s", name, what);
        }
    }
    return !*what && (out->n || ((void)snprintf(error, cap, "no kernel in it"), false));
}

bool sass_image_read(uint8_t *bytes, size_t n_bytes, char *text, size_t n_text, sass_image *out, char *error,
                     size_t cap)
{
    *out = (sass_image){.bytes = bytes, .text = text, .n_bytes = n_bytes, .n_text = n_text};
    Elf64_Ehdr h = {0};
    if (n_bytes >= sizeof h) h = header_of(bytes);
    out->kernels = calloc((size_t)h.e_shnum + 1, sizeof *out->kernels);
    bool good = false;
    if (!out->kernels) (void)snprintf(error, cap, "out of memory");
    else if (!h.e_shnum || h.e_shstrndx >= h.e_shnum || h.e_shentsize != sizeof(Elf64_Shdr) ||
             sass_elf_bytes(bytes) > n_bytes)
        (void)snprintf(error, cap, "no cubin: its headers do not fit into %zu bytes", n_bytes);
    else good = read_sections(out, error, cap);
    if (!good) sass_image_free(out);
    return good;
}
bool sass_kernel_decode(sass_kernel *kernel, char *error, size_t cap)
{
    return kernel->function.code ||
           sass_read_function(kernel->text, kernel->text_length, &kernel->function, error, cap);
}
void sass_image_free(sass_image *image)
{
    for (uint32_t k = 0; k < image->n; k++) free(image->kernels[k].function.code);
    free(image->kernels), free(image->bytes), free(image->text), free(image->variables);
    *image = (sass_image){0};
}
