/* files_in.h - how many files a folder has, hidden ones aside. */
#ifndef TEST_FILES_IN_H
#define TEST_FILES_IN_H
#include <dirent.h>
#include <stdint.h>

static inline uint32_t files_in(const char *folder)
{
    uint32_t n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

#endif
