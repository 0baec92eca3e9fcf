// The bytes of a volume. A page that was opened from disk may not fetch its neighbours, but may run them: there each
// volume is a script that calls `freqbenchVolume(key, base64)`.

const KEY = /^[\w-]+$/;
const waiting = new Map();

window.freqbenchVolume = (key, base64) => waiting.get(key)?.(base64);

export class FileError extends Error {}

export async function volumeBytes(manifest, key) {
  if (!KEY.test(key)) throw new FileError(`${key}: expected a key of letters and digits`);
  return run(`${manifest.base}${key}.js`, key);
}

function run(url, key) {
  const script = document.createElement("script");
  const done = new Promise((resolve, reject) => {
    waiting.set(key, resolve);
    script.onload = () => reject(new FileError(`${url}: holds no volume of this name`));
    script.onerror = () => reject(new FileError(`${url}: not found: keep the folder beside the page`));
  });
  script.src = url;
  document.head.append(script);
  return done.then(decoded(url)).finally(() => {
    waiting.delete(key);
    script.remove();
  });
}

const decoded = (url) => (base64) => {
  let text;
  try {
    text = atob(base64);
  } catch {
    throw new FileError(`${url}: damaged: write the volumes again`);
  }
  const bytes = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
  return bytes.buffer;
};
