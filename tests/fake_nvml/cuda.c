/* A stand-in for libcuda.so.1, beside the one for NVML.
 *
 * Loading it is harmless; cuInit is what must never happen in the process that asks, so it leaves a line
 * with its process id in the file HFGPU_FAKE_CUDA_LOG.  `cuda.visible` in the scenario lists the UUIDs in
 * the order the real library would number them after reading its own environment variables.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char visible[4096];
static char *uuids[64];
static int count = -1;

int cuInit(unsigned flags) {
    (void)flags;
    const char *log = getenv("HFGPU_FAKE_CUDA_LOG"), *path = getenv("HFGPU_FAKE_NVML");
    FILE *f = log ? fopen(log, "ab") : NULL;
    if (f) { fprintf(f, "cuInit %d\n", (int)getpid()); fclose(f); }
    if (!path || !(f = fopen(path, "rb"))) return 100;  /* CUDA_ERROR_NO_DEVICE */
    char line[4096];
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!strncmp(line, "cuda.visible=", 13)) strcpy(visible, line + 13);
    }
    fclose(f);
    if (!visible[0]) return 100;
    count = 0;
    for (char *u = strtok(visible, ","); u; u = strtok(NULL, ",")) uuids[count++] = u;
    return 0;
}

int cuDeviceGetCount(int *out) {
    if (count < 0) return 3;  /* CUDA_ERROR_NOT_INITIALIZED */
    *out = count;
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    if (ordinal >= count) return 101;  /* CUDA_ERROR_INVALID_DEVICE */
    *device = ordinal;
    return 0;
}

int cuDeviceGetUuid_v2(unsigned char out[16], int device) {
    if (device >= count) return 101;
    const char *digits = strchr(uuids[device], '-') + 1;
    for (int i = 0; i < 16; i++) {
        while (*digits == '-') digits++;
        unsigned byte;
        if (sscanf(digits, "%2x", &byte) != 1) return 1;
        out[i] = (unsigned char)byte;
        digits += 2;
    }
    return 0;
}
