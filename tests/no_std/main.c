#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The prebuilt core names it; with panic = "abort" nobody calls it. */
void rust_eh_personality(void) {}

int32_t maquette_contracts(uint64_t seed);
int32_t maquette_draw(uint64_t seed, uint32_t *codes, size_t len);

int main(void) {
    for (uint64_t seed = 0; seed < 20; seed++)
        if (!maquette_contracts(seed)) {
            fprintf(stderr, "contracts: seed %llu failed\n", (unsigned long long)seed);
            return 1;
        }
    puts("contracts ok");
#ifdef DRAW
    uint32_t codes[64];
    if (!maquette_draw(7, codes, 64)) {
        fprintf(stderr, "draw failed\n");
        return 1;
    }
    for (int i = 0; i < 64; i++)
        printf("%u%s", codes[i], i == 63 ? "\n" : " ");
#endif
    return 0;
}
