/* Refuses to train on nothing, in words of its own. */
#include <stdio.h>

int main(void) {
    FILE *failure = fopen("/opt/ml/output/failure", "w");
    if (failure) {
        fputs("no photographs below /opt/ml/input/data/training", failure);
        fclose(failure);
    }
    puts("trainer: no photographs below /opt/ml/input/data/training");
    return 3;
}
