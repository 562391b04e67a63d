// Fills a template: a task in JavaScript.
//
// Input: JSON {"template": "Dear {{name}}, ...", "values": {"name": "..."}}.

// QuickJS provides only the language, without web APIs: there is no TextDecoder.
const decode = (bytes) =>
  decodeURIComponent(Array.from(bytes, (byte) => "%" + byte.toString(16).padStart(2, "0")).join(""));
const encode = (text) =>
  Uint8Array.from(unescape(encodeURIComponent(text)), (char) => char.charCodeAt(0));

export function run(input) {
  let job;
  try {
    job = JSON.parse(decode(input));
  } catch (error) {
    // A thrown string is `err`: the outcome is `failed`, with this text.
    throw `the input is not JSON: ${error.message}`;
  }
  return encode(
    job.template.replace(/\{\{\s*([\w.]+)\s*\}\}/g, (_, path) => {
      const value = path.split(".").reduce((at, key) => at?.[key], job.values);
      if (value === undefined) throw `the template asks for '${path}', which has no value`;
      return value;
    }),
  );
}
