/* strftime.c - Python's strftime in the C locale, without the C library's (locale, time zone). The caller supplies
 * local wall time. */
#include "interpret.h"

#include <string.h>

typedef struct civil {
    int64_t year, days; /* days since 1970-01-01 */
    unsigned month, day, yday, wday, hour, minute, second;
} civil;

/* Proleptic Gregorian calendar, by 400-year eras that begin in March. */
static civil from_seconds(int64_t seconds)
{
    civil c;
    int64_t days = seconds / 86400, rest = seconds % 86400;
    if (rest < 0) rest += 86400, days--;
    c.days = days;
    c.hour = (unsigned)(rest / 3600), c.minute = (unsigned)(rest / 60 % 60), c.second = (unsigned)(rest % 60);
    c.wday = (unsigned)(((days + 4) % 7 + 7) % 7);
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    unsigned doe = (unsigned)(z - era * 146097), yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    c.day = doy - (153 * mp + 2) / 5 + 1;
    c.month = mp < 10 ? mp + 3 : mp - 9;
    c.year = (int64_t)yoe + era * 400 + (c.month <= 2);
    bool leap = (c.year % 4 == 0 && c.year % 100 != 0) || c.year % 400 == 0;
    c.yday = c.month <= 2 ? doy - 305 : doy + 60 + leap; /* from 1; doy counts from March 1 */
    return c;
}

static void put_number(kvi_buf *out, int64_t value, size_t width, char pad)
{
    char text[24];
    size_t n = kvi_jinja_int_text(value, text);
    for (size_t i = n; i < width; i++) kvi_buf_append_byte(out, pad);
    kvi_buf_append(out, text, n);
}

static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};
static const char *const weekdays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};

static bool directive(kvi_buf *out, const civil *c, char d, bool unpadded)
{
    size_t two = unpadded ? 1 : 2;
    switch (d) {
    case 'a': kvi_buf_append(out, weekdays[c->wday], 3); return true;
    case 'A': kvi_buf_append_str(out, weekdays[c->wday]); return true;
    case 'b':
    case 'h': kvi_buf_append(out, months[c->month - 1], 3); return true;
    case 'B': kvi_buf_append_str(out, months[c->month - 1]); return true;
    case 'd': put_number(out, c->day, two, '0'); return true;
    case 'e': put_number(out, c->day, two, ' '); return true;
    case 'm': put_number(out, c->month, two, '0'); return true;
    case 'y': put_number(out, c->year % 100, two, '0'); return true;
    case 'Y': put_number(out, c->year, 4, '0'); return true;
    case 'C': put_number(out, c->year / 100, two, '0'); return true;
    case 'H': put_number(out, c->hour, two, '0'); return true;
    case 'I': put_number(out, c->hour % 12 ? c->hour % 12 : 12, two, '0'); return true;
    case 'M': put_number(out, c->minute, two, '0'); return true;
    case 'S': put_number(out, c->second, two, '0'); return true;
    case 'f': kvi_buf_append_str(out, "000000"); return true;
    case 'p': kvi_buf_append_str(out, c->hour < 12 ? "AM" : "PM"); return true;
    case 'j': put_number(out, c->yday, unpadded ? 1 : 3, '0'); return true;
    case 'w': put_number(out, c->wday, 1, '0'); return true;
    case 'u': put_number(out, c->wday ? c->wday : 7, 1, '0'); return true;
    case 'Z':
    case 'z': return true; /* Python's naive datetime gives nothing */
    case 'n': kvi_buf_append_byte(out, '\n'); return true;
    case 't': kvi_buf_append_byte(out, '\t'); return true;
    case '%': kvi_buf_append_byte(out, '%'); return true;
    default: return false;
    }
}

bool kvi_jinja_strftime(int64_t seconds, const char *format, size_t len, kvi_buf *out)
{
    static const struct {
        char d;
        const char *format;
    } composed[] = {
        {'D', "%m/%d/%y"}, {'F', "%Y-%m-%d"}, {'R', "%H:%M"},      {'T', "%H:%M:%S"}, {'c', "%a %b %e %H:%M:%S %Y"},
        {'x', "%m/%d/%y"}, {'X', "%H:%M:%S"}, {'r', "%I:%M:%S %p"}};
    civil c = from_seconds(seconds);
    if (c.year < 1000 || c.year > 9999) return false;
    for (size_t i = 0; i < len; i++) {
        if (format[i] != '%' || i + 1 == len) {
            kvi_buf_append_byte(out, format[i]);
            continue;
        }
        bool unpadded = format[i + 1] == '-' && i + 2 < len, done = false;
        char d = format[i += 1 + unpadded];
        for (size_t k = 0; k < sizeof composed / sizeof *composed && !done; k++)
            if (composed[k].d == d)
                done = kvi_jinja_strftime(seconds, composed[k].format, strlen(composed[k].format), out);
        if (!done && !directive(out, &c, d, unpadded)) return false;
    }
    return true;
}
