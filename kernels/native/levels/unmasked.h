/* Parts of vectors where the processor has no masks for memory. */

ALWAYS Floats load(const float *x, size_t count) {
  Floats out = {};
  if (count >= LANES)
    memcpy(&out, x, sizeof out);
  else
    memcpy(&out, x, count * sizeof *x);
  return out;
}

ALWAYS void store(float *x, size_t count, Floats value) {
  if (count >= LANES)
    memcpy(x, &value, sizeof value);
  else
    memcpy(x, &value, count * sizeof *x);
}

/* The first `count` of 64 bytes; 0 beyond them. */
ALWAYS Ints load_line(const uint8_t *x, size_t count) {
  Ints out = {};
  if (count >= LINE)
    memcpy(&out, x, sizeof out);
  else
    memcpy(&out, x, count);
  return out;
}
