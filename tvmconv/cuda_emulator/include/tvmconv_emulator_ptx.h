// The instructions that inline PTX may use. Operands come in the order of the instruction's text.
#pragma once

namespace emu {
namespace ptx {
template <class T>
static inline void put(T& to, uint32_t word) {
    to = bits<T>(word);
}
template <class T>
static inline uint32_t word(T from) {
    return bits<uint32_t>(from);
}

template <class D>
static inline void ldmatrix_1(int line, uint32_t transposed, D& d0, uint32_t address) {
    put(d0, emu_ldmatrix(address, 1, transposed, line).w[0]);
}
template <class D>
static inline void ldmatrix_2(int line, uint32_t transposed, D& d0, D& d1, uint32_t address) {
    emu_words d = emu_ldmatrix(address, 2, transposed, line);
    put(d0, d.w[0]), put(d1, d.w[1]);
}
template <class D>
static inline void ldmatrix_4(
    int line, uint32_t transposed, D& d0, D& d1, D& d2, D& d3, uint32_t address) {
    emu_words d = emu_ldmatrix(address, 4, transposed, line);
    put(d0, d.w[0]), put(d1, d.w[1]), put(d2, d.w[2]), put(d3, d.w[3]);
}

// Registers of D and C, A, B: four, four and two; two, two and one; ...
template <class D, class A, class B, class C>
static inline void mma_4_4_2(int line, emu_mma_kind kind, D& d0, D& d1, D& d2, D& d3, A a0, A a1, A a2,
                             A a3, B b0, B b1, C c0, C c1, C c2, C c3) {
    const uint32_t a[] = {word(a0), word(a1), word(a2), word(a3)}, b[] = {word(b0), word(b1)};
    const uint32_t c[] = {word(c0), word(c1), word(c2), word(c3)};
    emu_words d = emu_mma(kind, a, b, c, line);
    put(d0, d.w[0]), put(d1, d.w[1]), put(d2, d.w[2]), put(d3, d.w[3]);
}
template <class D, class A, class B, class C>
static inline void mma_4_2_1(int line, emu_mma_kind kind, D& d0, D& d1, D& d2, D& d3, A a0, A a1, B b0,
                             C c0, C c1, C c2, C c3) {
    const uint32_t a[] = {word(a0), word(a1)}, b[] = {word(b0)};
    const uint32_t c[] = {word(c0), word(c1), word(c2), word(c3)};
    emu_words d = emu_mma(kind, a, b, c, line);
    put(d0, d.w[0]), put(d1, d.w[1]), put(d2, d.w[2]), put(d3, d.w[3]);
}
template <class D, class A, class B, class C>
static inline void mma_2_4_2(int line, emu_mma_kind kind, D& d0, D& d1, A a0, A a1, A a2, A a3, B b0,
                             B b1, C c0, C c1) {
    const uint32_t a[] = {word(a0), word(a1), word(a2), word(a3)}, b[] = {word(b0), word(b1)};
    const uint32_t c[] = {word(c0), word(c1)};
    emu_words d = emu_mma(kind, a, b, c, line);
    put(d0, d.w[0]), put(d1, d.w[1]);
}

static inline void cp_async(int line, uint32_t to, const void* from, int bytes) {
    emu_copy_async(to, from, (uint32_t)bytes, (uint32_t)bytes, line);
}
static inline void cp_async(int line, uint32_t to, const void* from, int bytes, int source_bytes) {
    emu_copy_async(to, from, (uint32_t)bytes, (uint32_t)source_bytes, line);
}
template <class... T>
static inline void st_shared(uint32_t to, T... from) {
    const uint32_t words[] = {word(from)...};
    uint32_t* destination = (uint32_t*)emu_shared_pointer(to, sizeof words);
    for (unsigned i = 0; i < sizeof...(from); i++)
        destination[i] = words[i];
}
static inline const void* pointer(const void* address) { return address; }
static inline const void* pointer(unsigned long address) { return (const void*)address; }
static inline const void* pointer(unsigned long long address) { return (const void*)address; }

// Round to nearest, ties away from zero, to the 10 bits of mantissa that tf32 has.
template <class D>
static inline void cvt_rna_tf32(D& d, float a) {
    uint32_t raw = bits<uint32_t>(a);
    put(d, (raw & 0x7F800000u) == 0x7F800000u ? raw : (raw + 0x1000u) & 0xFFFFE000u);
}
template <class T>
static inline T loaded(const void* address) {
    return *(const T*)address;
}
}  // namespace ptx
}  // namespace emu
