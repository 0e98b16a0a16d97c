/* sass_text.c - reads the disassembly: functions, instructions, operands. An instruction of cuobjdump -sass is two lines,
 *     (address)   @!P0 IADD3 R4, P1, R2, -R5, 0x10 ;     (first word)
 *                                                        (second word)
 * each in comment signs. Immediates of numbers with a point are taken from the instruction word (bits 32 to 63), which has them exactly. */
#include "sass_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const modifier_names[] = {
#define NAME(name) #name,
    SASS_MODIFIERS(NAME)
#undef NAME
};

const sass_opcode sass_opcodes[] = {
#define OPCODE(name, modifiers, flow, handler, meaning) {#name, modifiers, SASS_##flow, sass_##handler, meaning},
#include "sass_opcodes.h"
#undef OPCODE
    {NULL, NULL, SASS_STRAIGHT, NULL, NULL}};

/* ------------------------------------------------------------------------------------------------------- operands --- */
typedef struct reader {
    const char *at;
    uint64_t raw0;
    bool has_raw;
    const char *problem;
} reader;

static bool take(reader *r, const char *word)
{
    const size_t n = strlen(word);
    if (strncmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}
static void skip_blanks(reader *r)
{
    while (*r->at == ' ' || *r->at == '\t') r->at++;
}
/* "4" behind R, "Z" behind R: SASS_RZ. */
static bool take_number(reader *r, char zero, uint32_t is_zero, uint32_t most, uint16_t *out)
{
    if (*r->at == zero) {
        r->at++;
        *out = (uint16_t)is_zero;
        return true;
    }
    char *end;
    const unsigned long n = strtoul(r->at, &end, 10);
    if (end == r->at || n >= most) return false;
    r->at = end;
    *out = (uint16_t)n;
    return true;
}
static bool take_hex64(reader *r, uint64_t *out)
{
    const char *from = r->at;
    const bool minus = take(r, "-");
    if (!minus) (void)take(r, "+");
    if (strncmp(r->at, "0x", 2) != 0) {
        r->at = from;
        return false;
    }
    char *end;
    const unsigned long long n = strtoull(r->at, &end, 16);
    r->at = end;
    *out = minus ? 0ull - n : n;
    return true;
}
static bool take_hex(reader *r, uint32_t *out)
{
    uint64_t n;
    if (!take_hex64(r, &n)) return false;
    *out = (uint32_t)n;
    return true;
}
static void take_register_suffixes(reader *r, sass_operand *o)
{
    static const struct {
        const char *name;
        uint8_t half, select, scale;
    } suffixes[] = {{".H0_H0", 1, 0, 0}, {".H1_H1", 2, 0, 0}, {".B0", 0, 1, 0}, {".B1", 0, 2, 0},   {".B2", 0, 3, 0},
                    {".B3", 0, 4, 0},    {".H0", 0, 5, 0},    {".H1", 0, 6, 0}, {".X16", 0, 0, 16}, {".X4", 0, 0, 4},
                    {".X8", 0, 0, 8},    {".ROW", 0, 0, 0},   {".COL", 0, 0, 0}};
    while (*r->at == '.') {
        if (take(r, ".reuse")) continue;
        if (take(r, ".64")) o->wide = true;
        else if (take(r, ".U32")) o->unsigned_index = true;
        else {
            size_t k = 0;
            while (k < sizeof suffixes / sizeof *suffixes && !take(r, suffixes[k].name)) k++;
            if (k == sizeof suffixes / sizeof *suffixes) {
                r->problem = "unknown suffix of a register";
                return;
            }
            if (suffixes[k].half) o->half = suffixes[k].half;
            if (suffixes[k].select) o->select = suffixes[k].select;
            if (suffixes[k].scale) o->scale = suffixes[k].scale;
        }
    }
}
/* Terms of an address joined by '+', up to ']'. */
static void take_terms(reader *r, sass_operand *o)
{
    while (!r->problem && !take(r, "]")) {
        uint32_t offset;
        if (*r->at == '+' && r->at[1] != '0' && r->at[1] != '-') r->at++;
        if (*r->at == '+' && r->at[1] == '-') r->at++;
        if (take_hex(r, &offset)) o->value += offset;
        else if (take(r, "UR")) {
            if (!take_number(r, 'Z', SASS_URZ, SASS_URZ, &o->ureg)) r->problem = "a uniform register";
        } else if (take(r, "R")) {
            if (o->reg != SASS_RZ || !take_number(r, 'Z', SASS_RZ, SASS_RZ, &o->reg)) r->problem = "a register";
            take_register_suffixes(r, o);
        } else r->problem = "an address";
    }
}
static void take_operand(reader *r, sass_operand *o)
{
    static const char *const specials[] = {"SR_TID.X",   "SR_TID.Y",  "SR_TID.Z",  "SR_CTAID.X",  "SR_CTAID.Y",
                                           "SR_CTAID.Z", "SR_LANEID", "SRZ",       "SR_EQMASK",   "SR_LTMASK",
                                           "SR_LEMASK",  "SR_GTMASK", "SR_GEMASK", "SR_CgaCtaId", "SR_SWINHI"};
    *o = (sass_operand){.reg = SASS_RZ, .ureg = SASS_URZ, .scale = 1};
    if (take(r, "!")) o->inv = true;
    if (take(r, "~")) o->inv = true;
    if (*r->at == '-' && strchr("RU|c", r->at[1]) && r->at[1]) r->at++, o->neg = true;
    if (take(r, "|")) o->abs = true;
    uint32_t bank;
    uint64_t number;
    if (take(r, "desc[UR")) { /* how to cache what the address behind it names */
        uint16_t descriptor;
        if (!take_number(r, 'Z', SASS_URZ, SASS_URZ, &descriptor) || !take(r, "]")) r->problem = "a descriptor";
    }
    if (take(r, "c[")) {
        o->kind = SASS_CONST;
        if (!take_hex(r, &bank) || bank > 4 || !take(r, "][")) r->problem = "a constant bank";
        else o->bank = (uint8_t)bank, take_terms(r, o);
    } else if (take(r, "[")) {
        o->kind = SASS_MEM;
        take_terms(r, o);
    } else if (take(r, "SR")) {
        r->at -= 2;
        o->kind = SASS_SPECIAL;
        uint16_t k = 0;
        while (k < sizeof specials / sizeof *specials && !take(r, specials[k])) k++;
        o->reg = k;
        if (k == sizeof specials / sizeof *specials) r->problem = "unknown special register";
    } else if (take(r, "SB")) {
        o->kind = SASS_SCOREBOARD;
        if (!take_number(r, ' ', 0, 6, &o->reg)) r->problem = "a scoreboard";
    } else if (take(r, "UPR") || take(r, "PR")) {
        o->kind = SASS_PREDS;
    } else if (take(r, "UP")) {
        o->kind = SASS_UPRED;
        if (!take_number(r, 'T', SASS_PT, SASS_PT, &o->reg)) r->problem = "a uniform predicate";
    } else if (take(r, "UR")) {
        o->kind = SASS_UREG;
        if (!take_number(r, 'Z', SASS_URZ, SASS_URZ, &o->reg)) r->problem = "a uniform register";
        take_register_suffixes(r, o);
    } else if (take(r, "R")) {
        o->kind = SASS_REG;
        if (!take_number(r, 'Z', SASS_RZ, SASS_RZ, &o->reg)) r->problem = "a register";
        take_register_suffixes(r, o);
    } else if (*r->at == 'P') {
        r->at++;
        o->kind = SASS_PRED;
        if (!take_number(r, 'T', SASS_PT, SASS_PT, &o->reg)) r->problem = "a predicate";
    } else if (*r->at == 'B' && r->at[1] >= '0' && r->at[1] <= '9') {
        r->at++;
        o->kind = SASS_BARRIER;
        if (!take_number(r, ' ', 0, 16, &o->reg)) r->problem = "a barrier";
    } else if (take_hex64(r, &number)) {
        o->kind = SASS_IMM;
        o->value = (uint32_t)number, o->high = (uint32_t)(number >> 32);
    } else if (*r->at && strchr("+-.0123456789IQN", *r->at)) { /* a number with a point, infinity, NaN */
        o->kind = SASS_IMM;
        o->value = (uint32_t)(r->raw0 >> 32);
        if (!r->has_raw) r->problem = "a decimal immediate without its instruction word";
        while (*r->at && !strchr(", ;", *r->at)) r->at++;
    } else r->problem = "unknown operand";
    if (o->abs && !r->problem && !take(r, "|")) r->problem = "|x| without its end";
    if (!r->problem && *r->at == '.') take_register_suffixes(r, o);
}

/* --------------------------------------------------------------------------------------------------- instructions --- */
static bool name_is(const char *name, const char *from, size_t length)
{
    return strncmp(name, from, length) == 0 && !name[length];
}
static const sass_opcode *opcode_of(const char *from, size_t length)
{
    for (const sass_opcode *o = sass_opcodes; o->name; o++)
        if (name_is(o->name, from, length)) return o;
    return NULL;
}
static bool allows(const sass_opcode *o, const char *from, size_t length)
{
    for (const char *at = o->modifiers; *at;) {
        const size_t n = strcspn(at, " ");
        if (n == length && strncmp(at, from, n) == 0) return true;
        at += n + (at[n] == ' ');
    }
    return false;
}
static bool refuse(char *error, size_t cap, const char *format, ...) __attribute__((format(printf, 3, 4)));
static bool refuse(char *error, size_t cap, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(error, cap, format, args);
    va_end(args);
    return false;
}

static bool take_modifiers(reader *r, sass_ins *i, char *error, size_t cap)
{
    while (take(r, ".")) {
        const size_t n = strcspn(r->at, ". ,;");
        size_t k = 0;
        while (k < SASS_N_MODIFIERS && !name_is(modifier_names[k], r->at, n)) k++;
        if (k == SASS_N_MODIFIERS || !allows(i->opcode, r->at, n))
            return refuse(error, cap, "unknown modifier .%.*s of %s: %s", (int)n, r->at, i->opcode->name, i->text);
        i->modifiers[k >> 6] |= 1ull << (k & 63);
        r->at += n;
    }
    return true;
}

bool sass_read_instruction(const char *text, const uint64_t raw[2], sass_ins *out, char *error, size_t cap)
{
    memset(out, 0, sizeof *out);
    (void)snprintf(out->text, sizeof out->text, "%s", text);
    if (raw) memcpy(out->raw, raw, sizeof out->raw);
    reader r = {out->text, out->raw[0], raw != NULL, NULL};
    skip_blanks(&r);
    out->guard = SASS_PT;
    if (take(&r, "@")) {
        sass_operand guard;
        take_operand(&r, &guard);
        if (r.problem || (guard.kind != SASS_PRED && guard.kind != SASS_UPRED))
            return refuse(error, cap, "no guard: %s", text);
        out->guard = (uint8_t)guard.reg, out->guard_not = guard.inv, out->guard_uniform = guard.kind == SASS_UPRED;
        skip_blanks(&r);
    }
    const size_t n = strcspn(r.at, ". ;");
    out->opcode = opcode_of(r.at, n);
    if (!out->opcode) return refuse(error, cap, "unknown opcode %.*s: %s", (int)n, r.at, text);
    r.at += n;
    if (!take_modifiers(&r, out, error, cap)) return false;
    out->run = out->opcode->run, out->flow = (uint8_t)out->opcode->flow;
    for (skip_blanks(&r); *r.at && *r.at != ';' && *r.at != '('; skip_blanks(&r)) {
        if (out->n == SASS_MAX_OPERANDS)
            return refuse(error, cap, "more than %d operands: %s", SASS_MAX_OPERANDS, text);
        take_operand(&r, &out->arg[out->n]);
        if (r.problem) return refuse(error, cap, "operand %u, %s: %s", out->n + 1u, r.problem, text);
        /* A pair of halves is printed as two numbers and is one immediate. */
        const bool number = out->arg[out->n].kind == SASS_IMM && out->n && out->arg[out->n - 1].kind == SASS_IMM;
        if (!(number && out->opcode->name[0] == 'H' && out->arg[out->n].value == out->arg[out->n - 1].value)) out->n++;
        skip_blanks(&r);
        (void)take(&r, ",");
    }
    while (out->n_preds < out->n &&
           (out->arg[out->n_preds].kind == SASS_PRED || out->arg[out->n_preds].kind == SASS_UPRED))
        out->n_preds++;
    return true;
}

/* ------------------------------------------------------------------------------------------------------ functions --- */
static const char *line_end(const char *at, const char *end)
{
    const char *found = memchr(at, '\n', (size_t)(end - at));
    return found ? found : end;
}
/* The 16 digits behind the last "0x" of a line. */
static bool word_of(const char *at, const char *end, uint64_t *out)
{
    for (const char *p = end; p - at > 18; p--)
        if (p[-19] == '0' && p[-18] == 'x') {
            *out = strtoull(p - 17, NULL, 16);
            return true;
        }
    return false;
}
static bool aims(const sass_ins *i) { return i->flow == SASS_BRA || i->flow == SASS_CALL || i->flow == SASS_BSSY; }

bool sass_read_function(const char *text, size_t length, sass_function *out, char *error, size_t cap)
{
    const char *end = text + length, *next;
    uint32_t room = 0;
    out->code = NULL, out->n = 0;
    for (const char *at = text; at < end; at = next + 1) {
        next = line_end(at, end);
        const char *open = at;
        while (open < next && (*open == ' ' || *open == '\t')) open++;
        if (next - at > 9 && strncmp(open, "Function", 8) == 0) break;
        if (next - open < 8 || strncmp(open, "/*", 2) != 0 || strncmp(open, "/* ", 3) == 0) continue;
        char line[SASS_MAX_TEXT];
        uint64_t raw[2];
        const char *from = open + 2;
        const uint32_t address = (uint32_t)strtoul(from, NULL, 16);
        while (from < next && *from != '/') from++;
        const char *semicolon = memchr(from, ';', (size_t)(next - from)), *second = next + 1;
        if (!semicolon || semicolon - from >= (long)sizeof line || second >= end || !word_of(at, next, &raw[0]) ||
            !word_of(second, line_end(second, end), &raw[1])) {
            free(out->code);
            return refuse(error, cap, "%s: a line of the disassembly that is no instruction: %.*s", out->name,
                          (int)(next - at > 150 ? 150 : next - at), at);
        }
        memcpy(line, from + 1, (size_t)(semicolon - from - 1));
        line[semicolon - from - 1] = 0;
        size_t blanks = strlen(line);
        while (blanks && line[blanks - 1] == ' ') line[--blanks] = 0;
        const char *first = line + strspn(line, " ");
        if (out->n == room) {
            room = room ? room * 2 : 1024;
            sass_ins *more = realloc(out->code, room * sizeof *more);
            if (!more) {
                free(out->code);
                return refuse(error, cap, "%s: out of memory", out->name);
            }
            out->code = more;
        }
        char why[300];
        sass_ins *i = &out->code[out->n];
        if (!sass_read_instruction(first, raw, i, why, sizeof why)) {
            free(out->code);
            return refuse(error, cap, "%s, 0x%x: %s", out->name, address, why);
        }
        i->at = address;
        if (address != out->n * 16u) {
            free(out->code);
            return refuse(error, cap, "%s: address 0x%x where 0x%x follows", out->name, address, out->n * 16u);
        }
        out->n++;
        next = line_end(second, end);
    }
    for (uint32_t k = 0; k < out->n; k++) {
        sass_ins *i = &out->code[k];
        if (!aims(i)) continue;
        const sass_operand *last = &i->arg[i->n ? i->n - 1 : 0];
        if (last->kind != SASS_IMM || last->value % 16 || last->value / 16 >= out->n) {
            (void)refuse(error, cap, "%s, 0x%x: a branch out of the function: %s", out->name, i->at, i->text);
            free(out->code);
            return false;
        }
        i->target = last->value / 16;
    }
    return out->n > 0 || refuse(error, cap, "%s: no instructions", out->name);
}
