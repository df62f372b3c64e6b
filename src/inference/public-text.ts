const TEXT_LENGTH_MAX = 300;
/** The words of a model's author, names of nodes, may be of any length: what is searched is bounded. */
const SEARCHED_LENGTH_MAX = 4096;
const SOURCE_FILE = /(?:[A-Za-z]:)?(?:[\\/][^\s:'"()\\/]+)+\.\w{1,5}(?::\d+)?/g;

/** As `onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&) `, in front of what is wrong. */
const SIGNATURE = /\b(?:\w+::)+~?\w+\([^()]*\)(?: const)?\s/g;

/** ONNX Runtime's words for a caller: without paths of source files and libraries, and names of its functions, on one line, at most 300 characters. */
export function publicText(message: string): string {
  const text = message
    .slice(0, SEARCHED_LENGTH_MAX)
    .replace(SOURCE_FILE, '')
    .replace(SIGNATURE, '')
    .replace(/[\s\p{Cc}]+/gu, ' ')
    .trim();
  return text.length > TEXT_LENGTH_MAX ? `${text.slice(0, TEXT_LENGTH_MAX - 1)}…` : text;
}
