// The files of a folder as one .tar, made in the browser: an upload is an archive. (POSIX.1-1988 "ustar".)
const BLOCK = 512;
const READ = /\.(json|txt|safetensors|jinja)$/; // what an export reads of a checkpoint's folder
const text = new TextEncoder();

/** A Blob of the files of the first level that an export reads; the browser copies none of them. */
export function packed(folder, files) {
  const parts = files.flatMap((file) => [
    header(`${folder}/${file.name}`, file.size),
    file,
    new Uint8Array((BLOCK - (file.size % BLOCK)) % BLOCK),
  ]);
  return new Blob([...parts, new Uint8Array(2 * BLOCK)], { type: "application/x-tar" });
}

export const isRead = (file) => READ.test(file.name);

function header(name, size) {
  const block = new Uint8Array(BLOCK);
  const put = (place, value) => block.set(text.encode(value), place);
  const octal = (value, length) => value.toString(8).padStart(length - 1, "0");
  if (text.encode(name).length > 100) throw new RangeError(`${name}: the name is longer than 100 bytes`);
  put(0, name);
  put(100, octal(0o644, 8));
  put(108, octal(0, 8));
  put(116, octal(0, 8));
  put(124, octal(size, 12));
  put(136, octal(0, 12));
  put(148, " ".repeat(8));
  put(156, "0");
  put(257, "ustar\0" + "00");
  put(
    148,
    `${octal(
      block.reduce((sum, byte) => sum + byte, 0),
      7,
    )}\0 `,
  );
  return block;
}
