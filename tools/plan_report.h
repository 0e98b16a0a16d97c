/* plan_report.h - what a plan looks like: as a table, as JSON, as a picture. Shared by `kvrt plan` and by every command
 * that could not open a model because it does not fit. */
#ifndef KVRT_PLAN_REPORT_H
#define KVRT_PLAN_REPORT_H
#include "command.h"

#define PLAN_MAX_ROWS 32u

typedef struct plan_report {
    kvrt_plan_info info;
    kvrt_plan_row rows[PLAN_MAX_ROWS]; /* one per KV format */
    uint64_t n;
    int64_t ctx_request; /* tokens; -1: the longest that fits */
    const char *only;    /* the one format that was asked for; NULL: all */
    bool reserve_counts; /* a limit that was given without a reserve is the budget as it is */
} plan_report;

/* `only`: the row of one format, or none where the plan does not have it; NULL: every row. */
int32_t plan_report_make(const kvrt_options *options, const char *only, plan_report *out, kvrt_error *error);
void plan_report_table(const plan_report *r, FILE *to);
void plan_report_json(const plan_report *r);
/* One line when a context is asked for that is longer than what the model was trained for. */
void plan_report_warn(const plan_report *r, FILE *to);
/* After an open that found too little memory: the table on stderr. */
void plan_report_explain(const kvrt_options *options);
/* Memory against context, one line per format, as an SVG. `limit_name` says whose memory the budget is. False, with a
 * message, when a plan or the file fails. */
bool plan_report_plot(const kvrt_options *options, const plan_report *r, const char *limit_name, const char *path);

#endif
